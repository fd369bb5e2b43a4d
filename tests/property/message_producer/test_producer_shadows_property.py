"""A compressed schedule keeps its order, what falls together, and a second between any two instants."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from message_producer.drafts import due_at
from message_producer.model import Anchor, Audience, EventDraft, Stage
from message_producer.shadows import GAP_MIN_MS, ShadowPlan, shadow_draft
from message_producer.validation import check_draft

HOUR = 3_600_000
START = 1_731_718_800_000


@st.composite
def events(draw: st.DrawFn) -> EventDraft:
    offsets = sorted(draw(st.lists(st.integers(-48 * HOUR, 48 * HOUR), min_size=1, max_size=8)))
    stages = [Stage(key=f"s{number}", offset_ms=offset) for number, offset in enumerate(offsets)]
    if draw(st.booleans()):
        stages.append(Stage(key="extra", anchor=Anchor.MANUAL))
    if draw(st.booleans()):
        stages.append(Stage(key="closing", anchor=Anchor.END, offset_ms=48 * HOUR))
    later = {stage.key: stage.offset_ms + HOUR for stage in stages if stage.anchor is Anchor.START}
    audiences = (Audience(), Audience(name="west", regions=("US",), offsets_ms=later)) if draw(st.booleans()) else ()
    return EventDraft(
        event_id="night",
        title="Night",
        starts_at=START,
        ends_at=START + draw(st.integers(0, 5 * HOUR)) if draw(st.booleans()) else None,
        stages=tuple(stages),
        audiences=audiences or (Audience(),),
    )


def times(draft: EventDraft) -> list[tuple[str, str, int | None]]:
    return [(audience.name, stage.key, due_at(draft, audience, stage)) for audience in draft.audiences
            for stage in draft.stages]  # fmt: skip


@given(events(), st.integers(60_000, HOUR), st.integers(0, 900_000))
def test_a_shadow_is_its_event_in_less_time(event: EventDraft, over_ms: int, begins_in_ms: int) -> None:
    check_draft(event)
    now = START - 1000 * HOUR
    shadow = check_draft(shadow_draft(event, "shadow-1", ShadowPlan(begins_in_ms=begins_in_ms, over_ms=over_ms), now))
    before, after = times(event), times(shadow)
    assert [(audience, key, at is None) for audience, key, at in before] == [
        (audience, key, at is None) for audience, key, at in after
    ]
    pairs = sorted((real, played) for (_, _, real), (_, _, played) in zip(before, after, strict=True)
                   if real is not None and played is not None)  # fmt: skip
    assert pairs[0][1] == now + begins_in_ms
    assert pairs[-1][1] <= now + begins_in_ms + over_ms
    for (real, played), (next_real, next_played) in pairwise(pairs):
        if real == next_real:
            assert played == next_played
        else:
            assert next_played - played >= GAP_MIN_MS
