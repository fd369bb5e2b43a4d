"""A circuit breaker: when a dependency keeps failing, most calls are not made. Pure; the clock is handed in.

*Closed*: calls go through, and the outcome of the last ones is remembered. Once enough of them failed the breaker is
*open*: no call for a jittered, growing pause, so that many processes do not come back together. Then it is *half open*:
one call at a time finds out. A probe nobody reports on is given up after a time, so that a lost one blocks nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

from contract.backoff import Backoff, Jitter

__all__ = ["Breaker", "Permit", "State"]

State = Literal["closed", "open", "half_open"]


class Permit(NamedTuple):
    """Leave to make one call; hand it back with its outcome."""

    epoch: int
    """Which stretch of the breaker's life it belongs to: outcomes of an earlier one say nothing of today."""


class Breaker:
    """Opens once `failures` of the last `window` calls failed; both count calls, none of them seconds."""

    __slots__ = (
        "_backoff",
        "_epoch",
        "_failures",
        "_outcomes",
        "_probe_s",
        "_probe_until_s",
        "_retry_at_s",
        "_since_closed",
        "_state",
        "_window",
        "opened",
    )

    def __init__(
        self,
        *,
        failures: int = 5,
        window: int = 10,
        first_pause_s: float = 1.0,
        longest_pause_s: float = 30.0,
        probe_s: float = 10.0,
        jitter: Jitter,
    ) -> None:
        assert 1 <= failures <= window
        assert probe_s > 0
        self._failures = failures
        self._window = window
        self._probe_s = probe_s
        self._backoff = Backoff(first_s=first_pause_s, cap_s=longest_pause_s, jitter=jitter)
        self._state: State = "closed"
        self._epoch = 0
        self._outcomes: deque[bool] = deque(maxlen=window)
        self._since_closed = 0
        self._retry_at_s = 0.0
        self._probe_until_s = 0.0
        self.opened = 0
        """How often it opened."""

    @property
    def state(self) -> State:
        """As of the last call; an open breaker becomes half open only when somebody asks after its pause."""
        return self._state

    def refuses(self, now_s: float) -> bool:
        """Whether `allow` would give no permit now. Changes nothing."""
        if self._state == "open":
            return now_s < self._retry_at_s
        return self._state == "half_open" and now_s < self._probe_until_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until a call may be allowed; 0 if one may be now."""
        return max(0.0, {"open": self._retry_at_s, "half_open": self._probe_until_s}.get(self._state, 0.0) - now_s)

    def allow(self, now_s: float) -> Permit | None:
        """Leave for one call, or None. Each permit should end in `ok`, `failed` or `given_up`."""
        if self.refuses(now_s):
            return None
        if self._state != "closed":
            self._state = "half_open"
            self._epoch += 1
            self._probe_until_s = now_s + self._probe_s
        return Permit(self._epoch)

    def ok(self, permit: Permit) -> None:
        """The call was answered."""
        if permit.epoch != self._epoch or self._state == "open":
            return
        if self._state == "half_open":
            self._state = "closed"
            self._epoch += 1
            self._outcomes.clear()
            self._since_closed = 0
            return
        self._note(failed=False)

    def failed(self, permit: Permit, now_s: float) -> None:
        """The call failed, or came too late."""
        if permit.epoch != self._epoch or self._state == "open":
            return
        if self._state == "half_open":
            self._open(now_s)
            return
        self._note(failed=True)
        if sum(self._outcomes) >= self._failures:
            self._open(now_s)

    def given_up(self, permit: Permit) -> None:
        """The call was ended before it said anything: whoever asks next may probe."""
        if permit.epoch == self._epoch and self._state == "half_open":
            self._probe_until_s = 0.0

    def _note(self, *, failed: bool) -> None:
        self._outcomes.append(failed)
        self._since_closed += 1
        if self._since_closed == self._window and sum(self._outcomes) < self._failures:
            # One good probe is no proof: pauses start over only after a whole window that held.
            self._backoff.reset()

    def _open(self, now_s: float) -> None:
        self._state = "open"
        self._epoch += 1
        self._retry_at_s = now_s + self._backoff.next_s()
        self.opened += 1
