"""Goal: a device tries every address before it returns to its own, and a lost node's devices spread over the others."""

from __future__ import annotations

from collections import Counter

import pytest

from device_sim.addresses import address_of_attempt


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_every_round_visits_every_address_once_beginning_at_home(count: int) -> None:
    for device in range(3 * count * count):
        for first in (0, count, 5 * count):
            visited = [address_of_attempt(device, attempt, count) for attempt in range(first, first + count)]
            assert visited[0] == device % count
            assert sorted(visited) == list(range(count))


@pytest.mark.parametrize(("devices", "count"), [(2_000, 4), (1_200, 4), (600, 3)])
def test_devices_of_a_lost_address_spread_evenly(devices: int, count: int) -> None:
    lost = [device for device in range(devices) if address_of_attempt(device, 0, count) == 1]
    then = Counter(address_of_attempt(device, 1, count) for device in lost)
    assert set(then) == set(range(count)) - {1}
    assert max(then.values()) - min(then.values()) <= 1
