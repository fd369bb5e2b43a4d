"""Whether rounds on two cores count, and their ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Protocol

from loadtest.bench.rounds import Ratio, Round, ratio_of_rounds
from loadtest.bench.validity import GeneratorLimits, others_invalid

__all__ = ["Judged", "invalid_rounds", "ratio_of"]


class Judged(Protocol):
    @property
    def load_cores(self) -> float: ...


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Median and quartiles of the rounds' ratios."""
    return ratio_of_rounds([Round(a, b) for a, b in zip(ours, theirs, strict=True)])


def invalid_rounds(rounds: Sequence[Judged], *, others_cores: float, shared: bool) -> list[str]:
    """Why rounds do not count; empty: they do. One bad round spoils no median, half of them do.

    `others_cores`: what was no part of the benchmark used that many, over all rounds; `shared`: server and load one.
    """
    found = others_invalid(others_cores)
    load_cores = statistics.median(each.load_cores for each in rounds)
    if load_cores > GeneratorLimits().cores_max:
        found.append(
            f"the load generator used {load_cores:.2f} cores of its one (at most {GeneratorLimits().cores_max})"
        )
    if shared:
        found.append("server and load shared one core")
    return found
