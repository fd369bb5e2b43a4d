"""A browser's EventSource without the browser: the parser of the HTML standard, fed in any slices."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

__all__ = ["EventSourceParser", "StreamEvent"]


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
