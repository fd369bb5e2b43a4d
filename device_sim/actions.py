"""What a device asks of the shell around it. Pure values."""

from __future__ import annotations

import msgspec

from contract.frames import ClientFrame
from device_sim.topic import Render

__all__ = ["Action", "CloseSocket", "FetchMap", "GiveUp", "OpenSocket", "Send", "Show"]


class OpenSocket(msgspec.Struct, frozen=True, gc=False):
    """Open a WebSocket to the channel now and call `opened` or `disconnected` with this number."""

    conn: int


class CloseSocket(msgspec.Struct, frozen=True, gc=False):
    conn: int
    code: int


class Send(msgspec.Struct, frozen=True):
    conn: int
    frame: ClientFrame


class Show(msgspec.Struct, frozen=True):
    """The screen changes, from the local map: no request."""

    render: Render


class FetchMap(msgspec.Struct, frozen=True, gc=False):
    """Fetch the topic's map now (its random moment has come), then call `map_fetched` or `map_failed`."""

    topic: str


class GiveUp(msgspec.Struct, frozen=True, gc=False):
    """The server said not to return with these credentials or this code (4500-4999)."""

    code: int


Action = OpenSocket | CloseSocket | Send | Show | FetchMap | GiveUp
