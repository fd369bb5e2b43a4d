"""Six times too much, in virtual time, with the gate of production: what matters is served, and soon all is again.

The dependency-bound runs have 20 slots of 20 ms: 1,000 a second. 5 % of that is critical.
"""

from __future__ import annotations

from functools import cache
from math import ceil

import pytest
from dgs_overload_world import EVENT, NOW_MS, Stream, World

from dgs.priority.rules import ClassPlan, Ruleset
from dgs.priority.ruleset_file import RulesetFile

CAPACITY = 1_000
CRITICAL = Stream("critical", 50, 0.0, 20.0)
SHIPPED = RulesetFile().ruleset


@cache
def surge(seed: int) -> World:
    """Four calm seconds, eight of six times the non-critical load that fits, four calm ones. Not to be changed."""
    fits = 0.95 * CAPACITY
    streams = [
        CRITICAL,
        Stream("best_effort", 0.8 * fits, 0, 4),
        Stream("best_effort", 6 * fits, 4, 12),
        Stream("best_effort", 0.8 * fits, 12, 16),
    ]
    return World(seed=seed).run(streams, 16.0)


@pytest.mark.parametrize("seed", [1, 2])
def test_six_times_too_much(seed: int) -> None:
    """Critical success, its p99 against the calm one, goodput against the capacity, recovery within two seconds."""
    world = surge(seed)
    assert world.success("critical", 4, 12) >= 0.995
    assert world.latency_s("critical", 0.99, 4, 12) <= 2 * world.latency_s("critical", 0.99, 1, 4)
    assert world.goodput(4, 12) >= 0.9 * CAPACITY
    assert world.success("best_effort", 4, 12) == pytest.approx(1 / 6, abs=0.03)
    assert world.success("best_effort", 12.5, 14) >= 0.98, "recovered long before two seconds are over"
    assert world.goodput(14, 16) == pytest.approx(0.8 * 950 + 50, rel=0.1)


def test_a_load_that_fits_is_served() -> None:
    """At four fifths of the capacity less than a hundredth is refused: while the limiter measures its minimum."""
    world = World(seed=4).run([CRITICAL, Stream("best_effort", 750, 0, 12)], 12.0)
    assert world.success("critical", 0, 11.5) == 1.0
    assert world.success("best_effort", 0, 11.5) >= 0.99


def test_the_least_important_go_first() -> None:
    """All classes at once, twice too much: each is served better than the next, bulk hardly, critical wholly."""
    streams = [CRITICAL, *(Stream(klass, 650, 0, 8) for klass in ("degraded", "best_effort", "bulk"))]  # type: ignore[arg-type]
    world = World(seed=5).run(streams, 8.0)
    parts = [world.success(klass, 2, 7) for klass in ("critical", "degraded", "best_effort", "bulk")]
    assert parts == sorted(parts, reverse=True)
    assert parts[0] >= 0.995
    assert parts[1] >= 0.9
    assert 0 < parts[3] <= 0.1
    assert world.goodput(2, 7) >= 0.9 * CAPACITY


def test_calls_of_the_dependency_do_not_rise_while_a_class_is_shed() -> None:
    """The shed class comes six times as much; the dependency is not called more than it can serve, nor much more
    than before: nothing that was shed shows up there."""
    world = surge(1)
    calm = sum(1 <= at_s < 4 for at_s in world.calls) / 3
    shedding = sum(5 <= at_s < 12 for at_s in world.calls) / 7
    assert calm == pytest.approx(810, rel=0.1)
    assert shedding <= 1.03 * CAPACITY
    counted = world.gate.dependencies["ranking"].calls
    assert sum(counted) == len(world.calls)
    assert counted[0] == pytest.approx(50 * 16, rel=0.15), "the critical ones are theirs"


def test_constant_time_outs() -> None:
    """The dependency hangs for four seconds: few calls wait for nothing; it comes back, and so does the service."""
    streams = [CRITICAL, Stream("best_effort", 700, 0, 16)]
    world = World(seed=7, hangs=lambda now_s: 4 <= now_s < 8).run(streams, 16.0)
    hanging = sum(5 <= at_s < 8 for at_s in world.calls) / 3
    assert hanging <= 60, "8 at once and 250 ms each are 32 a second, and one of each class in any case"
    assert min(limit for at_s, limit in world.limits if 5 <= at_s < 8) == 8
    assert world.success("critical", 9, 15.5) >= 0.995
    assert world.success("best_effort", 10, 15.5) >= 0.98


def test_slow_creep() -> None:
    """From 20 to 60 ms within half a minute, with twice what fits at the end: the slots stay in use."""
    world = World(seed=8, service_s=lambda now_s: 0.02 * (1 + min(2.0, now_s / 15)))
    world.run([Stream("critical", 30, 0, 45), Stream("best_effort", 700, 0, 45)], 45.0)
    assert world.goodput(35, 45) >= 0.9 * CAPACITY / 3
    assert world.success("critical", 35, 44) >= 0.99


def test_the_limit_does_not_swing_under_overload() -> None:
    """After the first second of the surge and without the moments of a probe: within a tenth of the middle."""
    limits = sorted(limit for at_s, limit in surge(2).limits if 6 <= at_s < 12)
    middle = limits[len(limits) // 2]
    assert limits[len(limits) // 50] >= 0.9 * middle
    assert limits[-1] <= 1.1 * middle


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.05, 5, 30)])
def test_a_class_starves_only_if_it_is_told_to(share: float, least: int, most: int) -> None:
    """Eight seconds in which others fill everything: bulk gets about one a second, with share 0 nothing."""
    plans = {**SHIPPED.classes, "bulk": ClassPlan(share=share, sheds=(0.8, 1.0))}
    ruleset = Ruleset(default=SHIPPED.default, classes=plans, phases=SHIPPED.phases, rules=SHIPPED.rules)
    streams = [CRITICAL, Stream("degraded", 3_000, 0, 8), Stream("bulk", 50, 0, 8)]
    world = World(seed=10, ruleset=ruleset).run(streams, 8.0)
    assert least <= sum(done.ok for done in world.done if done.klass == "bulk") <= most


@pytest.mark.parametrize("shed_cost", [0.05, 0.1])
def test_the_processs_own_cpu(shed_cost: float) -> None:
    """Nothing but CPU is short: 0.5 ms each, refusals at a part of it. Goodput is what refusing leaves, less little."""
    serve_s = 0.0005
    world = World(seed=11, needs_dependency=False, cpu_serve_s=serve_s, cpu_shed_s=shed_cost * serve_s)
    fits = 0.95 / serve_s
    streams = [
        Stream("critical", 100, 0, 10),
        Stream("best_effort", 0.8 * fits, 0, 2),
        Stream("best_effort", 6 * fits, 2, 6),
        Stream("best_effort", 0.8 * fits, 6, 10),
    ]
    world.run(streams, 10.0)
    bound = (1 - 6 * shed_cost) / (1 - shed_cost) / serve_s
    assert world.goodput(3, 6) >= 0.9 * bound
    assert world.success("critical", 2, 6) >= 0.995
    assert world.latency_s("critical", 0.99, 2, 6) <= 2 * world.latency_s("critical", 0.99, 0, 2)
    assert world.success("best_effort", 6.5, 10) >= 0.99


def test_nobody_starves_of_cpu_either() -> None:
    """Others alone are three times too much: bulk is served once a second all the same, and refused soon, not late."""
    world = World(seed=13, needs_dependency=False, cpu_serve_s=0.0005)
    world.run([Stream("degraded", 6_000, 0, 6), Stream("bulk", 50, 0, 6)], 6.0)
    bulk = [done for done in world.done if done.klass == "bulk"]
    assert 5 <= sum(done.ok for done in bulk) <= 20
    assert len(bulk) > 200
    assert max(done.at_s - done.arrived_s for done in bulk) < 0.5
    assert world.goodput(1, 6, "degraded") >= 0.9 * (1 - 3 * 0.04) / (1 - 0.04) * 2_000


def test_what_is_refused_comes_back_before_the_stage() -> None:
    """A stage in 12 s: every refusal's moment lies before it, or it asks for the default map."""
    due_s = 12.0
    world = World(seed=12, schedules=lambda: {EVENT: (NOW_MS + round(due_s * 1000),)})
    world.run([CRITICAL, Stream("best_effort", 3_000, 0, 11.9)], 11.9)
    refused = [(at_s, verdict) for at_s, verdict in world.verdicts if not verdict.default_map]
    assert len(refused) > 1_000
    for at_s, verdict in refused:
        assert at_s + ceil(verdict.retry_after_ms / 1000) < due_s
    default = [at_s for at_s, verdict in world.verdicts if verdict.default_map]
    assert min(default) >= due_s - 3.01
    assert len(default) > 100
