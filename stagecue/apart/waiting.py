"""What a service answers while it waits for what it cannot start without: alive, not ready, and why."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from contract.runtime.runner import Readiness
from stagecue.apart.pages import JSON, Page, serve_pages

__all__ = ["answering_meanwhile"]


@asynccontextmanager
async def answering_meanwhile(sock: socket.socket, readiness: Readiness, role: str) -> AsyncIterator[None]:
    """Answer `/healthz` with 200, `/readyz` and everything else with 503 and what fails, on the listener `sock`.

    Afterwards `sock` listens on, for the service: who connects in between waits in its backlog.
    """

    def answer(path: str) -> Page:
        if path == "/healthz":
            return Page(200, JSON, json.dumps({"status": "alive"}).encode())
        status, body = readiness.report()
        told = {"role": role, "starting": True, **body}
        return Page(503 if status == 200 else status, JSON, json.dumps(told).encode())

    server = await serve_pages(sock.dup(), answer)
    try:
        yield
    finally:
        server.close()  # of the copy; connections still open end by themselves
