"""From accept to the judged head of a request: a page, a refusal, or a connection that takes the transport over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from contract.errors import Unauthorized
from contract.frames import GRAPHQL_SUBPROTOCOL, SUBPROTOCOL
from push_proxy.adapters.graphql_connection import GraphqlConnection
from push_proxy.adapters.sse_connection import SseConnection
from push_proxy.adapters.stream_connection import StreamConnection
from push_proxy.handshake import Accept, Page, Refuse, RefuseSoftly, judge_request, problem
from push_proxy.judged_heads import CutHead, cut_head
from push_proxy.request_head import HeadBuffer, MalformedHead, RequestHead
from push_proxy.sse import response_head
from push_proxy.timer_wheel import NOT_SET
from push_proxy.websocket import accept_key, is_key

if TYPE_CHECKING:
    from push_proxy.adapters.connection import Connection
    from push_proxy.adapters.device_listener import DeviceListener
    from push_proxy.admission import Source
    from push_proxy.metrics import HandshakeOutcome, StreamProtocol

__all__ = ["MAX_UNREAD_BYTES", "HeadReader"]

MAX_UNREAD_BYTES: Final = 262_144
"""What a client may go on sending after its answer before it is cut off."""
_TOO_LARGE: Final = frozenset((414, 431))


def _upgrade(subprotocol: str) -> bytes:
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Protocol: {subprotocol}\r\nSec-WebSocket-Accept: %b\r\n\r\n"
    ).encode()


_UPGRADES: Final = {"v1": _upgrade(SUBPROTOCOL), "graphql": _upgrade(GRAPHQL_SUBPROTOCOL)}


_KINDS: Final[Mapping[StreamProtocol, Callable[[DeviceListener, asyncio.Transport, Source], Connection]]] = {
    "v1": StreamConnection,
    "graphql": GraphqlConnection,
}


class HeadReader(asyncio.Protocol):
    """One per connection that has not said yet what it wants. The listener's deadline ends those who never do."""

    __slots__ = (
        "_answered",
        "_buffer",
        "_cut",
        "_has_room",
        "_host",
        "_listener",
        "_source",
        "_transport",
        "_unread",
        "due_bucket",
    )

    def __init__(self, listener: DeviceListener, host: str | None = None) -> None:
        """`host`: the peer's address; None: the transport knows it."""
        self._listener = listener
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._buffer: HeadBuffer | None = None
        self._cut: CutHead | None = None
        self._source: Source | None = None
        self._has_room = False
        """Whether room was found for its stream, which counts as a handshake: asked once."""
        self._answered = False
        self._unread = 0
        """Bytes that came after the answer."""
        self.due_bucket = NOT_SET

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        host = self._host
        if host is None:
            peer = transport.get_extra_info("peername")
            host = peer[0] if peer else ""
        self._source = self._listener.opened(self, host)
        if self._source is None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None and self._source is not None:
            if self._buffer is not None and not self._answered:  # who asked for nothing is no request that was lost
                self._listener.refused("lost")
            self._listener.head_lost(self, self._source)
        self._transport = None

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self._answered:
            self._unread += len(data)
            if self._unread > MAX_UNREAD_BYTES:
                self._transport.abort()
            return
        buffer = self._buffer
        if buffer is None:
            # A head nearly always comes in one piece, and looks like one that was judged before.
            cut = cut_head(data)
            if cut is not None and self._begin_as_before(cut):
                return
            self._cut = cut
            buffer = self._buffer = HeadBuffer(self._listener.settings.max_request_head_bytes)
        else:
            self._cut = None
        try:
            request = buffer.feed(data)
        except MalformedHead as exc:
            outcome: HandshakeOutcome = "too_large" if exc.status in _TOO_LARGE else "malformed"
            self._refuse(Refuse(exc.status, exc.detail, exc.field, outcome=outcome))
            return
        if request is not None:
            self._judge(request, buffer.rest)

    def _begin_as_before(self, cut: CutHead) -> bool:
        """Begin a stream if heads of this shape do; False: judge it whole."""
        listener, source, transport = self._listener, self._source, self._transport
        protocol = listener.judged_heads.protocol(cut.shape)
        if protocol is None or source is None or transport is None or not is_key(cut.key):
            return False
        if listener.room(source) != "yes":
            return False
        try:
            grant = listener.verify(cut.token.decode("latin-1"))
        except Unauthorized:
            self._has_room = True
            return False
        connection = _KINDS[protocol](listener, transport, source)
        self._hand_over(transport, connection)
        connection.begin(grant, _UPGRADES[protocol] % accept_key(cut.key))
        return True

    def on_time(self, now_s: float) -> None:
        """The handshake's deadline, or that of a refusal nobody reads."""
        if self._transport is not None and not self._answered:
            self._listener.refused("late")
        self.abort()

    def abort(self) -> None:
        self._answered = True  # as far as it will be
        if self._transport is not None:
            self._transport.abort()

    def _judge(self, request: RequestHead, rest: bytes) -> None:
        listener, source = self._listener, self._source
        assert source is not None
        verdict = judge_request(
            request,
            verify=listener.verify,
            room=lambda: "yes" if self._has_room else listener.room(source),
            retry_after_s=listener.terms.retry_after_s,
            origin_allowed=listener.origin_allowed,
            check_events=listener.check_events,
        )
        if isinstance(verdict, Accept):
            if self._cut is not None and verdict.by_header and verdict.protocol != "sse":
                listener.judged_heads.learn(self._cut.shape, verdict.protocol)
            connection = self._switch(request, verdict)
            connection.begin(verdict.grant, _opening(request, verdict.protocol))
            if rest:
                connection.data_received(rest)
        elif isinstance(verdict, Page):
            self._respond(*listener.page(verdict.name), headers=verdict.headers)
        elif isinstance(verdict, RefuseSoftly):
            listener.refused(verdict.outcome)
            connection = self._switch(request, verdict)
            goaway = listener.goaway(verdict.why) if verdict.why is not None else None
            connection.refuse(verdict.code, goaway, _opening(request, verdict.protocol))
            listener.parting(connection)
        else:
            self._refuse(verdict, with_body=request.method != "HEAD")

    def _switch(self, request: RequestHead, verdict: Accept | RefuseSoftly) -> Connection:
        """Hand the transport over; from here on this object is done."""
        transport, source = self._transport, self._source
        assert transport is not None
        assert source is not None
        connection: Connection
        if verdict.events is not None:
            connection = SseConnection(self._listener, transport, source, verdict.events)
        else:
            connection = _KINDS[verdict.protocol](self._listener, transport, source)
        self._hand_over(transport, connection)
        return connection

    def _hand_over(self, transport: asyncio.Transport, connection: Connection) -> None:
        transport.set_protocol(connection)
        self._transport = None
        self._listener.replaced(self)

    def _refuse(self, refusal: Refuse, *, with_body: bool = True) -> None:
        self._listener.refused(refusal.outcome)
        body = problem(refusal.status, refusal.detail, refusal.field)
        self._respond(refusal.status, "application/problem+json", body, refusal.headers, with_body=with_body)

    def _respond(
        self,
        status: int,
        kind: str,
        body: bytes,
        headers: tuple[tuple[str, str], ...] = (),
        *,
        with_body: bool = True,
    ) -> None:
        transport = self._transport
        assert transport is not None
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        if status != HTTPStatus.NO_CONTENT:  # which must not name a length (RFC 9110, 8.6)
            lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
        lines += ["Connection: close", "Cache-Control: no-store"]
        lines += [f"{name}: {value}" for name, value in headers]
        transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + (body if with_body else b""))
        self._answered = True
        if transport.can_write_eof():
            # Closing now would reset a client that is still sending, and lose it the answer: it closes, or a deadline.
            transport.write_eof()
            self._listener.answered(self)
        else:
            transport.close()


def _opening(request: RequestHead, protocol: StreamProtocol) -> bytes:
    """The head of the answer with which a stream begins."""
    if protocol == "sse":
        return response_head(request.get(b"origin"))
    return _UPGRADES[protocol] % accept_key(request.get(b"sec-websocket-key") or b"")
