"""What became of the devices of a node that was killed: from their fleet's record and the moments of broadcasts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from device_sim.audit import FleetAudit
from device_sim.client import ConnectionStep
from loadtest.bench.fleet_record import FleetRecord
from loadtest.bench.report import Reporter

__all__ = ["NodeKillFigures", "Published", "bin_width_s", "node_kill_figures", "rates_per_s"]

EXPECTED_PER_BIN: Final = 200
"""Handshakes: fewer in a bin, and its peak is chance."""
SECOND_HERD_MAX: Final = 1.5
"""Peak to mean: lives of which nothing comes together have chance alone, about 1.2."""
_ANY = npt.NDArray[np.float64]


class Published(msgspec.Struct, frozen=True):
    timestamp: int
    at_s: float
    """CLOCK_MONOTONIC."""


class NodeKillFigures(msgspec.Struct, frozen=True, kw_only=True):
    devices: int
    nodes: int
    on_node: int
    """Devices the killed node had."""
    back_s: Sequence[float]
    """From the kill to each device's welcome elsewhere, ascending; those that never came are not in it."""
    caught_up_s: Sequence[float]
    """From the kill until each device had all that was broadcast before its welcome, ascending."""
    peak_handshakes_per_s: float
    return_bin_s: float
    second_herd_peak_to_mean: float
    mean_handshakes_per_s: float
    """While lives ended and began, after the return."""
    second_bin_s: float
    watched_s: float
    lifetime_s: float
    broadcasts: int
    audit: FleetAudit
    invalid: Sequence[str] = ()

    def invalid_because(self) -> Sequence[str]:
        """Why the measurement does not count; empty: it does."""
        return self.invalid

    def shortfalls(self) -> list[str]:
        """What the promise is missed by; empty: it holds."""
        found = []
        if self.on_node < self.devices:
            found.append(f"{self.on_node} of {self.devices} devices were on the node when it was killed")
        if len(self.back_s) < self.on_node:
            found.append(f"{self.on_node - len(self.back_s)} devices did not come back")
        if len(self.caught_up_s) < self.on_node:
            found.append(f"{self.on_node - len(self.caught_up_s)} devices did not catch up")
        if self.audit.missed:
            found.append(f"{self.audit.missed} broadcasts missed by devices")
        if self.audit.out_of_order:
            found.append(f"{self.audit.out_of_order} shown out of order")
        if self.audit.unknown_frames:
            found.append(f"{self.audit.unknown_frames} frames that were never broadcast")
        if self.second_herd_peak_to_mean > SECOND_HERD_MAX:
            found.append(
                f"handshakes peaked at {self.second_herd_peak_to_mean:.2f} times their mean within a lifetime after "
                f"the return, at most {SECOND_HERD_MAX:.1f} is chance"
            )
        return found

    def keys(self) -> dict[str, Any]:
        """The benchmark's keys for JSON."""
        return {
            "devices": self.devices,
            "nodes": self.nodes,
            "devices_on_node": self.on_node,
            "devices_back": len(self.back_s),
            "back_s": _summary(self.back_s),
            "caught_up_s": None if not self.caught_up_s else round(self.caught_up_s[-1], 3),
            "caught_up": _summary(self.caught_up_s),
            "missed": self.audit.missed,
            "peak_handshakes_per_s": round(self.peak_handshakes_per_s, 1),
            "return_bin_s": self.return_bin_s,
            "second_herd_peak_to_mean": round(self.second_herd_peak_to_mean, 3),
            "mean_handshakes_per_s": round(self.mean_handshakes_per_s, 1),
            "second_bin_s": self.second_bin_s,
            "watched_s": round(self.watched_s, 1),
            "lifetime_s": self.lifetime_s,
            "broadcasts": self.broadcasts,
        }

    def tabulate(self, reporter: Reporter) -> None:
        back, caught_up = _summary(self.back_s), _summary(self.caught_up_s)
        reporter.table(
            f"A node of {self.nodes} killed with {self.on_node} devices",
            ("s after the kill", "50 %", "99 %", "100 %"),
            [("back", *back.values()), ("caught up", *caught_up.values())],
            caption=(
                f"at most {self.peak_handshakes_per_s:.0f} handshakes per second (bins of {self.return_bin_s:g} s); "
                f"missed {self.audit.missed} of {self.broadcasts} broadcasts\n"
                f"{self.watched_s:.0f} s after the return, one longest lifetime: {self.mean_handshakes_per_s:.0f} "
                f"handshakes per second, at most {self.second_herd_peak_to_mean:.2f} times that "
                f"(bins of {self.second_bin_s:g} s)"
            ),
        )


def node_kill_figures(
    record: FleetRecord,
    audit: FleetAudit,
    published: Sequence[Published],
    *,
    killed_at_s: float,
    until_s: float,
    nodes: int,
    lifetime_s: float,
) -> NodeKillFigures:
    """From the record; broadcasts in the order of their publication."""
    devices = record.plan.devices
    steps = record.connections
    welcomed = steps[steps["step"] == ConnectionStep.WELCOMED]
    on_node = np.unique(welcomed["device"][welcomed["at_s"] < killed_at_s])
    again = welcomed[welcomed["at_s"] >= killed_at_s]
    came, first = np.unique(again["device"], return_index=True)  # the first, since rows are in order of time
    back_at_s = again["at_s"][first]
    caught_up_at_s = _caught_up(record, came, back_at_s, published)
    attempts = steps["at_s"][steps["step"] == ConnectionStep.OPENING]
    all_back_s = float(back_at_s.max()) if len(back_at_s) else until_s
    peak, return_bin_s = _peak(attempts, killed_at_s, all_back_s)
    second_peak, second_bin_s = _peak(attempts, all_back_s, until_s)
    watched_s = until_s - all_back_s
    mean = (
        float(np.count_nonzero((attempts >= all_back_s) & (attempts < until_s))) / watched_s if watched_s > 0 else 0.0
    )
    return NodeKillFigures(
        devices=devices,
        nodes=nodes,
        on_node=len(on_node),
        back_s=np.sort(back_at_s - killed_at_s).tolist(),
        caught_up_s=np.sort(caught_up_at_s - killed_at_s).tolist(),
        peak_handshakes_per_s=peak,
        return_bin_s=return_bin_s,
        second_herd_peak_to_mean=second_peak / mean if mean > 0 else 0.0,
        mean_handshakes_per_s=mean,
        second_bin_s=second_bin_s,
        watched_s=watched_s,
        lifetime_s=lifetime_s,
        broadcasts=len(published),
        audit=audit,
    )


def bin_width_s(count: int, span_s: float) -> float:
    """Whole seconds, as many as EXPECTED_PER_BIN events take if `count` are spread evenly over `span_s`."""
    if count == 0 or span_s <= 0:
        return 1.0
    return float(max(1, math.ceil(EXPECTED_PER_BIN * span_s / count)))


def rates_per_s(at_s: _ANY, begin_s: float, end_s: float, *, width_s: float) -> _ANY:
    """Events per second in bins of `width_s` from `begin_s`; a last bin that is not whole is left out, unless alone."""
    bins = max(1, int((end_s - begin_s) / width_s))
    found, _ = np.histogram(at_s, bins=bins, range=(begin_s, begin_s + bins * width_s))
    return found / width_s


def _peak(at_s: _ANY, begin_s: float, end_s: float) -> tuple[float, float]:
    """The highest rate between two moments, and the width of the bins it was looked for in."""
    count = int(np.count_nonzero((at_s >= begin_s) & (at_s < end_s)))
    width_s = bin_width_s(count, end_s - begin_s)
    return float(rates_per_s(at_s, begin_s, end_s, width_s=width_s).max()), width_s


def _caught_up(record: FleetRecord, came: npt.NDArray[Any], back_at_s: _ANY, published: Sequence[Published]) -> _ANY:
    """When each device that came back had the newest broadcast published before its welcome; those that did."""
    moments = np.array([each.at_s for each in published])
    timestamps = np.array([each.timestamp for each in published], np.int64)
    arrivals = record.arrivals
    arrivals = arrivals[np.argsort(arrivals["device"], kind="stable")]
    begins = np.searchsorted(arrivals["device"], came)
    ends = np.searchsorted(arrivals["device"], came, side="right")
    found = []
    for begin, end, at_s in zip(begins, ends, back_at_s, strict=True):
        known = np.searchsorted(moments, at_s)
        if known == 0:
            found.append(at_s)
            continue
        had = arrivals[begin:end]
        enough = had["at_s"][had["timestamp"] >= timestamps[known - 1]]
        if len(enough):
            # It may have had it before the kill: then there was nothing to catch up with.
            found.append(max(float(enough[0]), float(at_s)))
    return np.array(found)


def _summary(seconds: Sequence[float]) -> dict[str, float | None]:
    """Of an ascending list."""
    if not seconds:
        return {"p50": None, "p99": None, "max": None}
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(seconds[-1], 3)}
