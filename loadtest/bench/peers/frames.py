"""A server's WebSocket frame for peers that are given complete ones. Pure."""

from __future__ import annotations

__all__ = ["server_frame"]


def server_frame(opcode: int, payload: bytes) -> bytes:
    """One final, unmasked frame."""
    size = len(payload)
    assert size < 65_536, "a longer one has another head"
    head = bytes((0x80 | opcode, size)) if size < 126 else bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
    return head + payload
