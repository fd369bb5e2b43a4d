"""W3C trace context, pure: the `traceparent` that follows one broadcast from the producer through the log."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

import msgspec

__all__ = ["TraceParent", "parse_traceparent", "trace_of"]

_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED: Final = 1


class TraceParent(msgspec.Struct, frozen=True):
    """Version 00 of the header; both ids in hexadecimal, neither all zero."""

    trace_id: str
    parent_id: str
    sampled: bool = True

    def header(self) -> str:
        return f"00-{self.trace_id}-{self.parent_id}-{_SAMPLED if self.sampled else 0:02x}"


def trace_of(subject: str, *, parent_id: bytes) -> TraceParent:
    """A trace whose id hangs on `subject` alone: whatever is sent again belongs to the same trace.

    `parent_id`: eight bytes that name this sending; drawn by whoever has randomness.
    """
    assert len(parent_id) == 8
    assert any(parent_id)
    return TraceParent(blake2b(subject.encode(), digest_size=16).hexdigest(), parent_id.hex())


def parse_traceparent(header: str) -> TraceParent | None:
    """The header's facts, or None for anything the W3C recommendation says to ignore."""
    found = _FORM.fullmatch(header)
    if found is None or (header.startswith("00") and len(header) != 55):
        return None
    trace_id, parent_id, flags = found.groups()
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return TraceParent(trace_id, parent_id, bool(int(flags, 16) & _SAMPLED))
