"""A device's connection over its life: when to open one, which is in use, when it is dead, when to return. Pure.

At most two sockets exist: the *live* one, welcomed and in use, and the *next* one, being opened. Make before break: the
live one is left only once the next was welcomed (R17). Returns are paced by what the server said (R21).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from contract.close_codes import CloseCode, may_reconnect
from contract.frames import GoawayFrame, WelcomeFrame
from device_sim.return_window import return_delay_ms

__all__ = ["NEVER", "Connection", "ConnectionOptions", "Lost"]

NEVER: Final = 1 << 62
"""The moment of a device with nothing to wait for."""


class ConnectionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a device assumes before a server told it."""

    reconnect_window_ms: int = 5_000
    window_cap_ms: int = 120_000
    """Growing windows end here (R21)."""
    returns_budget: int = 10
    """Returns in quick succession that keep to the server's window, be they welcomed or not: beyond it each one doubles
    the window as a failure does, since a node that welcomes and drops everybody would be asked for ever."""
    return_refill_ms: int = 60_000
    """A return is forgotten after this long."""
    welcome_within_ms: int = 15_000
    """A socket that is not welcomed by then counts as failed."""
    silence_pings: float = 1.25
    silence_slack_ms: int = 1_000
    """A connection silent for this many ping intervals and this long on top is broken: a node pings every interval, and
    waits about a third of it for the answer, so it would have given up on us by then as well."""


class Lost(NamedTuple):
    """What became of a connection that ended."""

    which: Literal["live", "next"]
    gave_up: bool
    """The close code said not to come back, for the first time."""


class Connection:
    """When inputs and the clock say so, it plans an opening for `open_at_ms`; `tick` then gives its number."""

    __slots__ = (
        "_count",
        "_forgotten_at_ms",
        "_goaway",
        "_next_until_ms",
        "_options",
        "_returns",
        "_silence_ms",
        "ended_by",
        "failures",
        "heard_ms",
        "live",
        "network_up",
        "next",
        "open_at_ms",
        "subscribed",
        "window_ms",
    )

    def __init__(self, options: ConnectionOptions) -> None:
        self._options = options
        self.live: int | None = None
        self.next: int | None = None
        self.subscribed = 0
        """The newest socket that has sent its subscribe."""
        self.open_at_ms: int | None = None
        self.window_ms = options.reconnect_window_ms
        """The last reconnect window heard."""
        self.failures = 0
        """Openings in a row that did not end in a welcome."""
        self.ended_by: int | None = None
        """Close code after which there is no return."""
        self.heard_ms = 0
        self._count = 0
        self._returns = 0
        """Planned and not forgotten yet."""
        self._forgotten_at_ms = 0
        """Up to when returns were forgotten."""
        self._next_until_ms = 0
        self._silence_ms = 0
        self._goaway: tuple[int, int] | None = None  # (not before, window), for the return it announced
        self.network_up = True

    # questions
    def awaits(self, conn: int) -> bool:
        """Whether `conn` is being opened or in use."""
        return conn in (self.next, self.live)

    def subscribed_conns(self) -> list[int]:
        """Sockets whose subscribe went out: the live one, and one that still waits for its welcome."""
        waiting = self.next if self.next == self.subscribed else None
        return [conn for conn in (self.live, waiting) if conn is not None]

    def dead(self, now_ms: int) -> Sequence[int]:
        """Connections silent too long, or never welcomed."""
        if now_ms < self._next_until_ms and self.live is None:
            return ()
        dead = []
        if self.live is not None and self._silence_ms and now_ms - self.heard_ms >= self._silence_ms:
            dead.append(self.live)
        if self.next is not None and now_ms >= self._next_until_ms:
            dead.append(self.next)
        return dead

    @property
    def wake_at_ms(self) -> int:
        """The next moment at which `tick` or `dead` has something to say, at the earliest."""
        wake = NEVER if self.open_at_ms is None else self.open_at_ms
        if self.live is not None and self._silence_ms:
            wake = min(wake, self.heard_ms + self._silence_ms)
        if self.next is not None:
            wake = min(wake, self._next_until_ms)
        return wake

    # inputs
    def start(self, now_ms: int, *, delay_ms: int) -> None:
        assert self.live is None, "started once"
        assert self.next is None, "started once"
        self.ended_by = None
        self.open_at_ms = now_ms + delay_ms

    def stop(self) -> list[int]:
        """Leave for good; returns the sockets to close."""
        conns = [conn for conn in (self.live, self.next) if conn is not None]
        self.live = self.next = self.open_at_ms = None
        self.ended_by = int(CloseCode.NORMAL)
        return conns

    def tick(self, now_ms: int) -> int | None:
        """The number of the socket to open now, if one is due."""
        if self.open_at_ms is None or self.open_at_ms > now_ms:
            return None
        self.open_at_ms = None
        self._count += 1
        self.next = self._count
        self._next_until_ms = now_ms + self._options.welcome_within_ms
        return self.next

    def opened(self, now_ms: int, conn: int) -> bool:
        """The handshake of `conn` succeeded; returns whether it is still wanted."""
        if conn != self.next:
            return False
        self.heard_ms = now_ms
        self.subscribed = conn
        return True

    def welcomed(self, conn: int, frame: WelcomeFrame) -> tuple[bool, int | None]:
        """(whether it was the next one's welcome, the live one to leave for it)."""
        if conn != self.next:
            return False, None
        old, self.live, self.next = self.live, conn, None
        self._next_until_ms = 0
        self.failures = 0
        self._goaway = None
        self.open_at_ms = None
        self.window_ms = frame.reconnect_window_ms
        self._silence_ms = 0
        if frame.ping_s > 0:
            self._silence_ms = int(frame.ping_s * 1000 * self._options.silence_pings) + self._options.silence_slack_ms
        return True, old

    def goaway(self, now_ms: int, conn: int, frame: GoawayFrame, draw: float) -> None:
        if not self.awaits(conn):
            return  # it was left before
        self._goaway = (now_ms + frame.reconnect_after_ms, frame.window_ms)
        if conn == self.live and self.next is None:
            self._plan_open(now_ms, draw)

    def stale(self, now_ms: int, conn: int, draw: float) -> None:
        """The node lost its sources: a second socket, within the window (R17)."""
        if conn == self.live and self.next is None and self.open_at_ms is None:
            self._plan_open(now_ms, draw)

    def lost(self, now_ms: int, conn: int, code: int, draw: float, *, retry_after_ms: int) -> Lost | None:
        """`conn` closed with `code`, was refused, or could not be opened (1006). Plans the return; None: not ours."""
        if not self.awaits(conn):
            return None
        was_live = conn == self.live
        if was_live:
            self.live = None
        else:
            self.next = None
            self.failures += 1
        gave_up = False
        if not may_reconnect(code):
            self.open_at_ms = None
            if self.ended_by is None:
                self.ended_by, gave_up = code, True
        elif self.next is None and self.ended_by is None and not (was_live and self.open_at_ms is not None):
            if retry_after_ms:
                # Whole seconds, for whoever reads HTTP only: spread within the last one.
                window_ms = self.window_ms if self._goaway is None else self._goaway[1]
                self._goaway = (now_ms + retry_after_ms + int(draw * 1000), window_ms)
            self._plan_open(now_ms, draw)
        return Lost("live" if was_live else "next", gave_up)

    def network(self, now_ms: int, *, up: bool, draw: float) -> list[int]:
        """The network went or came; returns the sockets lost with it. A return counts as the first try."""
        if up == self.network_up:
            return []
        self.network_up = up
        if not up:
            self.open_at_ms = None
            return [conn for conn in (self.live, self.next) if conn is not None]
        if self.live is None and self.next is None and self.ended_by is None:
            self.failures = 0
            self._plan_open(now_ms, draw)
        return []

    def _plan_open(self, now_ms: int, draw: float) -> None:
        if not self.network_up or self.ended_by is not None:
            return
        not_before, window_ms = self._goaway or (now_ms, self.window_ms)
        spent = self._spend_return(now_ms)
        if self._goaway is not None and not_before >= now_ms and self.failures == 0 and not spent:
            # The node drew this moment over its window, for this device alone: another draw would double the window.
            self.open_at_ms = not_before
            return
        growth = max(self.failures, spent)
        delay = return_delay_ms(window_ms, growth, draw, cap_ms=self._options.window_cap_ms)
        self.open_at_ms = max(now_ms, not_before) + delay

    def _spend_return(self, now_ms: int) -> int:
        """Take a return from the budget; returns how many there were beyond it."""
        refill_ms = self._options.return_refill_ms
        forgotten = max(0, now_ms - self._forgotten_at_ms) // refill_ms
        if forgotten >= self._returns:
            self._returns, self._forgotten_at_ms = 0, now_ms
        else:
            self._returns -= forgotten
            self._forgotten_at_ms += forgotten * refill_ms
        self._returns += 1
        return max(0, self._returns - self._options.returns_budget)
