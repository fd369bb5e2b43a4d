"""Whether and when a failed request is tried again, by policy. Pure."""

from __future__ import annotations

from typing import Final

from loadtest.users.plan import Retries

__all__ = ["BUDGET_TRIES_MAX", "IMMEDIATE_TRIES_MAX", "RetryBudget", "is_retryable", "next_try_after_s"]

BUDGET_TRIES_MAX: Final = 4
IMMEDIATE_TRIES_MAX: Final = 10
"""An impatient device stops at last too: its user does."""
_FIRST_S: Final = 0.2
_CAP_S: Final = 5.0
_RETRY_AFTER_MAX_S: Final = 120.0
"""A server that wants to be left alone for longer is left alone: the next ask is its next chance."""
_RETRYABLE: Final = frozenset((408, 425, 429, 500, 502, 503, 504))


class RetryBudget:
    """One device's allowance: a retry costs one, an answer earns a tenth, so retries add a tenth to a load at most."""

    __slots__ = ("_left",)

    EARNED: Final = 0.1
    MAX: Final = 3.0

    def __init__(self) -> None:
        self._left = self.MAX

    @property
    def left(self) -> float:
        return self._left

    def answered(self) -> None:
        self._left = min(self.MAX, self._left + self.EARNED)

    def take(self) -> bool:
        """Pay for one retry; False when there is nothing left to pay with."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def is_retryable(status: int) -> bool:
    """Whether an answer of this status may be another one later."""
    return status in _RETRYABLE


def next_try_after_s(
    policy: Retries, tries: int, *, budget: RetryBudget, retry_after_s: float | None, draw: float
) -> float | None:
    """Seconds to wait before the next try, after `tries` that failed; None: give up.

    `retry_after_s` is what the server asked for, in whole seconds: with `budget` a device comes back within the second
    after it, so that all who were told the same do not come back together.
    """
    assert tries >= 1, "the first try is no retry"
    assert 0.0 <= draw < 1.0, "draws lie in [0, 1)"
    if policy == "none":
        return None
    if policy == "immediate":
        return 0.0 if tries < IMMEDIATE_TRIES_MAX else None
    if tries >= BUDGET_TRIES_MAX or (retry_after_s or 0.0) > _RETRY_AFTER_MAX_S or not budget.take():
        return None
    pause_s: float = min(_CAP_S, _FIRST_S * 2 ** (tries - 1)) * (0.5 + draw)
    return pause_s if retry_after_s is None else max(pause_s, retry_after_s + draw)
