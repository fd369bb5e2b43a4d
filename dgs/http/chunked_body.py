"""A body in chunks (RFC 9112, 7.1), sans-I/O and bounded; extensions and trailers are read over. Pure."""

from __future__ import annotations

import re
from typing import Final

from dgs.http.malformed import MalformedRequest

__all__ = ["MAX_LINE_BYTES", "MAX_TRAILER_BYTES", "ChunkedBody"]

MAX_LINE_BYTES: Final = 256
"""Of a chunk's size and extensions, or of one trailer."""
MAX_TRAILER_BYTES: Final = 2_048

_size_line = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?").fullmatch
_trailer_line = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*").fullmatch
_CRLF: Final = b"\r\n"
_SIZE, _DATA, _AFTER, _TRAILERS = range(4)


class ChunkedBody:
    """One body; `take` what has arrived until it is `done`."""

    __slots__ = ("_content", "_left", "_max_bytes", "_state", "_trailer_bytes", "done", "size_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._content = bytearray()
        self._left = 0
        """Bytes of the chunk under way still to come."""
        self._state = _SIZE
        self._trailer_bytes = 0
        self.size_bytes = 0
        """Announced so far."""
        self.done = False

    def content(self) -> bytes:
        return bytes(self._content)

    def take(self, buffer: bytes | bytearray, at: int) -> int:
        """Read on from `at`; returns how far. Raises MalformedRequest, as early as a whole line can tell."""
        while not self.done:
            if self._state == _DATA:
                part = buffer[at : at + self._left]
                self._content += part
                self._left -= len(part)
                at += len(part)
                if self._left:
                    return at
                self._state = _AFTER
            elif self._state == _AFTER:
                end = buffer[at : at + 2]
                if not _CRLF.startswith(end):
                    raise MalformedRequest(400, "a chunk is longer than it said", "body")
                if len(end) < 2:
                    return at
                at += 2
                self._state = _SIZE
            else:
                end_at = buffer.find(_CRLF, at, at + MAX_LINE_BYTES + 2)
                if end_at < 0:
                    if len(buffer) - at >= MAX_LINE_BYTES + 2:
                        raise MalformedRequest(400, f"a line above {MAX_LINE_BYTES} bytes between chunks", "body")
                    return at
                line = bytes(buffer[at:end_at])
                at = end_at + 2
                if self._state == _SIZE:
                    self._begin(line)
                else:
                    self._trail(line)
        return at

    def _begin(self, line: bytes) -> None:
        found = _size_line(line)
        if found is None:
            raise MalformedRequest(400, "not the size of a chunk", "body")
        self._left = int(found[1], 16)
        self.size_bytes += self._left
        if self.size_bytes > self._max_bytes:
            raise MalformedRequest(413, f"over {self._max_bytes} bytes (at most {self._max_bytes} bytes)", "body")
        self._state = _DATA if self._left else _TRAILERS

    def _trail(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MAX_TRAILER_BYTES:
            raise MalformedRequest(431, f"trailers above {MAX_TRAILER_BYTES} bytes", "body")
        if _trailer_line(line) is None:
            raise MalformedRequest(400, "a trailer that is no header line", "body")
