"""How large each cluster should be, now and in the hours to come, by the schedule alone. Pure.

An event's audience gathers and leaves along the ramps of the cluster it moves to: a share p of it has come, p of those
are moved. The dedicated cluster is asked to hold p of what is expected, the home cluster p(1 - p): both err on the safe
side. An event that does not move gathers at home. Capacity is asked for `lead_time` before it is needed.

What is really connected may be more: let the autoscaler take the larger of this and its own measure of load.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from contract.schedule import TopicSchedule
from dgs.sharding.choice import hot_window_of
from dgs.sharding.clusters import Cluster, Clusters, Expected
from dgs.sharding.ramp import HotWindow, share

__all__ = ["Capacity", "Step", "desired_capacity", "scaling_report"]

HORIZON_MS: Final = 24 * 3_600_000
_GRID_MS: Final = 5 * 60_000
PartName = Literal["prefetch", "push"]
_UNITS: Final[dict[PartName, str]] = {"prefetch": "requests_per_s", "push": "devices"}


class Step(msgspec.Struct, frozen=True, rename="camel"):
    """From this moment on so many are desired."""

    at: int
    desired: int


class Capacity(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What one part of a cluster should be."""

    desired: int
    """Instances, within `min` and `max`, of which the last one asked for now serves when it is needed."""
    needed: int
    """The same without those bounds: above `max` the cluster will be too small."""
    demand: float
    """The most that is expected until what is asked for now serves, in `unit`."""
    unit: str
    per_instance: float
    min: int
    max: int
    lead_ms: int
    steps: tuple[Step, ...]
    """Changes of `desired` over the next 24 hours; the first is now."""


class _Load(NamedTuple):
    """What one event puts on one cluster."""

    window: HotWindow
    expected: Expected
    rest: bool
    """It is the home cluster of an event that moves: what is there is on its way."""

    def at(self, at_ms: float) -> float:
        """Share of what is expected."""
        moved = share(at_ms, self.window)
        return moved * (1 - moved) if self.rest else moved


def desired_capacity(
    clusters: Clusters, schedules: Iterable[TopicSchedule], now_ms: int, *, open_ended_ms: int
) -> dict[str, dict[PartName, Capacity]]:
    """Cluster -> part -> capacity, for the parts that say what an instance serves. `schedules`: of all topics."""
    loads = _loads(clusters, schedules, now_ms, open_ended_ms)
    found: dict[str, dict[PartName, Capacity]] = {}
    for name, cluster in clusters.by_name.items():
        found[name] = {}
        for part in _UNITS:
            capacity = _capacity(cluster, part, loads.get(name, []), now_ms)
            if capacity is not None:
                found[name][part] = capacity
    return found


def scaling_report(clusters: Clusters, schedules: Iterable[TopicSchedule], now_ms: int, *, open_ended_ms: int) -> bytes:
    """The body of `GET /scaling`: JSON, `clusters.<name>.<part>.desired` is the number for an autoscaler."""
    found = desired_capacity(clusters, schedules, now_ms, open_ended_ms=open_ended_ms)
    return msgspec.json.encode({"at": now_ms, "clusters": found})


def _loads(
    clusters: Clusters, schedules: Iterable[TopicSchedule], now_ms: int, open_ended_ms: int
) -> dict[str, list[_Load]]:
    events: dict[str, list[TopicSchedule]] = {}
    for schedule in schedules:
        if not schedule.cancelled:
            events.setdefault(schedule.event_id, []).append(schedule)
    loads: dict[str, list[_Load]] = {}
    for event_id, topics in events.items():
        dedicated = clusters.dedicated_to(event_id)
        window = hot_window_of(clusters, dedicated or clusters.home, topics, open_ended_ms=open_ended_ms)
        if window.over_ms <= now_ms or window.opens_ms > now_ms + 2 * HORIZON_MS:
            continue
        expected = clusters.expected(event_id)
        loads.setdefault(clusters.home.name, []).append(_Load(window, expected, rest=dedicated is not None))
        if dedicated is not None:
            loads.setdefault(dedicated.name, []).append(_Load(window, expected, rest=False))
    return loads


def _capacity(cluster: Cluster, name: PartName, loads: Sequence[_Load], now_ms: int) -> Capacity | None:
    part = cluster.prefetch if name == "prefetch" else cluster.push
    per_instance = part.per_instance
    if per_instance is None:
        return None
    times = _times(loads, now_ms, now_ms + HORIZON_MS + part.lead_ms)
    demand = _demand(times, loads, name)
    steps: list[Step] = []
    first = needed_now = 0.0
    for index, at_ms in enumerate(times):
        if at_ms > now_ms + HORIZON_MS:
            break
        # The times themselves have every bend of the demand, and the moment a lead later lies between two of them.
        until = bisect_left(times, at_ms + part.lead_ms) + 1
        peak = max(demand[index:until])
        needed = _instances(peak, per_instance)
        if index == 0:
            first, needed_now = peak, needed
        desired = min(part.max, max(part.min, needed))
        if not steps or steps[-1].desired != desired:
            steps.append(Step(at_ms, desired))
    return Capacity(
        desired=steps[0].desired,
        needed=int(needed_now),
        demand=round(first, 3),
        unit=_UNITS[name],
        per_instance=per_instance,
        min=part.min,
        max=part.max,
        lead_ms=part.lead_ms,
        steps=tuple(steps),
    )


def _times(loads: Sequence[_Load], from_ms: int, to_ms: int) -> list[int]:
    """Every five minutes, every bend of every load, and halfway along every ramp, where p(1 - p) is highest."""
    times = {from_ms, *range(from_ms - from_ms % _GRID_MS + _GRID_MS, to_ms + _GRID_MS, _GRID_MS)}
    for load in loads:
        window = load.window
        halves = (window.opens_ms + window.full_ms) // 2, (window.ebbs_ms + window.over_ms) // 2
        times.update(at_ms for at_ms in (*window, *halves) if from_ms <= at_ms <= to_ms)
    return sorted(times)


def _demand(times: Sequence[int], loads: Sequence[_Load], name: PartName) -> list[float]:
    demand = [0.0] * len(times)
    for load in loads:
        expected = load.expected.requests_per_s if name == "prefetch" else load.expected.devices
        first, last = bisect_left(times, load.window.opens_ms), bisect_right(times, load.window.over_ms)
        for index in range(first, last):
            demand[index] += expected * load.at(times[index])
    return demand


def _instances(demand: float, per_instance: float) -> int:
    # Sums of shares are not exact: a millionth of an instance is no instance.
    return math.ceil(demand / per_instance - 1e-6)
