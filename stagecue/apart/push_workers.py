"""Several push nodes behind one device port: starts a process for each, replaces one that dies, stops all together.

This process serves nothing and loads no service. Its workers hear of its end, however it comes, through the pipe it
gives each of them (see push_worker).
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

import structlog

from contract.errors import InvalidRequest
from contract.runtime.runner import ABORT_EXIT_CODE, StopIncomplete
from stagecue.apart.lifecycle import Announce, ServiceAddress, WorkerAddress
from stagecue.apart.restarts import GiveUp, RestartAfter, Restarts
from stagecue.apart.siblings import SharedRoom
from stagecue.apart.worker_talk import STOP, WorkerEnded, WorkerOrder, WorkerReady, decode_report, encode_order
from stagecue.settings import InstallationSettings

__all__ = ["run_push_workers"]

_COMMAND: Final = (sys.executable, "-m", "stagecue.apart.push_worker")
_LINE_MAX_BYTES: Final = 65_536
_STOP_MARGIN_S: Final = 5.0
"""What a worker may take beyond its own stop deadline to cut off what did not end."""
_log = structlog.get_logger(__name__)


async def run_push_workers(
    settings: InstallationSettings,
    kv_url: str,
    stop: asyncio.Event,
    announce: Announce,
    *,
    command: Sequence[str] = _COMMAND,
) -> None:
    """Run `settings.push_workers` workers until `stop`; announces once, when every one of them has become ready.

    Raises OSError when the device port is taken, InvalidRequest with a worker's own words when it cannot start with
    these settings, StopIncomplete when a worker dies at every start, or did not drain. No worker runs afterwards. The
    second signal ends all at once.
    """
    count = settings.push_workers
    with ExitStack() as stack:
        # Bound, not listening: it gets no connection, and nobody else the port while a worker is replaced.
        stack.enter_context(_reserve(settings.host, settings.push_port))
        siblings_fd = SharedRoom.create_file(count)
        stack.callback(os.close, siblings_fd)
        room = SharedRoom(siblings_fd, workers=count, index=None, monotonic_s=time.monotonic)
        stack.callback(room.close)
        workers = [_Worker(index, settings, kv_url, siblings_fd, room, command) for index in range(count)]
        _abort_at_second_signal(stop, workers)
        await _run_all(workers, settings, stop, announce)


async def _run_all(
    workers: Sequence[_Worker], settings: InstallationSettings, stop: asyncio.Event, announce: Announce
) -> None:
    announcing = asyncio.create_task(_announce_once(workers, settings, announce), name="push.announce")
    keeping = [asyncio.create_task(worker.keep(stop), name=f"push.worker-{worker.index}") for worker in workers]
    try:
        pending: set[asyncio.Task[Any]] = {announcing, *keeping}
        while pending - {announcing}:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # the first that gives up ends all
    finally:
        # Cancelled, a worker is asked to stop, like all the others at the same time.
        for task in (announcing, *keeping):
            task.cancel()
        await asyncio.gather(announcing, *keeping, return_exceptions=True)
    undrained = [f"worker {worker.index} {worker.how_it_ended}" for worker in workers if worker.code]
    if undrained:
        raise StopIncomplete(f"stopped before its work was drained: {', '.join(undrained)}")


async def _announce_once(workers: Sequence[_Worker], settings: InstallationSettings, announce: Announce) -> None:
    addresses = [await worker.served for worker in workers]
    await announce(
        ServiceAddress(
            service="push",
            address=settings.url("ws", settings.push_port),
            data_dir=str(settings.data_dir),
            workers=tuple(
                WorkerAddress(node=each.node or "", pages=each.pages or "", link=each.link or "") for each in addresses
            ),
        )
    )


class _Worker:
    """One place among the workers, and the process that holds it now."""

    def __init__(
        self,
        index: int,
        settings: InstallationSettings,
        kv_url: str,
        siblings_fd: int,
        room: SharedRoom,
        command: Sequence[str],
    ) -> None:
        self.index = index
        self.code = 0
        """Of its last process; negative for a signal."""
        self.served: asyncio.Future[ServiceAddress] = asyncio.get_running_loop().create_future()
        """Its address, once it was ready for the first time."""
        self._order = encode_order(
            WorkerOrder(
                index=index,
                workers=settings.push_workers,
                siblings_fd=siblings_fd,
                kv_url=kv_url,
                settings=settings.model_dump(mode="json", exclude_unset=True),
            )
        )
        self._siblings_fd = siblings_fd
        self._room = room
        self._command = command
        self._stop_within_s = settings.stop_deadline_s + _STOP_MARGIN_S
        self._process: Process | None = None
        self._last_words: tuple[str, ...] = ()

    @property
    def how_it_ended(self) -> str:
        how = f"was killed by signal {-self.code}" if self.code < 0 else f"ended with code {self.code}"
        return f"{how}: {'; '.join(self._last_words)}" if self._last_words else how

    def kill(self) -> None:
        """Now, without a chance to drain."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def keep(self, stop: asyncio.Event) -> None:
        """Have it run until `stop`, then drain. Cancelled, it drains, too. Raises InvalidRequest or StopIncomplete."""
        loop = asyncio.get_running_loop()
        restarts = Restarts(random.random)
        while not stop.is_set():
            began_s = loop.time()
            await self._run_once(stop)
            if stop.is_set():
                return
            served = self.served.done()
            verdict = restarts.ended(self.code, lived_s=loop.time() - began_s, ever_served=served)
            if isinstance(verdict, GiveUp):
                raise self._given_up(verdict)
            await self._pause(verdict, stop)

    async def _run_once(self, stop: asyncio.Event) -> None:
        """From start to end of one process; asks it to stop at `stop`."""
        self._last_words = ()
        # In our process group: what signals all of a group, a terminal or a service manager, reaches it as well. We ask
        # through the pipe, so that it is not asked twice, which would abort it.
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, pass_fds=(self._siblings_fd,), limit=_LINE_MAX_BYTES
        )
        _log.info("worker_started", worker=self.index, process=process.pid)
        self._say(process, self._order)
        listening = asyncio.create_task(self._listen(process), name=f"push.worker-{self.index}.listen")
        ended = asyncio.create_task(process.wait(), name=f"push.worker-{self.index}.ended")
        stopping = asyncio.create_task(stop.wait(), name=f"push.worker-{self.index}.stopping")
        try:
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            self.code = await self._ended(process, ended)
            self._room.clear(self.index)
            await asyncio.gather(listening, stopping, return_exceptions=True)

    async def _ended(self, process: Process, ended: asyncio.Task[int]) -> int:
        """Its exit code; where it runs still, after asking it to stop, and in the end killing it."""
        if not ended.done():
            self._say(process, STOP)
            await asyncio.wait({ended}, timeout=self._stop_within_s)
            if not ended.done():
                _log.error("worker_cut_off", worker=self.index, after_s=self._stop_within_s)
                process.kill()
        return await ended

    async def _listen(self, process: Process) -> None:
        """What it reports, until its output ends."""
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue  # longer than any report
            if not line:
                return
            report = decode_report(line)
            if isinstance(report, WorkerEnded):
                self._last_words = report.lines
            elif isinstance(report, WorkerReady):
                _log.info("worker_ready", worker=self.index, node=report.address.node, pages=report.address.pages)
                if not self.served.done():
                    self.served.set_result(report.address)

    async def _pause(self, verdict: RestartAfter, stop: asyncio.Event) -> None:
        _log.error("worker_ended", worker=self.index, how=self.how_it_ended, again_in_s=round(verdict.pause_s, 2))
        self.code = 0  # said, and not again at the end
        try:
            async with asyncio.timeout(verdict.pause_s):
                await stop.wait()
        except TimeoutError:
            return

    def _given_up(self, verdict: GiveUp) -> Exception:
        if self._last_words:
            return InvalidRequest("; ".join(self._last_words))
        return StopIncomplete(f"push worker {self.index} {self.how_it_ended}: {verdict.why}")

    def _say(self, process: Process, words: bytes) -> None:
        assert process.stdin is not None
        if not process.stdin.is_closing():
            process.stdin.write(words)  # a few hundred bytes, which a pipe takes at once


def _abort_at_second_signal(stop: asyncio.Event, workers: Sequence[_Worker]) -> None:
    """The runner's own handler would leave the workers to drain behind us."""

    def on_signal() -> None:
        if not stop.is_set():
            stop.set()
            return
        for worker in workers:
            worker.kill()
        sys.stderr.write("aborted\n")
        sys.stderr.flush()
        os._exit(ABORT_EXIT_CODE)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def _reserve(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        raise OSError(exc.errno, f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    return sock
