"""What the records of a run say: who was served, how fast, and when it was over. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from loadtest.bench.peers.http_load import MARKED

__all__ = ["Served", "good_of", "recovery_s", "served_between"]

_BIN_S: Final = 0.25
_RECOVERED_SHARE: Final = 0.99
_Records = np.ndarray[Any, Any]


class Served(NamedTuple):
    """Requests that were due within a time, of one tag or of all."""

    asked: int
    good: int
    refused: int
    """429 or 503: told to come again."""
    marked: int
    """Answered with something else than what was asked for."""
    failed: int
    """Neither: other statuses, and no answer."""
    good_per_s: float
    """Good answers that *came* within that time: what a queue puts off is no goodput."""
    p50_ms: float | None
    """Of the good ones; None of none."""
    p99_ms: float | None

    @property
    def success(self) -> float:
        """Share of good answers, 1 of nothing asked."""
        return self.good / self.asked if self.asked else 1.0


def good_of(records: _Records) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which requests got what they asked for."""
    status = records["status"]
    found: np.ndarray[Any, np.dtype[np.bool_]] = (status >= 200) & (status < 300) & (records["flags"] & MARKED == 0)
    return found


def served_between(records: _Records, from_s: float, until_s: float, *, tag: int | None = None) -> Served:
    """Of requests due in [from_s, until_s)."""
    if tag is not None:
        records = records[records["tag"] == tag]
    due_s = records["due_us"] / 1e6
    came_s = due_s + records["latency_us"] / 1e6
    came = int((good_of(records) & (came_s >= from_s) & (came_s < until_s)).sum())
    mine = records[(due_s >= from_s) & (due_s < until_s)]
    good = good_of(mine)
    refused = (mine["status"] == 503) | (mine["status"] == 429)
    marked = (mine["flags"] & MARKED) != 0
    latencies_ms = mine["latency_us"][good] / 1000
    return Served(
        asked=len(mine),
        good=int(good.sum()),
        refused=int(refused.sum()),
        marked=int(marked.sum()),
        failed=len(mine) - int((good | refused | marked).sum()),
        good_per_s=came / (until_s - from_s),
        p50_ms=float(np.percentile(latencies_ms, 50)) if len(latencies_ms) else None,
        p99_ms=float(np.percentile(latencies_ms, 99)) if len(latencies_ms) else None,
    )


def recovery_s(records: _Records, from_s: float, until_s: float) -> float:
    """How long after `from_s` until nearly all due in each quarter of a second get what they ask for, and go on to.

    The whole time when they do not by `until_s`.
    """
    due_s = records["due_us"] / 1e6
    good = good_of(records)
    recovered_s = from_s
    for begins_s in np.arange(from_s, until_s, _BIN_S):
        ends_s = min(begins_s + _BIN_S, until_s)
        chosen = (due_s >= begins_s) & (due_s < ends_s)
        if chosen.any() and good[chosen].mean() < _RECOVERED_SHARE:
            recovered_s = float(ends_s)
    return recovered_s - from_s
