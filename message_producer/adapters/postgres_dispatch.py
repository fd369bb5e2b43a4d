"""What a dispatch writes, in one statement for any number of events: each round trip is time a device waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from message_producer.model import EventState
from message_producer.timeline import Outcome

__all__ = ["save_dispatched"]

_SAVE: Final = sa.text(
    """
    WITH saved_events AS (
        UPDATE events SET last_timestamp = new.last_timestamp
        FROM unnest(CAST(:e_event_id AS text[]), CAST(:e_last_timestamp AS bigint[])) AS new (event_id, last_timestamp)
        WHERE events.event_id = new.event_id
    ), saved_topics AS (
        UPDATE topics SET last_timestamp = new.last_timestamp, last_state = new.last_state
        FROM unnest(
            CAST(:t_topic AS text[]), CAST(:t_last_timestamp AS bigint[]), CAST(:t_last_state AS text[])
        ) AS new (topic, last_timestamp, last_state)
        WHERE topics.topic = new.topic
    ), saved_occurrences AS (
        UPDATE occurrences SET arming = new.arming, state = new.state, "timestamp" = new.given
        FROM unnest(
            CAST(:o_topic AS text[]), CAST(:o_stage_key AS text[]), CAST(:o_arming AS integer[]),
            CAST(:o_state AS text[]), CAST(:o_timestamp AS bigint[])
        ) AS new (topic, stage_key, arming, state, given)
        WHERE occurrences.topic = new.topic AND occurrences.stage_key = new.stage_key
    )
    INSERT INTO outbox (event_id, topic, state_key, arming, "timestamp", prev, cause, due_at, dispatched_at)
    SELECT * FROM unnest(
        CAST(:b_event_id AS text[]), CAST(:b_topic AS text[]), CAST(:b_state_key AS text[]),
        CAST(:b_arming AS integer[]), CAST(:b_timestamp AS bigint[]), CAST(:b_prev AS bigint[]),
        CAST(:b_cause AS text[]), CAST(:b_due_at AS bigint[]), CAST(:b_dispatched_at AS bigint[])
    )
    """
)


def save_dispatched(connection: sa.Connection, changes: Sequence[tuple[EventState, Outcome]]) -> None:
    """Write outcomes of time alone: no revision rose, so that nothing new appeared and no plan changed.

    Raises IntegrityError for an occurrence that was dispatched before.
    """
    topics = [topic for before, outcome in changes for topic in outcome.state.topics if topic not in before.topics]
    occurrences = [occurrence for _, outcome in changes for occurrence in outcome.touched]
    sent = [one for _, outcome in changes for one in outcome.sent]
    given: dict[str, list[Any]] = {
        "e_event_id": [outcome.state.event.event_id for _, outcome in changes],
        "e_last_timestamp": [outcome.state.event.last_timestamp for _, outcome in changes],
        "t_topic": [topic.topic for topic in topics],
        "t_last_timestamp": [topic.last_timestamp for topic in topics],
        "t_last_state": [topic.announced for topic in topics],
        "o_topic": [occurrence.topic for occurrence in occurrences],
        "o_stage_key": [occurrence.stage_key for occurrence in occurrences],
        "o_arming": [occurrence.arming for occurrence in occurrences],
        "o_state": [occurrence.state.value for occurrence in occurrences],
        "o_timestamp": [occurrence.timestamp for occurrence in occurrences],
        "b_event_id": [one.broadcast.event_id for one in sent],
        "b_topic": [one.broadcast.topic for one in sent],
        "b_state_key": [one.broadcast.state_key for one in sent],
        "b_arming": [one.arming for one in sent],
        "b_timestamp": [one.broadcast.timestamp for one in sent],
        "b_prev": [one.broadcast.prev for one in sent],
        "b_cause": [one.broadcast.cause.value for one in sent],
        "b_due_at": [one.broadcast.due_at for one in sent],
        "b_dispatched_at": [one.broadcast.dispatched_at for one in sent],
    }
    connection.execute(_SAVE, given)
