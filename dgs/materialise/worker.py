"""Chunks on several cores: forked processes that share the catalog, each asked for one chunk after the other.

What a worker needs is made before it is forked and shared until somebody writes to it; what belongs to one process,
such as connections, is opened in it. A worker whose parent is gone ends with the chunk it has.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from multiprocessing.connection import Connection, wait
from typing import Any, Final, NamedTuple

from contract.errors import BroadcastSystemError, StoreUnavailable, Unavailable
from dgs.materialise.making import ChunkMaker, Made

__all__ = ["Finished", "Workers", "peak_rss_bytes"]

_END_S: Final = 5.0
OpenMaker = Callable[[], AbstractAsyncContextManager[ChunkMaker]]
Work = tuple[int, Sequence[str]]
"""A chunk, and the ids of its profiles."""


class Finished(NamedTuple):
    """A chunk that is done."""

    chunk: int
    made: Made
    rss_bytes: int
    """The worker's peak so far, what it shares included."""


class _Task(NamedTuple):
    chunk: int
    profile_ids: Sequence[str]


class _Failure(NamedTuple):
    message: str
    field: str | None

    @property
    def error(self) -> BroadcastSystemError:
        return StoreUnavailable(self.message, field=self.field)


class _Worker(NamedTuple):
    process: Any
    pipe: Connection


class Workers:
    """A context manager. Its processes are forked on entry: let no thread run and no event loop be open by then."""

    def __init__(self, open_maker: OpenMaker, count: int) -> None:
        """`open_maker` is called in every worker, inside its event loop."""
        assert count >= 1
        self._open_maker = open_maker
        self._count = count
        self._workers: list[_Worker] = []
        self._peaks: dict[int, int] = {}

    def __enter__(self) -> Workers:
        context = multiprocessing.get_context("fork")
        gc.collect()
        gc.freeze()  # a collection that touched every object of the parent would copy all of them
        ours: list[Connection] = []
        try:
            for number in range(self._count):
                here, there = context.Pipe()
                ours.append(here)
                process = context.Process(
                    target=_work, args=(there, tuple(ours), self._open_maker), name=f"materialise-{number}", daemon=True
                )
                process.start()
                there.close()
                self._workers.append(_Worker(process, here))
        finally:
            gc.unfreeze()
        return self

    def __exit__(self, *args: object) -> None:
        """End them: at once on an error, else they have nothing left to do."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            if args[0] is not None:
                worker.process.terminate()
            worker.process.join(_END_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    @property
    def rss_bytes(self) -> int:
        """The workers' peaks together; what they share is counted in each."""
        return sum(self._peaks.values())

    def run(self, tasks: Iterable[Work]) -> Iterator[Finished]:
        """Have all the chunks made; as many are out as there are workers, and the next task is taken when one is free.

        Raises what a worker raised, or Unavailable if one died.
        """
        pending = iter(tasks)
        busy: dict[Connection, int] = {}
        for worker in self._workers:
            self._give(worker.pipe, pending, busy)
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                finished = self._answer(pipe, busy.pop(pipe))
                self._give(pipe, pending, busy)
                yield finished

    def _give(self, pipe: Connection, pending: Iterator[Work], busy: dict[Connection, int]) -> None:
        task = next(pending, None)
        if task is None:
            return
        try:
            pipe.send(_Task(*task))
        except OSError as exc:
            raise self._ended(pipe) from exc
        busy[pipe] = task[0]

    def _answer(self, pipe: Connection, chunk: int) -> Finished:
        try:
            answer = pipe.recv()
        except (EOFError, OSError) as exc:
            raise self._ended(pipe) from exc
        if isinstance(answer, _Failure):
            raise answer.error
        assert isinstance(answer, Finished)
        assert answer.chunk == chunk
        self._peaks[id(pipe)] = answer.rss_bytes
        return answer

    def _ended(self, pipe: Connection) -> BroadcastSystemError:
        """Why the worker at the other end is gone: it may have said so before."""
        try:
            said = pipe.recv() if pipe.poll() else None
        except (EOFError, OSError):
            said = None
        if isinstance(said, _Failure):
            return said.error
        worker = next(each for each in self._workers if each.pipe is pipe)
        worker.process.join(_END_S)
        return Unavailable(f"a worker ended by itself (exit code {worker.process.exitcode})")


def peak_rss_bytes() -> int:
    """The most memory this process had at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _work(pipe: Connection, inherited: Sequence[Connection], open_maker: OpenMaker) -> None:
    # Else this process would hold its siblings' pipes open, and they would not hear of the parent's end.
    for other in inherited:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which closes the pipe
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()
    asyncio.run(_serve(pipe, open_maker))


async def _serve(pipe: Connection, open_maker: OpenMaker) -> None:
    try:
        async with open_maker() as maker:
            while True:
                try:
                    # Blocking: there is nothing else to do in this process.
                    task = pipe.recv()
                except EOFError:
                    return
                made = await maker.make(task.chunk, task.profile_ids)
                pipe.send(Finished(task.chunk, made, peak_rss_bytes()))
    except BroadcastSystemError as exc:
        pipe.send(_Failure(exc.message, exc.field))
    except BrokenPipeError:
        return
