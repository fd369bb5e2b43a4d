"""A ruleset: which class a request has, and which limits apply to it. Pure values; `judge` reads them.

Rules are gone through in order. The first one in force that matches and names a class decides the class; every one in
force that matches and names a limit applies. The class a request asked for by its header comes last: it lowers only,
unless the peer is trusted.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final, Literal, NamedTuple

import msgspec

from dgs.serving import CLASSES, Class, Seen

__all__ = [
    "RANK",
    "ClassPlan",
    "Judgement",
    "Match",
    "Phase",
    "PhaseTimes",
    "Rule",
    "Ruleset",
    "Trigger",
    "When",
    "judge",
    "matches",
]

Phase = Literal["none", "before", "window", "stage", "after"]
"""Where an event stands: unknown or none named; its window not open; open; a stage due or just announced; over."""
RANK: Final[dict[Class, int]] = {klass: rank for rank, klass in enumerate(CLASSES)}


class Match(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request must be; a field that is not given matches anything. Lists: one of them."""

    operations: frozenset[str] | None = None
    """As in `Seen.operation`; "" is any document that is not known, "page" whatever is no GraphQL."""
    kinds: frozenset[str] | None = None
    phases: frozenset[Phase] | None = None
    asked: frozenset[Class] | None = None
    has_map: bool | None = None
    events: frozenset[str] | None = None


class Trigger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """On at or above `on`; off below `off`, once it stayed there for the rule's `off_after_s`."""

    on: float
    off: float


class When(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a rule is in force: while any of its triggers is."""

    requests_per_s: Trigger | None = None
    """Of everything this process is asked."""
    queue_delay_ms: Trigger | None = None
    """Mean wait of what leaves the queue."""
    phases: frozenset[Phase] | None = None
    """An event (one of `match.events`, if those are given) is in one of these."""
    off_after_s: float = 5.0


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of `klass`, `limit_per_s` and `share` is given."""

    name: str
    match: Match = Match()
    klass: Class | None = msgspec.field(default=None, name="class")
    limit_per_s: float | None = None
    """Requests a second, all that match together; 0: none."""
    share: float | None = None
    """Part of those that match that is let through, evenly; 0: none."""
    when: When | None = None
    """None: always."""
    dry_run: bool = False
    """Counts what it would do, and does nothing."""


class ClassPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a class gives way."""

    share: float = 1.0
    """Most of a dependency's slots it may hold. 0: it is never served; else at least one request a second is."""
    sheds: tuple[float, float]
    """Band of priorities, 0 first to 1 last, in which it is thinned out: none of it is shed above, all below."""


class PhaseTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    window_before_s: float = 86_400.0
    """How long before its first stage an event's window opens."""
    window_after_s: float = 3_600.0
    stage_before_s: float = 900.0
    """How long before a stage is due it counts as near."""
    stage_after_s: float = 60.0


class Ruleset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole file of rules."""

    default: Class = "best_effort"
    """Of requests no rule gives a class."""
    classes: dict[Class, ClassPlan]
    phases: PhaseTimes = PhaseTimes()
    rules: tuple[Rule, ...] = ()


class Judgement(NamedTuple):
    """What the rules say of a kind of request; indexes are into `Ruleset.rules`."""

    klass: Class
    by: int | None
    """Rule that gave the class; None: the default, or the header alone."""
    limits: tuple[int, ...]
    dry_klass: Class
    """The class it would have if dry-run rules were not."""
    dry_by: int | None
    """Dry-run rule that would have given it."""
    dry_limits: tuple[int, ...]


def matches(match: Match, seen: Seen, phase: Phase) -> bool:
    return (
        (match.operations is None or seen.operation in match.operations)
        and (match.kinds is None or seen.kind in match.kinds)
        and (match.phases is None or phase in match.phases)
        and (match.asked is None or seen.asked in match.asked)
        and (match.has_map is None or seen.has_map == match.has_map)
        and (match.events is None or seen.event_id in match.events)
    )


def judge(ruleset: Ruleset, active: Container[int], seen: Seen, phase: Phase) -> Judgement:
    """Class and limits by the rules whose indexes are `active`. Costs some 10 us: its results are kept in tables."""
    klass: Class | None = None
    by: int | None = None
    dry_klass: Class | None = None
    dry_by: int | None = None
    limits: list[int] = []
    dry_limits: list[int] = []
    for index, rule in enumerate(ruleset.rules):
        if index not in active or not matches(rule.match, seen, phase):
            continue
        if rule.klass is None:
            (dry_limits if rule.dry_run else limits).append(index)
            continue
        if dry_klass is None:
            dry_klass, dry_by = rule.klass, index if rule.dry_run else None
        if klass is None and not rule.dry_run:
            klass, by = rule.klass, index
    given = klass or ruleset.default
    dry_given = dry_klass or given
    return Judgement(
        klass=_as_asked(given, seen),
        by=by,
        limits=tuple(limits),
        dry_klass=_as_asked(dry_given, seen),
        dry_by=dry_by,
        dry_limits=tuple(dry_limits),
    )


def _as_asked(given: Class, seen: Seen) -> Class:
    if seen.asked is None:
        return given
    return seen.asked if seen.trusted or RANK[seen.asked] > RANK[given] else given
