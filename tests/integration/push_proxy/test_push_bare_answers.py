"""Answers that must not have a body (RFC 9110): to HEAD, and 204."""

from __future__ import annotations

import pytest
from hostile_client import Raw
from push_world import World


@pytest.mark.parametrize("path", [b"/healthz", b"/v1/stream", b"/v1/events?topic=t", b"/nowhere"])
async def test_head_is_answered_without_a_body(world: World, path: bytes) -> None:
    """The length is that of the answer to a GET of its kind; a client that waited for so many bytes would be wrong."""
    raw = await Raw.connect(world)
    raw.transport.write(b"HEAD %b HTTP/1.1\r\nHost: push\r\n\r\n" % path)
    start, _, body = (await raw.rest()).partition(b"\r\n\r\n")
    assert start.startswith((b"HTTP/1.1 405 ", b"HTTP/1.1 404 ")), start
    assert b"\r\nContent-Length: " in start
    assert body == b""


async def test_a_preflight_names_no_length(world: World) -> None:
    raw = await Raw.connect(world)
    raw.transport.write(b"OPTIONS /v1/events HTTP/1.1\r\nHost: push\r\nOrigin: https://tv.example\r\n\r\n")
    start, _, body = (await raw.rest()).partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 204 ")
    assert b"content-length" not in start.lower()
    assert body == b""
