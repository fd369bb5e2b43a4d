"""What the users of one process share: the plan, the common beginning, and the book they write into. gevent.

Users exist before the run begins and wait for `begin`; from then on `now_s` is the same in all processes, since they
read one machine's monotonic clock.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import gevent
from gevent.event import Event

from contract.frames import ServerFrame, decode_server_frame
from loadtest.bench.outcome import CouldNotRun
from loadtest.machine.here import is_here
from loadtest.users.figures import Book
from loadtest.users.plan import Crowd, UsersPlan
from loadtest.users.signing import profile_headers, token_of

__all__ = ["OnRequest", "World", "wall_ms"]

OnRequest = Callable[[str, str, float, int, Exception | None], None]
"""(method, name, milliseconds, bytes, error): for locust's own statistics."""

_DECODED_MAX: Final = 512
_HOSTS_MAX: Final = 1_024
_OVERDUE_MAX: Final = 200_000
"""Of a process: about a second of counting, at the very end."""


class World:
    """One per process; lives in one thread, and needs no locks."""

    def __init__(self, plan: UsersPlan, *, on_request: OnRequest | None = None) -> None:
        """Raises CouldNotRun for profile keys that cannot be read."""
        self.plan = plan
        self.book = Book()
        """What was counted since the last `take`."""
        self.on_request = on_request
        self.began = Event()
        self.stopping = False
        """No new asks; those under way may still end."""
        self.stopped_s = math.inf
        """When that began."""
        self.asks_under_way = 0
        self.present: dict[str, int] = defaultdict(int)
        """Crowd -> users there now."""
        self.open: dict[str, int] = defaultdict(int)
        """Crowd -> connections open now."""
        self.began_at_ms = 0
        self._began_s = 0.0
        self._token_of = token_of(plan)
        self._share, self._shares = 0, 1
        self._overdue_left = _OVERDUE_MAX
        self._here: dict[str, bool] = {}
        self._made: dict[str, int] = defaultdict(int)
        self._decoded: dict[bytes, ServerFrame | None] = {}

    # the beginning
    def begin(self, at_s: float, at_ms: int, *, share: int, shares: int) -> None:
        """The run begins at `at_s` of the monotonic clock, which is `at_ms` of the wall clock.

        Of every crowd's users this process has each `shares`-th, from number `share` on.
        """
        assert 0 <= share < shares, "one of the shares"
        self._began_s, self.began_at_ms = at_s, at_ms
        self._share, self._shares = share, shares
        self.began.set()

    def begin_now(self) -> None:
        """For a process that is alone, or whose users somebody else deals out."""
        self.begin(time.monotonic(), wall_ms(), share=0, shares=1)

    def take_number(self, crowd: Crowd) -> int:
        """The number of the next user of a crowd; only after `begin`. Who comes after the last is the first again."""
        made = self._made[crowd.name]
        self._made[crowd.name] += 1
        return (self._share + made * self._shares) % crowd.users

    # time
    def now_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began_s

    def sleep_until(self, at_s: float) -> None:
        """Returns at once for a moment past, after letting others run."""
        gevent.sleep(max(0.0, at_s - self.now_s()))

    def bin_of(self, at_s: float) -> int:
        return max(0, int(at_s / self.plan.bin_s))

    # the end
    def stop(self) -> None:
        """The run is over: what is due from now on is nobody's any more."""
        self.stopped_s, self.stopping = self.now_s(), True

    def ended_s(self) -> float:
        """Until when something was due that counts: now, or the end of the run."""
        return min(self.now_s(), self.stopped_s)

    def overdue(self, crowd: Crowd, request: str, due_s: float) -> bool:
        """Count an ask that was due before the end and had not begun: it has waited since. False: too many of them."""
        if not self._overdue_left:
            self.book.count(crowd.name, "overdue_uncounted")
            return False
        self._overdue_left -= 1
        of = f"{crowd.name}/{request}"
        self.book.count(of, "asks")
        self.book.count(of, "unfinished")
        self.book.time(of, "time", max(0.0, self.now_s() - due_s) * 1000)
        return True

    # where to go
    def may_go(self, crowd: Crowd, url: str) -> bool:
        """Whether an address that an answer named may be asked: on this machine, or anywhere in a `remote` plan."""
        if self.plan.remote:
            return True
        host = urlsplit(url).netloc
        if host not in self._here:
            if len(self._here) >= _HOSTS_MAX:
                self._here.clear()
            try:
                self._here[host] = is_here(url)
            except CouldNotRun:
                self._here[host] = False
        if not self._here[host]:
            self.book.count(crowd.name, "kept_here")
        return self._here[host]

    # the book
    def take(self) -> Book:
        """What was counted since the last call; the next is counted into a new book."""
        book, self.book = self.book, Book()
        return book

    def note_levels(self, bin_number: int) -> None:
        """Who is there and what is open, as the bin ends."""
        for what, levels in (("users", self.present), ("open", self.open)):
            for crowd, level in levels.items():
                self.book.level(crowd, what, bin_number, level)

    def decode(self, payload: bytes) -> ServerFrame | None:
        """A node's frame; all devices that receive the same bytes share one object. Raises MalformedFrame."""
        try:
            return self._decoded[payload]
        except KeyError:
            if len(self._decoded) >= _DECODED_MAX:
                self._decoded.clear()
            frame = self._decoded[payload] = decode_server_frame(payload)
            return frame

    def headers_of(self, crowd: Crowd, profile_id: str, device_id: str) -> Mapping[str, str]:
        """What every request of a device carries; a crowd's own headers come last."""
        return {"X-Device-Id": device_id, **profile_headers(self._token_of, profile_id), **crowd.headers}


def wall_ms() -> int:
    """This machine's wall clock, integer milliseconds."""
    return time.time_ns() // 1_000_000
