"""Goal: the cluster's benchmark fits, bounds and judges what it says; no cluster needed."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.audit import FleetAudit
from loadtest.bench.cluster.command import ClusterFigures
from loadtest.bench.cluster.fit import fitted_line
from loadtest.bench.cluster.night import LIMITS, Night
from loadtest.bench.cluster.options import ClusterOptions
from loadtest.bench.cluster.reconnect import ReconnectFigures
from loadtest.bench.cluster.routing import DevicesFigures, NodesFigures
from loadtest.bench.cluster.scene import OTHERS, cores_by_role
from loadtest.bench.cpu import machine_cpu_s, process_cpu_s, tree_cpu_s
from loadtest.bench.event_plan import EventPlan
from loadtest.bench.hops import HOPS, HopFigures, HopRow
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.rounds import Ratio
from loadtest.bench.validity import GeneratorReport


# the line
@given(st.floats(1, 1e4), st.floats(0.01, 1e3), st.lists(st.integers(1, 500), min_size=2, max_size=6, unique=True))
def test_points_on_a_line_give_the_line(a: float, b: float, counts: list[int]) -> None:
    line = fitted_line([(float(count), a + b * count) for count in counts])
    for count in counts:
        assert line.at(count) == pytest.approx(a + b * count, rel=1e-6)


def test_a_small_point_counts_as_much_as_a_large_one() -> None:
    """10 % too high at 64 nodes must not move the prediction at 4 by much more than 10 %."""
    line = fitted_line([(4.0, 200.0), (16.0, 440.0), (64.0, 1400.0 * 1.1)])
    assert line.at(4) == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize("points", [[(1.0, 1.0)], [(1.0, 1.0), (1.0, 2.0)], [(1.0, 1.0), (2.0, 0.0)]])
def test_what_makes_no_line_is_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError):
        fitted_line(points)


# plans and options
@given(st.integers(1, 40), st.integers(1, 8))
def test_even_plans_are_even(events: int, each: int) -> None:
    plan = EventPlan(events=events, stages=events * each, span_s=10.0, seed=1)
    due = sorted(stage["at"] for event in plan.evenly(first_due_ms=1_700_000_000_000) for stage in event["stages"])
    assert len(due) == len(set(due)) == events * each
    assert due[0].startswith("2023-11-14T22:13:20.000")


@pytest.mark.parametrize(
    "options",
    [
        {"events": 21},
        {"devices": 3},
        {"stages": 5},
        {"span_s": 5.0},
        {"burst_topics": 65},
        {"burst_span_s": 2.0},
        {"node_counts": (4,)},
        {"node_counts": (2, 8)},
        {"devices_many": 100},
    ],
)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    ClusterOptions().check()
    with pytest.raises(CouldNotRun, match="--"):
        ClusterOptions(**options).check()  # type: ignore[arg-type]


# CPU
def test_process_clocks_agree_with_the_process() -> None:
    until = time.process_time() + 0.05
    before = machine_cpu_s()
    while time.process_time() < until:
        pass
    assert process_cpu_s(os.getpid()) == pytest.approx(time.process_time(), abs=0.02)
    assert tree_cpu_s(os.getpid()) >= process_cpu_s(os.getpid()) - 0.02
    assert machine_cpu_s() - before >= 0.03
    assert tree_cpu_s(2**22 + 1) == 0.0


def test_cores_are_summed_by_role() -> None:
    found = cores_by_role({"push-0": 1.0, "push-1": 2.0, "redis": 5.0}, {"push-0": 2.0, "push-1": 4.0, "redis": 5.5}, 2)
    assert found == {"push": 1.5, "redis": 0.25}


# the verdict
def night(*, first: float = 20.0, last: float = 80.0, others: float = 0.1, lag: float = 1.0, missed: int = 0) -> Night:
    fields = ("devices", "unsubscribed", "untold", "out_of_order", "wrong_renders", "unknown_frames", "not_newest")
    zeros = dict.fromkeys((*fields, "provisional_renders"), 0)
    hops = dict(zip(HOPS, (1.0, 2.0, 3.0, first, last), strict=True))
    because = ("the loop lagged",) if lag > 20 else ()
    figures = HopFigures(
        rows=[HopRow("t", "live", 1, hops)],
        planned=1,
        devices=1,
        audit=FleetAudit(broadcasts=[], missed=missed, **zeros),
        generator=GeneratorReport(0.1, 0.0, lag, lag, because),
        limits=LIMITS,
    )
    return Night(figures, {OTHERS: 0.0}, {"router": 0.2, OTHERS: others})


def figures(**parts: object) -> ClusterFigures:
    whole = {
        "latency": night(),
        "burst": night(),
        "reconnect": ReconnectFigures(10_000, 500, 510),
        "devices": DevicesFigures(Ratio(1.02, 1.0, 1.05, 3), [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        "nodes": NodesFigures(fitted_line([(4.0, 10.0), (16.0, 22.0)]), {4: 10.0, 16: 22.0}),
    }
    return ClusterFigures(**{**whole, **parts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"latency": night(first=35.2)}, "first_device p99"),
        ({"latency": night(last=120.5)}, "last_device p99"),
        ({"burst": night(first=36.0)}, "burst: first_device p99"),
        ({"burst": night(missed=3)}, "burst: 3 broadcasts missed"),
        ({"reconnect": ReconnectFigures(10_000, 500, 600)}, "0.0100 Redis commands"),
        ({"devices": DevicesFigures(Ratio(1.11, 1.0, 1.2, 1), [1.0], [1.11])}, "1.11 times"),
        ({"devices": DevicesFigures(Ratio(0.8, 0.8, 0.8, 1), [1.0], [0.8])}, "0.80 times"),
    ],
)
def test_what_falls_short_is_said(parts: dict[str, object], says: str) -> None:
    assert figures().shortfalls() == []
    (line,) = figures(**parts).shortfalls()
    assert says in line


@pytest.mark.parametrize(("of", "says"), [({"others": 0.5}, "other processes"), ({"lag": 30.0}, "lagged")])
def test_what_a_busy_machine_measured_does_not_count(of: dict[str, float], says: str) -> None:
    assert figures().invalid_because() == []
    (because,) = figures(burst=night(**of)).invalid_because()
    assert says in because


def test_cpu_measured_beside_others_does_not_count_either() -> None:
    """Caches are shared: the same work costs more beside busy neighbours."""
    few_and_many = DevicesFigures(Ratio(1.0, 1.0, 1.0, 1), [1.0], [1.0], 0.9)
    (because,) = figures(devices=few_and_many).invalid_because()
    assert "0.90 cores" in because


def test_the_keys_are_those_agreed_on() -> None:
    keys = figures().keys()
    assert {"stages", "devices", "early", "missed", *HOPS} <= keys.keys()
    assert {"a", "b"} <= keys["router_cpu_us_per_broadcast"].keys()
    assert set(HOPS) <= keys["burst"].keys()
    assert keys["router_cpu_ratio_20k_to_2k_devices"] == 1.02
    assert keys["redis_commands_per_reconnect"] == 0.001
    alone = figures(latency=None, burst=None, devices=None, nodes=None).keys()
    assert set(alone) == {"redis_commands_per_reconnect", "redis_commands"}
