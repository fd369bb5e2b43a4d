"""One device session, pure: events in, actions out. No clock, no chance, no socket.

Events: `received` (a text frame), `rejected` (something the node found out later), `alive` (anything arrived),
`on_time` (a deadline passed). Actions are values the shell carries out in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from contract.close_codes import CloseCode
from contract.cursor import Cursor, check_cursor
from contract.errors import BroadcastSystemError, MalformedCursor, MalformedFrame, Unauthorized
from contract.frames import (
    MAX_TOPICS_PER_CONNECTION,
    AckFrame,
    AuthFrame,
    ErrorFrame,
    GoawayFrame,
    Held,
    HoleFrame,
    ServerFrame,
    SubscribeFrame,
    UnsubscribeFrame,
    WelcomeFrame,
    decode_client_frame,
)

__all__ = [
    "MAX_TOPIC_CHARS",
    "Acked",
    "Action",
    "Close",
    "Follow",
    "Grant",
    "HoleReported",
    "Leave",
    "Ping",
    "RenewToken",
    "Send",
    "Session",
    "SessionTerms",
]

MAX_TOPIC_CHARS = 128
"""Longer than any legal topic; such a name is unknown without asking anybody."""
_NEVER = float("inf")
_CLOCK_DOUBT_MS = 24 * 60 * 60 * 1000
"""No clock of ours is thought to be further off. Within it the node judges a cursor once it has read the log."""
LatestOf = Callable[[str], int | None]
"""Newest timestamp a node knows of a topic; None while it did not read the topic's log."""


class Grant(NamedTuple):
    """What a verified token allows."""

    subject: str
    device: str
    expires_at_s: float
    """On the node's monotonic clock."""
    topics: frozenset[str] | None = None
    """None: any topic."""


class SessionTerms(NamedTuple):
    """What the node grants one connection; everything random was drawn by the caller."""

    lifetime_s: float
    first_ping_s: float
    ping_s: float
    pong_deadline_s: float
    subscribe_deadline_s: float
    reconnect_after_ms: int
    """When this device should be back after its lifetime ended."""
    reconnect_window_ms: int
    refetch_window_ms: int
    max_errors: int
    renew_before_s: float
    """How long before its end a token is renewed in-band; 0: never."""


class Send(NamedTuple):
    frame: ServerFrame


class Follow(NamedTuple):
    topic: str
    cursor: Cursor
    held: Held | None


class Leave(NamedTuple):
    topic: str


class Acked(NamedTuple):
    topic: str
    timestamp: int


class HoleReported(NamedTuple):
    topic: str
    timestamp: int


class Ping(NamedTuple):
    pass


class RenewToken(NamedTuple):
    """Sign a new token for this grant, send it, and tell the session with `renewed`."""

    grant: Grant


class Close(NamedTuple):
    code: CloseCode
    goaway: GoawayFrame | None = None


Action = Send | Follow | Leave | Acked | HoleReported | Ping | RenewToken | Close


class Session:
    """State of one authenticated connection."""

    __slots__ = (
        "_awaiting_pong",
        "_closed",
        "_errors",
        "_lifetime_end_s",
        "_next_ping_s",
        "_subscribe_by_s",
        "_terms",
        "grant",
        "topics",
    )

    def __init__(self, grant: Grant, terms: SessionTerms, *, now_s: float) -> None:
        self.grant = grant
        self.topics: set[str] = set()
        self._terms = terms
        self._errors = 0
        self._closed = False
        self._awaiting_pong = False
        self._subscribe_by_s = now_s + terms.subscribe_deadline_s
        self._lifetime_end_s = now_s + terms.lifetime_s
        self._next_ping_s = now_s + terms.first_ping_s

    def welcome(self, *, node: str, server_time_ms: int) -> WelcomeFrame:
        """The first frame of every session."""
        terms = self._terms
        return WelcomeFrame(
            node=node,
            server_time=server_time_ms,
            lifetime_s=round(terms.lifetime_s, 3),
            ping_s=terms.ping_s,
            reconnect_window_ms=terms.reconnect_window_ms,
            refetch_window_ms=terms.refetch_window_ms,
        )

    # Frames of the device.

    def received(
        self,
        data: bytes,
        *,
        now_s: float,
        now_ms: int,
        latest_of: LatestOf,
        verify: Callable[[str], Grant],
    ) -> list[Action]:
        """One text frame. `verify` raises Unauthorized."""
        if self._closed:
            return []
        try:
            frame = decode_client_frame(data)
        except MalformedFrame as exc:
            return self.rejected(exc.code, str(exc))
        if isinstance(frame, SubscribeFrame):
            return self._subscribe(frame, now_ms, latest_of)
        if isinstance(frame, AckFrame):
            return self._about_topic("ack", frame.topic, frame.timestamp, latest_of)
        if isinstance(frame, HoleFrame):
            return self._about_topic("hole", frame.topic, frame.timestamp, latest_of)
        if isinstance(frame, UnsubscribeFrame):
            return self._unsubscribe(frame)
        assert isinstance(frame, AuthFrame)
        return self._authenticate(frame, verify)

    def rejected(self, code: str, message: str, topic: str | None = None) -> list[Action]:
        """An error frame, and the end of the session when there were too many."""
        if self._closed:
            return []
        self._errors += 1
        shown = topic[:MAX_TOPIC_CHARS] if topic is not None else None
        actions: list[Action] = [Send(ErrorFrame(code=code, message=message[:400], topic=shown))]
        if self._errors >= self._terms.max_errors:
            actions.append(self._close(CloseCode.TOO_MANY_ERRORS))
        return actions

    def forget(self, topic: str) -> None:
        """The node could not follow a topic after all."""
        self.topics.discard(topic)

    def _subscribe(self, frame: SubscribeFrame, now_ms: int, latest_of: LatestOf) -> list[Action]:
        if not frame.topics:
            return self.rejected("malformed_frame", "topics: empty (name at least one topic)")
        total = len(self.topics.union(frame.topics))
        if total > MAX_TOPICS_PER_CONNECTION:
            message = f"topics: {total} topics (at most {MAX_TOPICS_PER_CONNECTION} per connection)"
            return self.rejected("too_many_topics", message)
        actions: list[Action] = []
        for topic, cursor in frame.topics.items():
            actions.extend(self._subscribe_one(topic, cursor, frame.held.get(topic), now_ms, latest_of))
            if self._closed:
                break
        return actions

    def _subscribe_one(
        self, topic: str, cursor: Cursor, held: Held | None, now_ms: int, latest_of: LatestOf
    ) -> list[Action]:
        if not topic or len(topic) > MAX_TOPIC_CHARS:
            return self.rejected("unknown_topic", f"topics: no such topic (1-{MAX_TOPIC_CHARS} characters)", topic)
        if self.grant.topics is not None and topic not in self.grant.topics:
            return self.rejected("forbidden_topic", f"topics[{topic}]: the token does not allow this topic", topic)
        try:
            latest = latest_of(topic)
            # While the topic's log is yet to be read our clock is the only witness, and may be the one that is wrong.
            known = now_ms + _CLOCK_DOUBT_MS if latest is None else latest
            check_cursor(cursor, now_ms=now_ms, latest=known, field=f"topics[{topic}]")
        except MalformedCursor as exc:
            code = "cursor_in_future" if cursor is not None and cursor > 0 else exc.code
            return self.rejected(code, str(exc), topic)
        self.topics.add(topic)
        self._subscribe_by_s = _NEVER
        return [Follow(topic, cursor, held)]

    def _unsubscribe(self, frame: UnsubscribeFrame) -> list[Action]:
        leaving = [topic for topic in dict.fromkeys(frame.topics) if topic in self.topics]
        self.topics.difference_update(leaving)
        return [Leave(topic) for topic in leaving]

    def _about_topic(self, kind: str, topic: str, timestamp: int, latest_of: LatestOf) -> list[Action]:
        if topic not in self.topics:
            return self.rejected("not_subscribed", f"topic: {kind} for a topic this connection does not follow", topic)
        if not 0 < timestamp <= (latest_of(topic) or 0):
            return []  # heard on another connection of this device: that node counts it
        return [Acked(topic, timestamp) if kind == "ack" else HoleReported(topic, timestamp)]

    def _authenticate(self, frame: AuthFrame, verify: Callable[[str], Grant]) -> list[Action]:
        try:
            grant = verify(frame.token)
        except Unauthorized as exc:
            return self.rejected(exc.code, str(exc))
        except BroadcastSystemError as exc:
            return self.rejected(exc.code, str(exc))
        if (grant.subject, grant.device) != (self.grant.subject, self.grant.device):
            return self.rejected("unauthorized", "token: of another device (renew the one this connection began with)")
        self.grant = grant
        lost = [topic for topic in sorted(self.topics) if grant.topics is not None and topic not in grant.topics]
        self.topics.difference_update(lost)
        actions: list[Action] = []
        for topic in lost:
            actions.append(Leave(topic))
            actions.extend(self.rejected("forbidden_topic", "the new token does not allow this topic", topic))
        return actions

    def renewed(self, expires_at_s: float) -> None:
        """A new token was sent to the device."""
        self.grant = self.grant._replace(expires_at_s=expires_at_s)

    # Time.

    def alive(self) -> None:
        """Anything arrived from the device."""
        self._awaiting_pong = False

    def next_deadline_s(self) -> float:
        """When `on_time` must be called next, monotonic."""
        renew_at_s = self._renew_at_s()
        return min(self._subscribe_by_s, self._lifetime_end_s, self._next_ping_s, self.grant.expires_at_s, renew_at_s)

    def on_time(self, now_s: float) -> list[Action]:
        """Deadlines that passed; harmless when called early."""
        if self._closed:
            return []
        if now_s >= self._lifetime_end_s:
            terms = self._terms
            return [self._close(CloseCode.LIFETIME, terms.reconnect_after_ms)]
        if now_s >= self.grant.expires_at_s:
            return [self._close(CloseCode.TOKEN_EXPIRED_RENEWABLE)]
        if now_s >= self._subscribe_by_s:
            return [self._close(CloseCode.NO_SUBSCRIBE)]
        actions: list[Action] = []
        if now_s >= self._renew_at_s():
            actions.append(RenewToken(self.grant))
        if now_s >= self._next_ping_s:
            if self._awaiting_pong:
                return [*actions, self._close(CloseCode.PONG_TIMEOUT)]
            self._awaiting_pong = True
            self._next_ping_s = now_s + self._terms.pong_deadline_s
            actions.append(Ping())
        return actions

    def pong(self, now_s: float) -> None:
        """The answer to our ping: the next one is a full interval away."""
        self._awaiting_pong = False
        self._next_ping_s = now_s + self._terms.ping_s

    def leave(self, code: CloseCode, *, reconnect_after_ms: int, reason: str) -> list[Action]:
        """The node wants this connection gone: drain."""
        if self._closed:
            return []
        return [self._close(code, reconnect_after_ms, reason)]

    def _renew_at_s(self) -> float:
        before_s = self._terms.renew_before_s
        return self.grant.expires_at_s - before_s if before_s > 0 else _NEVER

    def _close(self, code: CloseCode, reconnect_after_ms: int | None = None, reason: str = "lifetime") -> Close:
        assert not self._closed
        self._closed = True
        if reconnect_after_ms is None:
            return Close(code)
        window_ms = self._terms.reconnect_window_ms
        return Close(code, GoawayFrame(reason=reason, reconnect_after_ms=reconnect_after_ms, window_ms=window_ms))
