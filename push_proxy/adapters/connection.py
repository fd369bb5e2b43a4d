"""What all device connections have in common, whatever protocol they speak: session, congestion, deadlines, the end.

A connection begins when the head of its request was judged (`head_reader`), and is carried by the same transport.
Nearly every one is at rest nearly all the time and there are many: no object or number more than needed is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from contract.close_codes import CloseCode
from contract.frames import BroadcastFrame, ErrorFrame, GoawayFrame, ServerFrame, TokenFrame
from push_proxy.backlog import Backlog
from push_proxy.forms import Form, PreparedFrame
from push_proxy.metrics import StreamProtocol
from push_proxy.ports import DevicePort
from push_proxy.session import (
    Acked,
    Action,
    Close,
    Follow,
    Grant,
    HoleReported,
    Leave,
    Ping,
    RenewToken,
    Send,
    Session,
)
from push_proxy.timer_wheel import NOT_SET

if TYPE_CHECKING:
    from push_proxy.adapters.device_listener import DeviceListener
    from push_proxy.admission import Source
    from push_proxy.recovery import Subscription

__all__ = ["Connection", "discard"]


def discard(frames: bytes, /) -> None:
    """What `write` is once a connection is closing."""


class Connection(asyncio.Protocol):
    """Carries out a session's actions; a DevicePort itself where one connection is one stream of frames.

    A subclass says what its frames look like (`form`), how it pings, and how it ends (`finish`).
    """

    __slots__ = (
        "_backlog",
        "_listener",
        "_source",
        "_transport",
        "congested",
        "due_bucket",
        "fd",
        "form",
        "session",
        "subscriptions",
        "write",
    )
    protocol: ClassVar[StreamProtocol]

    def __init__(self, listener: DeviceListener, transport: asyncio.Transport, source: Source, form: Form) -> None:
        self._listener = listener
        self._source = source
        self._transport: asyncio.Transport | None = transport
        self._backlog: Backlog | None = None
        self.congested = False
        self.due_bucket = NOT_SET
        self.fd = -1
        self.form = form
        self.session: Session | None = None
        self.subscriptions: tuple[Subscription, ...] = ()
        self.write: Callable[[bytes], None] = transport.write

    # What a protocol adds.

    def ping(self) -> None:
        """Ask the device for a sign of life."""
        raise NotImplementedError

    def finish(self, code: CloseCode) -> None:
        """Write the protocol's own end, after which the device closes; the listener cuts off what does not."""
        raise NotImplementedError

    def ports(self) -> Iterable[DevicePort]:
        """The streams of frames of this connection."""
        return (self,)

    def port_of(self, topic: str) -> DevicePort:
        """The stream a topic was asked for on; called for topics of this connection only."""
        return self

    # From the head reader.

    def begin(self, grant: Grant | None, opening: bytes) -> None:
        """Answer the handshake with `opening` and greet the device; None: its token comes later."""
        assert grant is not None
        listener = self._listener
        now_s = listener.clock.monotonic_s()
        self.session = session = listener.open_session(self, grant, now_s)
        welcome = session.welcome(node=listener.node_id, server_time_ms=listener.clock.now_ms(), now_s=now_s)
        self.write(opening + self.form(welcome))
        listener.welcomed(self.ports())

    def refuse(self, code: CloseCode, goaway: GoawayFrame | None, opening: bytes) -> None:
        """Answer the handshake only to say goodbye in a form the device can read."""
        self.write(opening)
        if goaway is not None:
            self.write(self.form(goaway))
        self.finish(code)
        self.write = discard

    # DevicePort.

    def hold_back(self, frame: ServerFrame, /) -> None:
        backlog = self._backlog
        if backlog is None:
            return  # closing
        coalesced = backlog.add(frame)
        if coalesced is not None:
            self._listener.node.coalesced(coalesced.topic, coalesced.timestamp)
        if backlog.overflowing:
            self._slow()

    def send(self, frames: Sequence[PreparedFrame], /) -> None:
        if self.congested:
            for frame in frames:
                self.hold_back(frame.frame)
        elif len(frames) == 1:
            self.write(frames[0].in_form(self.form))
        else:
            form = self.form
            self.write(b"".join([frame.in_form(form) for frame in frames]))

    def spill(self, rest: bytes, /) -> None:
        raise NotImplementedError

    def unfollow(self, topic: str, code: str, message: str) -> None:
        if self.session is not None:
            self.session.forget(topic)
            self.carry_out(self.session.rejected(code, message, topic))

    # asyncio.Protocol

    def connection_lost(self, exc: Exception | None) -> None:
        self.write = discard
        self._transport = self._backlog = None
        self._listener.lost(self, self._source)

    def eof_received(self) -> bool:
        # A half-closed socket cannot be told from a vanished device for long: the whole connection ends.
        return False

    def pause_writing(self) -> None:
        """The kernel takes no more: from now on what is to be written is held back, coalesced and bounded."""
        if self.session is None or not self._listener.holds(self):
            return
        listener = self._listener
        self._backlog = Backlog(since_s=listener.clock.monotonic_s(), max_bytes=listener.settings.slow_consumer_bytes)
        self.congested = True
        for port in self.ports():
            listener.node.congested(port)
        listener.metrics.count("congested")
        listener.schedule(self)

    def resume_writing(self) -> None:
        """All that was written is with the kernel."""
        backlog = self._backlog
        self.congested = False
        self._backlog = None
        if backlog is None or not self._listener.holds(self):
            return
        node = self._listener.node
        for frame in backlog.frames():
            if self.congested:
                self.hold_back(frame)
            else:
                self.say(frame)
                if isinstance(frame, BroadcastFrame) and not frame.replayed:
                    node.written_late(frame.topic, frame.timestamp)
        if not self.congested:
            for port in self.ports():
                node.flowing(port)
        self._listener.schedule(self)

    # The listener's side.

    def next_deadline_s(self) -> float:
        """When `on_time` must be called next, monotonic."""
        assert self.session is not None
        due_s = self.session.next_deadline_s()
        if self._backlog is not None:
            due_s = min(due_s, self._backlog.since_s + self._listener.settings.slow_consumer_s)
        return due_s

    def on_time(self, now_s: float) -> None:
        """A deadline passed: of the session, of a slow consumer, or of a closing connection."""
        listener = self._listener
        session = self.session
        if session is None or not listener.holds(self):
            self.abort()
            return
        if self._backlog is not None:
            if now_s >= self._backlog.since_s + listener.settings.slow_consumer_s:
                self._slow()
                return
            session.put_off_ping(now_s)
        if session.only_ping_due(now_s):
            self.ping()
        else:
            listener.terms.put_off(session, now_s)
            self.carry_out(session.on_time(now_s))
        listener.schedule(self)

    def send_away(self, code: CloseCode, why: str) -> None:
        """Goaway and close: a drain."""
        if self.session is None:
            self.abort()
        else:
            self.carry_out(self.session.leave(code, reason=why))

    def abort(self) -> None:
        self.write = discard
        if self._transport is not None:
            self._transport.abort()

    def say(self, frame: ServerFrame) -> None:
        """Tell the device something of its session."""
        if self.congested:
            self.hold_back(frame)
        else:
            self.write(self.form(frame))

    def carry_out(self, actions: list[Action]) -> None:
        listener = self._listener
        node = listener.node
        for action in actions:
            if isinstance(action, Follow):
                if not listener.holds(self):
                    return  # answering the topic before filled the buffer: we are closing
                node.follow(self.port_of(action.topic), action.topic, action.cursor, action.held)
            elif isinstance(action, Send):
                if isinstance(action.frame, ErrorFrame):
                    listener.metrics.count("error_frames")
                self.say(action.frame)
            elif isinstance(action, Leave):
                node.leave(self.port_of(action.topic), action.topic)
            elif isinstance(action, Acked):
                node.acked(self.port_of(action.topic), action.topic, action.timestamp)
            elif isinstance(action, HoleReported):
                node.hole_reported(self.port_of(action.topic), action.topic, action.timestamp)
            elif isinstance(action, Ping):
                self.ping()
            elif isinstance(action, RenewToken):
                token, expires_at_s = listener.renew(action.grant)
                self.say(TokenFrame(token))
                assert self.session is not None
                self.session.renewed(expires_at_s)
            elif isinstance(action, Close):
                self.close(action.code, listener.goaway(action.goaway) if action.goaway else None)

    def close(self, code: CloseCode, goaway: GoawayFrame | None = None) -> None:
        """Say goodbye, after which nothing but the peer's own end matters; idempotent."""
        listener = self._listener
        if self._transport is None or self.write is discard:
            return
        self.congested = False
        self._backlog = None  # what waited is in the log: the device gets it where it goes next
        if goaway is not None:
            self.say(goaway)
        self.finish(code)
        self.write = discard
        listener.closing(self, code)

    def _slow(self) -> None:
        self._listener.metrics.count("closed_slow")
        self.close(CloseCode.SLOW_CONSUMER)
