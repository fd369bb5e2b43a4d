"""Goal: the light record of a fleet says of every device and broadcast how it came, and finds the one that did not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.frames import BroadcastFrame, ContinuityFrame
from device_sim.topic import Told
from loadtest.bench import fleet_tally
from loadtest.bench.fleet_commands import Churn, Command, Drop, Freeze, Reach, ReachAnswer
from loadtest.bench.fleet_reach import BroadcastReach, merged_reach
from loadtest.bench.fleet_tally import FleetTally

TOPIC = "event:final"
ORIGIN = 10_000.0


class Fleet:
    """Devices as the tally asks them: a number, a cursor, what they were told."""

    def __init__(self, devices: int, *, cursor: int | None = 0) -> None:
        self.tally = FleetTally(devices, (TOPIC,))
        self.clients: list[Any] = [
            SimpleNamespace(
                number=number, device=SimpleNamespace(told=None, states=[SimpleNamespace(topic=TOPIC, cursor=cursor)])
            )
            for number in range(devices)
        ]
        for number in range(devices):
            self.continuity(number, 0)

    def continuity(self, number: int, latest: int, verdict: Any = "complete") -> None:
        self._arrive(number, 0.0, ContinuityFrame(TOPIC, verdict, None, latest))

    def get(self, number: int, timestamp: int, at_ms: float = ORIGIN, **more: Any) -> None:
        self._arrive(number, at_ms, BroadcastFrame(TOPIC, "live", timestamp, timestamp - 1, **more))
        self.clients[number].device.states[0].cursor = timestamp

    def _arrive(self, number: int, at_ms: float, frame: Any) -> None:
        self.tally.arrival(self.clients[number], at_ms, msgspec.json.encode(frame), frame)

    def answer(self) -> ReachAnswer:
        return self.tally.reach(self.clients, {(TOPIC, 1): ORIGIN, (TOPIC, 2): ORIGIN, (TOPIC, 3): ORIGIN})

    def reach(self, timestamp: int) -> BroadcastReach:
        return next(each for each in self.answer().broadcasts if each.timestamp == timestamp)

    def counts(self, timestamp: int) -> tuple[int, int, int, int]:
        found = self.reach(timestamp)
        assert found.devices == found.live + found.replayed + found.told + found.missed
        return found.live, found.replayed, found.told, found.missed


def test_the_one_that_got_nothing_is_missed_and_behind() -> None:
    fleet = Fleet(4)
    fleet.get(0, 1, ORIGIN + 5)
    fleet.get(1, 1, ORIGIN + 9)
    fleet.get(2, 1, ORIGIN + 90, replayed=True)
    found = fleet.reach(1)
    assert fleet.counts(1) == (2, 1, 0, 1)
    assert (found.behind, found.first_ms, found.last_ms) == (1, ORIGIN + 5, ORIGIN + 9)
    assert (found.histogram.count, found.histogram.max_ms) == (2, 9)


def test_repeats_count_once() -> None:
    fleet = Fleet(1)
    for _ in range(3):
        fleet.get(0, 1)
    fleet.get(0, 1, replayed=True)
    assert fleet.counts(1) == (1, 0, 0, 0)
    assert fleet.reach(1).repeats == 3


@pytest.mark.parametrize("before", [True, False])
def test_what_a_later_frame_lists_as_skipped_is_told(before: bool) -> None:
    """Whether somebody else had received it before, or only afterwards."""
    fleet = Fleet(2)
    if before:
        fleet.get(0, 1)
    fleet.get(1, 2, skipped=(1,))
    if not before:
        fleet.get(0, 1)
    assert fleet.counts(1) == (1, 0, 1, 0)
    assert fleet.counts(2) == (1, 0, 0, 1)


def test_what_comes_after_all_is_live_whether_others_had_it_or_not() -> None:
    fleet = Fleet(2)
    fleet.get(0, 1)
    fleet.get(1, 2, skipped=(1,))
    fleet.get(1, 1)
    assert fleet.counts(1) == (2, 0, 0, 0)


def test_a_gap_tells_of_its_latest_and_the_device_of_what_lies_below() -> None:
    fleet = Fleet(2)
    for timestamp in (1, 2):
        fleet.get(0, timestamp)
    fleet.continuity(1, 2, "gap")
    assert (fleet.counts(1), fleet.counts(2)) == ((1, 0, 0, 1), (1, 0, 1, 0))
    fleet.clients[1].device.told = [Told("gap", TOPIC, 0, 2)]
    assert fleet.counts(1) == (1, 0, 1, 0)


def test_what_was_before_a_devices_time_is_not_expected_of_it() -> None:
    fleet = Fleet(1)
    fleet.get(0, 1)
    late = Fleet(2)
    late.tally.replaced(1)
    late.get(0, 1)
    late.continuity(1, 1, "pending")
    assert late.answer().unsubscribed == 1, "pending is no answer yet"
    late.continuity(1, 1)
    late.get(0, 2)
    assert (late.counts(1), late.counts(2)) == ((1, 0, 0, 0), (1, 0, 0, 1))


def test_a_place_taken_by_another_keeps_what_the_first_received() -> None:
    fleet = Fleet(2)
    fleet.get(0, 1)
    fleet.get(0, 2)
    fleet.get(1, 1)
    fleet.tally.replaced(1)
    fleet.continuity(1, 2)
    assert (fleet.counts(1), fleet.counts(2)) == ((2, 0, 0, 0), (1, 0, 0, 0))


def test_too_many_broadcasts_are_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_tally, "_BROADCASTS_MAX", 2)
    fleet = Fleet(1)
    for timestamp in (1, 2, 3):
        fleet.get(0, timestamp)
    answer = fleet.answer()
    assert ([each.timestamp for each in answer.broadcasts], answer.unknown) == ([2, 3], 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), st.booleans(), st.floats(0, 500)), max_size=40))
def test_fleets_add_up_to_one(arrivals: list[tuple[int, int, bool, float]]) -> None:
    """Six devices in one fleet or three in each of two: the same reach."""
    whole, parts = Fleet(6), (Fleet(3), Fleet(3))
    for number, timestamp, replayed, after_ms in arrivals:
        for fleet, place in ((whole, number), (parts[number // 3], number % 3)):
            fleet.get(place, timestamp, ORIGIN + after_ms, replayed=replayed)
    merged = {each.timestamp: each for each in merged_reach(part.answer().broadcasts for part in parts)}
    for each in whole.answer().broadcasts:
        found = merged[each.timestamp]
        if found.devices == 6:  # else one part never heard of it, and does not know that its devices missed it
            assert (found.live, found.replayed, found.missed) == (each.live, each.replayed, each.missed)
            assert (found.behind, found.repeats) == (each.behind, each.repeats)
        assert (found.first_ms, found.last_ms) == (each.first_ms, each.last_ms)
        assert found.histogram.summary() == each.histogram.summary()


@pytest.mark.parametrize("command", [Drop(), Freeze(0.1, 2.0), Churn(0.05, 3.0, None), Reach()])
def test_commands_survive_the_pipe(command: Command) -> None:
    assert msgspec.json.decode(msgspec.json.encode(command), type=Command) == command  # type: ignore[call-overload]


@pytest.mark.parametrize(("share", "seconds"), [(1.5, 1.0), (-0.1, 1.0), (0.1, -1.0), (0.1, 86_400.0)])
def test_shares_and_durations_have_bounds(share: float, seconds: float) -> None:
    with pytest.raises(ValueError):
        Freeze(share, seconds)
