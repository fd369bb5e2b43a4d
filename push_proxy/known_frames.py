"""Frames of devices that were read before: when a herd returns, thousands subscribe with the same bytes. Pure."""

from __future__ import annotations

from typing import Final

from contract.frames import ClientFrame, SubscribeFrame, decode_client_frame

__all__ = ["MAX_KNOWN", "MAX_KNOWN_BYTES", "KnownFrames"]

MAX_KNOWN: Final = 1_024
"""Frames kept; beyond that, all are forgotten."""
MAX_KNOWN_BYTES: Final = 512
"""Of one frame: a subscribe to a handful of topics. Together they stay below a few MB."""


class KnownFrames:
    """Reads client frames; the same bytes give the same frame, whose topics are then kept once for all devices."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, SubscribeFrame] = {}

    def __len__(self) -> int:
        return len(self._known)

    def read(self, data: bytes) -> ClientFrame:
        """See `decode_client_frame`."""
        known = self._known.get(data)
        if known is not None:
            return known
        frame = decode_client_frame(data)
        if type(frame) is SubscribeFrame and len(data) <= MAX_KNOWN_BYTES:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[data] = frame
        return frame
