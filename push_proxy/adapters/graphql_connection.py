"""A device that speaks graphql-transport-ws: one connection, one session, and a stream of frames per operation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Final, cast

from contract.close_codes import CloseCode, GraphqlCloseCode, graphql_close_code, reason
from contract.frames import ErrorFrame, GoawayFrame, ServerFrame, TokenFrame
from push_proxy.adapters.connection import discard
from push_proxy.adapters.websocket_connection import WebSocketConnection
from push_proxy.forms import PreparedFrame
from push_proxy.graphql_documents import Documents, GraphqlForm, stream_schema
from push_proxy.graphql_stream import (
    PING,
    Alive,
    Asking,
    Begin,
    Carry,
    Drop,
    End,
    GraphqlStream,
    Open,
    Operation,
    Pong,
    Reply,
    complete_message,
)
from push_proxy.session import Action, Grant, Send
from push_proxy.websocket import PING as WEBSOCKET_PING
from push_proxy.websocket import close_frame, text_frame

if TYPE_CHECKING:
    from push_proxy.adapters.device_listener import DeviceListener
    from push_proxy.admission import Source
    from push_proxy.metrics import HandshakeOutcome
    from push_proxy.ports import DevicePort
    from push_proxy.recovery import Subscription

__all__ = ["GraphqlConnection", "OperationPort", "stream_documents"]

_BOTH_PINGS: Final = WEBSOCKET_PING + text_frame(PING)
"""The browser answers the first, and nobody else sees it; the second shows a page that its node lives."""
_MAX_REASON_BYTES: Final = 123
_OUTCOMES: Final[Mapping[CloseCode | GraphqlCloseCode, HandshakeOutcome]] = {
    CloseCode.BAD_TOKEN: "unauthorized",
    GraphqlCloseCode.UNAUTHORIZED: "unauthorized",
    GraphqlCloseCode.INIT_TIMEOUT: "late",
}
"""What became of a handshake whose second half, connection_init, did not come or was no good."""


def stream_documents() -> Documents:
    """Documents against `contract/broadcasts.graphql`; one per node. Reads that file."""
    sdl = resources.files("contract").joinpath("broadcasts.graphql").read_text(encoding="utf-8")
    return Documents(stream_schema(sdl))


class OperationPort(Operation):
    """DevicePort of one operation: frames are payloads, wrapped with the operation's id on their way out."""

    __slots__ = ("_connection", "congested", "fd", "subscriptions")

    def __init__(
        self, connection: GraphqlConnection, prefix: bytes, form: GraphqlForm, topics: tuple[str, ...]
    ) -> None:
        super().__init__(prefix, form, topics)
        self._connection = connection
        self.congested = connection.congested
        self.fd = -1
        self.subscriptions: tuple[Subscription, ...] = ()

    def write(self, frame: bytes, /) -> None:
        self._connection.write(text_frame(self.prefix + frame + b"}"))

    def send(self, frames: Sequence[PreparedFrame], /) -> None:
        if self.congested:
            for frame in frames:
                self._connection.hold_back(frame.frame)
        else:
            prefix, form = self.prefix, self.form
            self._connection.write(b"".join([text_frame(prefix + frame.in_form(form) + b"}") for frame in frames]))

    def hold_back(self, frame: ServerFrame, /) -> None:
        self._connection.hold_back(frame)

    def spill(self, rest: bytes, /) -> None:
        raise NotImplementedError

    def unfollow(self, topic: str, code: str, message: str) -> None:
        self._connection.lose(topic, code, message)


class GraphqlConnection(WebSocketConnection):
    """What `GraphqlStream` decides, carried out. A topic belongs to one operation, so one backlog serves them all."""

    __slots__ = ("_stream", "_untold_token")
    protocol = "graphql"

    def __init__(self, listener: DeviceListener, transport: asyncio.Transport, source: Source) -> None:
        super().__init__(listener, transport, source, _no_form)
        self._stream: GraphqlStream | None = None
        self._untold_token: TokenFrame | None = None
        """Renewed while no operation ran; told with the next one's welcome."""

    # Handshake.

    def begin(self, grant: Grant | None, opening: bytes) -> None:
        self.write(opening)
        self._stream = GraphqlStream(grant)
        self._listener.waits_for_token(self)

    def refuse(self, code: CloseCode, goaway: GoawayFrame | None, opening: bytes) -> None:
        self.write(opening + _close_frame(code, _reason(code, goaway)))
        self.write = discard

    # Messages.

    def text(self, data: bytes) -> None:
        listener, stream = self._listener, self._stream
        if stream is None:
            return
        asking = Asking(
            listener.documents,
            now_s=listener.clock.monotonic_s(),
            now_ms=listener.clock.now_ms(),
            latest_of=listener.node.latest_of,
            verify=listener.verify,
            operation=self._operation,
        )
        for action in stream.received(data, self.session, asking):
            if isinstance(action, Begin):
                self._begin(cast("OperationPort", action.operation), action.actions, asking)
            elif isinstance(action, End):
                self._end(cast("OperationPort", action.operation))
            elif isinstance(action, Pong):
                # As with RFC 6455's: a flood of pings from one who does not read must not fill our memory.
                if not self.congested:
                    self.write(text_frame(action.message))
            elif isinstance(action, Reply):
                if action.errors:
                    listener.metrics.count("error_frames", action.errors)
                self.write(text_frame(action.message))
            elif isinstance(action, Carry):
                self.carry_out(list(action.actions))
            elif isinstance(action, Alive):
                if self.session is not None:
                    self.session.pong(asking.now_s)
                    listener.schedule(self)
            elif isinstance(action, Open):
                self.session = listener.open_session(self, action.grant, asking.now_s)
                if self._transport is not None and self._transport.get_write_buffer_size():
                    self.pause_writing()  # what was said so far waits: that was told to nobody
            else:
                self._drop(action)

    def _operation(self, prefix: bytes, form: GraphqlForm, topics: tuple[str, ...]) -> OperationPort:
        return OperationPort(self, prefix, form, topics)

    def _begin(self, port: OperationPort, actions: Sequence[Action], asking: Asking) -> None:
        """Welcome first, then what was refused, then what is followed: its verdict and frames come at once or later."""
        listener, session = self._listener, self.session
        assert session is not None
        first: list[ServerFrame] = [
            session.welcome(
                node=listener.node_id,
                server_time_ms=asking.now_ms,
                now_s=asking.now_s,
                reconnect_window_ms=listener.terms.reconnect_window_ms,
            )
        ]
        if self._untold_token is not None:
            first.append(self._untold_token)
            self._untold_token = None
        refused = [a.frame for a in actions if isinstance(a, Send)]
        listener.metrics.count("error_frames", len(refused))
        for frame in (*first, *refused):
            port.write(port.form(frame))
        listener.welcomed((port,))
        self.carry_out([action for action in actions if not isinstance(action, Send)])

    def _end(self, port: OperationPort) -> None:
        if self.session is not None:
            for topic in port.topics:
                self.session.forget(topic)
        self._listener.node.dropped(port)

    # The node's side.

    def ports(self) -> Iterable[DevicePort]:
        return cast("Iterable[OperationPort]", self._stream.operations) if self._stream is not None else ()

    def port_of(self, topic: str) -> DevicePort:
        assert self._stream is not None
        port = self._stream.owner(topic)
        assert isinstance(port, OperationPort)
        return port

    def say(self, frame: ServerFrame) -> None:
        if self.congested and not isinstance(frame, ErrorFrame):  # after an error its operation may be over
            self.hold_back(frame)
            return
        topic = getattr(frame, "topic", None)
        for port in cast("Iterable[OperationPort]", self.ports()):
            if topic is None or topic in port.topics:
                port.write(port.form(frame))
        if isinstance(frame, TokenFrame) and not any(True for _ in self.ports()):
            self._untold_token = frame

    def lose(self, topic: str, code: str, message: str) -> None:
        """A topic of an operation cannot be followed after all; the operation ends with its last."""
        session, stream = self.session, self._stream
        if session is None or stream is None:
            return
        session.forget(topic)
        self.carry_out(session.rejected(code, message, topic))
        over = stream.lost(topic)
        if over is not None:
            self.write(text_frame(complete_message(over.prefix)))

    # asyncio.Protocol

    def connection_lost(self, exc: Exception | None) -> None:
        if self.session is None and self.write is not discard:
            self._listener.refused("lost")
        super().connection_lost(exc)
        # Its operations know it, too: kept, they would all wait for the collector of cycles.
        self._stream = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._tell_congestion(self.congested)

    def resume_writing(self) -> None:
        self._tell_congestion(False)
        super().resume_writing()

    def _tell_congestion(self, congested: bool) -> None:
        for port in self.ports():
            port.congested = congested

    # The end.

    def ping(self) -> None:
        self.write(_BOTH_PINGS)

    def on_time(self, now_s: float) -> None:
        if self.session is None and self.write is not discard:
            self._drop(Drop(GraphqlCloseCode.INIT_TIMEOUT, "Connection initialisation timeout"))
        else:
            super().on_time(now_s)

    def close(self, code: CloseCode, goaway: GoawayFrame | None = None) -> None:
        if self._transport is None or self.write is discard:
            return
        self.congested = False
        self._backlog = None  # what waited is in the log: the device gets it where it goes next
        if goaway is not None:
            self.say(goaway)
        self._drop(Drop(code, _reason(code, goaway)))

    def _drop(self, drop: Drop) -> None:
        """Close with a code and a reason of this protocol; idempotent."""
        listener = self._listener
        if self._transport is None or self.write is discard:
            return
        if self.session is None:
            listener.refused(_OUTCOMES.get(drop.code, "malformed"))
        self.congested = False
        self._backlog = None
        self.write(_close_frame(drop.code, drop.reason))
        self.write = discard
        listener.closing(self, drop.code)


def _reason(code: CloseCode, goaway: GoawayFrame | None) -> str:
    """Whoever runs no operation, or was refused, learns from it when to be back."""
    why = "messages are JSON in text frames" if code is CloseCode.UNSUPPORTED_DATA else reason(code)
    return why if goaway is None else f"{why}; reconnect_after_ms={goaway.reconnect_after_ms}"


def _close_frame(code: CloseCode | GraphqlCloseCode, why: str) -> bytes:
    """With as much of the reason as a close frame holds, cut between characters."""
    number = graphql_close_code(code) if isinstance(code, CloseCode) else code
    return close_frame(number, why.encode()[:_MAX_REASON_BYTES].decode(errors="ignore"))


def _no_form(frame: ServerFrame) -> bytes:
    raise AssertionError("an operation has a form, its connection has none")
