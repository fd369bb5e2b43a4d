"""Names two services share: topics, Kafka topics, reserved stage keys, keys of the KV store.

Nobody parses a topic: who needs an event's topics asks the schedule view (R6).
"""

from __future__ import annotations

import re
from typing import Final

from contract.errors import InvalidRequest

__all__ = [
    "CANCELLED",
    "DEFAULT_AUDIENCE",
    "DEFAULT_STATE",
    "KAFKA_BROADCASTS",
    "KAFKA_DEAD_LETTERS",
    "KAFKA_SCHEDULE",
    "KV_SCHEMA",
    "RESERVED_STAGE_KEYS",
    "check_audience",
    "check_event_id",
    "check_stage_key",
    "kv_event_topics",
    "kv_events",
    "kv_log",
    "kv_log_floor",
    "kv_materialise_job",
    "kv_node_lease",
    "kv_nodes",
    "kv_picks",
    "kv_picks_layout",
    "kv_schedule",
    "kv_schema",
    "kv_whole",
    "topic_of",
]

KAFKA_BROADCASTS: Final = "stage.broadcasts"
KAFKA_SCHEDULE: Final = "stage.schedule"
KAFKA_DEAD_LETTERS: Final = "stage.dead-letters"

CANCELLED: Final = "cancelled"
"""Every event has this stage; it is broadcast on cancellation once anything was announced (R4)."""
DEFAULT_STATE: Final = "default"
"""Announced when a rewind leaves no stage true; devices show the event's default row."""
RESERVED_STAGE_KEYS: Final = frozenset({CANCELLED, DEFAULT_STATE})
KV_SCHEMA: Final = 1
"""Rises when a stored value or script is no longer understood by the version before it."""
DEFAULT_AUDIENCE: Final = "all"

_EVENT_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_STAGE_KEY = re.compile(r"[a-z][a-z0-9_]{0,31}")
_AUDIENCE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")


def check_event_id(value: str, field: str = "event_id") -> str:
    """Return `value`, or raise InvalidRequest naming `field` and the rule."""
    return _check(_EVENT_ID, value, field, "1-64 of a-z 0-9 . _ -, starting and ending with a letter or digit")


def check_stage_key(value: str, field: str = "key") -> str:
    return _check(_STAGE_KEY, value, field, "1-32 of a-z 0-9 _, starting with a letter")


def check_audience(value: str, field: str = "audience") -> str:
    return _check(_AUDIENCE, value, field, "1-32 of a-z 0-9 -, starting and ending with a letter or digit")


def _check(pattern: re.Pattern[str], value: str, field: str, rule: str) -> str:
    if not pattern.fullmatch(value):
        raise InvalidRequest(f"{value[:80]!r} is not a valid name", field=field, rule=rule)
    return value


def topic_of(event_id: str, audience: str = DEFAULT_AUDIENCE, *, shadow: bool = False) -> str:
    """The topic a device of `audience` follows for `event_id`; topics of a rehearsal (`shadow`) look unlike others."""
    name = f"{'shadow' if shadow else 'event'}:{event_id}"
    return name if audience == DEFAULT_AUDIENCE else f"{name}@{audience}"


# Keys of the KV store. The braces are a Redis Cluster hash tag: all keys of one topic share a slot.
def kv_log(topic: str) -> str:
    return f"stagecue:{{{topic}}}:log"


def kv_log_floor(topic: str) -> str:
    return f"stagecue:{{{topic}}}:floor"


def kv_schedule(topic: str) -> str:
    return f"stagecue:{{{topic}}}:schedule"


def kv_event_topics(event_id: str) -> str:
    return f"stagecue:event-topics:{event_id}"


def kv_events() -> str:
    return "stagecue:events"


def kv_whole() -> str:
    return "stagecue:whole"


def kv_nodes() -> str:
    return "stagecue:nodes"


def kv_schema() -> str:
    """The version of what is stored under all the other keys: KV_SCHEMA of whoever wrote first."""
    return "stagecue:schema"


def kv_node_lease(node_id: str) -> str:
    return f"stagecue:node-lease:{node_id}"


# Picks are only ever read by themselves, and a topic has one per profile: no hash tag, they spread over a cluster.
def kv_picks(topic: str, version: int, profile_id: str) -> str:
    return f"stagecue:picks:{topic}:{version}:{profile_id}"


def kv_picks_layout(layout_id: bytes) -> str:
    """What the picks that name this layout are picks of."""
    return f"stagecue:picks-layout:{layout_id.hex()}"


def kv_materialise_job(job: str) -> str:
    """The set of chunks of the job that are done."""
    return f"stagecue:materialise:{job}"
