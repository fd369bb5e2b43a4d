"""Request heads that differ in a token and a length only from one that was read before. Pure.

A device sends the same head with every request, and all devices of an application nearly the same. What two heads have
in common is judged once; of the next one only what varies is looked at, by rules as strict as the reader's.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["Head", "KnownHeads"]

Head = tuple[str, str, str, dict[bytes, bytes], int, bool, bool]
"""Method, path, query, fields; the body's length in bytes (negative: its chunks say); whether it is the connection's
last request; whether the client waits for a word before it sends the body. A plain tuple: it is made for every request.
"""
# One of both, as clients write them; what is written otherwise is part of what is common, and stays it.
_VARYING: Final = re.compile(
    rb"\r\n(?:[Aa]uthorization: Bearer ([A-Za-z0-9_.=-]+)|[Cc]ontent-[Ll]ength: ([0-9]{1,9}))(?=\r\n)"
)
_TRACE_LINE: Final = re.compile(rb"\r\n[Tt]raceparent: ([0-9a-f-]{55})(?=\r\n)")
"""Another one with every request, where a proxy in front begins traces."""
_MAX_KNOWN: Final = 512
_MAX_COMMON_BYTES: Final = 2_048


class KnownHeads:
    """Shared by all connections of a server; bounded by number and size."""

    __slots__ = ("_known", "_max_body_bytes")

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._known: dict[tuple[bytes | None, ...], Head] = {}

    def read(self, head: bytes) -> Head | None:
        """What the reader would make of a whole head, empty line included; None: let it."""
        parts = _VARYING.split(head)
        if len(parts) == 7:
            before, token, length, between, other_token, other_length, behind = parts
            if token is None:
                token, length = other_token, length
                order = b"l"
            else:
                length = other_length
                order = b"t"
            if token is None or length is None:
                return None  # the same field twice: the reader says what is wrong with that
            known = self._known.get((order, before, between, behind))
        elif len(parts) == 4:
            before, token, length, behind = parts
            if length is None:
                return None
            known = self._known.get((b"", before, behind))
        else:
            return None
        if known is None:
            return self._read_followed(head)
        size = int(length)
        if size > self._max_body_bytes:
            return None
        method, path, query, common, _, last, continues = known
        fields = common.copy()
        fields[b"content-length"] = length
        if token is not None:
            fields[b"authorization"] = b"Bearer " + token
        return method, path, query, fields, size, last, continues

    def _read_followed(self, head: bytes) -> Head | None:
        """The same without its trace's ids, which are then put back."""
        parts = _TRACE_LINE.split(head)
        if len(parts) != 3:
            return None
        before, said, behind = parts
        read = self.read(before + behind)
        if read is not None:
            read[3][b"traceparent"] = said
        return read

    def learn(self, head: bytes, read: Head) -> None:
        """Remember what the reader made of a head."""
        method, path, query, fields, length, last, continues = read
        if b"traceparent" in fields:
            parts = _TRACE_LINE.split(head)
            if len(parts) != 3 or parts[1] != fields[b"traceparent"]:
                return
            head = parts[0] + parts[2]
            fields = {name: value for name, value in fields.items() if name != b"traceparent"}
        if query or length < 0 or b"content-length" not in fields:
            return  # what differs with every request need not be kept
        parts = _VARYING.split(head)
        key: tuple[bytes | None, ...]
        if len(parts) == 7 and (parts[1] is None) != (parts[4] is None):
            key = (b"l" if parts[1] is None else b"t", parts[0], parts[3], parts[6])
        elif len(parts) == 4 and parts[1] is None and b"authorization" not in fields:
            key = (b"", parts[0], parts[3])
        else:
            return
        if sum(len(part) for part in key if part is not None) > _MAX_COMMON_BYTES:
            return
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[key] = method, path, query, dict(fields), length, last, continues
