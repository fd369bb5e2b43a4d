"""Where every stage of an event stands, and what time, a change, a cancellation or a cue does to it (R1, R4). Pure.

Each function takes an EventState and an instant and returns an Outcome: the state afterwards and the broadcasts it
took. Nothing here reads a clock; the caller reads it inside the transaction that holds the event's row (R1).

The stage *true now* on a topic is the one with the greatest effective time (cue time if cued, else due time) that is
not in the future; of equals the later in order. Stages a cue overtook, or that an opted-out event missed, do not count
until they are armed anew.

A change arms every stage whose due time it moved anew. If then what was announced is not true any more, the one true
now goes out in the same transaction (rewind). If it still is true, its new arming counts as dispatched by the
broadcast that already went out, and is not repeated; other stages armed anew in the past are superseded.

A cue consumes the stage's armed occurrence, supersedes armed stages before it, and lets the plan continue after it:
stages after it whose time is still to come are armed again if an earlier cue had consumed or overtaken them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import Enum

import msgspec

from contract.broadcast import Broadcast, Cause
from contract.names import CANCELLED, DEFAULT_STATE, RESERVED_STAGE_KEYS
from message_producer.drafts import PlannedOccurrence, audience_topic, content_of, draft_of, planned
from message_producer.model import (
    EventDraft,
    EventState,
    LiveEvent,
    Occurrence,
    OccurrenceState,
    TopicState,
)

__all__ = [
    "Outcome",
    "Sent",
    "after_cancel",
    "after_change",
    "after_content",
    "after_cue",
    "due_now",
    "effective_at",
    "is_true_now",
    "next_due_at",
    "plan",
    "stages_of",
]

_ARMED, _PLANNED = OccurrenceState.ARMED, OccurrenceState.PLANNED
_DISPATCHED, _SUPERSEDED = OccurrenceState.DISPATCHED, OccurrenceState.SUPERSEDED
_CANCELLED = OccurrenceState.CANCELLED


class _Shown(Enum):
    """How what devices show stands to the plan: an event that opts out of R4 may let a missed stage go over the first
    only. The others are untrue, and whatever is true instead is owed to the devices."""

    STANDS = "stands"
    """Nothing, the default row, or a stage whose time has come, be it over again."""
    AHEAD = "ahead"
    """A stage that was broadcast and whose time is yet to come: the clock went back."""
    UNTRUE = "untrue"
    """A stage whose time was moved away or put off, or a state of an event that goes on."""


class Sent(msgspec.Struct, frozen=True):
    """A broadcast and the arming it used up; (topic, state key, arming) never repeats (R2)."""

    broadcast: Broadcast
    arming: int


class Outcome(msgspec.Struct, frozen=True):
    """A decision carried out: what to store, all of it in one transaction."""

    state: EventState
    sent: tuple[Sent, ...] = ()
    touched: tuple[Occurrence, ...] = ()
    """Occurrences that differ from before."""


def effective_at(occurrence: Occurrence) -> int | None:
    """When the stage became or becomes true, ms; None while it cannot."""
    if occurrence.state is _CANCELLED or occurrence.passed_over_at is not None:
        return None
    return occurrence.cued_at if occurrence.cued_at is not None else occurrence.due_at


def is_true_now(occurrences: Iterable[Occurrence], now: int) -> Occurrence | None:
    """The stage of one topic that is true at `now`, or None before the first."""
    best, best_rank = None, (-1, -1)
    for occurrence in occurrences:
        at = effective_at(occurrence)
        if at is None or occurrence.stage_key in RESERVED_STAGE_KEYS:
            continue
        if at > now and occurrence.cued_at is None:  # a cue holds from the moment it was given, whatever the clock does
            continue
        if (at, occurrence.order) > best_rank:
            best, best_rank = occurrence, (at, occurrence.order)
    return best


def next_due_at(occurrences: Iterable[Occurrence]) -> int | None:
    """When the next armed stage is due, overdue or not; None: nothing is armed."""
    return min((o.due_at for o in occurrences if o.state is _ARMED and o.due_at is not None), default=None)


def stages_of(draft: EventDraft, occurrences: Iterable[Occurrence]) -> tuple[Occurrence, ...]:
    """Of all occurrences those of the draft's present stages, by topic and order: what the world sees."""
    known = {(o.topic, o.stage_key): o for o in occurrences}
    found = (known.get((p.topic, p.stage_key)) for p in planned(draft))
    return tuple(o for o in found if o is not None)


def plan(draft: EventDraft, now: int) -> Outcome:
    """A new event: everything armed or planned, nothing broadcast yet; what is overdue is due at once (R4)."""
    occurrences = tuple(_armed(want, 1) for want in planned(draft))
    event = LiveEvent(
        **{name: getattr(draft, name) for name in EventDraft.__struct_fields__},
        revision=1,
        version=1,
        created_at=now,
        updated_at=now,
        occurrences=occurrences,
    )
    topics = tuple(TopicState(topic=audience_topic(draft, a.name), audience=a.name) for a in draft.audiences)
    state = EventState(
        event=event, topics=topics, occurrences=occurrences, added_at_version={s.key: 1 for s in draft.stages}
    )
    return Outcome(state, touched=occurrences)


def due_now(state: EventState, now: int, *, late_after_ms: int) -> Outcome:
    """Dispatch what is due: per topic the one stage true now; overdue ones before it are superseded (R4).

    A stage that an opted-out event misses changes the plan, so the revision rises: devices that follow the plan
    offline must not show what was never announced.
    """
    work, event = _Work(state, now), state.event
    if not event.cancelled:
        for topic in work.present_topics():
            _dispatch_due(work, topic, late_after_ms)
    if work.passed_over():
        event = _next_revision(event, draft_of(event), now, version=event.version)
    return work.outcome(event)


def after_change(state: EventState, draft: EventDraft, now: int, *, late_after_ms: int) -> Outcome:
    """The event becomes `draft`: revision up, moved stages armed anew, rewinds broadcast (R4, R5)."""
    work = _Work(state, now)
    rearmed = _rearm(work, draft)
    for audience in draft.audiences:
        work.topic(audience_topic(draft, audience.name), audience.name)
    for topic in work.present_topics():
        _settle(work, topic, draft, rearmed.get(topic, set()), late_after_ms)
    version = state.event.version + (content_of(draft) != content_of(state.event))
    added = {stage.key: state.added_at_version.get(stage.key, version) for stage in draft.stages}
    return work.outcome(_next_revision(state.event, draft, now, version=version), added)


def after_content(state: EventState, now: int) -> Outcome:
    """Content changed elsewhere: the version rises and devices refetch (R5)."""
    event = state.event
    return _Work(state, now).outcome(_next_revision(event, draft_of(event), now, version=event.version + 1))


def after_cancel(state: EventState, now: int) -> Outcome:
    """Nothing more goes out but `cancelled`, on each topic where anything was announced (R4)."""
    work = _Work(state, now)
    for occurrence in list(work.occurrences.values()):
        if occurrence.state in (_ARMED, _PLANNED):
            work.put(msgspec.structs.replace(occurrence, state=_CANCELLED))
    for topic in work.present_topics():
        if work.topics[topic].announced is not None:
            work.send_reserved(topic, CANCELLED, Cause.CANCELLED)
    event = _next_revision(state.event, draft_of(state.event), now, version=state.event.version)
    return work.outcome(msgspec.structs.replace(event, cancelled=True))


def after_cue(state: EventState, stage_key: str, topics: Collection[str], now: int) -> Outcome:
    """Broadcast `stage_key` now on `topics`, all of which have it."""
    work = _Work(state, now)
    for topic in topics:
        cued = work.occurrences[topic, stage_key]
        at = work.next_timestamp()  # later than anything said before, so that the cue outranks a stage due just now
        for other in work.stages(topic):
            if other.state is _ARMED and other.order < cued.order:
                work.put(msgspec.structs.replace(other, state=_SUPERSEDED, passed_over_at=at))
            elif other.order > cued.order and (other.due_at or 0) > now and other.state in (_DISPATCHED, _SUPERSEDED):
                work.put(_again(other, _ARMED))
        if cued.state not in (_ARMED, _PLANNED):
            cued = _again(cued, _ARMED)
        work.send(msgspec.structs.replace(cued, cued_at=at, passed_over_at=None), Cause.CUE)
    event = _next_revision(state.event, draft_of(state.event), now, version=state.event.version)
    return work.outcome(event)


def _rearm(work: _Work, draft: EventDraft) -> dict[str, set[str]]:
    """Bring occurrences in line with `draft`; returns per topic the stage keys armed anew."""
    cues_before = {(o.topic, o.cued_at) for o in work.occurrences.values() if o.cued_at is not None}
    rearmed: dict[str, set[str]] = {}
    wanted = {(want.topic, want.stage_key): want for want in planned(draft)}
    for place, want in wanted.items():
        old = work.occurrences.get(place)
        if old is None or old.state is _CANCELLED or old.due_at != want.due_at:
            work.put(_armed(want, old.arming + 1 if old else 1))
            rearmed.setdefault(want.topic, set()).add(want.stage_key)
        elif old.order != want.order:
            work.put(msgspec.structs.replace(old, order=want.order))
    for place, old in list(work.occurrences.items()):
        if place not in wanted and old.stage_key not in RESERVED_STAGE_KEYS and old.state is not _CANCELLED:
            work.put(msgspec.structs.replace(old, state=_CANCELLED))
    # What a cue had overtaken counts again once that cue is gone.
    cues_now = {(o.topic, o.cued_at) for o in work.occurrences.values() if o.cued_at is not None}
    gone = cues_before - cues_now
    for place, old in list(work.occurrences.items()):
        if place in wanted and (old.topic, old.passed_over_at) in gone:
            work.put(_armed(wanted[place], old.arming + 1))
            rearmed.setdefault(old.topic, set()).add(old.stage_key)
    kept = {audience_topic(draft, audience.name) for audience in draft.audiences}
    for topic in work.present_topics():
        if topic not in kept:
            # To its devices an audience that is taken away is a cancelled event.
            if work.topics[topic].announced not in (None, CANCELLED):
                work.send_reserved(topic, CANCELLED, Cause.CANCELLED)
            work.topics[topic] = msgspec.structs.replace(work.topics[topic], removed=True)
    return rearmed


def _settle(work: _Work, topic: str, draft: EventDraft, rearmed: set[str], late_after_ms: int) -> None:
    """After a change: is what `topic` announced still true? If not, rewind."""
    announced = work.topics[topic].announced
    if announced is None:
        return  # nothing was said yet, so nothing can be untrue; what is overdue is the dispatcher's
    shown = work.shown(topic)
    if announced not in rearmed and shown is _Shown.AHEAD:
        return  # the clock went back, the plan did not: what was said stays said until its time comes again
    while True:
        truth = is_true_now(work.stages(topic), work.now)
        if truth is None:
            if announced != DEFAULT_STATE:
                work.send_reserved(topic, DEFAULT_STATE, Cause.REWIND)
            return
        if truth.stage_key == announced:
            if truth.state is _ARMED:
                work.put_told(truth)
            break
        if truth.state is _ARMED and truth.stage_key not in rearmed:
            return  # came due by itself a moment ago: the dispatcher's
        if _missed(work, truth, late_after_ms, draft.announce_late) and shown is _Shown.STANDS:
            work.put(msgspec.structs.replace(truth, state=_SUPERSEDED, passed_over_at=work.now))
            continue
        work.send(truth if truth.state is _ARMED else _again(truth, _ARMED, keep_cue=True), Cause.REWIND)
        break
    work.supersede_overdue(topic)


def _dispatch_due(work: _Work, topic: str, late_after_ms: int) -> None:
    while any(work.is_overdue(o) for o in work.stages(topic)):
        truth = is_true_now(work.stages(topic), work.now)
        if truth is not None and truth.state is _ARMED:
            if truth.stage_key == work.topics[topic].announced:
                work.put_told(truth)
            elif _missed(work, truth, late_after_ms, work.announce_late) and work.shown(topic) is _Shown.STANDS:
                work.put(msgspec.structs.replace(truth, state=_SUPERSEDED, passed_over_at=work.now))
                continue
            else:
                work.send(truth, Cause.SCHEDULED)
        work.supersede_overdue(topic)


def _missed(work: _Work, occurrence: Occurrence, late_after_ms: int, announce_late: bool) -> bool:
    """Whether an event that opts out of R4 lets this overdue stage go."""
    return (
        not announce_late
        and occurrence.state is _ARMED
        and occurrence.due_at is not None
        and work.now - occurrence.due_at > late_after_ms
    )


def _armed(want: PlannedOccurrence, arming: int) -> Occurrence:
    return Occurrence(
        topic=want.topic,
        stage_key=want.stage_key,
        arming=arming,
        state=_PLANNED if want.due_at is None else _ARMED,
        order=want.order,
        due_at=want.due_at,
    )


def _again(old: Occurrence, state: OccurrenceState, *, keep_cue: bool = False) -> Occurrence:
    return msgspec.structs.replace(
        old,
        arming=old.arming + 1,
        state=state,
        timestamp=None,
        cued_at=old.cued_at if keep_cue else None,
        passed_over_at=None,
    )


def _next_revision(event: LiveEvent, draft: EventDraft, now: int, *, version: int) -> LiveEvent:
    fields = {name: getattr(draft, name) for name in EventDraft.__struct_fields__}
    return msgspec.structs.replace(event, **fields, revision=event.revision + 1, version=version, updated_at=now)


class _Work:
    """The state while one decision is carried out: timestamps are given out here, in order (R1, R8)."""

    def __init__(self, state: EventState, now: int) -> None:
        self.now = now
        self.announce_late = state.event.announce_late
        self.occurrences = {(o.topic, o.stage_key): o for o in state.occurrences}
        self.topics = {t.topic: t for t in state.topics}
        self._state = state
        self._last = state.event.last_timestamp
        self._sent: list[Sent] = []
        self._touched: dict[tuple[str, str], Occurrence] = {}

    def present_topics(self) -> list[str]:
        return [t.topic for t in self.topics.values() if not t.removed]

    def topic(self, topic: str, audience: str) -> None:
        """Have `topic`, new or back from removal."""
        known = self.topics.get(topic)
        self.topics[topic] = (
            msgspec.structs.replace(known, removed=False) if known else TopicState(topic=topic, audience=audience)
        )

    def stages(self, topic: str) -> list[Occurrence]:
        return [o for o in self.occurrences.values() if o.topic == topic and o.stage_key not in RESERVED_STAGE_KEYS]

    def put(self, occurrence: Occurrence) -> None:
        place = (occurrence.topic, occurrence.stage_key)
        self.occurrences[place] = self._touched[place] = occurrence

    def put_told(self, occurrence: Occurrence) -> None:
        """Devices already show it: the broadcast that told them counts for this arming too."""
        told = self.topics[occurrence.topic].last_timestamp
        self.put(msgspec.structs.replace(occurrence, state=_DISPATCHED, timestamp=told))

    def is_overdue(self, occurrence: Occurrence) -> bool:
        return occurrence.state is _ARMED and occurrence.due_at is not None and occurrence.due_at <= self.now

    def shown(self, topic: str) -> _Shown:
        """What the topic's devices show, measured by the plan and the clock as they are now."""
        announced = self.topics[topic].announced
        if announced in (None, DEFAULT_STATE):
            return _Shown.STANDS
        found = self.occurrences.get((topic, announced)) if announced not in RESERVED_STAGE_KEYS else None
        at = effective_at(found) if found is not None else None
        if found is None or at is None:
            return _Shown.UNTRUE
        if at <= self.now:
            return _Shown.STANDS
        return _Shown.AHEAD if found.state is _DISPATCHED else _Shown.UNTRUE

    def supersede_overdue(self, topic: str) -> None:
        for occurrence in self.stages(topic):
            if self.is_overdue(occurrence):
                self.put(msgspec.structs.replace(occurrence, state=_SUPERSEDED))

    def passed_over(self) -> bool:
        return any(occurrence.passed_over_at is not None for occurrence in self._touched.values())

    def next_timestamp(self) -> int:
        return max(self.now, self._last + 1)

    def send_reserved(self, topic: str, key: str, cause: Cause) -> None:
        old = self.occurrences.get((topic, key))
        arming = old.arming + 1 if old else 1
        self.send(Occurrence(topic=topic, stage_key=key, arming=arming, state=_ARMED, order=-1), cause)

    def send(self, occurrence: Occurrence, cause: Cause) -> None:
        """Dispatch `occurrence` with the event's next timestamp, chained to its topic's last."""
        assert occurrence.state in (_ARMED, _PLANNED), f"dispatched twice: {occurrence}"
        topic = self.topics[occurrence.topic]
        timestamp = self._last = self.next_timestamp()
        broadcast = Broadcast(
            topic=topic.topic,
            state_key=occurrence.stage_key,
            timestamp=timestamp,
            prev=topic.last_timestamp,
            event_id=self._state.event.event_id,
            cause=cause,
            due_at=occurrence.due_at if cause is Cause.SCHEDULED else None,
            dispatched_at=self.now,
        )
        assert broadcast.due_at is None or broadcast.due_at <= self.now, f"dispatched early: {broadcast}"
        self.put(msgspec.structs.replace(occurrence, state=_DISPATCHED, timestamp=timestamp))
        self.topics[topic.topic] = msgspec.structs.replace(
            topic, last_timestamp=timestamp, announced=occurrence.stage_key
        )
        self._sent.append(Sent(broadcast, occurrence.arming))

    def outcome(self, event: LiveEvent, added_at_version: dict[str, int] | None = None) -> Outcome:
        occurrences = tuple(self.occurrences.values())
        event = msgspec.structs.replace(event, last_timestamp=self._last, occurrences=stages_of(event, occurrences))
        added = self._state.added_at_version if added_at_version is None else added_at_version
        state = EventState(
            event=event, topics=tuple(self.topics.values()), occurrences=occurrences, added_at_version=added
        )
        return Outcome(state, tuple(self._sent), tuple(self._touched.values()))
