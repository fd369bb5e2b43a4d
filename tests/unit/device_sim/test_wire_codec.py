"""Goal: the codec agrees with the `websockets` package's sans-I/O server, byte for byte, however bytes are cut."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from device_sim import wire

KEY = base64.b64encode(bytes(range(16)))


def head(**changes: bytes | None) -> bytes:
    headers: dict[bytes, bytes | None] = {
        b"Upgrade": b"websocket",
        b"Connection": b"Upgrade",
        b"Sec-WebSocket-Accept": wire.accept_key(KEY),
        b"Sec-WebSocket-Protocol": b"stagecue.v1",
    }
    status = changes.pop("status", b"101 Switching Protocols")
    headers.update({name.replace("_", "-").encode(): value for name, value in changes.items()})
    lines = [b"HTTP/1.1 " + (status or b"")] + [
        name + b": " + value for name, value in headers.items() if value is not None
    ]
    return b"\r\n".join(lines)


def test_the_package_accepts_our_handshake_and_we_its_answer() -> None:
    server = ServerProtocol(subprotocols=["stagecue.v1"])
    server.receive_data(wire.handshake_request("host:1", "/v1/stream", subprotocol="stagecue.v1", token="abc", key=KEY))
    (request,) = server.events_received()
    assert request.path == "/v1/stream"
    assert request.headers["Authorization"] == "Bearer abc"
    response = server.accept(request)
    server.send_response(response)
    raw = b"".join(server.data_to_send())
    wire.parse_handshake_response(raw.partition(b"\r\n\r\n")[0], KEY, "stagecue.v1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Sec_WebSocket_Accept": b"wrong"}, "not accepted"),
        ({"Upgrade": None}, "not accepted"),
        ({"Sec_WebSocket_Protocol": b"other"}, "did not choose"),
        ({"Sec_WebSocket_Protocol": None}, "did not choose"),
        ({"Sec_WebSocket_Extensions": b"permessage-deflate"}, "extension nobody offered"),
        ({"status": b""}, "not an HTTP response"),
    ],
)
def test_answers_that_are_no_upgrade(changes, message) -> None:
    with pytest.raises(wire.ProtocolViolation, match=message):
        wire.parse_handshake_response(head(**changes), KEY, "stagecue.v1")


def test_refusals_carry_status_and_retry_after() -> None:
    with pytest.raises(wire.HandshakeRefused) as caught:
        wire.parse_handshake_response(head(status=b"503 Service Unavailable", Retry_After=b"7"), KEY, "stagecue.v1")
    assert (caught.value.status, caught.value.retry_after_s) == (503, 7.0)


@given(st.binary(max_size=70_000), st.binary(min_size=4, max_size=4))
def test_masked_frames_are_what_the_package_writes(payload: bytes, mask: bytes) -> None:
    reader = StreamReader()
    reader.feed_data(wire.masked_frame(wire.TEXT, payload, mask))
    parsing = Frame.parse(reader.read_exact, mask=True)
    with pytest.raises(StopIteration) as done:
        next(parsing)
    assert done.value.value == Frame(Opcode.TEXT, payload)


@given(st.sampled_from([0x81, 0x01, 0x89, 0x82, 0xC1]), st.binary(max_size=400), st.integers(-3, 3))
def test_a_whole_text_is_what_a_parser_finds_alone(first: int, payload: bytes, off: int) -> None:
    """With bytes missing or more of them behind, and for other kinds of frames, it is left to the parser."""
    size = len(payload)
    head = bytes((first, size)) if size < 126 else bytes((first, 126)) + size.to_bytes(2, "big")
    received = (head + payload + b"more")[: len(head) + size + off]
    found = wire.whole_text(received)
    assert found == (payload if first == 0x81 and off == 0 else None)
    if found is not None:
        assert list(wire.FrameParser().feed(received)) == [(wire.TEXT, found)]


@given(st.lists(st.tuples(st.sampled_from("tpm"), st.integers(0, 300)), max_size=8), st.integers(1, 700))
def test_any_cut_of_the_bytes_gives_the_same_messages(messages, cut: int) -> None:
    """Texts, pings, and fragmented texts with a ping inside, fed in pieces of any size."""
    sent, expected = b"", []
    for kind, size in messages:
        payload = b"x" * size
        if kind == "t":
            sent += Frame(Opcode.TEXT, payload).serialize(mask=False)
            expected.append((wire.TEXT, payload))
        elif kind == "p":
            sent += Frame(Opcode.PING, payload[:125]).serialize(mask=False)
            expected.append((wire.PING, payload[:125]))
        else:
            half = size // 2
            sent += Frame(Opcode.TEXT, payload[:half], fin=False).serialize(mask=False)
            sent += Frame(Opcode.PING, b"!").serialize(mask=False)
            sent += Frame(Opcode.CONT, payload[half:]).serialize(mask=False)
            expected += [(wire.PING, b"!"), (wire.TEXT, payload)]
    parser = wire.FrameParser()
    received = [found for start in range(0, len(sent), cut) for found in parser.feed(sent[start : start + cut])]
    assert received == expected


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x81\x00\x00\x00\x00a", 1002),  # masked
        (b"\xc1\x01a", 1002),  # reserved bit
        (b"\x83\x01a", 1002),  # unknown opcode
        (b"\x80\x01a", 1002),  # a continuation of nothing
        (b"\x01\x01a\x81\x01b", 1002),  # a message inside a message
        (b"\x09\x01a", 1002),  # a fragmented ping
        (b"\x89\x7e\x00\x80" + b"a" * 128, 1002),  # a ping too long
        (b"\x82\x01a", 1003),  # binary
        (b"\x81\x7f" + (1 << 40).to_bytes(8, "big"), 1009),  # announced too large
    ],
)
def test_violations(data: bytes, code: int) -> None:
    with pytest.raises(wire.ProtocolViolation) as caught:
        list(wire.FrameParser().feed(data))
    assert caught.value.code == code


def test_fragments_are_bounded() -> None:
    parser = wire.FrameParser()
    piece = b"\x00\x7f" + (1 << 19).to_bytes(8, "big") + bytes(1 << 19)
    list(parser.feed(b"\x01\x00"))
    list(parser.feed(piece))
    list(parser.feed(piece))
    with pytest.raises(wire.ProtocolViolation, match="too large"):
        list(parser.feed(b"\x00\x01a"))


def test_close_codes() -> None:
    assert wire.parse_close(b"") == 1005
    assert wire.parse_close(wire.close_payload(4001, "x" * 300)) == 4001
    assert len(wire.close_payload(4001, "x" * 300)) == 125
    with pytest.raises(wire.ProtocolViolation):
        wire.parse_close(b"\x03")
