"""When a worker that ended is started again, pure: bounded back-off, and when trying is of no use."""

from __future__ import annotations

from typing import Final, NamedTuple

from contract.backoff import Backoff, Jitter

__all__ = ["EXPLAINED_CODE", "GiveUp", "RestartAfter", "Restarts"]

FIRST_S: Final = 0.5
CAP_S: Final = 15.0
PROVEN_AFTER_S: Final = 30.0
"""A worker that lived this long is started again without much delay."""
ATTEMPTS: Final = 5
"""Starts that may end before the first one served."""
EXPLAINED_CODE: Final = 2
"""Exit code of a service that told what a person must mend."""


class RestartAfter(NamedTuple):
    pause_s: float


class GiveUp(NamedTuple):
    why: str


class Restarts:
    """The ends of one worker. A worker that served once is brought back for ever: its devices have nobody else."""

    def __init__(self, jitter: Jitter) -> None:
        self._backoff = Backoff(first_s=FIRST_S, cap_s=CAP_S, jitter=jitter)
        self._early_ends = 0

    def ended(self, code: int, *, lived_s: float, ever_served: bool) -> RestartAfter | GiveUp:
        """What to do now that it ended with `code`, negative for a signal.

        `ever_served`: it was ready once, in this life or an earlier one.
        """
        if not ever_served:
            self._early_ends += 1
            if code == EXPLAINED_CODE:
                return GiveUp("it cannot be started with these settings")
            if self._early_ends >= ATTEMPTS:
                return GiveUp(f"{ATTEMPTS} starts ended before it served, the last with code {code}")
        if lived_s >= PROVEN_AFTER_S:
            self._backoff.reset()
        return RestartAfter(self._backoff.next_s())
