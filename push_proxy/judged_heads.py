"""Request heads that differ only in key and token are judged alike, so all but those is judged once. Pure.

Devices of one kind send the same head again and again, and reading one costs as much as all else a connect costs. A
head is cut into what is a device's own (`Sec-WebSocket-Key`, the bearer token) and the rest, its shape; the verdict on
a shape is kept. What is cut out of a shape holds no line end, so it cannot change what the rest means, and must pass
the checks it would have had: `is_key`, and the token's own. Whatever fails here is judged whole, and told why there.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from push_proxy.metrics import StreamProtocol

__all__ = ["MAX_SHAPES", "CutHead", "JudgedHeads", "cut_head"]

MAX_SHAPES: Final = 256
"""Shapes kept: device kinds times addresses they know this node by. Beyond that, all are forgotten and learned anew."""

_END: Final = b"\r\n\r\n"
_KEY: Final = b"\r\nSec-WebSocket-Key: "
_TOKEN: Final = b"\r\nAuthorization: Bearer "


class CutHead(NamedTuple):
    shape: bytes
    """The whole head without key and token."""
    key: bytes
    token: bytes


def cut_head(data: bytes) -> CutHead | None:
    """`data` in its parts if it is one whole head with both, written as nearly all clients do; else None."""
    if data.find(_END) != len(data) - len(_END):
        return None
    key_at = data.find(_KEY)
    token_at = data.find(_TOKEN)
    if key_at < 0 or token_at < 0:
        return None
    key_at += len(_KEY)
    token_at += len(_TOKEN)
    key_end = data.index(b"\r\n", key_at)
    token_end = data.index(b"\r\n", token_at)
    if key_at < token_at:
        shape = b"%b\0%b\0%b" % (data[:key_at], data[key_end:token_at], data[token_end:])
    else:
        shape = b"%b\0%b\0%b" % (data[:token_at], data[token_end:key_at], data[key_end:])
    return CutHead(shape, data[key_at:key_end], data[token_at:token_end])


class JudgedHeads:
    """Shapes whose heads begin a WebSocket stream if the node has room and key and token are good."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, StreamProtocol] = {}

    def __len__(self) -> int:
        return len(self._known)

    def protocol(self, shape: bytes) -> StreamProtocol | None:
        return self._known.get(shape)

    def learn(self, shape: bytes, protocol: StreamProtocol) -> None:
        """A head of this shape was judged whole, its token taken from the Authorization header, and was accepted."""
        if len(self._known) >= MAX_SHAPES:
            self._known.clear()
        self._known[shape] = protocol
