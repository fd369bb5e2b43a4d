"""Rules give classes and limits; a header only lowers; the rules that ship say what the documentation says."""

from __future__ import annotations

import msgspec
import pytest

from contract.schedule import PlannedStage, TopicSchedule
from dgs.priority.phases import Standing, due_times_of, standing_of
from dgs.priority.rules import ClassPlan, Match, Phase, PhaseTimes, Rule, Ruleset, judge, matches
from dgs.priority.ruleset_file import RulesetFile
from dgs.serving import CLASSES, Class, Seen

PLANS = {klass: ClassPlan(sheds=(rank / 4, (rank + 1) / 4)) for rank, klass in enumerate(CLASSES)}
SHIPPED = RulesetFile().ruleset
H = 3_600_000


def ruleset(*rules: Rule, default: Class = "best_effort") -> Ruleset:
    return Ruleset(default=default, classes=PLANS, rules=rules)


def everything(rules: Ruleset) -> range:
    return range(len(rules.rules))


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        (Match(), True),
        (Match(operations=frozenset({"prefetchEvent", "page"})), True),
        (Match(operations=frozenset({"page"})), False),
        (Match(kinds=frozenset({"TV"})), True),
        (Match(kinds=frozenset({"PHONE"})), False),
        (Match(phases=frozenset[Phase]({"window"})), True),
        (Match(phases=frozenset[Phase]({"none", "stage"})), False),
        (Match(asked=frozenset[Class]({"bulk"})), True),
        (Match(asked=frozenset[Class]({"critical"})), False),
        (Match(has_map=True), False),
        (Match(has_map=False), True),
        (Match(events=frozenset({"e"})), True),
        (Match(events=frozenset({"other"})), False),
        (Match(kinds=frozenset({"TV"}), has_map=True), False),
    ],
)
def test_every_field_given_must_fit(match: Match, fits: bool) -> None:
    """One request against each field alone and two together."""
    assert matches(match, Seen("prefetchEvent", "bulk", "TV", "e"), "window") is fits


def test_the_first_class_decides_and_every_limit_applies() -> None:
    """Order matters for classes alone; a rule that is not in force is not there."""
    rules = ruleset(
        Rule(name="limit", limit_per_s=5),
        Rule(name="off", klass="critical"),
        Rule(name="first", klass="degraded"),
        Rule(name="second", klass="bulk"),
        Rule(name="part", share=0.5),
    )
    judged = judge(rules, {0, 2, 3, 4}, Seen("x"), "none")
    assert (judged.klass, judged.by, judged.limits) == ("degraded", 2, (0, 4))
    assert judge(rules, {3}, Seen("x"), "none").klass == "bulk"
    assert judge(rules, set(), Seen("x"), "none")[:3] == ("best_effort", None, ())


def test_a_rule_on_trial_decides_nothing() -> None:
    """What it would do is said beside what is done."""
    rules = ruleset(
        Rule(name="trial", klass="bulk", dry_run=True),
        Rule(name="cap", limit_per_s=1, dry_run=True),
        Rule(name="real", klass="critical"),
    )
    judged = judge(rules, everything(rules), Seen("x"), "none")
    assert (judged.klass, judged.by, judged.limits) == ("critical", 2, ())
    assert (judged.dry_klass, judged.dry_by, judged.dry_limits) == ("bulk", 0, (1,))


@pytest.mark.parametrize("given", CLASSES)
@pytest.mark.parametrize("asked", CLASSES)
def test_a_header_only_lowers_unless_the_peer_is_trusted(given: Class, asked: Class) -> None:
    """All sixteen pairs."""
    rules = ruleset(default=given)
    lower = max(given, asked, key=CLASSES.index)
    assert judge(rules, (), Seen("x", asked), "none").klass == lower
    assert judge(rules, (), Seen("x", asked, trusted=True), "none").klass == asked


@pytest.mark.parametrize(
    ("now_h", "standing"),
    [
        (-30, Standing("before", 0)),
        (-24, Standing("window", 0)),
        (-1, Standing("window", 0)),
        (-0.25, Standing("stage", 0)),
        (0, Standing("stage", 4 * H)),
        (1 / 60, Standing("stage", 4 * H)),
        (1 / 59, Standing("window", 4 * H)),
        (3.75, Standing("stage", 4 * H)),
        (5, Standing("window", None)),
        (5.01, Standing("after", None)),
    ],
)
def test_where_an_event_stands(now_h: float, standing: Standing) -> None:
    """Two stages, at 0 and after 4 hours; windows of a day before and an hour after, a quarter of an hour near."""
    assert standing_of((4 * H, 0), round(now_h * H), PhaseTimes()) == standing


def test_an_event_without_times_stands_nowhere() -> None:
    """Manual stages alone have no due times."""
    assert standing_of((), 0, PhaseTimes()) == Standing("none", None)


def test_due_times_are_of_all_audiences() -> None:
    """Each time once; manual stages have none, a cancelled audience neither."""

    def schedule(topic: str, *due: int | None, cancelled: bool = False) -> TopicSchedule:
        stages = tuple(PlannedStage(key=f"s{n}", order=n, due_at=at) for n, at in enumerate(due))
        return TopicSchedule(
            topic=topic,
            event_id=topic[0],
            title="",
            revision=1,
            version=1,
            starts_at=0,
            cancelled=cancelled,
            stages=stages,
        )

    schedules = [schedule("e1", 5, None), schedule("e2", 5, 3), schedule("e3", 9, cancelled=True), schedule("f", None)]
    assert due_times_of(schedules) == {"e": (3, 5), "f": ()}


@pytest.mark.parametrize(
    ("seen", "phase", "klass"),
    [
        (Seen("prefetchEvent"), "window", "critical"),
        (Seen("prefetchEvent"), "stage", "critical"),
        (Seen("prefetchEvent", has_map=True), "window", "best_effort"),
        (Seen("prefetchEvent", has_map=True), "stage", "best_effort"),
        (Seen("prefetchEvent"), "before", "degraded"),
        (Seen("prefetchEvent"), "after", "best_effort"),
        (Seen("prefetchEvent"), "none", "best_effort"),
        (Seen("prefetchHome"), "none", "degraded"),
        (Seen("_entities"), "none", "degraded"),
        (Seen("page"), "none", "bulk"),
        (Seen(""), "none", "best_effort"),
        (Seen("prefetchEvent", "bulk"), "window", "bulk"),
        (Seen("prefetchEvent", "critical", has_map=True), "window", "best_effort"),
        (Seen("prefetchEvent", "critical", has_map=True, trusted=True), "window", "critical"),
    ],
)
def test_the_rules_that_ship(seen: Seen, phase: Phase, klass: Class) -> None:
    """What matters and what does not, as docs/overload.md has it."""
    always = [index for index, rule in enumerate(SHIPPED.rules) if rule.when is None]
    assert judge(SHIPPED, always, seen, phase).klass == klass


def test_the_channel_is_critical_while_a_stage_is_near() -> None:
    """By a rule that comes into force; otherwise degraded."""
    always = [index for index, rule in enumerate(SHIPPED.rules) if rule.when is None]
    assert judge(SHIPPED, always, Seen("broadcastChannel"), "none").klass == "degraded"
    assert judge(SHIPPED, everything(SHIPPED), Seen("broadcastChannel"), "none").klass == "critical"


def test_every_field_of_a_match_is_one_of_what_is_seen() -> None:
    """A field added to one and forgotten in the other would silently match nothing."""
    singular = {"operations": "operation", "kinds": "kind", "events": "event_id", "phases": None}
    for field in msgspec.structs.fields(Match):
        name = singular.get(field.name, field.name)
        assert name is None or name in Seen._fields
