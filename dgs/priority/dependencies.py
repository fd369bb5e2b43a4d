"""Calls per dependency and class, and how many a dependency takes at once.

Shedding a class here may move its calls elsewhere, or leave them where they are: retries, refreshes that miss a cache,
a fallback that asks another service. So each dependency's calls are counted by the class they are for, where they are
made; the figure that must not rise is `calls`, not `admitted`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from dgs.picks import Missing, Picks, Wanted
from dgs.ports import PicksSource
from dgs.priority.limiter import TOLERANCE_OF_BATCHES, Limiter
from dgs.priority.rules import RANK, ClassPlan
from dgs.serving import CLASSES, Class, Outcome
from dgs.traces import concerned

__all__ = ["Call", "Dependencies", "Dependency", "GuardedPicks", "fill_of"]

_CALM: Final = 0.4
"""Up to this part of the limit nobody is turned away."""
_NOTE_MAX_S: Final = 0.25
_NOTES_MAX: Final = 65_536


def fill_of(plan: ClassPlan, klass: Class) -> float:
    """Part of a dependency's limit up to which the class is let in: where its band's middle goes by the cubic.

    The rest is kept for what matters more. With the default bands: bulk 0.68, best_effort 0.82, degraded 0.93.
    """
    if plan.share == 0.0:
        return 0.0
    if RANK[klass] == 0:
        return 1.0
    return _CALM + (1 - _CALM) * float((1 - sum(plan.sheds) / 2) ** (1 / 3))


class Call(NamedTuple):
    """One request waiting for a dependency; hand it back to `end`."""

    rank: int
    began_s: float


class Dependency:
    """One thing that requests wait for: its limit, and who waits."""

    __slots__ = ("_at_once_max", "calls", "limiter", "name", "observed", "refused", "under_way", "wanted")

    def __init__(self, name: str, limiter: Limiter) -> None:
        self.name = name
        self.limiter = limiter
        self.calls = [0] * len(CLASSES)
        """Begun, by rank of class; only rises."""
        self.refused = [0] * len(CLASSES)
        """Turned away for want of room, here or by the gate in front."""
        self.wanted = [0] * len(CLASSES)
        """Begun or turned away here: requests that were admitted and then needed it."""
        self.under_way = [0] * len(CLASSES)
        self._at_once_max: list[float] = [1.0] * len(CLASSES)
        self.observed = False
        """Its source tells how long it takes, which is then what counts."""

    def plan(self, classes: Mapping[Class, ClassPlan]) -> None:
        """Another ruleset's classes."""
        self.limiter.refill([fill_of(classes[klass], klass) for klass in CLASSES])
        self._at_once_max = [classes[klass].share for klass in CLASSES]

    def has_room(self, rank: int) -> bool:
        limiter = self.limiter
        if limiter.in_flight >= limiter.room[rank]:
            return False
        share = self._at_once_max[rank]
        return share >= 1.0 or self.under_way[rank] < share * limiter.limit

    def begin(self, rank: int, now_s: float) -> Call:
        """A request begins to wait; ask `has_room` first, unless it must be served in any case."""
        self.calls[rank] += 1
        self.wanted[rank] += 1
        self.under_way[rank] += 1
        self.limiter.begin(rank)
        return Call(rank, now_s)

    def refuse(self, rank: int) -> None:
        """An admitted request needs it, and there is no room."""
        self.wanted[rank] += 1
        self.refused[rank] += 1

    def end(self, call: Call, outcome: Outcome, now_s: float) -> None:
        """It has what it waited for, or will not get it; once per call."""
        self.under_way[call.rank] -= 1
        self.limiter.end(now_s - call.began_s, outcome, now_s, sample=not self.observed)

    def observe(self, took_s: float, outcome: Outcome, now_s: float) -> None:
        """How long the source itself took, without what requests waited for here before and after."""
        if not self.observed:
            self.observed = True
            self.limiter.tolerance = TOLERANCE_OF_BATCHES
        if outcome == "ok":
            self.limiter.observe(took_s, now_s)

    def stats(self) -> dict[str, object]:
        limiter = self.limiter
        return {
            "limit": limiter.limit,
            "in_flight": limiter.in_flight,
            "base_ms": limiter.base_ms,
            "probing": limiter.probing,
            "probes": limiter.probes,
            "late": limiter.drops,
            "calls": dict(zip(CLASSES, self.calls, strict=True)),
            "refused": dict(zip(CLASSES, self.refused, strict=True)),
        }


class Dependencies:
    """All of them by name, and the class of the request that is being served at this moment."""

    def __init__(
        self, names: Sequence[str], classes: Mapping[Class, ClassPlan], *, least: int, most: int, now_s: float
    ) -> None:
        self.serving: Class = "best_effort"
        """Of the request admitted last: what is begun before the next one is admitted, is for it."""
        self.on_tick: list[Callable[[float], None]] = []
        """Called ten times a second with the monotonic time, while the gate is asked."""
        self.by_name = {name: Dependency(name, self._limiter(classes, least, most, now_s)) for name in names}
        self.plan(classes)

    def __getitem__(self, name: str) -> Dependency:
        return self.by_name[name]

    def plan(self, classes: Mapping[Class, ClassPlan]) -> None:
        for dependency in self.by_name.values():
            dependency.plan(classes)

    def stats(self) -> dict[str, dict[str, object]]:
        return {name: dependency.stats() for name, dependency in self.by_name.items()}

    @staticmethod
    def _limiter(classes: Mapping[Class, ClassPlan], least: int, most: int, now_s: float) -> Limiter:
        fills = [fill_of(classes[klass], klass) for klass in CLASSES]
        return Limiter(least=least, most=most, fills=fills, now_s=now_s)


class GuardedPicks:
    """A PicksSource whose `find` is counted and limited by a dependency, per profile.

    A call begins when `at_once` has nothing, since the class is known then and the next request must see that a slot
    is taken; it ends with `find`, or after a quarter of a second if nobody asked for it. Where there is no room
    `otherwise` answers at once (the cohort's picks, say); without it, or without an answer of it, the call is made all
    the same, and the gate in front holds the next ones back. Degraded picks that took `late_after_s` stand for a
    time-out behind the source, quicker ones for a failure, which says nothing of its pace. Cancel-safe.
    """

    def __init__(
        self,
        inner: PicksSource,
        dependency: Dependency,
        dependencies: Dependencies,
        *,
        late_after_s: float,
        monotonic_s: Callable[[], float],
        otherwise: Callable[[Wanted], Picks | None] | None = None,
    ) -> None:
        self._inner = inner
        self._dependency = dependency
        self._dependencies = dependencies
        self._late_after_s = late_after_s
        self._monotonic_s = monotonic_s
        self._otherwise = otherwise
        self._noted: dict[Wanted, Call] = {}
        dependencies.on_tick.append(self._forget)

    def at_once(self, wanted: Wanted) -> Picks | None:
        picks = self._inner.at_once(wanted)
        if picks is not None or wanted in self._noted:
            return picks
        rank = RANK[self._dependencies.serving]
        if self._otherwise is not None and not self._dependency.has_room(rank):
            picks = self._otherwise(wanted)
            if picks is not None:
                self._dependency.refuse(rank)
                return picks
        now_s = self._monotonic_s()
        self._forget(now_s)
        self._noted[wanted] = self._dependency.begin(rank, now_s)
        return None

    async def find(self, wanted: Sequence[Wanted], deadline_s: float) -> Mapping[Wanted, Picks | Missing]:
        now_s = self._monotonic_s()
        rank = RANK[self._dependencies.serving]
        calls = {
            one: self._noted.pop(one) if one in self._noted else self._dependency.begin(rank, now_s) for one in wanted
        }
        found: Mapping[Wanted, Picks | Missing] = {}
        try:
            found = await self._inner.find(wanted, deadline_s)
        finally:
            now_s = self._monotonic_s()
            for one, call in calls.items():
                took_s = now_s - call.began_s
                outcome = self._outcome(found.get(one), took_s)
                self._dependency.end(call, outcome, now_s)
                for trace in concerned(one.profile_id):
                    trace.called(self._dependency.name, outcome, took_s)
        return found

    def _outcome(self, found: Picks | Missing | None, took_s: float) -> Outcome:
        if found is not None and not (isinstance(found, Picks) and found.degraded):
            return "ok"
        return "late" if took_s >= self._late_after_s else "failed"

    def _forget(self, now_s: float) -> None:
        """Requests that went away between `at_once` and `find` give their slots back."""
        while self._noted:
            oldest = next(iter(self._noted))
            if now_s - self._noted[oldest].began_s < _NOTE_MAX_S and len(self._noted) < _NOTES_MAX:
                return
            self._dependency.end(self._noted.pop(oldest), "failed", now_s)
