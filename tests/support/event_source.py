"""A browser's EventSource without the browser: the parser of the HTML standard, fed in any slices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import deque
from typing import Any, NamedTuple

__all__ = ["PATIENCE_S", "EventSourceParser", "EventStreamClient", "StreamEvent"]

PATIENCE_S = 20
"""Waits end as soon as what they wait for is there."""


class StreamEvent(NamedTuple):
    """One dispatched event."""

    name: str
    data: str
    last_event_id: str

    @property
    def frame(self) -> dict[str, Any]:
        """Its data as a frame of ours; its name must be the frame's type."""
        found = json.loads(self.data)
        assert isinstance(found, dict)
        assert found["type"] == self.name
        return found


class EventSourceParser:
    """HTML, section 9.2.6. `last_event_id` and `retry_ms` outlive one stream, as they do in an EventSource.

    The standard begins every stream with an empty id buffer, so that the first event without an id forgets the id of
    the stream before; browsers keep it. `forgets` chooses the standard's way.
    """

    def __init__(self, *, forgets: bool = False) -> None:
        self.last_event_id = ""
        self.retry_ms: int | None = None
        self.comments = 0
        self._forgets = forgets
        self._begin()

    def _begin(self) -> None:
        self._rest = b""
        self._name = ""
        self._lines: list[str] = []
        self._id = "" if self._forgets else self.last_event_id

    def new_stream(self) -> None:
        """The connection ended; what was not yet dispatched is discarded."""
        self._begin()

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Events completed by these bytes. Lines end with LF: a CR from this server would be a fault."""
        assert b"\r" not in data
        *lines, self._rest = (self._rest + data).split(b"\n")
        found: list[StreamEvent] = []
        for line in lines:
            event = self._line(line.decode())
            if event is not None:
                found.append(event)
        return found

    def _line(self, line: str) -> StreamEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not field:
            self.comments += 1
        elif field == "event":
            self._name = value
        elif field == "data":
            self._lines.append(value)
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value)
        return None

    def _dispatch(self) -> StreamEvent | None:
        self.last_event_id = self._id
        name, data = self._name, "\n".join(self._lines)
        self._name, self._lines = "", []
        return StreamEvent(name or "message", data, self.last_event_id) if data else None


class EventStreamClient:
    """A plain HTTP client of one stream of events after the other, with one EventSource's memory between them."""

    def __init__(self, port: int, parser: EventSourceParser | None = None, *, rcvbuf: int = 0) -> None:
        self.port = port
        self._rcvbuf = rcvbuf
        self.parser = parser or EventSourceParser()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.raw = b""
        """Everything of the current body."""
        self._events: deque[StreamEvent] = deque()
        self._reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def open(self, target: str, *, method: str = "GET", body: bytes = b"", **headers: str) -> int:
        """Ask, as EventSource does: with the last id, if there is one. Returns the status."""
        await self.close()
        named = {"Host": "n", "Accept": "text/event-stream"}
        if self.parser.last_event_id:
            named["Last-Event-ID"] = self.parser.last_event_id
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items()), "", ""]
        await self.begin("\r\n".join(lines).encode() + body)
        return await self.answer()

    async def begin(self, data: bytes) -> None:
        """Connect, and send these bytes of a request."""
        self.parser.new_stream()
        self.raw = b""
        self._events.clear()
        sock = socket.socket()
        sock.setblocking(False)
        if self._rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._rcvbuf)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        self._reader, self.writer = await asyncio.open_connection(sock=sock, limit=self._rcvbuf or 65_536)
        await self.send(data)

    async def send(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> int:
        """Read the head of the answer; returns its status."""
        assert self._reader is not None
        head = (await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE_S)).decode("latin-1")
        status_line, *fields = head.rstrip("\r\n").split("\r\n")
        self.status = int(status_line.split(" ")[1])
        self.headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        return self.status

    async def problem(self) -> dict[str, Any]:
        """The body of a refusal."""
        assert self._reader is not None
        assert self.headers["content-type"] == "application/problem+json"
        found = json.loads(await asyncio.wait_for(self._reader.read(), PATIENCE_S))
        assert isinstance(found, dict)
        assert found["status"] == self.status
        return found

    async def next(self, timeout: float = PATIENCE_S) -> StreamEvent:
        """The next event; EOFError at the end of the stream."""
        assert self._reader is not None
        async with asyncio.timeout(timeout):
            while not self._events:
                data = await self._reader.read(65_536)
                if not data:
                    raise EOFError
                self.raw += data
                self._events.extend(self.parser.feed(data))
        return self._events.popleft()

    async def until(self, name: str) -> StreamEvent:
        """The next event of a name; others are passed over."""
        while (event := await self.next()).name != name:
            pass
        return event

    async def rest(self) -> list[StreamEvent]:
        """All events up to the end of the stream, which must come."""
        found: list[StreamEvent] = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(await self.next())
        return found

    async def quiet(self, for_s: float = 0.15) -> None:
        """Nothing but schedules arrives."""
        with contextlib.suppress(TimeoutError):
            while (event := await self.next(for_s)).name == "schedule":
                pass
            raise AssertionError(f"unexpected {event}")

    async def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            with contextlib.suppress(ConnectionError):
                await self.writer.wait_closed()
            self.writer = None
