"""A real headless Chromium showing one page of this folder, and the server the page tells what it saw."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

__all__ = ["PATIENCE_S", "Page", "open_page"]

PATIENCE_S = 30
"""For a browser on a busy machine; waits end as soon as what they wait for is there."""
_HERE = Path(__file__).parent
_KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--password-store=basic",
)


class Page:
    """What the page saw, in order, and what has been asked for already."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self._read = 0
        self._news = asyncio.Event()
        self.serving: set[asyncio.Task[None]] = set()

    @property
    def frames(self) -> list[dict[str, Any]]:
        """Every frame of the node so far."""
        return [told["frame"] for told in self.seen if told["kind"] == "event"]

    def timestamps(self) -> list[int]:
        """Of every broadcast so far, in order."""
        return [frame["timestamp"] for frame in self.frames if frame["type"] == "broadcast"]

    async def until(self, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next thing seen of this kind; others are passed over and stay in `seen`."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    while self._read < len(self.seen):
                        told = self.seen[self._read]
                        self._read += 1
                        assert told["kind"] != "fault", told
                        if what(told):
                            return told
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not seen by the page: {self.seen}") from None

    async def frame(self, kind: str) -> dict[str, Any]:
        """The next frame of a type, with its id and time."""
        return await self.until(lambda told: told["kind"] == "event" and told["frame"]["type"] == kind)

    async def kind(self, kind: str) -> dict[str, Any]:
        return await self.until(lambda told: told["kind"] == kind)

    # The server.

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection."""
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split("\r\n", 1)[0].split(" ")
            path = target.partition("?")[0]
            status, kind, body = "404 Not Found", "text/plain", b""
            file = _HERE / path.lstrip("/")
            if method == "POST" and path == "/told":
                lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
                self.seen.append(json.loads(await reader.readexactly(int(lengths[0].partition(":")[2]))))
                self._news.set()
                status = "204 No Content"
            elif method == "GET" and file.parent == _HERE and file.suffix in _KINDS and file.is_file():
                status, kind, body = "200 OK", _KINDS[file.suffix], file.read_bytes()
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\nCache-Control: no-store\r\n\r\n".encode()
                + body
            )
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def open_page(name: str, tmp_path: Path, **parameters: str | Sequence[str]) -> AsyncIterator[Page]:
    """Show `name` with these parameters in a browser of its own, which ends with the context."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("chromium is missing: apt-get install chromium")
    page = Page()
    server = await asyncio.start_server(page.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    profile = tmp_path / "profile"
    with (tmp_path / "chromium.log").open("wb") as log:
        browser = await asyncio.create_subprocess_exec(
            chromium,
            *_FLAGS,
            f"--user-data-dir={profile}",
            f"http://127.0.0.1:{port}/{name}?{urlencode(parameters, doseq=True)}",
            stdout=log,
            stderr=log,
            env={**os.environ, "HOME": str(tmp_path)},
            start_new_session=True,
        )
        try:
            yield page
        finally:
            # Its own session, so the group is the browser and its children, and nobody else.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(browser.pid, signal.SIGKILL)
            await browser.wait()
            server.close()
            await server.wait_closed()
            # A browser connects ahead of what it may ask: such a connection ends with it, and is over a moment later.
            if page.serving:
                await asyncio.wait(page.serving, timeout=5.0)
