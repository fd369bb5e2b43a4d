"""Requests whose picks are not in memory: all of one turn of the loop are asked for at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from contract.clock import Clock
from contract.errors import BroadcastSystemError
from dgs.picks import Missing, Picks, Wanted
from dgs.ports import PicksSource
from dgs.traces import Trace, traced, tracing

__all__ = ["Found", "Waiting"]

_log = structlog.get_logger(__name__)

Found = Mapping[Wanted, Picks | Missing]
_MIN_WAIT_S: Final = 0.01
_NOBODY: Final = "nobody could choose"


class _Asked(NamedTuple):
    wanted: Sequence[Wanted]
    until_s: float
    resume: Callable[[Found, str], None]
    traces: tuple[Trace, ...]


class Waiting:
    """Gathers what is wanted and resumes whoever asked, each exactly once; `resume` must not raise."""

    def __init__(self, picks: PicksSource, clock: Clock, *, max_requests: int) -> None:
        self._picks = picks
        self._clock = clock
        self._max_requests = max_requests
        self._gathered: list[_Asked] = []
        self._tasks: set[asyncio.Task[tuple[Found, str]]] = set()
        self.requests = 0
        """Waiting now."""
        self.batches = 0
        self.refused = 0

    def ask(self, wanted: Sequence[Wanted], until_s: float, resume: Callable[[Found, str], None]) -> bool:
        """Call `resume` with what was found and why not more, before about `until_s` of the monotonic clock.

        False, and nothing is called, when too many wait already.
        """
        if self.requests >= self._max_requests:
            self.refused += 1
            return False
        self.requests += 1
        self._gathered.append(_Asked(wanted, until_s, resume, traced()))
        if len(self._gathered) == 1:
            asyncio.get_running_loop().call_soon(self._flush)
        return True

    async def close(self) -> None:
        """Give up on what is under way; whoever waits is resumed with nothing."""
        if self._gathered:
            self._flush()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _flush(self) -> None:
        batch, self._gathered = self._gathered, []
        if not batch:
            return
        self.batches += 1
        task = asyncio.get_running_loop().create_task(self._find(batch), name="dgs-picks-batch")
        self._tasks.add(task)
        # Not in a `finally`: a task that is cancelled before its first step runs none.
        task.add_done_callback(lambda done: self._resume(batch, done))

    async def _find(self, batch: list[_Asked]) -> tuple[Found, str]:
        wanted = tuple(dict.fromkeys(each for asked in batch for each in asked.wanted))
        left_s = max(_MIN_WAIT_S, min(asked.until_s for asked in batch) - self._clock.monotonic_s())
        try:
            with tracing(trace for asked in batch for trace in asked.traces):
                async with asyncio.timeout(left_s):
                    return await self._picks.find(wanted, left_s), _NOBODY
        except BroadcastSystemError as exc:
            return {}, exc.code  # its message may name an address of ours
        except TimeoutError:
            return {}, f"{_NOBODY} in time"
        except Exception:
            _log.exception("picks_batch_failed", wanted=len(wanted))
            return {}, _NOBODY

    def _resume(self, batch: list[_Asked], done: asyncio.Task[tuple[Found, str]]) -> None:
        self._tasks.discard(done)
        self.requests -= len(batch)
        found, why = ({}, _NOBODY) if done.cancelled() else done.result()
        for asked in batch:
            asked.resume(found, why)
