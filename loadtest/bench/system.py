"""The system under test, embedded: `stagecue up` in a process of its own, started, killed and stopped from outside."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.member import dying_with_us

__all__ = ["Addresses", "EmbeddedSystem", "free_port_base"]

_READY_WITHIN_S: Final = 20.0
_STOP_WITHIN_S: Final = 15.0
_PORTS: Final = 4


class Addresses(msgspec.Struct, frozen=True):
    """The ready line of `stagecue up --ready-json`; unknown fields are ignored."""

    producer: str
    dgs: str
    push: str
    docs: str
    data_dir: str
    operator_token: str


class EmbeddedSystem:
    """`async with EmbeddedSystem(directory) as system`: started and ready inside, gone afterwards.

    It can be killed and started again on the same ports and data. Raises CouldNotRun, with the end of its log, when it
    does not become ready.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port_base: int | None = None,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        log_level: str = "WARNING",
        dies_with_us: bool = False,
    ) -> None:
        """`dies_with_us`: also when this process is killed; wants util-linux."""
        self.directory = directory
        self.environment = dict(environment or {})
        """Settings of the next start, on top of this process's environment."""
        self.kills = 0
        self.started_at_s = 0.0
        """Wall clock of the last start, seconds since the epoch."""
        self._port_base = port_base
        self._dies_with_us = dies_with_us
        self._options = ("--log-level", log_level, *options)
        self._process: Process | None = None
        self._addresses: Addresses | None = None

    @property
    def addresses(self) -> Addresses:
        assert self._addresses is not None, "not started"
        return self._addresses

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def log_path(self) -> Path:
        return self.directory / "server.log"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start it and wait until it serves. Raises CouldNotRun."""
        assert self._process is None, "already running"
        if self._port_base is None:
            self._port_base = free_port_base()
        self.directory.mkdir(parents=True, exist_ok=True)
        command = self.command()
        self.started_at_s = time.time()
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=PIPE, stderr=log, env={**os.environ, **self.environment}
            )
        try:
            self._addresses = await self._ready()
        except BaseException:
            await self.stop()
            raise

    def command(self) -> list[str]:
        """Of the next start. Raises CouldNotRun when it is to die with us, and what would see to that is missing."""
        command = [
            sys.executable, "-m", "stagecue", "up", "--ready-json", "--data-dir", str(self.data_dir),
            "--port-base", str(self._port_base), "--log-format", "json", *self._options,
        ]  # fmt: skip
        return dying_with_us(command) if self._dies_with_us else command

    def kill(self) -> None:
        """`kill -9`: no chance to tidy up. `wait` afterwards."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            self.kills += 1

    async def wait(self) -> int | None:
        """Wait for its end, however it comes; returns the exit code, negative for a signal. It may be started again."""
        process = self._process
        if process is None:
            return None
        code = await process.wait()
        self._process = None
        return code

    async def stop(self) -> int | None:
        """SIGTERM, and SIGKILL if it does not end in time. Idempotent."""
        process = self._process
        if process is None:
            return None
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
        return await self.wait()

    async def _ready(self) -> Addresses:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                line = await self._process.stdout.readline()
            return msgspec.json.decode(line, type=Addresses)
        except TimeoutError:
            raise CouldNotRun(f"the system was not ready within {_READY_WITHIN_S:.0f} s{self.log_end()}") from None
        except msgspec.MsgspecError as exc:
            raise CouldNotRun(f"the system ended before it was ready ({exc}){self.log_end()}") from exc

    def log_end(self, lines: int = 12) -> str:
        """The end of its log, for an error message."""
        if not self.log_path.exists():
            return ""
        found = self.log_path.read_text(errors="replace").splitlines()[-lines:]
        return "; its log ends:\n" + "\n".join(found) if found else "; it logged nothing"


def free_port_base(*, host: str = "127.0.0.1") -> int:
    """A base below the ephemeral range with a few free ports in a row. Raises CouldNotRun after 200 tries."""
    chance = random.Random()
    for _ in range(200):
        base = chance.randrange(12_000, 20_000, 10)
        with ExitStack() as stack:
            try:
                for port in range(base, base + _PORTS):
                    stack.enter_context(socket.socket()).bind((host, port))
            except OSError:
                continue
            return base
    raise CouldNotRun("no free ports in a row between 12000 and 20000")
