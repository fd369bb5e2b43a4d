"""When requests come: random instants at rates that change, critical ones beside the others. Pure but for numpy's
seeded draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

__all__ = ["CRITICAL", "OTHER", "Arrivals", "Stretch", "arrivals_of"]

CRITICAL: Final = 0
OTHER: Final = 1
"""Tags of requests: first prefetches within an event's window, and refreshes of maps devices hold."""


class Stretch(NamedTuple):
    """So long, so many of each a second."""

    lasts_s: float
    critical_per_s: float
    other_per_s: float


class Arrivals(NamedTuple):
    at_us: np.ndarray[Any, Any]
    which: np.ndarray[Any, Any]
    """Index into the file of requests, in which `profiles` critical ones are followed by as many others."""
    lasts_s: float


def arrivals_of(stretches: Sequence[Stretch], *, profiles: int, seed: int) -> Arrivals:
    """Poisson arrivals: nobody waits for another's answer. All profiles of a tag come before one comes again."""
    draw = np.random.default_rng(seed)
    found: list[np.ndarray[Any, Any]] = []
    for tag in (CRITICAL, OTHER):
        start_s, times = 0.0, []
        for stretch in stretches:
            rate = stretch.critical_per_s if tag == CRITICAL else stretch.other_per_s
            count = int(draw.poisson(rate * stretch.lasts_s))
            times.append(np.sort(draw.uniform(start_s, start_s + stretch.lasts_s, count)))
            start_s += stretch.lasts_s
        at_us = (np.concatenate(times) * 1e6).astype(np.int64)
        which = np.arange(len(at_us)) % profiles + tag * profiles
        found.append(np.stack((at_us, which)))
    at_us, which = np.concatenate(found, axis=1)
    order = np.argsort(at_us, kind="stable")
    return Arrivals(at_us[order], which[order], sum(stretch.lasts_s for stretch in stretches))
