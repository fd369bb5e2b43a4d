"""What topics publish of an event's plan, what a preview shows, and what counts as changed content (R5, R6)."""

from __future__ import annotations

import msgspec

from contract.names import CANCELLED
from message_producer.drafts import apply_patch, content_of, differences, draft_of, planned, shifted
from message_producer.model import Anchor, Audience, EventDraft, EventPatch, OccurrenceState, Stage
from message_producer.published_schedule import preview, topic_schedules
from message_producer.timeline import after_cancel, after_change, after_cue, due_now, plan

START = 1_731_722_400_000
MINUTE = 60_000
DRAFT = EventDraft(
    event_id="night",
    title="Night",
    starts_at=START,
    stages=(
        Stage(key="soon", offset_ms=-15 * MINUTE, headline="Soon"),
        Stage(key="live", headline="Live"),
        Stage(key="encore", anchor=Anchor.ABSOLUTE, at=START + 60 * MINUTE),
        Stage(key="replay", anchor=Anchor.END),
    ),
    audiences=(
        Audience(),
        Audience(name="west", regions=("US",), offsets_ms={"live": MINUTE}, stages=("soon", "live")),
    ),
)


def test_each_topic_publishes_its_own_times_in_order() -> None:
    everyone, west = topic_schedules(plan(DRAFT, START - 100 * MINUTE).state)
    assert (everyone.topic, everyone.audience, everyone.regions) == ("event:night", "all", ())
    assert everyone.times() == {
        "soon": START - 15 * MINUTE,
        "live": START,
        "encore": START + 60 * MINUTE,
        "replay": None,
    }
    assert (west.topic, west.audience, west.regions) == ("event:night@west", "west", ("US",))
    assert west.times() == {"soon": START - 15 * MINUTE, "live": START + MINUTE}
    assert [stage.headline for stage in west.stages] == ["Soon", "Live"]
    assert (west.title, west.revision, west.version, west.starts_at) == ("Night", 1, 1, START)


def test_a_cue_is_published_as_the_time_it_was_given_and_what_it_overtook_as_none() -> None:
    state = plan(DRAFT, START - 100 * MINUTE).state
    state = after_cue(state, "live", ["event:night"], START - 30 * MINUTE).state
    everyone, west = topic_schedules(state)
    assert everyone.times()["live"] == START - 30 * MINUTE
    assert everyone.times()["soon"] is None
    assert west.times()["soon"] == START - 15 * MINUTE
    assert everyone.revision == west.revision == 2


def test_a_cancelled_event_and_a_removed_audience_publish_no_times() -> None:
    state = plan(DRAFT, START - 100 * MINUTE).state
    cancelled = topic_schedules(after_cancel(state, START - 99 * MINUTE).state)
    assert all(schedule.cancelled for schedule in cancelled)
    assert {at for schedule in cancelled for at in schedule.times().values()} == {None}
    alone = msgspec.structs.replace(DRAFT, audiences=(Audience(),))
    everyone, west = topic_schedules(after_change(state, alone, START - 99 * MINUTE, late_after_ms=0).state)
    assert (everyone.cancelled, west.cancelled, west.stages, west.revision) == (False, True, (), 2)


def test_the_preview_starts_with_what_is_true_and_ends_with_what_waits() -> None:
    state = plan(DRAFT, START - 100 * MINUTE).state
    now = START - 10 * MINUTE
    overdue = [(e.topic, e.state_key, e.state) for e in preview(state, now) if e.audience == "west"]
    assert overdue == [
        ("event:night@west", "soon", OccurrenceState.ARMED),
        ("event:night@west", "live", OccurrenceState.ARMED),
    ]
    state = due_now(state, now, late_after_ms=0).state
    entries = [(e.state_key, e.due_at) for e in preview(state, now, until=START) if e.audience == "all"]
    assert entries == [("soon", START - 15 * MINUTE), ("live", START), ("replay", None)]
    gone = preview(after_cancel(state, now).state, now)
    assert [e.state_key for e in gone] == [CANCELLED, CANCELLED]


def test_times_are_no_content_but_titles_keys_and_headlines_are() -> None:
    moved = shifted(DRAFT, MINUTE)
    assert content_of(moved) == content_of(DRAFT)
    for patch in (
        EventPatch(title="Other"),
        EventPatch(stages=DRAFT.stages[:2]),
        EventPatch(stages=(msgspec.structs.replace(DRAFT.stages[0], headline="Now"), *DRAFT.stages[1:])),
        EventPatch(audiences=(Audience(),)),
    ):
        assert content_of(apply_patch(DRAFT, patch)) != content_of(DRAFT)


def test_a_patch_sets_what_it_names_and_clears_what_may_be_empty() -> None:
    ended = apply_patch(DRAFT, EventPatch(ends_at=START + MINUTE))
    assert ended.ends_at == START + MINUTE
    assert apply_patch(ended, EventPatch(title="Other")).ends_at == START + MINUTE
    assert apply_patch(ended, EventPatch(ends_at=None)).ends_at is None
    assert differences(DRAFT, ended) == ({"ends_at": None}, {"ends_at": START + MINUTE})


def test_a_shift_moves_start_and_end_and_leaves_absolute_stages() -> None:
    moved = shifted(msgspec.structs.replace(DRAFT, ends_at=START + 90 * MINUTE), MINUTE)
    times = {want.stage_key: want.due_at for want in planned(moved) if want.topic == "event:night"}
    assert times == {
        "soon": START - 14 * MINUTE,
        "live": START + MINUTE,
        "encore": START + 60 * MINUTE,
        "replay": START + 91 * MINUTE,
    }


def test_a_stored_event_contains_its_draft() -> None:
    assert draft_of(plan(DRAFT, START).state.event) == DRAFT
