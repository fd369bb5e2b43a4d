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
    ClientFrame,
    ErrorFrame,
    Held,
    HoleFrame,
    ServerFrame,
    SubscribeFrame,
    UnsubscribeFrame,
    WelcomeFrame,
    decode_client_frame,
)
from push_proxy.renewal import draw_renew_lead_s

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
    "judge_cursor",
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

    identity: str
    """Subject and device, as one string: every connection keeps it, and nearly never looks at it."""
    expires_at_s: float
    """On the node's monotonic clock."""
    topics: frozenset[str] | None = None
    """None: any topic."""

    @classmethod
    def of(cls, subject: str, device: str, expires_at_s: float, topics: frozenset[str] | None = None) -> Grant:
        return cls(f"{subject}\0{device}", expires_at_s, topics)

    @property
    def subject(self) -> str:
        return self.identity.rpartition("\0")[0]

    @property
    def device(self) -> str:
        return self.identity.rpartition("\0")[2]


class SessionTerms(NamedTuple):
    """What the node grants every connection alike: one object for all of them."""

    ping_s: float
    pong_deadline_s: float
    subscribe_deadline_s: float
    reconnect_window_ms: int
    refetch_window_ms: int
    max_errors: int
    renew_before_s: float
    """Over how long before its end tokens are renewed in-band; 0: never."""
    expiry_spread_s: float
    """Over how long after their end connections are closed whose token was not renewed."""


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
    goaway: str | None = None
    """Send a goaway with this reason before it; the shell draws when this device should be back (R21)."""


Action = Send | Follow | Leave | Acked | HoleReported | Ping | RenewToken | Close


def judge_cursor(cursor: Cursor, *, now_ms: int, latest: int | None, field: str) -> None:
    """Raise MalformedCursor for one that is negative or from the future; `latest` is None while nobody can tell.

    While the topic's log is yet to be read our clock is the only witness, and may be the one that is wrong.
    """
    known = now_ms + _CLOCK_DOUBT_MS if latest is None else latest
    check_cursor(cursor, now_ms=now_ms, latest=known, field=field)


class Session:
    """State of one authenticated connection."""

    __slots__ = (
        "_awaiting_pong",
        "_calm_until_s",
        "_closed",
        "_draw",
        "_errors",
        "_expiry_put_off_s",
        "_lifetime_end_s",
        "_next_ping_s",
        "_pinged",
        "_subscribe_by_s",
        "_terms",
        "grant",
        "topics",
    )

    def __init__(
        self, grant: Grant, terms: SessionTerms, *, now_s: float, lifetime_s: float, first_ping_s: float, draw: float
    ) -> None:
        """`lifetime_s` and `first_ping_s` were drawn for this connection; so was `draw`, uniform over [0, 1).

        All times are monotonic.
        """
        self.grant = grant
        self.topics: tuple[str, ...] = ()
        self._terms = terms
        self._errors = 0
        self._closed = False
        self._awaiting_pong = False
        self._pinged = False
        self._subscribe_by_s = now_s + terms.subscribe_deadline_s
        self._draw = draw
        self._lifetime_end_s = now_s + lifetime_s
        self._expiry_put_off_s: float | None = None
        self._next_ping_s = now_s + first_ping_s
        self._calm_until_s = self._calm_until()
        """Until then it is neither sent away nor is its token renewed: known beforehand, and asked at every ping."""

    def welcome(
        self, *, node: str, server_time_ms: int, now_s: float, reconnect_window_ms: int | None = None
    ) -> WelcomeFrame:
        """The first frame of every session. One that is welcomed again later is told the window of then."""
        terms = self._terms
        return WelcomeFrame(
            node=node,
            server_time=server_time_ms,
            lifetime_s=round(self._lifetime_end_s - now_s, 3),
            ping_s=terms.ping_s,
            reconnect_window_ms=terms.reconnect_window_ms if reconnect_window_ms is None else reconnect_window_ms,
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
        read: Callable[[bytes], ClientFrame] = decode_client_frame,
    ) -> list[Action]:
        """One text frame. `verify` raises Unauthorized, `read` MalformedFrame."""
        if self._closed:
            return []
        try:
            frame = read(data)
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
        self.topics = tuple(known for known in self.topics if known != topic)

    def _subscribe(self, frame: SubscribeFrame, now_ms: int, latest_of: LatestOf) -> list[Action]:
        if not frame.topics:
            return self.rejected("malformed_frame", "topics: empty (name at least one topic)")
        total = len({*self.topics, *frame.topics})
        if total > MAX_TOPICS_PER_CONNECTION:
            message = f"topics: {total} topics (at most {MAX_TOPICS_PER_CONNECTION} per connection)"
            return self.rejected("too_many_topics", message)
        actions: list[Action] = []
        allowed, held = self.grant.topics, frame.held
        for topic, cursor in frame.topics.items():
            latest = latest_of(topic)
            good = cursor is not None and latest is not None and 0 <= cursor <= latest
            if good and (allowed is None or topic in allowed):
                # Nearly every subscribe: the node follows the topic already, so its name is good, and the cursor is.
                actions.append(self._following(topic, cursor, held.get(topic)))
                continue
            actions.extend(self._subscribe_one(topic, cursor, held.get(topic), now_ms, latest))
            if self._closed:
                break
        return actions

    def _subscribe_one(
        self, topic: str, cursor: Cursor, held: Held | None, now_ms: int, latest: int | None
    ) -> list[Action]:
        if not topic or len(topic) > MAX_TOPIC_CHARS:
            return self.rejected("unknown_topic", f"topics: no such topic (1-{MAX_TOPIC_CHARS} characters)", topic)
        if self.grant.topics is not None and topic not in self.grant.topics:
            return self.rejected("forbidden_topic", f"topics[{topic}]: the token does not allow this topic", topic)
        try:
            judge_cursor(cursor, now_ms=now_ms, latest=latest, field=f"topics[{topic}]")
        except MalformedCursor as exc:
            code = "cursor_in_future" if cursor is not None and cursor > 0 else exc.code
            return self.rejected(code, str(exc), topic)
        return [self._following(topic, cursor, held)]

    def _following(self, topic: str, cursor: Cursor, held: Held | None) -> Follow:
        if topic not in self.topics:
            self.topics = (*self.topics, topic)
        self._subscribe_by_s = _NEVER
        return Follow(topic, cursor, held)

    def _unsubscribe(self, frame: UnsubscribeFrame) -> list[Action]:
        leaving = [topic for topic in dict.fromkeys(frame.topics) if topic in self.topics]
        self.topics = tuple(topic for topic in self.topics if topic not in leaving)
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
        if grant.identity != self.grant.identity:
            return self.rejected("unauthorized", "token: of another device (renew the one this connection began with)")
        self._hold(grant)
        lost = [topic for topic in sorted(self.topics) if grant.topics is not None and topic not in grant.topics]
        self.topics = tuple(topic for topic in self.topics if topic not in lost)
        actions: list[Action] = []
        for topic in lost:
            actions.append(Leave(topic))
            actions.extend(self.rejected("forbidden_topic", "the new token does not allow this topic", topic))
        return actions

    def renewed(self, expires_at_s: float) -> None:
        """A new token was sent to the device."""
        self._hold(self.grant._replace(expires_at_s=expires_at_s))

    # Time.

    def alive(self) -> None:
        """Anything arrived from the device."""
        self._awaiting_pong = False

    def next_deadline_s(self) -> float:
        """When `on_time` must be called next, monotonic."""
        return min(self._subscribe_by_s, self._calm_until_s, self._next_ping_s)

    def on_time(self, now_s: float) -> list[Action]:
        """Deadlines that passed; harmless when called early."""
        if self._closed:
            return []
        if now_s >= self._lifetime_end_s:
            return [self._close(CloseCode.LIFETIME, "lifetime")]
        actions: list[Action] = []
        if now_s >= self._renew_at_s():
            # Before its expiry is judged: who came back within the grace has an expired token, and is here for this.
            actions.append(RenewToken(self.grant))
        elif now_s >= self._expiry_close_s():
            return [self._close(CloseCode.TOKEN_EXPIRED_RENEWABLE)]
        if now_s >= self._subscribe_by_s:
            return [*actions, self._close(CloseCode.NO_SUBSCRIBE)]
        if now_s >= self._next_ping_s:
            if self._awaiting_pong:
                return [*actions, self._close(CloseCode.PONG_TIMEOUT)]
            self._pinged_at(now_s)
            actions.append(Ping())
        return actions

    def only_ping_due(self, now_s: float) -> bool:
        """Whether a ping is all that is due, as nearly always; then it counts as sent, and nothing else is to do."""
        if self._closed or self._awaiting_pong or now_s < self._next_ping_s:
            return False
        if now_s >= self._calm_until_s or now_s >= self._subscribe_by_s:
            return False
        self._pinged_at(now_s)
        return True

    def _pinged_at(self, now_s: float) -> None:
        self._awaiting_pong = self._pinged = True
        self._next_ping_s = now_s + self._terms.pong_deadline_s

    def pong(self, now_s: float) -> None:
        """The answer to our ping: the next one is a full interval away. One nobody asked for puts nothing off.

        Some clients send those as their heartbeat (RFC 6455, 5.5.3): each would set the timer back, for ever.
        """
        self._awaiting_pong = False
        if self._pinged:
            self._pinged = False
            self._next_ping_s = now_s + self._terms.ping_s

    def put_off_ping(self, now_s: float) -> None:
        """The device is behind: a ping would wait with all else, and is no sign that nobody is there."""
        self._awaiting_pong = False
        self._next_ping_s = max(self._next_ping_s, now_s + self._terms.pong_deadline_s)

    def leave(self, code: CloseCode, *, reason: str) -> list[Action]:
        """The node wants this connection gone: drain."""
        return [] if self._closed else [self._close(code, reason)]

    @property
    def departs_at_s(self) -> float:
        """When it is to be sent away, for whichever reason comes first."""
        return min(self._lifetime_end_s, self._expiry_close_s())

    @property
    def lifetime_end_s(self) -> float:
        """When it is sent away because it lived long enough; may be put off."""
        return self._lifetime_end_s

    @lifetime_end_s.setter
    def lifetime_end_s(self, at_s: float) -> None:
        self._lifetime_end_s = at_s
        self._calm_until_s = self._calm_until()

    @property
    def expiry_late_s(self) -> float:
        """How long after its token's end this connection is closed."""
        return self._draw * self._terms.expiry_spread_s

    @property
    def expiry_close_s(self) -> float:
        """When it is closed because its token was not renewed; may be put off."""
        return self._expiry_close_s()

    @expiry_close_s.setter
    def expiry_close_s(self, at_s: float) -> None:
        self._expiry_put_off_s = at_s
        self._calm_until_s = self._calm_until()

    def _expiry_close_s(self) -> float:
        at_s = self._expiry_put_off_s
        return self.grant.expires_at_s + self._draw * self._terms.expiry_spread_s if at_s is None else at_s

    def _hold(self, grant: Grant) -> None:
        self.grant = grant
        self._expiry_put_off_s = None
        self._calm_until_s = self._calm_until()

    def _calm_until(self) -> float:
        return min(self._lifetime_end_s, self._expiry_close_s(), self._renew_at_s())

    def _renew_at_s(self) -> float:
        before_s = self._terms.renew_before_s
        return self.grant.expires_at_s - draw_renew_lead_s(self._draw, before_s=before_s) if before_s > 0 else _NEVER

    def _close(self, code: CloseCode, goaway: str | None = None) -> Close:
        assert not self._closed
        self._closed = True
        return Close(code, goaway)
