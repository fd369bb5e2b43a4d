"""Every refused draft names its field and the rule."""

from __future__ import annotations

import msgspec
import pytest

from contract.errors import InvalidRequest, UnknownStage
from message_producer.model import Anchor, Audience, EventDraft, Stage
from message_producer.validation import check_cue, check_draft, check_shift

START = 1_731_722_400_000
MINUTE = 60_000
GOOD = EventDraft(
    event_id="night",
    title="Night",
    starts_at=START,
    ends_at=START + 60 * MINUTE,
    stages=(
        Stage(key="soon", offset_ms=-15 * MINUTE),
        Stage(key="pause", anchor=Anchor.MANUAL),
        Stage(key="live"),
        Stage(key="replay", anchor=Anchor.END),
    ),
    audiences=(Audience(), Audience(name="west", regions=("US", "CA"), offsets_ms={"live": 0}, stages=("live",))),
)


def test_a_good_draft_passes_unchanged() -> None:
    assert check_draft(GOOD) is GOOD


def test_an_end_nobody_knows_is_fine() -> None:
    check_draft(msgspec.structs.replace(GOOD, ends_at=None))


def stages(*some: Stage) -> dict[str, object]:
    return {"stages": some, "audiences": (Audience(),)}


def audiences(*some: Audience) -> dict[str, object]:
    return {"audiences": some}


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"event_id": "No Spaces"}, "event_id", "starting and ending"),
        ({"title": ""}, "title", "1-200 characters"),
        ({"title": "   "}, "title", "not only blanks"),
        ({"title": "x" * 201}, "title", "1-200 characters"),
        ({"time_zone": ""}, "time_zone", "characters"),
        ({"starts_at": -1}, "starts_at", "1970"),
        ({"ends_at": START - 1}, "ends_at", "not before starts_at"),
        ({"ends_at": 10**15}, "ends_at", "9999"),
        ({"coverage_threshold": -0.1}, "coverage_threshold", "between 0 and 1"),
        ({"coverage_threshold": 1.1}, "coverage_threshold", "between 0 and 1"),
        ({"coverage_threshold": float("nan")}, "coverage_threshold", "between 0 and 1"),
        ({"broadcast_budget_per_hour": 0}, "broadcast_budget_per_hour", "between 1"),
        (stages(), "stages", "1-64"),
        (stages(*(Stage(key=f"s{n}") for n in range(65))), "stages", "1-64"),
        (stages(Stage(key="Live")), "stages[0].key", "a-z 0-9 _"),
        (stages(Stage(key="a"), Stage(key="b"), Stage(key="a")), "stages[2].key", "unique"),
        (stages(Stage(key="cancelled")), "stages[0].key", "every event has"),
        (stages(Stage(key="default")), "stages[0].key", "every event has"),
        (stages(Stage(key="a", headline="x" * 201)), "stages[0].headline", "0-200"),
        (stages(Stage(key="a", anchor=Anchor.ABSOLUTE)), "stages[0].at", "says when"),
        (stages(Stage(key="a", at=START)), "stages[0].at", "only with the anchor `absolute`"),
        (stages(Stage(key="a", anchor=Anchor.MANUAL, offset_ms=1)), "stages[0].offset", "only with the anchors"),
        (stages(Stage(key="a", anchor=Anchor.ABSOLUTE, at=START, offset_ms=1)), "stages[0].offset", "only with"),
        (stages(Stage(key="a", offset_ms=367 * 24 * 60 * MINUTE)), "stages[0].offset", "366 days"),
        (stages(Stage(key="a", offset_ms=1), Stage(key="b")), "stages[1].offset", "order of their times"),
        (
            stages(Stage(key="a"), Stage(key="b", anchor=Anchor.ABSOLUTE, at=START - 1)),
            "stages[1].at",
            "order of their times",
        ),
        (
            stages(Stage(key="a", anchor=Anchor.END), Stage(key="m", anchor=Anchor.MANUAL), Stage(key="b")),
            "stages[2].offset",
            "order of their times",
        ),
        ({"audiences": ()}, "audiences", "1-32"),
        (audiences(*(Audience(name=f"a{n}") for n in range(33))), "audiences", "1-32"),
        (audiences(Audience(name="West!")), "audiences[0].name", "a-z 0-9 -"),
        (audiences(Audience(), Audience(regions=("US",))), "audiences[1].name", "unique"),
        (audiences(Audience(), Audience(name="b")), "audiences[1].regions", "one audience at most"),
        (audiences(Audience(regions=("us",))), "audiences[0].regions[0]", "alpha-2"),
        (
            audiences(Audience(regions=("US",)), Audience(name="b", regions=("CA", "US"))),
            "audiences[1].regions[1]",
            "one audience",
        ),
        (audiences(Audience(stages=("live", "encore"))), "audiences[0].stages[1]", "soon, pause, live, replay"),
        (audiences(Audience(stages=("live", "live"))), "audiences[0].stages[1]", "unique"),
        (audiences(Audience(stages=())), "audiences[0].stages", "leave it out"),
        (audiences(Audience(offsets_ms={"encore": 1})), "audiences[0].offsets.encore", "one of"),
        (audiences(Audience(offsets_ms={"pause": 1})), "audiences[0].offsets.pause", "stages with a time"),
        (audiences(Audience(offsets_ms={"soon": 1})), "stages[2].offset", "order of their times"),
        (audiences(Audience(offsets_ms={"live": -20 * MINUTE})), "audiences[0].offsets.live", "order of their times"),
    ],
)
def test_a_bad_draft_is_refused_by_field_and_rule(changes: dict[str, object], field: str, rule: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_draft(msgspec.structs.replace(GOOD, **changes))
    assert refused.value.field == field
    assert refused.value.rule is not None
    assert rule in refused.value.rule


def test_an_unknown_stage_has_its_own_error() -> None:
    with pytest.raises(UnknownStage):
        check_draft(msgspec.structs.replace(GOOD, audiences=(Audience(stages=("encore",)),)))
    with pytest.raises(UnknownStage) as refused:
        check_cue("encore", ["soon", "live"])
    assert (refused.value.field, refused.value.rule) == ("stage", "one of soon, live")


@pytest.mark.parametrize("by_ms", [0, 367 * 24 * 60 * MINUTE, -367 * 24 * 60 * MINUTE])
def test_a_shift_moves_something_and_stays_in_the_calendar(by_ms: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_shift(by_ms)
    assert refused.value.field == "by"
    assert check_shift(-MINUTE) == -MINUTE
