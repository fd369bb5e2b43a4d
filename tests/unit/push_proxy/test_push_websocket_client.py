"""Codec and head reader against a whole client: the sans-I/O one of `websockets`, from the first byte to the last."""

from __future__ import annotations

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import CLOSED, CLOSING, OPEN
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from push_proxy.request_head import HeadBuffer
from push_proxy.websocket import (
    PING,
    Binary,
    Closed,
    Failed,
    Ping,
    Pong,
    Text,
    WebSocketCodec,
    accept_key,
    close_frame,
    is_key,
    pong_frame,
    text_frame,
)

LIMIT = 16_384


def connect() -> tuple[ClientProtocol, WebSocketCodec]:
    """The opening handshake: its request is read by us, our answer by the client."""
    client = ClientProtocol(
        parse_uri("ws://push.example:8402/v1/stream?a=b"), subprotocols=[Subprotocol("stagecue.v1")]
    )
    request = client.connect()
    request.headers["Authorization"] = "Bearer a.b.c"
    client.send_request(request)
    buffer = HeadBuffer(LIMIT)
    head = None
    for data in client.data_to_send():
        head = buffer.feed(data)
    assert head is not None
    assert (head.method, head.target, buffer.rest) == ("GET", "/v1/stream?a=b", b"")
    assert head.get(b"host") == b"push.example:8402"
    assert head.get(b"authorization") == b"Bearer a.b.c"
    assert head.get(b"sec-websocket-version") == b"13"
    key = head.get(b"sec-websocket-key")
    assert key is not None
    assert is_key(key)
    client.receive_data(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: stagecue.v1\r\nSec-WebSocket-Accept: " + accept_key(key) + b"\r\n\r\n"
    )
    (response,) = client.events_received()
    assert isinstance(response, Response)
    assert client.handshake_exc is None
    assert client.state is OPEN
    return client, WebSocketCodec(LIMIT)


def sent(client: ClientProtocol) -> bytes:
    return b"".join(client.data_to_send())


def test_messages_both_ways() -> None:
    """Texts, a fragmented one, binary, pings and pongs, in one connection."""
    client, codec = connect()
    for size in (0, 1, 125, 126, LIMIT):
        client.send_text(b"x" * size)
        assert codec.feed(sent(client)) == [Text(b"x" * size)]
        client.receive_data(text_frame(b"y" * size))
    client.send_text("né".encode()[:2], fin=False)
    client.send_ping(b"now")
    client.send_continuation("né".encode()[2:], fin=True)
    client.send_binary(b"\xff")
    assert codec.feed(sent(client)) == [Ping(b"now"), Text("né".encode()), Binary(b"\xff")]
    client.receive_data(pong_frame(b"now") + PING)
    assert codec.feed(sent(client)) == [Pong(b"")]
    frames = client.events_received()
    assert all(isinstance(frame, Frame) for frame in frames)
    assert [(frame.opcode, len(frame.data)) for frame in frames if isinstance(frame, Frame)] == [
        *[(Opcode.TEXT, size) for size in (0, 1, 125, 126, LIMIT)],
        (Opcode.PONG, 3),
        (Opcode.PING, 0),
    ]


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "bye"), (4000, "ä" * 61), (None, "")])
def test_the_client_closes(code: int | None, reason: str) -> None:
    """Its close frame is told, our answer ends the handshake cleanly."""
    client, codec = connect()
    client.send_close(code, reason)
    (closed,) = codec.feed(sent(client))
    assert closed == Closed(code or 1005, reason)
    assert codec.closing()
    client.receive_data(close_frame(*closed))
    client.receive_eof()
    assert client.state is CLOSED
    assert (client.close_code, client.close_reason) == (code or 1005, reason)


def test_we_close() -> None:
    """Code and reason arrive; the client's answer is the last event."""
    client, codec = connect()
    client.receive_data(text_frame(b"goodbye") + close_frame(4001, "connection lifetime reached"))
    assert client.state is CLOSING
    assert codec.feed(sent(client)) == [Closed(4001, "connection lifetime reached")]
    client.receive_eof()
    assert (client.close_code, client.close_reason) == (4001, "connection lifetime reached")


@pytest.mark.parametrize(("opcode", "payload", "code"), [("text", b"\xff", 1007), ("binary", b"x" * (LIMIT + 1), 1009)])
def test_a_failure_is_told_in_words_the_client_understands(opcode: str, payload: bytes, code: int) -> None:
    """Whatever ends a connection, its close frame is one the client takes."""
    client, codec = connect()
    getattr(client, f"send_{opcode}")(payload)
    (failed,) = codec.feed(sent(client))
    assert isinstance(failed, Failed)
    client.receive_data(close_frame(*failed))
    client.receive_eof()
    assert client.parser_exc is None
    assert (client.close_code, client.close_reason) == (code, failed.reason)
