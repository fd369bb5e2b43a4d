"""An ASGI application as an Endpoint: for everything that needs a framework and may cost what one costs.

The request is there whole, and so is the answer before it is sent: what streams without end has no place here. At most
`most_running` requests run at a time, others wait in order. A client that leaves takes its request with it. The
application's lifespan is not run: what it needs is made before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import MutableMapping
from typing import Any, Final
from urllib.parse import unquote

import structlog
from starlette.types import ASGIApp

from contract.runtime.log_limit import KindLimit
from dgs.http.answer import MASKED, error_answer
from dgs.http.exchange import Exchange
from dgs.serving import Answer, Ask, Reply
from dgs.traces import tracing

__all__ = ["AsgiBridge"]

_NOT_OURS: Final = frozenset((b"content-length", b"connection", b"date", b"transfer-encoding", b"keep-alive"))
_RETRY_AFTER_MS: Final = 1_000
_log = structlog.get_logger(__name__)


class AsgiBridge:
    """`deadline_s` is the parent of every timeout inside the application: set it longer than those."""

    def __init__(
        self, app: ASGIApp, *, deadline_s: float, most_running: int = 64, most_waiting: int = 4_096, tls: bool = False
    ) -> None:
        assert most_running > 0
        self._app = app
        self._deadline_s = deadline_s
        self._most_running = most_running
        self._most_waiting = most_waiting
        self._scheme = "https" if tls else "http"
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[Ask, Reply]] = deque()
        self._lines = KindLimit(burst=5, window_s=60.0)
        self._served = 0
        self._failed = 0
        self._late = 0
        self._no_room = 0
        self._left = 0

    def stats(self) -> dict[str, int]:
        return {
            "running": len(self._running),
            "waiting": len(self._waiting),
            "served": self._served,
            "failed": self._failed,
            "late": self._late,
            "no_room": self._no_room,
            "left": self._left,
        }

    def serve(self, ask: Ask, reply: Reply) -> None:
        if len(self._running) < self._most_running:
            self._start(ask, reply)
        elif len(self._waiting) < self._most_waiting:
            self._waiting.append((ask, reply))
        else:
            self._no_room += 1
            reply(error_answer(503, "overloaded", "too many requests wait", retry_after_ms=_RETRY_AFTER_MS))

    def _start(self, ask: Ask, reply: Reply) -> None:
        trace = reply.trace if isinstance(reply, Exchange) else None
        with tracing((trace,) if trace is not None else ()):  # one that waited is begun by whoever made room
            task = asyncio.create_task(self._run(ask, reply), name="asgi-bridge")
        self._running.add(task)
        task.add_done_callback(self._done)
        if isinstance(reply, Exchange):
            reply.when_gone(task.cancel)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled():
            self._left += 1
        while self._waiting and len(self._running) < self._most_running:
            ask, reply = self._waiting.popleft()
            if not isinstance(reply, Exchange) or reply.wanted:
                self._start(ask, reply)

    async def _run(self, ask: Ask, reply: Reply) -> None:
        collected = _Collected(ask)
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._app(_scope(ask, self._scheme), collected.receive, collected.send)
            answer = collected.answer()
        except TimeoutError:
            self._late += 1
            answer = error_answer(504, "timeout", "took too long", retry_after_ms=_RETRY_AFTER_MS)
        except Exception:
            self._failed += 1
            line = self._lines.admit("page_failed", asyncio.get_running_loop().time())
            if line is not None:
                _log.exception("page_failed", path=ask.path, hidden=line.hidden)
            answer = MASKED
        else:
            self._served += 1
        reply(answer)


class _Collected:
    """Both ends of one request, as the application sees them."""

    __slots__ = ("_ask", "_asked", "_body", "_start")

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._asked = False
        self._start: MutableMapping[str, Any] | None = None
        self._body: list[bytes] = []

    async def receive(self) -> MutableMapping[str, Any]:
        if self._asked:
            await asyncio.Event().wait()  # a client that leaves cancels the whole request
        self._asked = True
        return {"type": "http.request", "body": self._ask.body, "more_body": False}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self._body.append(message.get("body", b""))

    def answer(self) -> Answer:
        start = self._start
        if start is None:
            raise RuntimeError("the application ended without an answer")
        lines = [
            name + b": " + value + b"\r\n"
            for name, value in ((bytes(name).lower(), bytes(value)) for name, value in start.get("headers", ()))
            if name not in _NOT_OURS and b"\r" not in value and b"\n" not in value
        ]
        return Answer(start["status"], b"".join(lines), b"".join(self._body))


def _scope(ask: Ask, scheme: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        # To HEAD the server tells how long the body of a GET would be, and sends none.
        "method": "GET" if ask.method == "HEAD" else ask.method,
        "scheme": scheme,
        "path": unquote(ask.path) if "%" in ask.path else ask.path,
        "raw_path": ask.path.encode("ascii"),
        "query_string": ask.query.encode("ascii"),
        "root_path": "",
        "headers": list(ask.fields.items()),
        "client": (ask.host, 0),
        "server": None,
        "state": {},
    }
