"""Forms: how frames look on the wire. A form is a function from a frame to bytes; who shares it shares the bytes.

`v1_form` is stagecue.v1: a whole WebSocket text frame. Server frames without extensions carry no state of their
connection (RFC 6455, section 5.2), so the same bytes serve every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from contract.frames import ServerFrame, encode_frame
from push_proxy.websocket import text_frame

__all__ = ["JOINABLE", "MAX_FORMS", "Form", "PreparedFrame", "v1_form"]

Form = Callable[[ServerFrame], bytes]
"""Compared and hashed by identity: one object per distinct representation."""
MAX_FORMS: Final = 64
"""Forms of which a prepared frame keeps the bytes; GraphQL documents are as many as clients care to write."""


def v1_form(frame: ServerFrame) -> bytes:
    """A complete, unmasked, final text frame of stagecue.v1."""
    return text_frame(encode_frame(frame))


JOINABLE: Final[frozenset[Form]] = frozenset({v1_form})
"""Forms whose frames need nothing of their stream added: several may be written back to back."""


class PreparedFrame:
    """One frame for many devices, encoded at most once per form."""

    __slots__ = ("_bytes", "frame")

    def __init__(self, frame: ServerFrame) -> None:
        self.frame = frame
        self._bytes: dict[Form, bytes] = {}

    def in_form(self, form: Form) -> bytes:
        made = self._bytes.get(form)
        if made is None:
            if len(self._bytes) >= MAX_FORMS:
                self._bytes.clear()
            made = self._bytes[form] = form(self.frame)
        return made
