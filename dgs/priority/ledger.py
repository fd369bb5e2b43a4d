"""What the gate keeps between requests: kinds of request, places of events, rules, and what classes need. Pure."""

from __future__ import annotations

from typing import Final

from dgs.priority.activation import Activation
from dgs.priority.dependencies import Dependencies, Dependency
from dgs.priority.retry_after import retry_budget, stretched_ms
from dgs.priority.rules import Judgement, Phase, Rule
from dgs.priority.shedding import Lane, Quota, Thinning
from dgs.serving import Class

__all__ = ["Demand", "Entry", "Key", "Place", "RuleState"]

NEEDS: Final = 0.5
"""A class of which this part waits for a dependency is shed before anything is paid for, once that is full."""
Key = tuple[str, Class | None, str | None, bool, bool]
"""Of `Seen`: operation, asked, kind, has_map, trusted."""


class Entry:
    """One kind of request, its judgement, and how many there were: folded into the rules' counts when asked."""

    __slots__ = ("admitted", "dry", "judgement", "klass", "limits", "matched", "seen", "shed")

    def __init__(self, judgement: Judgement) -> None:
        self.judgement = judgement
        self.klass: Class = judgement.klass
        self.limits = judgement.limits
        self.dry = judgement.dry_by is not None or bool(judgement.dry_limits)
        own = (judgement.by, judgement.dry_by, *judgement.limits, *judgement.dry_limits)
        self.matched = tuple(index for index in own if index is not None)
        self.seen = self.admitted = self.shed = 0


class Place:
    """Where an event stands, with the table of everything asked of events there."""

    __slots__ = ("next_stage_ms", "phase", "table")

    def __init__(self, phase: Phase, next_stage_ms: int | None, table: dict[Key, Entry]) -> None:
        self.phase: Phase = phase
        self.next_stage_ms = next_stage_ms
        self.table = table


class RuleState:
    """One rule: whether it is in force, its quota, and what it did."""

    __slots__ = ("activation", "counts", "quota", "rule", "shed", "thinning", "would_shed")

    def __init__(self, rule: Rule, now_s: float) -> None:
        self.rule = rule
        self.activation = Activation(rule.when)
        self.quota = None if rule.limit_per_s is None else Quota(rule.limit_per_s, now_s)
        self.thinning = Thinning()
        self.counts: dict[Class, list[int]] = {}
        """Class -> seen, admitted, shed of what it matched."""
        self.shed = 0
        self.would_shed = 0

    def lets_through(self, now_s: float) -> bool:
        if self.quota is not None:
            return self.quota.take(now_s)
        return self.rule.share is None or self.thinning.take(self.rule.share)


class Demand:
    """Which part of a class was admitted lately, and which part of that waits for what."""

    __slots__ = (
        "_admitted",
        "_dependencies",
        "_lane",
        "_need",
        "_rank",
        "_shed",
        "_usual_mean_ms",
        "_wanted",
        "admitted_share",
        "retry_budget",
        "return_mean_ms",
        "waits_for",
    )

    def __init__(self, lane: Lane, dependencies: Dependencies, rank: int, return_mean_ms: float) -> None:
        self._lane = lane
        self._dependencies = tuple(dependencies.by_name.values())
        self._rank = rank
        self._admitted = self._shed = 0
        self._wanted = [0] * len(self._dependencies)
        self._need = [0.0] * len(self._dependencies)
        self.admitted_share = 1.0
        self.retry_budget = retry_budget(1.0)
        self._usual_mean_ms = self.return_mean_ms = return_mean_ms
        self.waits_for: tuple[Dependency, ...] = ()

    def learn(self, weight: float) -> None:
        lane = self._lane
        admitted, shed = lane.admitted - self._admitted, lane.shed - self._shed
        self._admitted, self._shed = lane.admitted, lane.shed
        share = admitted / (admitted + shed) if admitted + shed else 1.0
        self.admitted_share += weight * (share - self.admitted_share)
        self.return_mean_ms = stretched_ms(self._usual_mean_ms, self.admitted_share)
        self.retry_budget = retry_budget(self.admitted_share)
        for index, dependency in enumerate(self._dependencies):
            wanted = dependency.wanted[self._rank]
            if admitted:
                part = min(1.0, (wanted - self._wanted[index]) / admitted)
                self._need[index] += weight * (part - self._need[index])
            self._wanted[index] = wanted
        self.waits_for = tuple(
            dependency for dependency, need in zip(self._dependencies, self._need, strict=True) if need >= NEEDS
        )
