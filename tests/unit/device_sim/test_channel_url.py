"""Goal: where a device connects is a WebSocket address with a host and a port that exists, or is refused in words."""

from __future__ import annotations

import asyncio

import pytest

from contract.errors import InvalidRequest
from device_sim.client import Channel, ClientContext


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("ws://127.0.0.1:8402/v1/stream", "127.0.0.1", 8402, "/v1/stream"),
        ("ws://node/v1/stream?access_token=x", "node", 80, "/v1/stream?access_token=x"),
        ("wss://node", "node", 443, "/"),
        ("ws://[::1]:8402/", "::1", 8402, "/"),
    ],
)
def test_a_channel_is_read(url: str, host: str, port: int, path: str) -> None:
    found = Channel.from_url(url)
    assert (found.host, found.port, found.path, found.tls is not None) == (host, port, path, url.startswith("wss"))


@pytest.mark.parametrize(
    "url",
    ["", "node:8402", "http://node/", "ws://", "ws:///v1/stream", "ws://node:99999/", "ws://node:http/", "ws://[::1/",
     "ws://node/a b", "ws://node/\x7f"],
)  # fmt: skip
def test_what_is_no_channel_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="ws://host:port/path"):
        Channel.from_url(url)


def test_an_address_with_colons_stands_in_brackets() -> None:
    loop = asyncio.new_event_loop()
    context = ClientContext(loop)
    try:
        assert b"\r\nHost: [::1]:8402\r\n" in context.head_of(Channel.from_url("ws://[::1]:8402/"))
        assert b"\r\nHost: node:8402\r\n" in context.head_of(Channel.from_url("ws://node:8402/"))
    finally:
        loop.run_until_complete(context.close())
        loop.close()
