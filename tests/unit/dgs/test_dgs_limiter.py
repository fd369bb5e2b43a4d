"""The limit follows what the dependency takes, through everything adaptive limits are known to get wrong.

The dependency here is Little's law: with `slots` and calls of `service_s`, n calls at once take
service_s x max(1, n / slots) each.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dgs.priority.dependencies import Dependencies
from dgs.priority.limiter import BASE_LIFETIME_S, Limiter
from dgs.priority.ruleset_file import RulesetFile

FILLS = (1.0, 0.93, 0.82, 0.68)


class Bench:
    """Keeps the limiter full (or at `demand`), one round of calls after the other."""

    def __init__(self, *, slots: int = 20, least: int = 8, most: int = 1_024) -> None:
        self.now_s = 0.0
        self.slots = slots
        self.limiter = Limiter(least=least, most=most, fills=FILLS, now_s=0.0)
        self.limits: list[int] = []

    def run(
        self,
        for_s: float,
        service_s: Callable[[float], float],
        *,
        demand: int | None = None,
        late_part: float = 0.0,
        rank: int = 2,
    ) -> None:
        until_s = self.now_s + for_s
        credit = 0.0
        while self.now_s < until_s:
            calls = self.limiter.room[rank] if demand is None else min(demand, self.limiter.room[rank])
            for _ in range(calls):
                self.limiter.begin(rank)
            took_s = service_s(self.now_s) * max(1.0, calls / self.slots)
            self.now_s += took_s
            for _ in range(calls):
                credit += late_part
                late = credit >= 1.0
                credit -= late
                self.limiter.end(took_s, "late" if late else "ok", self.now_s)
            self.limits.append(self.limiter.limit)


def steady(now_s: float) -> float:
    return 0.005


@pytest.mark.parametrize("slots", [4, 20, 100])
def test_it_settles_a_third_above_the_slots(slots: int) -> None:
    """base x tolerance / (1 - 1/sqrt(limit)): full slots and a short queue."""
    bench = Bench(slots=slots, least=2)
    bench.run(5.0, steady)
    assert slots <= bench.limiter.limit <= 1.6 * slots + 4


@pytest.mark.parametrize("rank", range(4))
def test_every_class_alone_finds_the_slots(rank: int) -> None:
    """Also the one that is let in least far, and after the limit fell to the least."""
    bench = Bench(slots=40)
    bench.run(2.0, lambda now_s: 0.25, late_part=1.0, rank=rank)
    assert bench.limiter.limit == 8
    bench.run(8.0, steady, rank=rank)
    assert 40 <= bench.limiter.room[rank] <= 60


def test_it_does_not_swing() -> None:
    """Settled, all limits of eight seconds lie within a tenth of their middle."""
    bench = Bench()
    bench.run(1.5, steady)
    bench.limits.clear()
    bench.run(8.0, steady)
    middle = sorted(bench.limits)[len(bench.limits) // 2]
    assert max(bench.limits) <= 1.1 * middle
    assert min(bench.limits) >= 0.9 * middle


def test_constant_time_outs_are_not_healthy() -> None:
    """Every call ends at the deadline, all equally long: the limit falls to the least, and stays."""
    bench = Bench()
    bench.run(2.0, steady)
    bench.run(5.0, lambda now_s: 0.25, late_part=1.0)
    assert bench.limiter.limit == 8
    assert bench.limiter.drops > 0
    assert bench.limiter.base_ms == pytest.approx(5.0), "a time-out is no sample"
    bench.run(3.0, steady)
    assert bench.limiter.limit >= 20, "and it comes back"


def test_a_few_time_outs_cost_little() -> None:
    """One in a thousand lowers the limit by a two-thousandth per window."""
    bench = Bench()
    bench.run(3.0, steady)
    before = bench.limiter.limit
    bench.run(3.0, steady, late_part=0.001)
    assert bench.limiter.limit >= 0.8 * before


def test_slow_creep_is_learned() -> None:
    """The service becomes four times as slow within a minute, with as many slots: the slots stay in use."""
    bench = Bench()
    bench.run(2.0, steady)
    bench.run(60.0, lambda now_s: 0.005 * (1 + 3 * min(1.0, (now_s - 2) / 60)))
    bench.run(2 * BASE_LIFETIME_S, lambda now_s: 0.02)
    assert 18 <= bench.limiter.limit <= 36
    assert bench.limiter.base_ms == pytest.approx(20.0, rel=0.3)


def test_its_own_queue_is_not_learned() -> None:
    """Minutes of full load over many lifetimes of the minimum: the limit does not creep up."""
    bench = Bench()
    bench.run(200.0, steady)
    assert bench.limiter.probes >= 15
    assert max(bench.limits[len(bench.limits) // 2 :]) <= 36
    assert bench.limiter.base_ms == pytest.approx(5.0, rel=0.05)


def test_a_base_learned_from_a_queue_is_mended_by_halves() -> None:
    """It begins with 256 at once on 20 slots; a second later it knows what a call takes."""
    bench = Bench(slots=20, least=64)
    bench.run(0.15, steady)
    assert bench.limiter.base_ms is not None
    assert bench.limiter.base_ms > 50.0
    bench.run(3.0, steady)
    assert bench.limiter.base_ms == pytest.approx(5.0, rel=0.05)
    assert bench.limiter.limit == 64


def test_the_important_class_alone_is_no_reason_to_learn_its_queue() -> None:
    """It keeps its room through three probes, which then find nothing; the fourth is for all."""
    bench = Bench()
    bench.run(120.0, steady, rank=0)
    assert max(bench.limits[len(bench.limits) // 2 :]) <= 36
    assert bench.limiter.base_ms == pytest.approx(5.0, rel=0.05)


def test_the_important_class_keeps_its_room_while_it_probes() -> None:
    """Others have half of it for a moment."""
    bench = Bench()
    bench.run(BASE_LIFETIME_S, steady)
    while not bench.limiter.probing:
        bench.run(0.01, steady)
        assert bench.now_s < 3 * BASE_LIFETIME_S
    limit = bench.limiter.limit
    assert bench.limiter.room[0] == limit
    assert bench.limiter.room[2] <= 0.82 * limit / 2


def test_a_sudden_slowness_is_measured_before_its_time() -> None:
    """At the least limit for five windows: the base is taken anew, although it has seconds to live."""
    bench = Bench(slots=8)
    bench.run(1.0, steady)
    bench.run(4.0, lambda now_s: 0.05)
    assert bench.limiter.base_ms == pytest.approx(50.0, rel=0.3)


def test_it_does_not_grow_while_nobody_asks() -> None:
    """Three calls at once tell nothing of a fourth."""
    bench = Bench()
    before = bench.limiter.limit
    bench.run(30.0, steady, demand=3)
    assert bench.limiter.limit == before
    assert bench.limiter.probes == 0, "and there is nothing to probe"


def test_short_calls_count() -> None:
    """50 us each: windows are no shorter for it, and the limit is found."""
    bench = Bench(slots=20)
    bench.run(1.5, lambda now_s: 0.00005)
    assert 20 <= bench.limiter.limit <= 36


def test_quick_failures_say_nothing() -> None:
    """A refused connection is neither fast service nor a time-out."""
    limiter = Limiter(least=8, most=100, fills=FILLS, now_s=0.0)
    for number in range(1_000):
        limiter.begin(2)
        limiter.end(0.0001, "failed", number / 100)
    assert (limiter.limit, limiter.base_ms, limiter.drops, limiter.in_flight) == (32, None, 0, 0)


@pytest.mark.parametrize("late_part", [0.0, 0.3, 1.0])
def test_it_stays_within_its_bounds(late_part: float) -> None:
    """Whatever happens."""
    bench = Bench(slots=1_000, least=5, most=50)
    bench.run(5.0, steady, late_part=late_part)
    assert all(5 <= limit <= 50 for limit in bench.limits)
    assert bench.limiter.in_flight == 0


def test_a_source_that_tells_its_pace_is_judged_by_that_alone() -> None:
    """What requests wait for in this process, before and after, is no queue of the source's."""
    ruleset = RulesetFile(None).ruleset
    dependencies = Dependencies(("ranking",), ruleset.classes, least=8, most=1_000, now_s=0.0)
    ranking = dependencies["ranking"]
    now_s = 0.0
    for _ in range(4_000):
        calls = [ranking.begin(0, now_s) for _ in range(ranking.limiter.room[0])]
        now_s += 0.01 + 0.0005 * len(calls)  # the more, the longer they wait here
        ranking.observe(0.01, "ok", now_s)
        for call in calls:
            ranking.end(call, "ok", now_s)
    assert ranking.limiter.limit > 200
    assert ranking.limiter.base_ms == pytest.approx(10)
