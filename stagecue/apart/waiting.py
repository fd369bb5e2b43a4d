"""What a service answers while it waits for what it cannot start without: alive, not ready, and why."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from contract.runtime.runner import Readiness

__all__ = ["answering_meanwhile"]

_REQUEST_MAX_BYTES: Final = 16_384
_REQUEST_WITHIN_S: Final = 5.0
_REASONS: Final = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


@asynccontextmanager
async def answering_meanwhile(sock: socket.socket, readiness: Readiness, role: str) -> AsyncIterator[None]:
    """Answer `/healthz` with 200, `/readyz` and everything else with 503 and what fails, on the listener `sock`.

    Afterwards `sock` listens on, for the service: who connects in between waits in its backlog. No HTTP library is
    loaded for it: a push node has none.
    """

    def answer(path: str) -> tuple[int, Mapping[str, object]]:
        if path == "/healthz":
            return 200, {"status": "alive"}
        status, body = readiness.report()
        return (503 if status == 200 else status), {"role": role, "starting": True, **body}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_WITHIN_S):
                head = await reader.readuntil(b"\r\n\r\n")
                words = head.split(b" ", 2)
                path = words[1].decode("latin-1").partition("?")[0] if len(words) == 3 else ""
                writer.write(_response(*answer(path)))
                await writer.drain()
        writer.close()

    own = sock.dup()
    own.setblocking(False)
    server = await asyncio.start_server(serve, sock=own, limit=_REQUEST_MAX_BYTES)
    try:
        yield
    finally:
        server.close()  # of the copy; connections still open end by themselves


def _response(status: int, body: Mapping[str, object]) -> bytes:
    content = json.dumps(body).encode()
    retry = b"Retry-After: 1\r\n" if status == 503 else b""
    return (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n".encode()
        + retry
        + b"\r\n"
        + content
    )
