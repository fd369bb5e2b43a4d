"""Whether enough devices hold a stage: shares, thresholds, and refusals that say what was measured."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import Conflict
from message_producer.coverage import TopicHoldings, check_coverage, coverage_of
from message_producer.model import Anchor, Audience, EventDraft, EventState, Stage
from message_producer.timeline import after_change, plan

TOPIC = "event:night"


def state(threshold: float, **changes: object) -> EventState:
    """An event at version 2, whose `encore` version 1 did not have."""
    draft = EventDraft(
        event_id="night", title="Night", starts_at=1_000_000, stages=(Stage(key="live"),), coverage_threshold=threshold
    )
    draft = msgspec.structs.replace(draft, **changes)
    later = msgspec.structs.replace(draft, stages=(*draft.stages, Stage(key="encore", anchor=Anchor.MANUAL)))
    return after_change(plan(draft, 0).state, later, 0, late_after_ms=0).state


def holdings(held: dict[int, int]) -> TopicHoldings:
    return TopicHoldings(topic=TOPIC, nodes=1, held=held)


@pytest.mark.parametrize(
    ("threshold", "held", "refusal"),
    [
        (0.8, {2: 8, 1: 2}, None),
        (0.8, {3: 4, 2: 4, 0: 2}, None),
        (0.8, {2: 79_999, 1: 20_001}, "79.9% of 100000 connected devices"),
        (0.8, {1: 5}, "0% of 5 connected devices"),
        (0.8, {}, "no device of event:night is connected"),
        (1.0, {2: 999_999, 0: 1}, "99.9% of 1000000"),
        (1.0, {2: 1}, None),
        (0.001, {2: 1, 1: 998}, None),
        (0.0, {}, None),
        (0.0, {1: 5}, None),
    ],
)
def test_a_late_stage_needs_the_threshold(threshold: float, held: dict[int, int], refusal: str | None) -> None:
    if refusal is None:
        check_coverage(state(threshold), "encore", holdings(held))
    else:
        with pytest.raises(Conflict, match=refusal) as refused:
            check_coverage(state(threshold), "encore", holdings(held))
        assert refused.value.field == "stage"
        assert "override_coverage" in (refused.value.rule or "")
    check_coverage(state(threshold), "live", holdings(held))


def test_a_refusal_never_looks_as_if_the_threshold_was_reached() -> None:
    with pytest.raises(Conflict, match=r"28\.9% of 1000 .* hold it \(at least 29%"):
        check_coverage(state(0.29), "encore", holdings({2: 289, 1: 711}))


def test_every_topic_of_an_event_is_told_and_only_late_stages_that_it_has() -> None:
    audiences = (Audience(), Audience(name="west", regions=("US",), stages=("live",)))
    found = coverage_of(state(0.5, audiences=audiences), {TOPIC: holdings({2: 1, 1: 1})})
    assert (found.version, found.threshold) == (2, 0.5)
    whole, west = found.topics
    assert (whole.audience, whole.current) == ("all", 0.5)
    assert [(stage.stage_key, stage.version, stage.holders, stage.enough) for stage in whole.stages] == [
        ("encore", 2, 1, True)
    ]
    assert (west.audience, west.current, west.holdings.subscribers, west.stages) == ("west", None, 0, ())


@given(
    held=st.dictionaries(st.integers(0, 6), st.integers(1, 10**9), max_size=7),
    threshold=st.floats(0, 1),
)
def test_what_is_shown_as_enough_is_what_can_be_cued(held: dict[int, int], threshold: float) -> None:
    """The same answer before and at the cue, and exactly the share that is told."""
    night = state(threshold)
    (topic,) = coverage_of(night, {TOPIC: holdings(held)}).topics
    (stage,) = topic.stages
    assert stage.share == (sum(n for v, n in held.items() if v >= 2) / sum(held.values()) if held else None)
    try:
        check_coverage(night, "encore", holdings(held))
    except Conflict:
        assert not stage.enough
    else:
        assert stage.enough
