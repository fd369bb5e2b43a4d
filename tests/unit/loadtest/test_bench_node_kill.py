"""Goal: `bench node-kill` reads returns, catching up and herds off a fleet's record; no fleet needed."""

from __future__ import annotations

import numpy as np
import pytest

from contract.frames import BroadcastFrame
from device_sim.audit import FleetAudit
from device_sim.client import ConnectionStep
from loadtest.bench.fleet_plan import FleetPlan
from loadtest.bench.fleet_record import FleetRecord
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.push.node_kill import NodeKillOptions
from loadtest.bench.push.node_kill_figures import (
    NodeKillFigures,
    Published,
    bin_width_s,
    node_kill_figures,
    rates_per_s,
)

TOPIC = "event:e"
KILLED_S = 100.0
ARRIVAL = [("device", "<u4"), ("frame", "<u4"), ("at_ms", "<f8"), ("at_s", "<f8")]
CONNECTION = [
    ("device", "<u4"), ("conn", "<u4"), ("address", "<u2"), ("step", "<u2"), ("code", "<u2"), ("pad", "<u2"),
    ("at_s", "<f8"),
]  # fmt: skip
NO_AUDIT = FleetAudit(
    broadcasts=[], devices=0, unsubscribed=0, missed=0, untold=0, out_of_order=0, wrong_renders=0, unknown_frames=0,
    not_newest=0, provisional_renders=0,
)  # fmt: skip
OPENING, WELCOMED = ConnectionStep.OPENING, ConnectionStep.WELCOMED


def record(
    steps: list[tuple[int, ConnectionStep, float]], arrivals: list[tuple[int, int, float]], *, devices: int
) -> FleetRecord:
    """Arrivals are (device, timestamp, at_s)."""
    stamps = sorted({timestamp for _, timestamp, _ in arrivals})
    return FleetRecord(
        FleetPlan(devices=devices, push_urls=("ws://127.0.0.1:1/",), topics=(TOPIC,)),
        arrivals=np.array([(device, stamps.index(stamp), 0.0, at_s) for device, stamp, at_s in arrivals], ARRIVAL),
        frames=[BroadcastFrame(TOPIC, "live", stamp, 0) for stamp in stamps],
        renders=np.empty(0, ARRIVAL),
        shown=[],
        connections=np.array([(device, 1, 0, step, 0, 0, at_s) for device, step, at_s in steps], CONNECTION),
        devices=[],
        generator=None,
    )


def figures(found: FleetRecord, published: list[Published], *, until_s: float = 110.0) -> NodeKillFigures:
    return node_kill_figures(
        found, NO_AUDIT, published, killed_at_s=KILLED_S, until_s=until_s, nodes=3, lifetime_s=10.0
    )


def test_devices_are_back_when_welcomed_and_caught_up_when_they_have_what_was_said_before() -> None:
    """Device 0 is back at 1 s and replayed at 1.2 s; 1 had everything by then; 2 gets nothing; 3 stays away."""
    steps = [(device, WELCOMED, 90.0) for device in range(4)]
    steps += [(0, WELCOMED, 101.0), (1, WELCOMED, 102.0), (2, WELCOMED, 103.0), (0, WELCOMED, 107.0)]
    published = [Published(1, 95.0), Published(2, 100.5), Published(3, 101.5)]
    arrivals = [(device, 1, 95.1) for device in range(4)]
    arrivals += [(0, 2, 101.2), (1, 3, 101.6), (0, 3, 101.7)]
    found = figures(record(steps, arrivals, devices=4), published)
    assert found.on_node == 4
    assert found.back_s == [1.0, 2.0, 3.0]
    assert found.caught_up_s == pytest.approx([1.2, 2.0])
    assert found.keys()["back_s"] == {"p50": 2.0, "p99": 2.98, "max": 3.0}
    assert found.keys()["caught_up_s"] == 2.0
    shortfalls = found.shortfalls()
    assert shortfalls[0] == "1 devices did not come back"
    assert shortfalls[1] == "2 devices did not catch up"


def test_nobody_back_is_no_error_but_falls_short() -> None:
    found = figures(record([(0, WELCOMED, 90.0)], [(0, 1, 95.0)], devices=1), [Published(1, 94.0)])
    assert found.keys()["back_s"] == {"p50": None, "p99": None, "max": None}
    assert found.keys()["caught_up_s"] is None
    assert "1 devices did not come back" in found.shortfalls()


def test_a_second_herd_is_seen_and_level_handshakes_are_not_one() -> None:
    """2,000 devices return over 4 s; then 300 handshakes a second, once level and once with a herd in one second."""
    rng = np.random.default_rng(1)
    steps = [(device, WELCOMED, 90.0) for device in range(2000)]
    back = np.sort(rng.uniform(100.0, 104.0, 2000))
    steps += [(device, OPENING, at_s - 0.01) for device, at_s in enumerate(back)]
    steps += [(device, WELCOMED, at_s) for device, at_s in enumerate(back)]
    level = [(0, OPENING, at_s) for at_s in np.sort(rng.uniform(back[-1], 134.0, 9000))]
    herd = [(0, OPENING, at_s) for at_s in np.sort(rng.uniform(114.0, 115.0, 1200))]
    calm = figures(record(steps + level, [(0, 1, 95.0)], devices=2000), [], until_s=134.0)
    assert calm.second_herd_peak_to_mean < 1.3
    assert 400 < calm.peak_handshakes_per_s < 600
    assert calm.mean_handshakes_per_s == pytest.approx(300, rel=0.01)
    assert (calm.return_bin_s, calm.second_bin_s) == (1.0, 1.0)
    assert calm.shortfalls() == []
    stormy = figures(record(steps + level + herd, [(0, 1, 95.0)], devices=2000), [], until_s=134.0)
    assert stormy.second_herd_peak_to_mean > 2
    assert "times their mean" in stormy.shortfalls()[0]


def test_bins_are_as_wide_as_two_hundred_events_take() -> None:
    assert bin_width_s(15_000, 7.5) == 1.0
    assert bin_width_s(600, 60.0) == 20.0
    assert bin_width_s(0, 60.0) == 1.0
    assert bin_width_s(10, 0.0) == 1.0


def test_a_last_bin_that_is_not_whole_is_left_out() -> None:
    at_s = np.array([0.1, 0.2, 1.5, 2.1])
    assert rates_per_s(at_s, 0.0, 2.5, width_s=1.0).tolist() == [2.0, 1.0]
    assert rates_per_s(at_s, 0.0, 0.5, width_s=1.0).tolist() == [2.0]  # alone, it is kept


def test_lives_are_compressed_in_proportion() -> None:
    found = NodeKillOptions(lifetime_s=240.0).compressed
    assert float(found["PUSH_LIFETIME_MAX_S"]) == 240.0
    assert 0 < float(found["PUSH_LIFETIME_MIN_S"]) < 24.0


@pytest.mark.parametrize(
    ("options", "says"),
    [({"nodes": 1}, "--nodes"), ({"lifetime_s": 1.0}, "--lifetime"), ({"devices": 10_000_000}, "--devices")],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, float], says: str) -> None:
    with pytest.raises(CouldNotRun, match=says):
        NodeKillOptions(**options).check()  # type: ignore[arg-type]
