"""One HTTP request on a connection of its own: a client that holds none open, as a device that wakes up."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from contract.device_operations import MAP, document_hash
from loadtest.gameday.clients.net import Net, Wire

__all__ = ["TIMED_OUT", "Ask", "map_request"]

TIMED_OUT: Final = 0
"""The status of no answer: the time was over, or the connection ended."""
_LENGTH: Final = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_RETRY_AFTER: Final = re.compile(rb"retry-after:\s*(\d+)", re.IGNORECASE)
_DEVICE: Final = {"kind": "TV", "screen": "LARGE"}

Told = Callable[[int, float, bytes], None]
"""Called once with status, Retry-After in seconds (0: none) and what arrived of the body."""


def map_request(host: str, event_id: str, profile_id: str, fields: Mapping[str, str] | None = None) -> bytes:
    """A stage map, by the hash of the device's own operation; the connection ends with the answer."""
    body = msgspec.json.encode(
        {
            "documentId": f"sha256:{document_hash(MAP)}",
            "variables": {"eventId": event_id, "profileId": profile_id, "device": _DEVICE},
        }
    )
    more = "".join(f"{name}: {value}\r\n" for name, value in (fields or {}).items())
    head = (
        f"POST /graphql HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Ask(Wire):
    """Sends `request` once the connection is there; tells what became of it, at the latest after `timeout_s`."""

    __slots__ = ("_buffer", "_request", "_tell")

    def __init__(
        self, net: Net, address: tuple[str, int], source: str | None, request: bytes, timeout_s: float, tell: Told
    ) -> None:
        self._request = request
        self._tell: Told | None = tell
        self._buffer = b""
        super().__init__(net, address, source)
        net.at(time.monotonic() + timeout_s, self._late)

    def opened(self) -> None:
        self.send(self._request)

    def received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = _LENGTH.search(head)
        if length is None or len(body) < int(length[1]):
            return
        self.close(reset=True)
        after = _RETRY_AFTER.search(head)
        self._say(int(head[9:12]), float(after[1]) if after is not None else 0.0, body)

    def ended(self) -> None:
        self._say(TIMED_OUT, 0.0, self._buffer)

    def _late(self) -> None:
        if not self.closed:
            self.close(reset=True)
            self._say(TIMED_OUT, 0.0, b"")

    def _say(self, status: int, retry_after_s: float, body: bytes) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(status, retry_after_s, body)
