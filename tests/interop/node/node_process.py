"""A client written for Node, run as a process: told what to do and heard by lines of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

__all__ = ["PATIENCE_S", "NodeProcess", "node_client"]

PATIENCE_S = 30.0
"""For a process on a busy machine; waits end as soon as what they wait for is there."""
_HERE = Path(__file__).parent


class NodeProcess:
    """A running client and what it told, in order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.seen: list[dict[str, Any]] = []

    async def tell(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def next(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            said = (await self._process.stderr.read()).decode(errors="replace")
            pytest.fail(f"the client ended; it told {self.seen[-3:]} and said {said[-1000:]}")
        told = json.loads(line)
        assert isinstance(told, dict)
        self.seen.append(told)
        return told

    async def until(self, event: str, accept: Callable[[dict[str, Any]], bool] = lambda told: True) -> dict[str, Any]:
        """The next event of this name that is accepted; others are passed over and stay in `seen`."""
        async with asyncio.timeout(PATIENCE_S):
            while not ((told := await self.next())["event"] == event and accept(told)):
                pass
        return told

    async def item(self, kind: str, name: str = "main") -> dict[str, Any]:
        """The next item of an operation that is this member of StreamItem."""

        def wanted(told: dict[str, Any]) -> bool:
            data = told["result"].get("data") or {}
            return bool(told["name"] == name and (data.get("broadcasts") or {}).get("__typename") == kind)

        return dict((await self.until("next", wanted))["result"]["data"]["broadcasts"])

    async def done(self) -> None:
        """Close its input and wait until it ended by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert await asyncio.wait_for(self._process.wait(), PATIENCE_S) == 0


@contextlib.asynccontextmanager
async def node_client(*arguments: str) -> AsyncIterator[NodeProcess]:
    """Node in this folder, with its packages; killed at the end if it did not end before."""
    node = shutil.which("node")
    assert node is not None, "node is missing: apt-get install nodejs npm"
    assert (_HERE / "node_modules").is_dir(), "its packages are missing: npm ci in tests/interop/node"
    process = await asyncio.create_subprocess_exec(
        node,
        *arguments,
        cwd=_HERE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    try:
        yield NodeProcess(process)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        # The pipes' transports are closed before the loop is: a leak would be a warning, and warnings are errors.
        process._transport.close()  # type: ignore[attr-defined]
