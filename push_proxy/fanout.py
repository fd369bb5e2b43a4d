"""Fan-out: the same bytes to many streams, in slices that yield to the loop, one job after the other.

Jobs run in the order they were submitted, so two broadcasts of a topic never overtake each other on a stream.
The first slice is written before the call returns: with few devices nothing waits for the loop.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import structlog

from push_proxy.forms import PreparedFrame
from push_proxy.ports import DevicePort
from push_proxy.recovery import Subscription

__all__ = ["SLICE", "FanOut"]

SLICE: Final = 128
"""Streams written per turn of the loop: about 1 ms, so that the next stage, pings and connects share it."""

T = TypeVar("T")
OnDone = Callable[[int, int], None]
"""Gets how many were written to, and how many bytes that were; 0 bytes for visits, which know themselves."""
_log = structlog.get_logger(__name__)


class _Job:
    """Either a frame for subscriptions, with its bytes in the form all of them have, or a visit of anything."""

    __slots__ = ("at", "encoded", "frame", "on_done", "to", "visit", "written")

    def __init__(
        self,
        to: Sequence[Any],
        on_done: OnDone,
        *,
        frame: PreparedFrame | None = None,
        visit: Callable[[Any], bool] | None = None,
    ) -> None:
        self.to = to
        self.frame = frame
        self.encoded = frame.in_form(to[0].sink.form) if frame is not None and to else b""
        self.visit = visit
        self.on_done = on_done
        self.at = 0
        self.written = 0


class FanOut:
    """One queue of jobs per node; bounded by its callers, which acknowledge a delivery only when its jobs are done."""

    def __init__(self, *, slice_size: int = SLICE) -> None:
        self._slice_size = slice_size
        self._jobs: deque[_Job] = deque()
        self._pumping = False

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def broadcast(self, frame: PreparedFrame, to: Sequence[Subscription], on_done: OnDone) -> None:
        """Write `frame` to every subscription still alive; all of one form. `on_done` is called once.

        A stream whose socket takes no more holds the frame back instead, and is not counted.
        """
        self._submit(_Job(to, on_done, frame=frame))

    def visit(self, to: Sequence[T], visit: Callable[[T], bool], on_done: OnDone) -> None:
        """Call `visit` for each in turn; it writes what that one needs and says whether it did."""
        self._submit(_Job(to, on_done, visit=visit))

    def _submit(self, job: _Job) -> None:
        self._jobs.append(job)
        if not self._pumping:
            self._pumping = True
            self._pump()

    def _pump(self) -> None:
        budget = self._slice_size
        while self._jobs and budget > 0:
            job = self._jobs[0]
            end = min(len(job.to), job.at + budget)
            budget -= max(1, end - job.at)
            self._run(job, iter(job.to[job.at : end]))
            job.at = end
            if end >= len(job.to):
                self._jobs.popleft()
                try:
                    job.on_done(job.written, job.written * len(job.encoded))
                except Exception:
                    # Raised from here it would end the pump, and with it every later broadcast of this node.
                    _log.exception("fanout_done_failed")
        if self._jobs:
            asyncio.get_running_loop().call_soon(self._pump)
        else:
            self._pumping = False

    def _run(self, job: _Job, part: Iterator[Any]) -> None:
        while True:
            try:
                if job.visit is not None:
                    self._visit(job, job.visit, part)
                else:
                    self._write(job, part)
            except Exception:
                # One stream's failure is its own: `part` stands behind it, and the rest goes on.
                _log.exception("fanout_write_failed")
            else:
                return

    def _visit(self, job: _Job, visit: Callable[[Any], bool], part: Iterator[Any]) -> None:
        for one in part:
            job.written += visit(one)

    def _write(self, job: _Job, part: Iterator[Subscription]) -> None:
        # The hot path of the whole system: one turn per delivery, over objects that are rarely in any cache. So the
        # system call is made here: going through the transport would touch it, its buffer and the loop's queue.
        assert job.frame is not None
        encoded, written = job.encoded, 0
        size, write = len(encoded), os.write
        try:
            for subscription in part:
                if subscription.phase <= 0:
                    continue
                fd = subscription.fd
                if fd < 0:
                    written += self._write_through(subscription.sink, job.frame, encoded)
                    continue
                try:
                    sent = write(fd, encoded)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    continue  # it is gone; its transport will say so
                if sent != size:
                    subscription.sink.spill(encoded[sent:])
                written += 1
        finally:
            job.written += written

    def _write_through(self, port: DevicePort, frame: PreparedFrame, encoded: bytes) -> bool:
        if port.congested:
            port.hold_back(frame.frame)
            return False
        port.write(encoded)
        return True
