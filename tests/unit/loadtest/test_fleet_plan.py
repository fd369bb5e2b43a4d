"""Goal: a fleet's plan shares topics and addresses out evenly and refuses what makes no fleet."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.addresses import address_of_attempt
from loadtest.bench.fleet_plan import FleetPlan, source_addresses


def plan(devices: int, nodes: int, topics: int, each: int | None = None) -> FleetPlan:
    return FleetPlan(
        devices=devices,
        push_urls=tuple(f"ws://127.0.0.1:{number}/" for number in range(nodes)),
        topics=tuple(f"event:{number}" for number in range(topics)),
        topics_per_device=each,
    )


def test_every_topic_has_as_many_devices_on_every_node() -> None:
    """The promise of fault runs: 2,000 devices on 4 nodes, 4 of 20 topics each: 100 devices per topic and node."""
    night = plan(2_000, 4, 20, 4)
    followers = Counter(
        (address_of_attempt(device, 0, 4), topic) for device in range(2_000) for topic in night.topics_of(device)
    )
    assert len(followers) == 80
    assert set(followers.values()) == {100}


@given(
    st.integers(1, 60).flatmap(lambda topics: st.tuples(st.just(topics), st.integers(1, topics))),
    st.integers(1, 5),
    st.integers(0, 5_000),
)
def test_a_device_follows_distinct_topics(topics_and_each: tuple[int, int], nodes: int, device: int) -> None:
    topics, each = topics_and_each
    indexes = plan(1, nodes, topics, each).topic_indexes(device)
    assert len(indexes) == len(set(indexes)) == each
    assert all(0 <= index < topics for index in indexes)


def test_without_a_number_it_follows_all() -> None:
    assert sorted(plan(1, 2, 5).topic_indexes(3)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("devices", "nodes", "topics", "each"), [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, None), (1, 1, 3, 4)]
)
def test_what_makes_no_fleet_is_refused(devices: int, nodes: int, topics: int, each: int | None) -> None:
    with pytest.raises(ValueError):
        plan(devices, nodes, topics, each)


def test_it_survives_the_file() -> None:
    before = plan(7, 3, 5, 2)
    assert msgspec.json.decode(msgspec.json.encode(before), type=FleetPlan) == before


def test_source_addresses_are_distinct_and_on_loopback() -> None:
    found = source_addresses(600, block=3)
    assert len(set(found)) == 600
    assert all(address.startswith("127.3.") for address in found)
    assert (found[0], found[250]) == ("127.3.0.1", "127.3.1.1")
