"""An event's plan as its topics publish it, and as an operator previews it. Pure (R5)."""

from __future__ import annotations

from contract.names import CANCELLED
from contract.schedule import PlannedStage, TopicSchedule
from message_producer.drafts import audience_topic
from message_producer.model import EventState, Occurrence, OccurrenceState, PreviewEntry
from message_producer.timeline import effective_at, is_true_now, stages_of

__all__ = ["preview", "topic_schedules"]


def topic_schedules(state: EventState) -> tuple[TopicSchedule, ...]:
    """One schedule per topic, also of audiences taken away (cancelled, without stages).

    Times are effective ones: a cued stage shows when it was cued, one that will not go out any more shows none, so
    that a device which follows the plan offline ends where the broadcasts would have led it (R20).
    """
    event = state.event
    audiences = {audience_topic(event, audience.name): audience for audience in event.audiences}
    headlines = {stage.key: stage.headline for stage in event.stages}
    by_topic: dict[str, list[PlannedStage]] = {topic.topic: [] for topic in state.topics}
    for occurrence in stages_of(event, state.occurrences):
        by_topic[occurrence.topic].append(
            PlannedStage(
                key=occurrence.stage_key,
                order=occurrence.order,
                due_at=effective_at(occurrence),
                headline=headlines[occurrence.stage_key],
            )
        )
    return tuple(
        TopicSchedule(
            topic=topic.topic,
            event_id=event.event_id,
            title=event.title,
            revision=event.revision,
            version=event.version,
            starts_at=event.starts_at,
            ends_at=event.ends_at,
            audience=topic.audience,
            regions=audiences[topic.topic].regions if topic.topic in audiences else (),
            cancelled=event.cancelled or topic.removed,
            shadow_of=event.shadow_of,
            stages=tuple(by_topic[topic.topic]),
        )
        for topic in state.topics
    )


def preview(state: EventState, now: int, until: int | None = None) -> tuple[PreviewEntry, ...]:
    """Per topic: what is true now, then what goes out by itself up to `until`, then what waits for a cue."""
    event = state.event
    headlines = {stage.key: stage.headline for stage in event.stages}

    def entry(audience: str, occurrence: Occurrence) -> PreviewEntry:
        return PreviewEntry(
            topic=occurrence.topic,
            audience=audience,
            state_key=occurrence.stage_key,
            due_at=effective_at(occurrence),
            state=occurrence.state,
            headline=headlines.get(occurrence.stage_key, ""),
        )

    found: list[PreviewEntry] = []
    for topic in state.topics:
        if topic.removed:
            continue
        if event.cancelled:
            if topic.announced is not None:
                found.append(_cancelled(topic.topic, topic.audience, event.updated_at))
            continue
        stages = [o for o in stages_of(event, state.occurrences) if o.topic == topic.topic]
        truth = is_true_now(stages, now)
        if truth is not None:
            found.append(entry(topic.audience, truth))
        coming = [o for o in stages if o.state is OccurrenceState.ARMED and now < (o.due_at or 0)]
        coming.sort(key=lambda o: (o.due_at or 0, o.order))
        found += [entry(topic.audience, o) for o in coming if until is None or (o.due_at or 0) <= until]
        found += [entry(topic.audience, o) for o in stages if o.state is OccurrenceState.PLANNED]
    return tuple(found)


def _cancelled(topic: str, audience: str, at: int) -> PreviewEntry:
    return PreviewEntry(
        topic=topic, audience=audience, state_key=CANCELLED, due_at=at, state=OccurrenceState.DISPATCHED
    )
