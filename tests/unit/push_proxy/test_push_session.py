"""Session as a playbook: events in, actions out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contract.close_codes import CloseCode
from contract.errors import Unauthorized
from contract.frames import MAX_CLIENT_FRAME_BYTES, ErrorFrame, Held
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
    SessionTerms,
)

NOW_MS = 1_700_000_000_000
TERMS = SessionTerms(
    ping_s=30.0,
    pong_deadline_s=10.0,
    subscribe_deadline_s=20.0,
    reconnect_window_ms=9000,
    refetch_window_ms=60_000,
    max_errors=5,
    renew_before_s=0.0,
    expiry_spread_s=100.0,
)
GRANT = Grant.of("p1", "d1", 500.0)


def verify(token: str) -> Grant:
    if token == "other":
        return Grant.of("p2", "d9", 900.0)
    if token == "narrow":
        return Grant.of("p1", "d1", 900.0, frozenset({"event:b"}))
    if token != "good":
        raise Unauthorized("expired 9 s ago", field="token", rule="ask for a new one")
    return Grant.of("p1", "d1", 900.0)


class Book:
    """One session and the latest timestamps of its topics."""

    def __init__(self, grant: Grant = GRANT, **terms: Any) -> None:
        self.session = Session(
            grant, TERMS._replace(**terms), now_s=0.0, lifetime_s=1000.0, first_ping_s=7.0, draw=0.25
        )
        self.latest: dict[str, int] = {}

    def says(self, frame: object) -> list[Action]:
        data = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
        return self.session.received(
            data, now_s=1.0, now_ms=NOW_MS, latest_of=lambda topic: self.latest.get(topic, 0), verify=verify
        )

    def subscribes(self, **topics: int | None) -> list[Action]:
        return self.says({"type": "subscribe", "topics": {f"event:{name}": at for name, at in topics.items()}})


def errors(actions: list[Action]) -> list[tuple[str, str | None]]:
    return [(a.frame.code, a.frame.topic) for a in actions if isinstance(a, Send) and isinstance(a.frame, ErrorFrame)]


def test_welcome_says_the_terms() -> None:
    """The first frame names the node, its clock, and what the device must keep to."""
    frame = Book().session.welcome(node="n1", server_time_ms=NOW_MS, now_s=0.0)
    assert (frame.node, frame.server_time, frame.lifetime_s, frame.ping_s) == ("n1", NOW_MS, 1000.0, 30.0)
    assert (frame.reconnect_window_ms, frame.refetch_window_ms) == (9000, 60_000)


def test_subscribe_follows_each_topic_with_its_cursor_and_map() -> None:
    """Null, zero and a timestamp are cursors; `held` goes with its topic."""
    book = Book()
    frame = {
        "type": "subscribe",
        "topics": {"event:a": None, "event:b": 0, "event:c": NOW_MS},
        "held": {"event:b": {"version": 7, "revision": 12}},
    }
    assert book.says(frame) == [
        Follow("event:a", None, None),
        Follow("event:b", 0, Held(7, 12)),
        Follow("event:c", NOW_MS, None),
    ]


def test_repeat_replaces_the_cursor() -> None:
    """A topic named again is followed anew and counts once."""
    book = Book()
    book.subscribes(a=1)
    assert book.subscribes(a=2) == [Follow("event:a", 2, None)]
    assert book.session.topics == ("event:a",)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{not json", "not JSON"),
        (b'{"type":"dance"}', "type"),
        (b'{"type":"subscribe"}', "topics"),
        (b'{"type":"subscribe","topics":{"event:a":"yesterday"}}', "int"),
        (b'{"type":"ack","topic":"event:a"}', "timestamp"),
        (b'{"type":"subscribe","topics":{}}', "topics"),
        (b"[]", "object"),
        (b" " * (MAX_CLIENT_FRAME_BYTES + 1), "bytes"),
    ],
)
def test_malformed_frames_name_field_and_rule(data: bytes, says: str) -> None:
    """Each broken frame is answered with what is wrong and where; nothing changes."""
    book = Book()
    (action,) = book.says(data)
    assert isinstance(action, Send)
    assert isinstance(action.frame, ErrorFrame)
    assert action.frame.code == "malformed_frame"
    assert says in action.frame.message
    assert book.session.topics == ()


def test_other_topics_of_the_same_subscribe_succeed() -> None:
    """One future cursor, one forbidden topic, one impossible name, one negative: the good one is followed."""
    book = Book(GRANT._replace(topics=frozenset({"event:a", "event:b", "event:n", "x" * 200})), max_errors=50)
    frame = {
        "type": "subscribe",
        "topics": {"event:b": NOW_MS + 600_000, "event:z": 1, "x" * 200: 1, "event:n": -1, "event:a": 5},
    }
    actions = book.says(frame)
    assert errors(actions) == [
        ("cursor_in_future", "event:b"),
        ("forbidden_topic", "event:z"),
        ("unknown_topic", "x" * 128),
        ("malformed_cursor", "event:n"),
    ]
    assert actions[-1] == Follow("event:a", 5, None)
    assert book.session.topics == ("event:a",)


def test_future_is_judged_by_clock_and_latest() -> None:
    """A cursor beyond the clock is fine while the topic's latest is beyond it too (R15)."""
    book = Book()
    book.latest["event:a"] = NOW_MS + 600_000
    assert book.subscribes(a=NOW_MS + 700_000) == [Follow("event:a", NOW_MS + 700_000, None)]


def test_too_many_topics_changes_nothing() -> None:
    """The whole frame is refused, and says how many are allowed."""
    book = Book()
    book.subscribes(first=1)
    actions = book.says({"type": "subscribe", "topics": {f"event:{n}": 0 for n in range(64)}})
    assert errors(actions) == [("too_many_topics", None)]
    assert book.session.topics == ("event:first",)


def test_too_many_errors_end_the_session() -> None:
    """The fifth error closes; after that nothing is answered."""
    book = Book()
    for _ in range(4):
        assert len(book.says(b"?")) == 1
    assert book.says(b"?")[-1] == Close(CloseCode.TOO_MANY_ERRORS)
    assert book.says(b"?") == []
    assert book.session.on_time(5000.0) == []


def test_unsubscribe_leaves_what_was_followed() -> None:
    """Unknown and repeated names change nothing."""
    book = Book()
    book.subscribes(a=1, b=1)
    assert book.says({"type": "unsubscribe", "topics": ["event:a", "event:a", "event:z"]}) == [Leave("event:a")]
    assert book.session.topics == ("event:b",)


def test_acks_and_holes_of_known_broadcasts_count() -> None:
    """They count when this node knows the broadcast; one heard elsewhere is passed over without an error."""
    book = Book()
    book.subscribes(a=1)
    book.latest["event:a"] = 50
    assert book.says({"type": "ack", "topic": "event:a", "timestamp": 50}) == [Acked("event:a", 50)]
    hole = {"type": "hole", "topic": "event:a", "cursor": 10, "prev": 40, "timestamp": 50}
    assert book.says(hole) == [HoleReported("event:a", 50)]
    assert book.says({"type": "ack", "topic": "event:a", "timestamp": 60}) == []
    assert errors(book.says({"type": "ack", "topic": "event:z", "timestamp": 1})) == [("not_subscribed", "event:z")]


def test_auth_renews_or_is_refused() -> None:
    """A new token of the same device moves the end; others change nothing."""
    book = Book()
    assert errors(book.says({"type": "auth", "token": "bad"})) == [("unauthorized", None)]
    assert errors(book.says({"type": "auth", "token": "other"})) == [("unauthorized", None)]
    assert book.session.grant is GRANT
    assert book.says({"type": "auth", "token": "good"}) == []
    assert book.session.grant.expires_at_s == 900.0


def test_auth_with_fewer_topics_leaves_the_others() -> None:
    """What the new token does not allow is left, and said."""
    book = Book()
    book.subscribes(a=1, b=1)
    actions = book.says({"type": "auth", "token": "narrow"})
    assert actions[0] == Leave("event:a")
    assert errors(actions) == [("forbidden_topic", "event:a")]
    assert book.session.topics == ("event:b",)


def test_nothing_subscribed_in_time() -> None:
    """The deadline closes, a subscribe in time lifts it."""
    late, good = Book(), Book()
    good.subscribes(a=1)
    assert late.session.on_time(19.9) == [Ping()]
    late.session.pong(19.9)
    assert late.session.on_time(20.0) == [Close(CloseCode.NO_SUBSCRIBE)]
    assert good.session.next_deadline_s() == 7.0


def test_ping_and_pong() -> None:
    """A pong moves the next ping a full interval on; silence after a ping closes."""
    book = Book()
    book.subscribes(a=1)
    assert book.session.on_time(6.9) == []
    assert book.session.on_time(7.0) == [Ping()]
    book.session.pong(7.5)
    assert book.session.next_deadline_s() == 37.5
    assert book.session.on_time(37.5) == [Ping()]
    assert book.session.on_time(47.5) == [Close(CloseCode.PONG_TIMEOUT)]


def test_a_device_that_is_behind_is_not_asked_for_a_sign_of_life() -> None:
    """Neither is the ping it may have unread held against it; once it is level again it is asked as ever."""
    book = Book()
    book.subscribes(a=1)
    assert book.session.on_time(7.0) == [Ping()]
    for now_s in (16.9, 26.0):
        book.session.put_off_ping(now_s)
        assert not book.session.only_ping_due(now_s)
        assert book.session.next_deadline_s() == now_s + 10.0
    assert book.session.on_time(36.0) == [Ping()]
    assert book.session.on_time(46.0) == [Close(CloseCode.PONG_TIMEOUT)]


def test_a_pong_nobody_asked_for_puts_nothing_off() -> None:
    """Some clients send those as a heartbeat: our own ping, and whatever is done at its time, comes when it is due."""
    book = Book()
    book.subscribes(a=1)
    for second in range(7):
        book.session.alive()
        book.session.pong(float(second))
        assert book.session.next_deadline_s() == 7.0
    assert book.session.on_time(7.0) == [Ping()]
    book.session.pong(7.5)
    book.session.pong(8.5)
    assert book.session.next_deadline_s() == 37.5


def test_any_sign_of_life_counts() -> None:
    """A device that talks but whose pong is late is asked again instead of closed."""
    book = Book()
    book.subscribes(a=1)
    book.session.on_time(7.0)
    book.session.alive()
    assert book.session.on_time(17.0) == [Ping()]


def test_lifetime_ends_with_goaway() -> None:
    """The end of its life: sent away with a goaway."""
    book = Book()
    book.subscribes(a=1)
    book.session.renewed(5000.0)
    assert book.session.on_time(1000.0) == [Close(CloseCode.LIFETIME, "lifetime")]


def test_a_departure_may_be_put_off() -> None:
    """A stage is near: neither the end of its life nor that of its token ends it before the new moment."""
    book = Book()
    book.subscribes(a=1)
    assert book.session.departs_at_s == 525.0  # the token's end, and this connection's share of the spread
    book.session.expiry_close_s = 700.0
    book.session.on_time(7.0)
    book.session.pong(600.0)
    assert book.session.on_time(610.0) == []
    assert book.session.on_time(700.0) == [Close(CloseCode.TOKEN_EXPIRED_RENEWABLE)]


def test_token_expiry() -> None:
    """Without renewal the session ends a little after its token; with it a new one is asked for in time."""
    book = Book()
    book.subscribes(a=1)
    book.session.on_time(7.0)
    book.session.pong(510.0)
    assert book.session.on_time(524.0) == []
    assert book.session.on_time(525.0) == [Close(CloseCode.TOKEN_EXPIRED_RENEWABLE)]
    renewing = Book(renew_before_s=100.0)
    renewing.subscribes(a=1)
    renewing.session.on_time(7.0)
    renewing.session.pong(410.0)
    assert renewing.session.on_time(419.0) == []
    assert renewing.session.on_time(420.0) == [RenewToken(GRANT)]
    renewing.session.renewed(3000.0)
    assert renewing.session.on_time(421.0) == []


def test_drain() -> None:
    """The node sends it away once."""
    book = Book()
    assert book.session.leave(CloseCode.DRAIN, reason="drain") == [Close(CloseCode.DRAIN, "drain")]
    assert book.session.leave(CloseCode.DRAIN, reason="drain") == []


def test_late_refusal_by_the_node() -> None:
    """A topic the node could not follow is forgotten and answered with an error."""
    book = Book()
    book.subscribes(a=1)
    book.session.forget("event:a")
    assert errors(book.session.rejected("unknown_topic", "no such topic", "event:a")) == [("unknown_topic", "event:a")]
    assert book.session.topics == ()
