"""Records of the Kafka topics: what goes out comes back, and whatever else comes says why it is nothing."""

from __future__ import annotations

import msgspec
import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from contract.broadcast import Broadcast, Cause
from contract.names import KAFKA_BROADCASTS, KAFKA_DEAD_LETTERS, KAFKA_SCHEDULE
from contract.records import (
    Undecodable,
    broadcast_record,
    dead_letter_record,
    decode_record,
    entry_partition,
    kafka_partition,
    partition_of,
    schedule_record,
    traceparent_of,
)
from contract.schedule import PlannedStage, TopicSchedule

LIVE = Broadcast(
    topic="event:night@north",
    state_key="live",
    timestamp=1_763_700_000_123,
    prev=1_763_700_000_000,
    event_id="night",
    cause=Cause.CUE,
    due_at=None,
    dispatched_at=1_763_700_000_120,
)
PLAN = TopicSchedule(
    topic="event:night@north",
    event_id="night",
    title="Night",
    revision=12,
    version=7,
    starts_at=1_763_700_000_000,
    audience="north",
    regions=("NO",),
    stages=(PlannedStage(key="live", order=0, due_at=1_763_700_000_000),),
)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_broadcast_comes_back() -> None:
    """Keyed and partitioned by its event, at the moment of its cursor."""
    record = broadcast_record(LIVE, TRACE)
    assert (record.kafka_topic, record.key, record.partition_key) == (KAFKA_BROADCASTS, b"night", "night")
    assert record.timestamp_ms == LIVE.timestamp
    assert decode_record(record.kafka_topic, record.value, record.headers) == LIVE
    assert traceparent_of(record.headers) == TRACE


def test_a_schedule_comes_back() -> None:
    """Keyed by its topic, so that compaction keeps one per topic, in the partition of its event."""
    record = schedule_record(PLAN, TRACE)
    assert (record.kafka_topic, record.key, record.partition_key) == (KAFKA_SCHEDULE, b"event:night@north", "night")
    assert decode_record(record.kafka_topic, record.value, record.headers) == PLAN


def test_a_record_without_headers_is_taken_at_its_value() -> None:
    """As somebody's own tool would write it; fields nobody knows are left out."""
    value = msgspec.json.encode({**msgspec.to_builtins(LIVE), "colour": "red"})
    assert decode_record(KAFKA_BROADCASTS, value, []) == LIVE
    assert traceparent_of([]) is None


@pytest.mark.parametrize(
    ("kafka_topic", "value", "headers", "reason"),
    [
        (KAFKA_BROADCASTS, None, [], "no value"),
        (KAFKA_BROADCASTS, b"", [], "no broadcast"),
        (KAFKA_BROADCASTS, b"\xff\xfe", [], "no broadcast"),
        (KAFKA_BROADCASTS, b'{"topic":"event:a"}', [], "missing required field"),
        (KAFKA_BROADCASTS, b'{"topic":"t","state_key":"s","timestamp":5,"prev":5,"event_id":"e"}', [], "broken chain"),
        (KAFKA_BROADCASTS, b'{"topic":"t","state_key":"s","timestamp":5,"prev":-1,"event_id":"e"}', [], "broken chain"),
        (KAFKA_BROADCASTS, b'{"topic":"t","state_key":"s","timestamp":"5","prev":0,"event_id":"e"}', [], "Expected"),
        (KAFKA_SCHEDULE, b"[]", [], "no schedule"),
        (KAFKA_SCHEDULE, b"{}", [("stagecue-schema", b"schedule/2")], "this router reads schedule/1"),
        (KAFKA_SCHEDULE, b"{}", [("stagecue-schema", b"broadcast/1")], "not a schedule"),
        (KAFKA_SCHEDULE, b"{}", [("stagecue-schema", b"\xff")], "not a schedule"),
    ],
)
def test_what_says_nothing_says_why(
    kafka_topic: str, value: bytes | None, headers: list[tuple[str, bytes]], reason: str
) -> None:
    """The reason goes with it to the dead letters."""
    with pytest.raises(Undecodable, match=reason):
        decode_record(kafka_topic, value, headers)


@given(st.binary(max_size=200), st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=20)), max_size=4))
def test_any_bytes_are_decoded_or_refused(value: bytes, headers: list[tuple[str, bytes]]) -> None:
    """Nothing else ever comes out of a record a stranger wrote."""
    for topic in (KAFKA_BROADCASTS, KAFKA_SCHEDULE):
        try:
            said = decode_record(topic, value, headers)
        except Undecodable:
            continue
        assert isinstance(said, Broadcast | TopicSchedule)
    traceparent_of(headers)


def test_a_dead_letter_keeps_all_that_came() -> None:
    """Value, key and headers as they were; where it came from, and a reason of bounded length."""
    record = dead_letter_record(
        kafka_topic=KAFKA_BROADCASTS,
        partition=3,
        offset=77,
        key=None,
        value=None,
        headers=[("x", b"y")],
        reason="no " * 1000,
    )
    told = dict(record.headers)
    assert record.kafka_topic == KAFKA_DEAD_LETTERS
    assert (record.key, record.value) == (b"", b"")
    assert told["x"] == b"y"
    assert len(told["reason"]) == 500
    assert (told["source-topic"], told["source-partition"], told["source-offset"]) == (
        KAFKA_BROADCASTS.encode(),
        b"3",
        b"77",
    )


@given(st.text(max_size=70), st.integers(1, 64))
def test_partitions_are_those_of_other_clients(key: str, partitions: int) -> None:
    """A console producer with the same key writes to the same partition."""
    numbers = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key.encode(), numbers, numbers)


@given(st.sampled_from([KAFKA_BROADCASTS, KAFKA_SCHEDULE]), st.integers(0, 999_999))
def test_one_number_names_a_partition_of_either_topic(kafka_topic: str, partition: int) -> None:
    """And none is used twice."""
    assert kafka_partition(entry_partition(kafka_topic, partition)) == (kafka_topic, partition)
