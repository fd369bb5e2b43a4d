"""The DGS's request reader against itself in other slices and against h11: for Hypothesis, atheris and the corpus.

- requests, verdict and what ends the connection do not depend on the slices, nor on how many there is room for;
- every request told is one that h11 reads, with the same method and body: we may refuse more, and never read otherwise;
- what is held stays within one head, one body and one slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import h11

from dgs.http.malformed import Malformed
from dgs.http.request_reader import RequestReader
from dgs.serving import Ask

__all__ = ["LIMITS", "by_h11", "check", "fed"]

LIMITS: Final[dict[str, int]] = {"max_head_bytes": 512, "max_body_bytes": 64, "max_line_bytes": 200}
_STATUSES: Final = {400, 413, 414, 417, 431, 501, 505}
Told = tuple[list[Ask], Malformed | None, bool]


def check(stream: bytes, slices: Sequence[bytes]) -> Told:
    """Raises AssertionError for a broken promise; returns what is told."""
    assert b"".join(slices) == stream
    whole = fed([stream])
    assert fed(slices) == whole
    assert fed([stream], room=1) == whole
    asks, malformed, _ = whole
    assert malformed is None or malformed.status in _STATUSES
    theirs = by_h11(stream)
    assert len(asks) <= len(theirs)
    assert [(ask.method.encode(), ask.body) for ask in asks] == theirs[: len(asks)]
    return whole


def fed(slices: Sequence[bytes], room: int = 64) -> Told:
    """What a reader makes of these slices: requests, why it stopped, and whether the last was the last."""
    reader = RequestReader("h", **LIMITS)
    found: list[Ask] = []
    for data in slices:
        more = reader.feed(data, 0.0, room)
        while more:
            found += more
            more = reader.feed(b"", 0.0, room)
        assert reader.held_bytes <= LIMITS["max_head_bytes"] + LIMITS["max_body_bytes"] + len(data)
    return found, reader.malformed, reader.last


def by_h11(stream: bytes) -> list[tuple[bytes, bytes]]:
    """(method, body) of the requests h11 reads before it wants more or finds something wrong.

    Empty lines between two are taken away before, as RFC 9112, 2.2 asks of servers: h11 refuses them.
    """
    found: list[tuple[bytes, bytes]] = []
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(stream.lstrip(b"\r\n"))
    method = body = b""
    while True:
        try:
            told = connection.next_event()
        except h11.RemoteProtocolError:
            return found
        if isinstance(told, h11.Request):
            method, body = told.method, b""
        elif isinstance(told, h11.Data):
            body += told.data
        elif isinstance(told, h11.EndOfMessage):
            found.append((method, body))
            if connection.their_state not in (h11.DONE, h11.MIGHT_SWITCH_PROTOCOL):  # an offer is not taken up
                return found
            rest, _ = connection.trailing_data
            connection = h11.Connection(h11.SERVER)
            connection.receive_data(rest.lstrip(b"\r\n"))
        else:
            return found
