"""A few plain pages over HTTP, for processes that have no HTTP library: one request, one answer, connection closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, NamedTuple

__all__ = ["JSON", "Page", "PagesService", "serve_pages"]

JSON: Final = "application/json"
_REQUEST_MAX_BYTES: Final = 16_384
_REQUEST_WITHIN_S: Final = 5.0


class Page(NamedTuple):
    status: int
    kind: str
    body: bytes


async def serve_pages(sock: socket.socket, answer: Callable[[str], Page]) -> asyncio.Server:
    """Answer every request on the listener `sock` with `answer(path)`, whatever its method. Owns `sock`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_WITHIN_S):
                head = await reader.readuntil(b"\r\n\r\n")
                words = head.split(b" ", 2)
                path = words[1].decode("latin-1").partition("?")[0] if len(words) == 3 else ""
                writer.write(_response(answer(path)))
                await writer.drain()
        writer.close()

    sock.setblocking(False)
    return await asyncio.start_server(serve, sock=sock, limit=_REQUEST_MAX_BYTES)


class PagesService:
    """Service: serves `answer` on `sock` until stopped. Put it first, to answer while the others drain."""

    def __init__(self, name: str, sock: socket.socket, answer: Callable[[str], Page]) -> None:
        self.name = name
        self._sock = sock
        self._answer = answer

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        server = await serve_pages(self._sock, self._answer)
        try:
            ready.set()
            await stop.wait()
        finally:
            server.close()


def _response(page: Page) -> bytes:
    retry = "Retry-After: 1\r\n" if page.status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    head = (
        f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}\r\nContent-Type: {page.kind}\r\n"
        f"Content-Length: {len(page.body)}\r\nCache-Control: no-store\r\nConnection: close\r\n{retry}\r\n"
    )
    return head.encode() + page.body
