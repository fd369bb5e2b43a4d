"""Fan-out: the same bytes to many streams, in slices that yield to the loop, one job after the other.

Jobs run in the order they were submitted, so two broadcasts of a topic never overtake each other on a stream.
The first slice is written before the call returns: with few devices nothing waits for the loop.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from operator import length_hint
from typing import Any, Final, TypeVar

import structlog

from push_proxy.forms import Form, PreparedFrame
from push_proxy.peers import Peers
from push_proxy.recovery import Subscription

__all__ = ["SLICE", "FanOut"]

SLICE: Final = 256
"""Streams written per turn of the loop: about 2 ms, so that the next stage, pings and connects share it."""

T = TypeVar("T")
OnDone = Callable[[int, int], None]
"""Gets how many were written to, and how many bytes that were; 0 bytes for visits, which know themselves."""
_log = structlog.get_logger(__name__)


class _Job:
    """Something to do for each of many in turn, from `at` to `end`."""

    __slots__ = ("at", "end", "on_done", "size", "written")

    def __init__(self, end: int, size: int, on_done: OnDone) -> None:
        self.at = 0
        self.end = end
        self.size = size
        """Bytes each gets."""
        self.on_done = on_done
        self.written = 0

    def step(self, until: int) -> None:
        """Go on until `at` is `until`. May raise; then `at` stands behind the one at fault."""
        raise NotImplementedError

    def over(self) -> None:
        self.on_done(self.written, self.written * self.size)


class _ToAll(_Job):
    """A frame for everyone who stands in a row of peers."""

    __slots__ = ("_encoded", "_frame", "_peers")

    def __init__(self, frame: PreparedFrame, peers: Peers, form: Form, on_done: OnDone) -> None:
        self._encoded = frame.in_form(form)
        self._frame = frame
        self._peers = peers
        super().__init__(peers.begin(), len(self._encoded), on_done)

    def step(self, until: int) -> None:
        """As in the base class; a failure is its own stream's, and only what the slow way raises is raised."""
        fds = self._peers.fds[self.at : until]
        if -1 in fds:
            self._ask_each(until)
            return
        # The hot path of the whole system. So the system call is made here, over numbers that lie side by side and in
        # a loop of the interpreter's own: what else there is of a connection is in no cache, nor need it be.
        encoded, size = self._encoded, self.size
        left = iter(fds.tolist())
        while self.at < until:
            try:
                for sent in map(os.write, left, repeat(encoded)):
                    if sent != size:
                        self._spill(until - length_hint(left) - 1, sent)
            except BlockingIOError:
                self._spill(until - length_hint(left) - 1, 0)
            except OSError:
                self.written -= 1  # it is gone; its transport will say so
            done = until - length_hint(left)
            self.written += done - self.at
            self.at = done

    def _ask_each(self, until: int) -> None:
        """Where somebody's frames take another way than straight to a socket."""
        peers, encoded = self._peers, self._encoded
        while self.at < until:
            place = self.at
            self.at += 1
            fd = peers.fds[place]
            if fd < 0:
                subscription = peers.at(place)
                if subscription is not None:
                    self.written += _write_through(subscription, self._frame, encoded)
                continue
            try:
                sent = os.write(fd, encoded)
            except BlockingIOError:
                sent = 0
            except OSError:
                continue
            if sent != self.size:
                self._spill(place, sent)
            self.written += 1

    def _spill(self, place: int, sent: int) -> None:
        """Raises nothing: whatever it raised would write the slice's frames once more to those before `place`."""
        try:
            subscription = self._peers.at(place)
            assert subscription is not None, "who left has no socket in the row"
            subscription.sink.spill(self._encoded[sent:])
        except Exception:
            _log.exception("fanout_spill_failed")

    def over(self) -> None:
        self._peers.end()
        super().over()


class _ToSome(_Job):
    """A frame for some subscriptions, all of one form."""

    __slots__ = ("_encoded", "_frame", "_to")

    def __init__(self, frame: PreparedFrame, to: Sequence[Subscription], on_done: OnDone) -> None:
        self._encoded = frame.in_form(to[0].sink.form) if to else b""
        self._frame = frame
        self._to = to
        super().__init__(len(to), len(self._encoded), on_done)

    def step(self, until: int) -> None:
        while self.at < until:
            subscription = self._to[self.at]
            self.at += 1
            self.written += _write_through(subscription, self._frame, self._encoded)


class _Visit(_Job):
    """A call for each of anything; it counts its bytes itself."""

    __slots__ = ("_to", "_visit")

    def __init__(self, to: Sequence[Any], visit: Callable[[Any], bool], on_done: OnDone) -> None:
        self._to = to
        self._visit = visit
        super().__init__(len(to), 0, on_done)

    def step(self, until: int) -> None:
        while self.at < until:
            one = self._to[self.at]
            self.at += 1
            self.written += self._visit(one)


class FanOut:
    """One queue of jobs per node; bounded by its callers, which acknowledge a delivery only when its jobs are done."""

    def __init__(self, *, slice_size: int = SLICE) -> None:
        self._slice_size = slice_size
        self._jobs: deque[_Job] = deque()
        self._pumping = False

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def to_all(self, frame: PreparedFrame, peers: Peers, form: Form, on_done: OnDone) -> None:
        """Write `frame` to everyone who is among `peers` now, all answered, and is still there when its turn comes.

        `on_done` is called once. A stream whose socket takes no more holds the frame back instead, and is not counted.
        """
        self._submit(_ToAll(frame, peers, form, on_done))

    def broadcast(self, frame: PreparedFrame, to: Sequence[Subscription], on_done: OnDone) -> None:
        """The same to some subscriptions of one form."""
        self._submit(_ToSome(frame, to, on_done))

    def visit(self, to: Sequence[T], visit: Callable[[T], bool], on_done: OnDone) -> None:
        """Call `visit` for each in turn; it writes what that one needs and says whether it did."""
        self._submit(_Visit(to, visit, on_done))

    def _submit(self, job: _Job) -> None:
        self._jobs.append(job)
        if not self._pumping:
            self._pumping = True
            self._pump()

    def _pump(self) -> None:
        budget = self._slice_size
        while self._jobs and budget > 0:
            job = self._jobs[0]
            until = min(job.end, job.at + budget)
            budget -= max(1, until - job.at)
            self._go_on(job, until)
            if job.at >= job.end:
                self._jobs.popleft()
                try:
                    job.over()
                except Exception:
                    # Raised from here it would end the pump, and with it every later broadcast of this node.
                    _log.exception("fanout_done_failed")
        if self._jobs:
            asyncio.get_running_loop().call_soon(self._pump)
        else:
            self._pumping = False

    def _go_on(self, job: _Job, until: int) -> None:
        while job.at < until:
            began_at = job.at
            try:
                job.step(until)
            except Exception:
                # One stream's failure is its own: the job stands behind it, and the rest goes on.
                _log.exception("fanout_write_failed")
                job.at = max(job.at, began_at + 1)  # never for ever at the same place


def _write_through(subscription: Subscription, frame: PreparedFrame, encoded: bytes) -> bool:
    if subscription.phase <= 0:
        return False
    port = subscription.sink
    if port.congested:
        port.hold_back(frame.frame)
        return False
    port.write(encoded)
    return True
