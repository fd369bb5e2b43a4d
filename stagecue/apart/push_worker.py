"""One of several push nodes behind a port, started by the supervisor: `python -m stagecue.apart.push_worker`.

Its standard input is its lifeline: the supervisor's order first, then nothing, until a word asks it to stop. The end of
the input means that the supervisor is gone, however it ended, and does the same. On its standard output it tells the
supervisor what becomes of it. Logs go to standard error.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterable
from typing import Final

import structlog

from contract.errors import BroadcastSystemError
from contract.runtime import failpoints
from contract.runtime.runner import StopIncomplete, run_process
from contract.runtime.telemetry import configure_logging
from stagecue.apart.lifecycle import ServiceAddress
from stagecue.apart.restarts import EXPLAINED_CODE
from stagecue.apart.siblings import SharedRoom
from stagecue.apart.worker_talk import STOP, WorkerEnded, WorkerOrder, WorkerReady, encode_report, read_order
from stagecue.keys import BrokenKeys

__all__ = ["main"]

_INPUT: Final = 0
_log = structlog.get_logger(__name__)


def main() -> int:
    """Exit code: 0 after a stop, 2 for what a person must mend, 1 for everything else."""
    order = read_order(_INPUT)
    if order is None:
        return 0  # the supervisor ended before it said anything
    settings = order.installation()
    configure_logging(level=settings.log_level, form=settings.log_format, service="push")
    structlog.contextvars.bind_contextvars(worker=order.index)
    if settings.failpoint:
        failpoints.arm(settings.failpoint, skip=settings.failpoint_skip)
    from pydantic import ValidationError

    try:
        return run_process(lambda stop: _serve(order, stop))
    except ValidationError as exc:
        return _explain(f"{exc.title}.{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
    except StopIncomplete as exc:
        _explain([str(exc)])
        return 1
    except (OSError, BrokenKeys, BroadcastSystemError) as exc:
        return _explain([str(exc)])


async def _serve(order: WorkerOrder, stop: asyncio.Event) -> None:
    from stagecue.apart.push import PushWorker, run_push

    async def announce(address: ServiceAddress) -> None:
        _report(WorkerReady(address))

    loop = asyncio.get_running_loop()
    os.set_blocking(_INPUT, False)

    def heard() -> None:
        try:
            word = os.read(_INPUT, 64)
        except BlockingIOError:
            return
        if word and STOP not in word:
            return
        loop.remove_reader(_INPUT)
        if not word:
            _log.warning("supervisor_gone", then="draining")
        stop.set()

    loop.add_reader(_INPUT, heard)
    room = SharedRoom(order.siblings_fd, workers=order.workers, index=order.index, monotonic_s=time.monotonic)
    try:
        await run_push(order.installation(), order.kv_url, stop, announce, worker=PushWorker(order.index, room))
    finally:
        loop.remove_reader(_INPUT)
        room.close()


def _explain(lines: Iterable[str]) -> int:
    _report(WorkerEnded(tuple(lines)))
    return EXPLAINED_CODE


def _report(report: WorkerReady | WorkerEnded) -> None:
    try:
        sys.stdout.buffer.write(encode_report(report))
        sys.stdout.buffer.flush()
    except OSError:
        _log.warning("supervisor_gone", untold=type(report).__name__)


if __name__ == "__main__":
    sys.exit(main())
