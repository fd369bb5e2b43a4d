"""A whole audience at one node's door: admission and windows of production, simulated to the millisecond.

Devices do as R21 says: they come back at the moment they were given. The node takes what its rates allow.
"""

from __future__ import annotations

from collections import Counter
from heapq import heapify, heappop, heappush
from random import Random
from typing import Final, NamedTuple

import pytest

from push_proxy.admission import Admission
from push_proxy.due_times import DueTimes
from push_proxy.reconnect_window import Away, Returns
from push_proxy.settings import PushSettings

NOW_MS: Final = 1_700_000_000_000


class Outcome(NamedTuple):
    attempts: int
    admitted_by_second: Counter[int]
    attempts_by_second: Counter[int]
    all_in_s: float
    last_window_ms: int

    @property
    def peak(self) -> int:
        return max(self.attempts_by_second.values())


def herd(
    devices: int, *, seed: int, due_ms: int | None = None, fixed_window_ms: int | None = None, **settings: float
) -> Outcome:
    """All of `devices` knock within half a second; each refused one comes back when it was told to."""
    random = Random(seed)
    configured = PushSettings(**{"max_connections": devices, "handshake_burst": 500, **settings})  # type: ignore[arg-type]
    admission = Admission(configured.admission_limits(None))
    returns = Returns(configured.window_rule(), accept_per_s=configured.handshakes_per_s, now_s=0.0)
    due = DueTimes([due_ms])
    knocks = [(0.5 * random.random(), number) for number in range(devices)]
    heapify(knocks)
    attempts, inside, now_s = 0, 0, 0.0
    admitted_by, attempts_by = Counter[int](), Counter[int]()
    away = Away(0, 0)
    while knocks:
        now_s, number = heappop(knocks)
        attempts += 1
        attempts_by[int(now_s)] += 1
        source = admission.opened("10.0.0.1")
        assert source is not None
        if admission.handshake(source, now_s, sessions=inside) == "yes":
            inside += 1
            admitted_by[int(now_s)] += 1
            continue
        admission.closed(source)
        now_ms = NOW_MS + int(1000 * now_s)
        away = returns.away(
            inside, now_s=now_s, now_ms=now_ms, next_due_ms=due.next_after(now_ms), draw=random.random()
        )
        after_ms = away.reconnect_after_ms
        if fixed_window_ms is not None:
            after_ms = int(fixed_window_ms * random.random())
        heappush(knocks, (now_s + after_ms / 1000, number))
    return Outcome(attempts, admitted_by, attempts_by, now_s, away.window_ms)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_herd_is_taken_at_the_rate_with_few_refusals(seed: int) -> None:
    """20,000 devices, 1,000 connects a second: in within a few times the least time, each refused a time or two."""
    found = herd(20_000, seed=seed, handshakes_per_s=1_000)
    assert sum(found.admitted_by_second.values()) == 20_000
    assert max(found.admitted_by_second.values()) <= 1_000 + 500 + 1
    assert found.all_in_s < 100
    assert found.attempts < 2.5 * 20_000
    later = [count for second, count in found.attempts_by_second.items() if second >= 1]
    assert max(later) < 2.0 * 1_000


def test_a_short_fixed_window_would_refuse_for_ever() -> None:
    """The measure can fail: two seconds for everybody, however many they are, and each is refused ten times."""
    found = herd(10_000, seed=1, handshakes_per_s=500, fixed_window_ms=2_000)
    assert found.attempts > 8 * 10_000
    assert max(count for second, count in found.attempts_by_second.items() if second >= 1) > 10 * 500


def test_a_small_fleet_is_back_within_its_shortest_window() -> None:
    """A few hundred do not wait for a herd that is not there."""
    found = herd(700, seed=1, handshakes_per_s=1_000)
    assert found.all_in_s < 3.0


def test_a_full_core_takes_a_node_at_once() -> None:
    """The defaults: 15,000 devices of a node that died are in before one of them would be back from a refusal."""
    found = herd(15_000, seed=1, handshake_burst=20_000)
    assert found.attempts == 15_000
    assert found.all_in_s <= 0.5


def test_before_a_stage_they_are_back_in_time_if_the_rate_allows() -> None:
    """3,000 refused 8 s before a stage at 1,000 a second: in before it; without the stage they take their time."""
    due_ms = NOW_MS + 8_000
    in_time = herd(3_000, seed=1, due_ms=due_ms, handshakes_per_s=1_000, accept_share=0.2)
    at_leisure = herd(3_000, seed=1, handshakes_per_s=1_000, accept_share=0.2)
    late = sum(count for second, count in in_time.admitted_by_second.items() if second >= 8)
    assert late < 0.01 * 3_000
    assert sum(count for second, count in at_leisure.admitted_by_second.items() if second >= 8) > 0.1 * 3_000


def test_before_a_stage_that_comes_too_soon_the_rate_holds() -> None:
    """20,000 refused 5 s before a stage: they cannot all be in; nobody is called back early for it."""
    found = herd(20_000, seed=1, due_ms=NOW_MS + 5_000, handshakes_per_s=1_000)
    assert found.attempts < 2.5 * 20_000
    assert max(count for second, count in found.attempts_by_second.items() if second >= 1) < 2.0 * 1_000
