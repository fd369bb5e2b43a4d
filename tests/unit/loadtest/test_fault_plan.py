"""Goal: a fault run's schedule is what it claims: a broadcast per channel and interval, every channel on every node."""

from __future__ import annotations

import itertools

import pytest

from contract.names import topic_of
from loadtest.bench.faults.plan import CUES_PER_EVENT, STAGES_PER_EVENT, FaultPlan
from loadtest.bench.fleet_plan import FleetPlan
from message_producer.api_requests import EventIn
from message_producer.drafts import planned
from message_producer.feeds.template import DEFAULT_TEMPLATE
from message_producer.validation import STAGES_MAX, check_draft

FIRST_MS = 1_800_000_000_000
PLAN = FaultPlan(name="f1", first_due_ms=FIRST_MS, lasts_s=40.0)


def fleet(devices: int = 2_000, nodes: int = 4, plan: FaultPlan = PLAN) -> FleetPlan:
    return FleetPlan(
        devices=devices,
        push_urls=tuple(f"ws://n{n}/v1/stream" for n in range(nodes)),
        topics=plan.topics(),
        topics_per_device=plan.topics_per_device,
    )


def test_every_channel_has_a_broadcast_each_interval_for_as_long_as_asked() -> None:
    stages = PLAN.stages()
    for channel in range(20):
        due = [stage.due_at_ms for stage in stages if stage.channel == channel]
        assert due == sorted(due)
        assert {after - before for before, after in itertools.pairwise(due)} == {300}
        assert due[-1] >= FIRST_MS + 40_000 - 300
    assert max(stage.due_at_ms for stage in stages) == PLAN.last_due_ms


def test_channels_are_shifted_in_phase() -> None:
    first = sorted({min(s.due_at_ms for s in PLAN.stages() if s.channel == c) for c in range(20)})
    assert first == list(range(FIRST_MS, FIRST_MS + 300, 15))


def test_state_keys_are_announced_once_per_topic() -> None:
    stages = PLAN.stages()
    assert len({(stage.topic, stage.state_key) for stage in stages}) == len(stages)


def test_the_producer_takes_the_events_and_plans_the_same_instants() -> None:
    assert CUES_PER_EVENT + STAGES_PER_EVENT <= STAGES_MAX
    found = set()
    for body in PLAN.events():
        draft = check_draft(EventIn.model_validate(body).to_draft(DEFAULT_TEMPLATE))
        found |= {(each.topic, each.stage_key, each.due_at) for each in planned(draft) if each.due_at is not None}
    assert found == {(stage.topic, stage.state_key, stage.due_at_ms) for stage in PLAN.stages()}


def test_devices_of_the_real_fleet_follow_whole_channels_and_every_node_has_each() -> None:
    devices = fleet()
    followers = PLAN.followers(devices.topics_of(number) for number in range(2_000))
    for channel, who in followers.items():
        assert len(who) == 200
        for node in range(4):
            assert sum(number % 4 == node for number in who) == 50
        for number in list(who)[:5]:
            wanted = {topic for topic, of in PLAN.channel_of_topic().items() if of == channel}
            assert wanted <= set(devices.topics_of(number)), "all events of the channel, not some"
    for number in range(2_000):
        assert len(devices.topics_of(number)) == PLAN.topics_per_device


@pytest.mark.parametrize(("after_s", "number"), [(-5, 0), (0, 0), (17.9, 0), (18.1, 1), (36.5, 2), (500, 2)])
def test_the_event_to_cue_is_the_one_under_way(after_s: float, number: int) -> None:
    assert PLAN.events_per_channel == 3
    event_id = PLAN.current_event(0, int(FIRST_MS + after_s * 1000))
    assert event_id == PLAN.event_id(0, number)
    assert topic_of(event_id) in PLAN.topics()
