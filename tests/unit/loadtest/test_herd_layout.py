"""Goal: a herd's devices are shared out over nodes, fleets, profiles and stages so that nobody is left out."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.addresses import address_of_attempt
from loadtest.bench.herd.ladder import ladder_for
from loadtest.bench.herd.layout import HerdLayout, NodeRules, fleet_plans, herd_layout
from loadtest.bench.outcome import CouldNotRun

RULES = NodeRules(
    max_connections=18_000,
    ping_s=30.0,
    pong_deadline_s=10.0,
    handshakes_per_s=5_000.0,
    accept_share=0.5,
    reconnect_window_ms=2_000,
    lifetime_min_s=60.0,
)


def layout(devices: int, *, profiles: int = 50_000, files: int = 20_000, ping_s: float | None = None) -> HerdLayout:
    return herd_layout(
        devices, profiles=min(profiles, devices), files_per_process=files, cores=2, rules=RULES, ping_s=ping_s
    )


def plans(of: HerdLayout):
    urls = [f"ws://127.0.0.1:{10_000 + node}/v1/stream" for node in range(of.nodes)]
    return fleet_plans(of, push_urls=urls, dgs_url="http://127.0.0.1:1", event_id="night", topic="event:night", seed=3)


@given(st.integers(10, 4_000_000), st.sampled_from([1_024, 4_096, 20_000, 1_000_000]))
def test_everybody_has_a_place_and_one_node_may_die(devices: int, files: int) -> None:
    """Goal: no device is left out, no process holds more than its files allow, the others can take a dead node's."""
    if devices / (0.95 * (files - 200)) > 250:
        return  # more client processes than there are blocks of loopback addresses
    found = layout(devices, files=files)
    assert sum(found.fleets) == devices
    assert max(found.fleets) <= files - 200
    assert found.nodes >= 2
    assert devices <= (found.nodes - 1) * found.shape.per_node(files)
    assert all(1 <= profiles <= size for profiles, size in zip(found.profiles, found.fleets, strict=True))


def test_more_client_processes_than_blocks_of_addresses() -> None:
    with pytest.raises(CouldNotRun, match="784352 devices would fit"):
        layout(1_000_000, files=3_450)


def test_a_million_has_its_figures() -> None:
    """Goal: the numbers of the design: at least 53 nodes, 50,000 profiles, and room on 58 nodes for the 59th."""
    found = layout(1_000_000)
    assert found.nodes == 59
    assert len(found.fleets) == 54
    assert sum(found.profiles) == 50_000
    assert 1_000_000 / (found.nodes - 1) < RULES.max_connections * 0.97


def test_nodes_have_the_same_number_of_devices() -> None:
    """Goal: what is left over of an even share does not meet on the first nodes."""
    found = layout(100_000)
    counts = [0] * found.nodes
    for plan in plans(found):
        for device in range(plan.devices):
            urls = plan.urls_of(device)
            url = urls[address_of_attempt(device, 0, len(urls))]
            counts[int(url.split(":")[2].split("/")[0]) - 10_000] += 1
    assert max(counts) - min(counts) <= 0.01 * max(counts)


def test_a_nodes_devices_go_to_all_others_when_it_dies() -> None:
    """Goal: homes in blocks must not send everybody of a dead node to its neighbour."""
    found = layout(100_000)
    plan = plans(found)[0]
    home = plan.homes[0]
    counts = [0] * found.nodes
    for device in range(plan.devices):
        urls = plan.urls_of(device)
        assert sorted(urls) == sorted(plan.push_urls)
        first, second = (urls[address_of_attempt(device, attempt, len(urls))] for attempt in (0, 1))
        if first == plan.push_urls[home]:
            counts[plan.push_urls.index(second)] += 1
    assert counts[home] == 0
    others = [count for node, count in enumerate(counts) if node != home]
    assert max(others) < 1.1 * min(others)


def test_fleets_share_neither_devices_nor_profiles_nor_addresses() -> None:
    found = layout(60_000)
    made = plans(found)
    assert [plan.first for plan in made] == [sum(found.fleets[:number]) for number in range(len(made))]
    profiles = [
        set(range(plan.prefetch.first_profile, plan.prefetch.first_profile + plan.prefetch.profiles))
        for plan in made
        if plan.prefetch is not None
    ]
    assert len(set.union(*profiles)) == 50_000 == sum(map(len, profiles))
    addresses = [set(plan.sources) for plan in made]
    assert len(set.union(*addresses)) == sum(map(len, addresses))
    assert all(plan.record == "light" for plan in made)


def test_pings_are_productions_until_they_would_take_the_machine() -> None:
    assert layout(10_000).ping_s == 30.0
    assert "PUSH_PING_S" not in layout(10_000).environment
    many = layout(1_000_000)
    assert many.ping_s == 1250.0
    assert many.environment["PUSH_PONG_DEADLINE_S"] == "125"
    assert any("PUSH_PING_S=1250" in line for line in many.differs)
    assert layout(1_000_000, ping_s=60.0).environment["PUSH_PING_S"] == "60"


def test_few_processes_are_left_to_the_system_and_many_take_turns() -> None:
    assert layout(10_000).turn_ms == 0.0
    assert not any("SCHED_BATCH" in line for line in layout(10_000).differs)
    assert not {"PUSH_LEASE_S", "PUSH_LIFETIME_MIN_S"} & layout(10_000).environment.keys()
    many = layout(1_000_000)
    assert many.turn_ms > 0.0
    assert any("SCHED_BATCH" in line for line in many.differs)
    assert many.environment["PUSH_LEASE_S"] == many.environment["ROUTER_SILENCE_S"] == "30"
    assert any("silent for 30 s" in line for line in many.differs)
    assert many.environment["PUSH_LIFETIME_MIN_S"] == "8500"
    assert any("live for 8500 s" in line for line in many.differs)


def test_stages_are_due_in_even_steps_and_one_is_always_soon() -> None:
    ladder = ladder_for("night", now_ms=1_000_000, devices=100_000, profiles=50_000, window_s=6.7)
    dues = [rung.due_ms for rung in ladder.rungs]
    assert {round(later - earlier, -1) for earlier, later in pairwise(dues)} == {round(ladder.period_s * 1000, -1)}
    assert ladder.next_after(0) == ladder.rungs[0]
    assert ladder.next_after(dues[3]) == ladder.rungs[3]
    assert ladder.next_after(dues[3] + 1) == ladder.rungs[4]
    assert ladder.next_after(dues[-1] + 1) is None


def test_the_first_stage_leaves_time_to_prefetch_and_connect() -> None:
    """Goal: a stage due while devices still connect would be a broadcast in the middle of what is measured."""
    ladder = ladder_for("night", now_ms=0, devices=1_000_000, profiles=50_000, window_s=6.9)
    assert ladder.rungs[0].due_ms > 200_000


def test_the_event_names_every_stage_at_its_time() -> None:
    ladder = ladder_for("night", now_ms=1_700_000_000_000, devices=300, profiles=300, window_s=2.0, rungs=4)
    request = ladder.request()
    assert request["id"] == "night"
    assert [stage["key"] for stage in request["stages"]] == [rung.state_key for rung in ladder.rungs]
    for stage, rung in zip(request["stages"], ladder.rungs, strict=True):
        assert datetime.fromisoformat(stage["at"]).timestamp() == pytest.approx(rung.due_ms / 1000)
