"""Fan-out: the same bytes to many connections, in slices that yield to the loop, one job after the other.

Jobs run in the order they were submitted, so two broadcasts of a topic never overtake each other on a connection.
The first slice is written before `submit` returns: with few devices nothing waits for the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from push_proxy.recovery import Subscription

__all__ = ["SLICE", "FanOut", "Visit"]

SLICE: Final = 128
"""Connections written per turn of the loop: about 1 ms, so that the next stage, pings and connects share it."""

Visit = Callable[[Subscription], bool]
_log = structlog.get_logger(__name__)


class _Job:
    __slots__ = ("at", "frame", "on_done", "subscriptions", "visit", "written")

    def __init__(
        self, subscriptions: Sequence[Subscription], frame: bytes, visit: Visit | None, on_done: Callable[[int], None]
    ) -> None:
        self.subscriptions = subscriptions
        self.frame = frame
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

    def broadcast(self, frame: bytes, to: Sequence[Subscription], on_done: Callable[[int], None]) -> None:
        """Write `frame` to every subscription still alive; `on_done` gets how many were written to."""
        self._submit(_Job(to, frame, None, on_done))

    def visit(self, to: Sequence[Subscription], visit: Visit, on_done: Callable[[int], None]) -> None:
        """Call `visit` for each subscription in turn; it writes what that one needs and says whether it did."""
        self._submit(_Job(to, b"", visit, on_done))

    def _submit(self, job: _Job) -> None:
        self._jobs.append(job)
        if not self._pumping:
            self._pumping = True
            self._pump()

    def _pump(self) -> None:
        budget = self._slice_size
        while self._jobs and budget > 0:
            job = self._jobs[0]
            end = min(len(job.subscriptions), job.at + budget)
            budget -= max(1, end - job.at)
            try:
                self._run(job, end)
            except Exception:
                # One connection's failure is its own: the rest of the job goes on after it.
                _log.exception("fanout_write_failed")
            if job.at >= len(job.subscriptions):
                self._jobs.popleft()
                try:
                    job.on_done(job.written)
                except Exception:
                    # Raised from here it would end the pump, and with it every later broadcast of this node.
                    _log.exception("fanout_done_failed")
        if self._jobs:
            asyncio.get_running_loop().call_soon(self._pump)
        else:
            self._pumping = False

    def _run(self, job: _Job, end: int) -> None:
        visit, frame, subscriptions = job.visit, job.frame, job.subscriptions
        while job.at < end:
            at = job.at
            job.at = at + 1
            subscription = subscriptions[at]
            if visit is not None:
                job.written += visit(subscription)
            elif subscription.phase > 0:
                subscription.sink.write(frame)
                job.written += 1
