"""The system under test, embedded: `stagecue up` in a process of its own, and its REST and GraphQL from outside."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec

from loadtest.bench.outcome import CouldNotRun

__all__ = ["Addresses", "EmbeddedSystem", "OperatorApi", "free_port_base"]

_READY_WITHIN_S: Final = 20.0
_STOP_WITHIN_S: Final = 15.0
_PORTS: Final = 4


class Addresses(msgspec.Struct, frozen=True):
    """The ready line of `stagecue up --ready-json`; unknown fields are ignored."""

    producer: str
    dgs: str
    push: str
    operator_token: str


class EmbeddedSystem:
    """`async with EmbeddedSystem(directory) as system`: started and ready inside, gone afterwards.

    Raises CouldNotRun, with the end of its log, when it does not become ready.
    """

    def __init__(
        self, directory: Path, *, port_base: int | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._directory = directory
        self._port_base = port_base
        self._environment = dict(environment or {})
        self._process: Process | None = None
        self._addresses: Addresses | None = None

    @property
    def addresses(self) -> Addresses:
        assert self._addresses is not None, "not started"
        return self._addresses

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def log_path(self) -> Path:
        return self._directory / "server.log"

    async def __aenter__(self) -> Self:
        base = self._port_base or free_port_base()
        command = [
            sys.executable, "-m", "stagecue", "up", "--ready-json", "--data-dir", str(self._directory / "data"),
            "--port-base", str(base), "--log-level", "WARNING", "--log-format", "json",
        ]  # fmt: skip
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=PIPE, stderr=log, env={**os.environ, **self._environment}
            )
        try:
            self._addresses = await self._ready()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

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

    async def _stop(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def log_end(self, lines: int = 12) -> str:
        """The end of its log, for an error message."""
        if not self.log_path.exists():
            return ""
        found = self.log_path.read_text(errors="replace").splitlines()[-lines:]
        return "; its log ends:\n" + "\n".join(found) if found else "; it logged nothing"


class OperatorApi:
    """The producer's REST API for a benchmark: raises CouldNotRun for any answer that is not a success."""

    def __init__(self, session: aiohttp.ClientSession, addresses: Addresses) -> None:
        self._session = session
        self._base = addresses.producer
        self._headers = {"Authorization": f"Bearer {addresses.operator_token}"}

    async def create_event(self, event: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call("POST", "/v1/events", event)

    async def broadcasts(self, event_id: str) -> list[dict[str, Any]]:
        """Items of `GET /v1/events/{id}/broadcasts`."""
        found = await self._call("GET", f"/v1/events/{event_id}/broadcasts")
        items = found["items"]
        assert isinstance(items, list)
        return items

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        content = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            async with self._session.request(method, self._base + path, data=content, headers=headers) as answer:
                received = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise CouldNotRun(f"{method} {path}: {exc!r}") from exc
        if answer.status >= 300:
            raise CouldNotRun(f"{method} {path} answered {answer.status}: {received[:400]!r}")
        found = json.loads(received)
        assert isinstance(found, dict)
        return found


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
