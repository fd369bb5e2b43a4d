"""Records of the Kafka topics, pure: what a broadcast and a schedule look like on the log in flight, and back.

A value is the same JSON as everywhere else; what kind it is and in which version its form is said in a header. Fields
may be added without a new version: readers ignore what they do not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from contract.broadcast import Broadcast, decode_broadcast, encode_broadcast
from contract.names import KAFKA_BROADCASTS, KAFKA_DEAD_LETTERS, KAFKA_SCHEDULE
from contract.schedule import TopicSchedule, decode_schedule, encode_schedule

__all__ = [
    "Record",
    "Undecodable",
    "broadcast_record",
    "dead_letter_record",
    "decode_record",
    "entry_partition",
    "kafka_partition",
    "partition_of",
    "schedule_record",
    "traceparent_of",
]

_VERSION: Final = 1
_SCHEMA: Final = "stagecue-schema"
_TRACEPARENT: Final = "traceparent"
_SCHEDULE_FROM: Final = 1_000_000
"""Partitions of stage.schedule follow those of stage.broadcasts at a distance no topic reaches."""
_REASON_MAX: Final = 500

Headers = tuple[tuple[str, bytes], ...]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record to be sent."""

    kafka_topic: str
    key: bytes
    """What compaction keeps the newest of."""
    partition_key: str
    """What must stay in order: the event id, so that an event's topics share a partition."""
    value: bytes
    timestamp_ms: int | None = None
    """The record's own timestamp; None: when it is sent."""
    headers: Headers = ()
    identity: tuple[str, str, int]
    """Two records with the same identity are the same, sent twice."""


class Undecodable(Exception):
    """A record that says nothing to us; `str()` is the reason that goes with it to the dead letters."""


def broadcast_record(broadcast: Broadcast, traceparent: str) -> Record:
    """Key: the event. The record's timestamp is the cursor, so that a reader finds a moment by Kafka's index."""
    return Record(
        kafka_topic=KAFKA_BROADCASTS,
        key=broadcast.event_id.encode(),
        partition_key=broadcast.event_id,
        value=encode_broadcast(broadcast),
        timestamp_ms=broadcast.timestamp,
        headers=_headers("broadcast", traceparent),
        identity=(KAFKA_BROADCASTS, broadcast.topic, broadcast.timestamp),
    )


def schedule_record(schedule: TopicSchedule, traceparent: str) -> Record:
    """Key: the topic, of which compaction keeps the newest schedule."""
    return Record(
        kafka_topic=KAFKA_SCHEDULE,
        key=schedule.topic.encode(),
        partition_key=schedule.event_id,
        value=encode_schedule(schedule),
        headers=_headers("schedule", traceparent),
        identity=(KAFKA_SCHEDULE, schedule.topic, schedule.revision),
    )


def dead_letter_record(
    *,
    kafka_topic: str,
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    headers: Iterable[tuple[str, bytes]],
    reason: str,
) -> Record:
    """What could not be decoded, as it was, with where it came from and why in headers."""
    return Record(
        kafka_topic=KAFKA_DEAD_LETTERS,
        key=key or b"",
        partition_key=f"{kafka_topic}-{partition}",
        value=value or b"",
        headers=(
            *headers,
            ("reason", reason[:_REASON_MAX].encode()),
            ("source-topic", kafka_topic.encode()),
            ("source-partition", str(partition).encode()),
            ("source-offset", str(offset).encode()),
        ),
        identity=(f"{KAFKA_DEAD_LETTERS}/{kafka_topic}", str(partition), offset),
    )


def decode_record(
    kafka_topic: str, value: bytes | None, headers: Iterable[tuple[str, bytes]]
) -> Broadcast | TopicSchedule:
    """What a record of stage.broadcasts or stage.schedule says. Raises Undecodable."""
    kind = {KAFKA_BROADCASTS: "broadcast", KAFKA_SCHEDULE: "schedule"}[kafka_topic]
    _check_schema(kind, dict(headers))
    if value is None:
        raise Undecodable("it has no value")
    try:
        return _decode_broadcast(value) if kind == "broadcast" else decode_schedule(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Undecodable(f"it is no {kind}: {exc}") from exc


def traceparent_of(headers: Iterable[tuple[str, bytes]]) -> str | None:
    """The trace context a record carries, as it is."""
    found = dict(headers).get(_TRACEPARENT)
    return None if found is None else found.decode("ascii", "replace")


def partition_of(partition_key: str, partitions: int) -> int:
    """The partition of a key, as Kafka's own clients choose it, so that other tools agree."""
    return (_murmur2(partition_key.encode()) & 0x7FFFFFFF) % partitions


def entry_partition(kafka_topic: str, partition: int) -> int:
    """One number for a partition of either Kafka topic, as `LogEntry.partition` has it."""
    assert 0 <= partition < _SCHEDULE_FROM
    return partition if kafka_topic == KAFKA_BROADCASTS else _SCHEDULE_FROM + partition


def kafka_partition(entry_partition: int) -> tuple[str, int]:
    """Inverse of `entry_partition`."""
    if entry_partition >= _SCHEDULE_FROM:
        return KAFKA_SCHEDULE, entry_partition - _SCHEDULE_FROM
    return KAFKA_BROADCASTS, entry_partition


def _headers(kind: str, traceparent: str) -> Headers:
    return ((_SCHEMA, f"{kind}/{_VERSION}".encode()), (_TRACEPARENT, traceparent.encode()))


def _check_schema(kind: str, headers: Mapping[str, bytes]) -> None:
    """A record without the header, written by hand or by a tool, is taken at its value."""
    schema = headers.get(_SCHEMA)
    if schema is None:
        return
    said, _, version = schema.decode("ascii", "replace").partition("/")
    if said != kind:
        raise Undecodable(f"it is a {said[:40]!r}, not a {kind}")
    if version != str(_VERSION):
        raise Undecodable(f"its schema is {kind}/{version[:10]}, this router reads {kind}/{_VERSION}")


def _decode_broadcast(value: bytes) -> Broadcast:
    try:
        broadcast = decode_broadcast(value)
    except AssertionError as exc:  # the invariant of a Broadcast: raised in here it is somebody else's mistake
        raise Undecodable(f"it is no broadcast: {exc}") from exc
    if not 0 <= broadcast.prev < broadcast.timestamp:
        raise Undecodable(f"it is no broadcast: prev {broadcast.prev}, timestamp {broadcast.timestamp}")
    return broadcast


def _murmur2(data: bytes) -> int:
    """MurmurHash2 with the seed of Kafka's Java client."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15
