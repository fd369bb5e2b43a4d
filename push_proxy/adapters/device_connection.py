"""One device connection: asyncio.Protocol around the sans-I/O `websockets` codec, carrying out a session's actions."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from websockets.exceptions import HeaderLineTooLong, PayloadTooBig, RequestLineTooLong, TooManyHeaders
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from contract.close_codes import CloseCode, reason
from contract.frames import MAX_CLIENT_FRAME_BYTES, SUBPROTOCOL, ErrorFrame, GoawayFrame, TokenFrame
from push_proxy.followed import text_frame
from push_proxy.handshake import Accept, Page, Refuse, RefuseAfterUpgrade, judge_request, problem
from push_proxy.session import (
    Acked,
    Action,
    Close,
    Follow,
    HoleReported,
    Leave,
    Ping,
    RenewToken,
    Send,
    Session,
)

if TYPE_CHECKING:
    from push_proxy.adapters.device_listener import DeviceListener

__all__ = ["DeviceConnection"]

_PING: Final = b"\x89\x00"
_SUBPROTOCOLS: Final = [Subprotocol(SUBPROTOCOL)]
# The library logs every connection at INFO; a node has too many of them.
_codec_log = logging.getLogger("push_proxy.codec")
_codec_log.setLevel(logging.ERROR)


def _unreadable(error: Exception) -> Refuse:
    if isinstance(error, RequestLineTooLong):
        return Refuse(414, "request line too long", "request line")
    if isinstance(error, HeaderLineTooLong | TooManyHeaders):
        return Refuse(431, "header line too long, or too many of them", "headers")
    return Refuse(400, "not an HTTP/1.1 request this server understands")


def _discard(frames: bytes, /) -> None:
    """What `write` is once the connection is closing."""


class DeviceConnection(asyncio.Protocol):
    """From accept to close. Reads go through the codec; prepared frames bypass it.

    Bypassing is safe: a server's frames are not masked, no extension is negotiated, every prepared frame is one whole
    message, and all writes happen on the loop's thread in whole frames. The codec is not told of them and need not be:
    it tracks outgoing state only within a fragmented message and after a close frame, and after the close frame
    `write` is replaced by a function that does nothing.
    """

    __slots__ = ("_codec", "_head", "_listener", "_message", "_transport", "session", "write")

    def __init__(self, listener: DeviceListener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._codec: ServerProtocol | None = None
        self._head = bytearray()
        self._message: list[bytes] = []
        self.session: Session | None = None
        self.write = _discard

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._listener.settings.slow_consumer_bytes)
        self._listener.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.write = _discard
        self._transport = None
        self._listener.lost(self)

    def data_received(self, data: bytes) -> None:
        codec = self._codec
        if codec is None:
            self._read_head(data)
            return
        if self.session is not None:
            self.session.alive()
        codec.receive_data(data)
        self._after_receive(codec)

    def eof_received(self) -> bool:
        # A half-closed socket cannot be told from a vanished device for long: the whole connection ends.
        return False

    def pause_writing(self) -> None:
        """The kernel and we hold more unsent bytes than the limit: a slow consumer."""
        self._listener.slow(self)
        self.close(CloseCode.SLOW_CONSUMER)

    # The node's side.

    def unfollow(self, topic: str, code: str, message: str) -> None:
        """DevicePort.unfollow."""
        if self.session is not None:
            self.session.forget(topic)
            self.carry_out(self.session.rejected(code, message, topic))

    def on_time(self, now_s: float) -> None:
        """A deadline passed: of the handshake, of the session, or of a closing connection."""
        if self.session is None or self._codec is None or self._codec.state is not OPEN:
            self.abort()
            return
        self.carry_out(self.session.on_time(now_s))
        self._listener.schedule(self)

    def send_away(self, code: CloseCode, why: str, reconnect_after_ms: int) -> None:
        """Goaway and close; a connection still in its handshake is cut."""
        if self.session is None:
            self.abort()
        else:
            self.carry_out(self.session.leave(code, reconnect_after_ms=reconnect_after_ms, reason=why))

    def abort(self) -> None:
        self.write = _discard
        if self._transport is not None:
            self._transport.abort()

    def carry_out(self, actions: list[Action]) -> None:
        listener = self._listener
        node = listener.node
        for action in actions:
            if isinstance(action, Send):
                if isinstance(action.frame, ErrorFrame):
                    listener.metrics.count("error_frames")
                self.write(text_frame(action.frame))
            elif isinstance(action, Follow):
                if not listener.holds(self):
                    return  # answering the topic before filled the buffer: we are closing
                node.follow(self, action.topic, action.cursor, action.held)
            elif isinstance(action, Leave):
                node.leave(self, action.topic)
            elif isinstance(action, Acked):
                node.acked(self, action.topic, action.timestamp)
            elif isinstance(action, HoleReported):
                node.hole_reported(self, action.topic, action.timestamp)
            elif isinstance(action, Ping):
                self.write(_PING)
            elif isinstance(action, RenewToken):
                token, expires_at_s = listener.renew(action.grant)
                self.write(text_frame(TokenFrame(token)))
                assert self.session is not None
                self.session.renewed(expires_at_s)
            elif isinstance(action, Close):
                self.close(action.code, action.goaway)

    def close(self, code: CloseCode, goaway: GoawayFrame | None = None) -> None:
        """Start the closing handshake, after which nothing but the peer's close frame matters; idempotent."""
        codec, transport = self._codec, self._transport
        if codec is None or transport is None or codec.state is not OPEN:
            return
        if code is CloseCode.PONG_TIMEOUT:
            self._listener.metrics.count("closed_silent")
        if goaway is not None:
            self.write(text_frame(goaway))
        self.write = _discard
        codec.send_close(code, reason(code))
        self._flush(codec)
        self._listener.closing(self)

    # Requests.

    def _read_head(self, data: bytes) -> None:
        """Collect one request head, so that its whole size is bounded, then let the codec parse it."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        limit = self._listener.settings.max_request_head_bytes
        if end < 0:
            if len(self._head) > limit:
                self._refuse(Refuse(431, f"request head above {limit} bytes", "headers"))
            return
        if end + 4 > limit:
            self._refuse(Refuse(431, f"request head above {limit} bytes", "headers"))
            return
        method, _, rest = bytes(self._head[: end + 4]).partition(b" ")
        if method not in (b"GET",) and rest:
            # The codec refuses bodies; a method we never take needs no parsing.
            self._refuse(Refuse(405, "use GET", headers=(("Allow", "GET"),)))
            return
        self._codec = codec = ServerProtocol(
            subprotocols=_SUBPROTOCOLS, max_size=MAX_CLIENT_FRAME_BYTES, logger=_codec_log
        )
        head = bytes(self._head)
        self._head = bytearray()
        codec.receive_data(head)
        self._after_receive(codec)

    def _request(self, codec: ServerProtocol, request: Request) -> None:
        listener = self._listener
        verdict = judge_request(
            request.method,
            request.path,
            request.headers,
            verify=listener.verify,
            room=listener.room,
            retry_after_s=listener.settings.reconnect_window_ms // 1000,
        )
        if isinstance(verdict, Page):
            status, kind, body = listener.page(verdict.name)
            self._respond(status, kind, body)
        elif isinstance(verdict, Refuse):
            self._refuse(verdict)
        else:
            self._upgrade(codec, request, verdict)

    def _upgrade(self, codec: ServerProtocol, request: Request, verdict: Accept | RefuseAfterUpgrade) -> None:
        response = codec.accept(request)
        if response.status_code != 101:
            detail = bytes(response.body).decode(errors="replace").strip()
            self._refuse(Refuse(response.status_code, detail))
            return
        codec.send_response(response)
        self._flush(codec)
        assert self._transport is not None
        self.write = self._transport.write
        listener = self._listener
        if isinstance(verdict, Accept):
            self.session = session = listener.open_session(verdict.grant)
            welcome = session.welcome(node=listener.node_id, server_time_ms=listener.clock.now_ms())
            listener.accepted(self)
            self.write(text_frame(welcome))
            listener.welcomed(self)
        else:
            listener.metrics.count("refused")
            self.close(verdict.code, listener.draw_goaway(verdict.code) if verdict.goaway else None)

    def _refuse(self, refusal: Refuse) -> None:
        self._listener.metrics.count("refused")
        body = problem(refusal.status, refusal.detail, refusal.field)
        self._respond(refusal.status, "application/problem+json", body, refusal.headers)

    def _respond(self, status: int, kind: str, body: bytes, headers: tuple[tuple[str, str], ...] = ()) -> None:
        transport = self._transport
        if transport is None:
            return
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Type: {kind}"]
        lines += [f"Content-Length: {len(body)}", "Connection: close", "Cache-Control: no-store"]
        lines += [f"{name}: {value}" for name, value in headers]
        transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        transport.close()

    # Frames.

    def _after_receive(self, codec: ServerProtocol) -> None:
        for event in codec.events_received():
            if isinstance(event, Frame):
                self._frame(event)
            elif isinstance(event, Request):
                self._request(codec, event)
        if self.session is None and codec.handshake_exc is not None and codec.state is not OPEN:
            self._refuse(_unreadable(codec.handshake_exc))
            return
        if isinstance(codec.parser_exc, PayloadTooBig):
            # Said in the protocol's own form first: some clients show a close reason to nobody.
            message = f"frame: too large (at most {MAX_CLIENT_FRAME_BYTES} bytes)"
            self.write(text_frame(ErrorFrame(code="malformed_frame", message=message)))
        self._flush(codec)
        if codec.close_expected():
            self.write = _discard
            self._listener.closing(self)

    def _frame(self, frame: Frame) -> None:
        session = self.session
        if session is None or not self._listener.holds(self):
            return  # we are closing: whatever still arrives must not subscribe again
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.CONT:
            if not frame.fin:
                if frame.data:  # empty fragments would grow the list without counting against the limit
                    self._message.append(bytes(frame.data))
                return
            data = bytes(frame.data)
            if self._message:
                data = b"".join((*self._message, data))
                self._message = []
            self._text(session, data)
        elif opcode is Opcode.PONG:
            session.pong(self._listener.clock.monotonic_s())
            self._listener.schedule(self)
        elif opcode is Opcode.BINARY:
            self.close(CloseCode.UNSUPPORTED_DATA)

    def _text(self, session: Session, data: bytes) -> None:
        listener = self._listener
        actions = session.received(
            data,
            now_s=listener.clock.monotonic_s(),
            now_ms=listener.clock.now_ms(),
            latest_of=listener.node.latest_of,
            verify=listener.verify,
        )
        self.carry_out(actions)

    def _flush(self, codec: ServerProtocol) -> None:
        transport = self._transport
        for chunk in codec.data_to_send():
            if transport is None:
                return
            if chunk:
                transport.write(chunk)
            elif transport.can_write_eof():
                transport.write_eof()
