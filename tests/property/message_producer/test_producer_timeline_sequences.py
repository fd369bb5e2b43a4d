"""Any sequence of changes, cues and passing time keeps the rules of the timeline (R1, R2, R4, R8)."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import assume, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contract.broadcast import Broadcast, Cause
from contract.errors import InvalidRequest
from contract.names import CANCELLED, DEFAULT_STATE, RESERVED_STAGE_KEYS
from message_producer.drafts import draft_of, shifted
from message_producer.model import Anchor, Audience, EventDraft, EventState, OccurrenceState, Stage
from message_producer.published_schedule import preview, topic_schedules
from message_producer.timeline import (
    Outcome,
    after_cancel,
    after_change,
    after_content,
    after_cue,
    due_now,
    is_true_now,
    plan,
)
from message_producer.validation import check_draft

T0 = 1_700_000_000_000
LATE = 5_000
_KEYS = ("a", "b", "c", "d", "e")
_minutes = st.integers(-30, 30).map(lambda n: n * 60_000)
_stage = st.builds(
    lambda key, anchor, offset, at: Stage(
        key=key,
        anchor=anchor,
        offset_ms=offset if anchor in (Anchor.START, Anchor.END) else 0,
        at=T0 + at if anchor is Anchor.ABSOLUTE else None,
    ),
    st.sampled_from(_KEYS),
    st.sampled_from([Anchor.START, Anchor.START, Anchor.END, Anchor.ABSOLUTE, Anchor.MANUAL]),
    _minutes,
    _minutes,
)
_stages = st.lists(_stage, min_size=1, max_size=5, unique_by=lambda stage: stage.key).map(tuple)
_west = st.builds(
    lambda offset, some: Audience(name="west", regions=("US",), offsets_ms=offset, stages=some),
    st.dictionaries(st.sampled_from(_KEYS), _minutes, max_size=2),
    st.none() | st.lists(st.sampled_from(_KEYS), min_size=1, max_size=3, unique=True).map(tuple),
)
_audiences = st.just((Audience(),)) | _west.map(lambda west: (Audience(), west))


def _sorted(draft: EventDraft) -> EventDraft:
    """Put timed stages in the order of their times, so that most drafts are valid ones."""
    base = {Anchor.START: draft.starts_at, Anchor.END: draft.ends_at or draft.starts_at, Anchor.MANUAL: T0}
    order = sorted(draft.stages, key=lambda s: (s.at if s.at is not None else base[s.anchor]) + s.offset_ms)
    return msgspec.structs.replace(draft, stages=tuple(order))


def _valid(draft: EventDraft) -> EventDraft | None:
    try:
        return check_draft(_sorted(draft))
    except InvalidRequest:
        return None


class TimelineMachine(RuleBasedStateMachine):
    state: EventState

    def __init__(self) -> None:
        super().__init__()
        self.now = T0
        self.sent: list[Broadcast] = []
        self.armings: set[tuple[str, str, int]] = set()
        self.quiet = False

    @initialize(
        stages=_stages, audiences=_audiences, late=st.booleans(), length=st.none() | st.integers(0, 60), start=_minutes
    )
    def create(
        self, stages: tuple[Stage, ...], audiences: tuple[Audience, ...], late: bool, length: int | None, start: int
    ) -> None:
        draft = EventDraft(
            event_id="night",
            title="Night",
            starts_at=T0 + start,
            ends_at=None if length is None else T0 + start + length * 60_000,
            stages=stages,
            audiences=audiences,
            announce_late=late,
        )
        valid = _valid(draft)
        assume(valid is not None)
        assert valid is not None
        self.take(plan(valid, self.now))

    @rule(by=st.integers(0, 20 * 60_000))
    def time_passes(self, by: int) -> None:
        self.now += by
        self.quiet = False

    @rule(by=st.integers(-3000, 0))
    def the_clock_steps_back(self, by: int) -> None:
        self.now += by

    @rule()
    def dispatch(self) -> None:
        self.take(due_now(self.state, self.now, late_after_ms=LATE))
        self.quiet = True

    @precondition(lambda self: not self.state.event.cancelled)
    @rule(by=_minutes)
    def shift(self, by: int) -> None:
        self.change(shifted(draft_of(self.state.event), by))

    @precondition(lambda self: not self.state.event.cancelled)
    @rule(stages=_stages, audiences=_audiences)
    def replan(self, stages: tuple[Stage, ...], audiences: tuple[Audience, ...]) -> None:
        self.change(msgspec.structs.replace(draft_of(self.state.event), stages=stages, audiences=audiences))

    @precondition(lambda self: not self.state.event.cancelled)
    @rule(length=st.none() | st.integers(0, 60), late=st.booleans())
    def other_end(self, length: int | None, late: bool) -> None:
        draft = draft_of(self.state.event)
        ends_at = None if length is None else draft.starts_at + length * 60_000
        self.change(msgspec.structs.replace(draft, ends_at=ends_at, announce_late=late))

    @precondition(lambda self: not self.state.event.cancelled)
    @rule()
    def content(self) -> None:
        self.take(after_content(self.state, self.now))

    @precondition(lambda self: not self.state.event.cancelled)
    @rule(choose=st.data(), everywhere=st.booleans())
    def cue(self, choose: st.DataObject, everywhere: bool) -> None:
        stages = self.state.event.occurrences
        key = choose.draw(st.sampled_from(sorted({o.stage_key for o in stages})))
        topics = [o.topic for o in stages if o.stage_key == key]
        self.take(after_cue(self.state, key, topics if everywhere else topics[:1], self.now))

    @precondition(lambda self: not self.state.event.cancelled and len(self.sent) > 4)
    @rule()
    def cancel(self) -> None:
        announced = {t.topic for t in self.state.topics if t.announced is not None and not t.removed}
        before = len(self.sent)
        self.take(after_cancel(self.state, self.now))
        assert {b.topic for b in self.sent[before:]} == announced
        assert {b.state_key for b in self.sent[before:]} <= {CANCELLED}

    def change(self, draft: EventDraft) -> None:
        before, valid = self.state.event, _valid(draft)
        if valid is None:
            return
        self.take(after_change(self.state, valid, self.now, late_after_ms=LATE))
        assert self.state.event.revision == before.revision + 1
        assert self.state.event.version - before.version in (0, 1)
        self.quiet = False

    def take(self, outcome: Outcome) -> None:
        for one in outcome.sent:
            arming = (one.broadcast.topic, one.broadcast.state_key, one.arming)
            assert arming not in self.armings, "an occurrence was dispatched twice (R2)"
            self.armings.add(arming)
            if one.broadcast.cause is Cause.SCHEDULED:
                assert one.broadcast.due_at is not None
                assert one.broadcast.due_at <= self.now, "early"
            note(str(one.broadcast))
        self.sent += [one.broadcast for one in outcome.sent]
        self.state = outcome.state

    @invariant()
    def timestamps_rise_and_chains_hold(self) -> None:
        stamps = [b.timestamp for b in self.sent]
        assert all(one < two for one, two in itertools.pairwise(stamps)), "R1"
        tail: dict[str, int] = {}
        for broadcast in self.sent:
            assert broadcast.prev == tail.get(broadcast.topic, 0), "R8"
            tail[broadcast.topic] = broadcast.timestamp
        if hasattr(self, "state"):
            assert {t.topic: t.last_timestamp for t in self.state.topics if t.last_timestamp} == tail

    @invariant()
    def once_quiet_the_announced_state_is_the_one_true_now(self) -> None:
        if not self.quiet or self.state.event.cancelled:
            return
        for topic in self.state.topics:
            if topic.removed:
                assert topic.announced in (None, CANCELLED)
                continue
            stages = [o for o in self.state.event.occurrences if o.topic == topic.topic]
            truth = is_true_now(stages, self.now)
            assert not any(
                o.state is OccurrenceState.ARMED and o.due_at is not None and o.due_at <= self.now for o in stages
            ), "something due was left armed"
            if truth is None:
                assert topic.announced in (None, DEFAULT_STATE) or self.clock_stepped_back()
            else:
                assert topic.announced == truth.stage_key or self.clock_stepped_back()

    def clock_stepped_back(self) -> bool:
        """Whether something was said at an instant that is now to come again: it stays said until then."""
        return bool(self.sent) and max(b.dispatched_at or 0 for b in self.sent) > self.now

    @invariant()
    def what_is_published_matches_what_is_planned(self) -> None:
        if not hasattr(self, "state"):
            return
        for schedule in topic_schedules(self.state):
            assert schedule.revision == self.state.event.revision
            orders = [stage.order for stage in schedule.stages]
            assert orders == sorted(orders)
            assert not RESERVED_STAGE_KEYS & {stage.key for stage in schedule.stages}
        for entry in preview(self.state, self.now):
            assert entry.state_key in {s.key for s in self.state.event.stages} | {CANCELLED}


TestTimeline = TimelineMachine.TestCase
TestTimeline.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, database=None, derandomize=True
)
