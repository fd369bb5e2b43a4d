"""A night of refreshes, simulated: who joins when, when each device's map expires, how even that load is. Pure but for
numpy's seeded draws; lifetimes are those of `dgs.ttl`, which the service hands out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from dgs.ttl import jittered_ttl_ms

__all__ = [
    "Lifetimes",
    "Night",
    "Refreshes",
    "fixed_refreshes",
    "hours_with_traffic",
    "jittered_refreshes",
    "joins_ms",
    "peak_to_mean",
]

HOUR_S: Final = 3_600
_Times = np.ndarray[Any, np.dtype[np.int64]]


class Night(msgspec.Struct, frozen=True, kw_only=True):
    """Times are from its beginning."""

    devices: int = 1_000_000
    hours: int = 24
    surge_at_s: int = 2 * HOUR_S
    """A push notification: from now on devices join, fewer every minute."""
    surge_share: float = 0.6
    surge_mean_s: float = 120.0
    """Mean time from the notification to the join."""
    trickle_s: int = 6 * HOUR_S
    """The others join evenly over it, from the beginning."""
    stages_s: Sequence[tuple[str, int]] = (
        ("starting_soon", 7 * HOUR_S + 2_700),
        ("live", 8 * HOUR_S),
        ("ended", 11 * HOUR_S),
        ("replay", 11 * HOUR_S + 900),
    )


class Lifetimes(msgspec.Struct, frozen=True, kw_only=True):
    """As the service draws them."""

    mean_ms: int
    spread: float
    guard_ms: int


class Refreshes(msgspec.Struct, frozen=True):
    """How many fell into each second of the night."""

    per_s: _Times
    mean_ttl_s: float
    """Of the lifetimes handed out."""

    def near(self, times_s: Sequence[int], guard_s: int) -> int:
        """How many fell nearer than `guard_s` to any of these times."""
        found = np.zeros(len(self.per_s), dtype=bool)
        for at in times_s:
            found[max(0, at - guard_s + 1) : at + guard_s] = True
        return int(self.per_s[found].sum())


def joins_ms(night: Night, seed: int) -> _Times:
    """When each device fetches its first map, in order."""
    draw = np.random.default_rng(seed)
    surging = round(night.devices * night.surge_share)
    surge = night.surge_at_s * 1000 + draw.exponential(night.surge_mean_s * 1000, surging)
    trickle = draw.uniform(0, night.trickle_s * 1000, night.devices - surging)
    return np.sort(np.concatenate((surge, trickle)).astype(np.int64))


def jittered_refreshes(
    night: Night,
    lifetimes: Lifetimes,
    joins: _Times,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Refreshes:
    """Every device refreshes when its map expires, and is given another lifetime by the production code."""
    end_ms, stages = night.hours * HOUR_S * 1000, [at * 1000 for _, at in night.stages_s]
    draw = np.random.default_rng(seed + 1)
    per_s = np.zeros(night.hours * HOUR_S, dtype=np.int64)
    due, given, given_ms, asked = joins, 0, 0, 0
    while len(due):
        draws = draw.random(len(due))
        found = np.empty(len(due), dtype=np.int64)
        for index, (at, each) in enumerate(zip(due.tolist(), draws.tolist(), strict=True)):
            found[index] = jittered_ttl_ms(
                now_ms=at,
                mean_ms=lifetimes.mean_ms,
                spread=lifetimes.spread,
                stage_times=stages,
                guard_ms=lifetimes.guard_ms,
                draw=each,
            )
        given, given_ms, asked = given + len(found), given_ms + int(found.sum()), asked + 1
        expiries = due + found
        due = expiries[expiries < end_ms]
        per_s += np.bincount(due // 1000, minlength=len(per_s))
        progress(asked, max(asked, _rounds(night, lifetimes)))
    return Refreshes(per_s, given_ms / given / 1000)


def _rounds(night: Night, lifetimes: Lifetimes) -> int:
    """About how often the device that joins first and draws short refreshes."""
    return round(night.hours * HOUR_S * 1000 / (lifetimes.mean_ms * (1 - lifetimes.spread))) + 1


def fixed_refreshes(night: Night, ttl_s: float, joins: _Times) -> Refreshes:
    """The same devices, each map living exactly `ttl_s`."""
    end_ms, ttl_ms = night.hours * HOUR_S * 1000, round(ttl_s * 1000)
    per_s = np.zeros(night.hours * HOUR_S, dtype=np.int64)
    due = joins + ttl_ms
    while len(due := due[due < end_ms]):
        per_s += np.bincount(due // 1000, minlength=len(per_s))
        due = due + ttl_ms
    return Refreshes(per_s, ttl_s)


def hours_with_traffic(*nights: Refreshes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which seconds lie in an hour of the night in which any of them has a refresh."""
    found = sum((each.per_s for each in nights), start=np.zeros_like(nights[0].per_s))
    return np.repeat(found.reshape(-1, HOUR_S).any(axis=1), HOUR_S)


def peak_to_mean(refreshes: Refreshes, seconds: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    """The busiest second over the mean of these seconds."""
    found = refreshes.per_s[seconds]
    return float(found.max() / found.mean()) if found.any() else 0.0
