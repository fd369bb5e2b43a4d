"""The demo's server: `stagecue up` in a process of its own, so that it can be killed the hard way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

__all__ = ["ServerFailed", "ServerProcess", "free_port_base"]


class ServerFailed(Exception):
    """The server ended or did not become ready; carries the end of its log."""


class ServerProcess:
    """Starts, kills and restarts `stagecue up` on the same ports and data; bounded waits, log in a file."""

    def __init__(self, data_dir: Path, port_base: int, *options: str, env: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.port_base = port_base
        self.kills = 0
        self.log_path = data_dir / "server.log"
        self._options = options
        self._env = {**os.environ, **(env or {})}
        self._process: Process | None = None
        self.addresses: dict[str, Any] = {}
        self.started_at = 0.0
        """Wall-clock seconds of the last start."""

    async def start(self, *, within_s: float = 15.0) -> dict[str, Any]:
        """Start it and wait for its ready line; returns the addresses. Raises ServerFailed."""
        assert self._process is None, "already running"
        self.started_at = time.time()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "stagecue", "up", "--ready-json", "--log-format", "json",
                "--data-dir", str(self.data_dir), "--port-base", str(self.port_base), *self._options,
                stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=log, env=self._env,
            )  # fmt: skip
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            self.kill()
            await self.wait()
            raise ServerFailed(f"not ready within {within_s:.0f} s; {self._log_end()}") from None
        if not line:
            code = await self.wait()
            raise ServerFailed(f"ended with exit code {code} before it was ready; {self._log_end()}")
        self.addresses = json.loads(line)
        return self.addresses

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def kill(self) -> None:
        """`kill -9`: no chance to tidy up."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            self.kills += 1

    async def wait(self) -> int | None:
        """Wait for its end; returns the exit code (negative: the signal)."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        await process.wait()
        return process.returncode

    async def stop(self, *, within_s: float = 10.0) -> int | None:
        """SIGTERM, and SIGKILL if it does not listen."""
        if self._process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(within_s):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
        return await self.wait()

    def _log_end(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()[-12:] if self.log_path.exists() else []
        return "its log ends:\n" + "\n".join(lines) if lines else "it logged nothing"


def free_port_base(*, ports: int = 4, host: str = "127.0.0.1") -> int:
    """A base below the ephemeral range with `ports` free ports in a row. Raises ServerFailed after 200 tries."""
    chance = random.Random()  # noqa: S311 - picks a port, keeps no secret
    for _ in range(200):
        base = chance.randrange(20_000, 32_000, 10)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + ports):
                    sock = stack.enter_context(socket.socket())
                    sock.bind((host, port))
            except OSError:
                continue
            return base
    raise ServerFailed(f"no {ports} free ports in a row between 20000 and 32000")
