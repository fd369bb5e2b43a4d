"""graphql-transport-ws as a state machine: messages in, actions out, by the protocol's own rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import contract
from contract.close_codes import (
    GRAPHQL_FATAL_CODES,
    CloseCode,
    GraphqlCloseCode,
    graphql_close_code,
    may_reconnect,
)
from contract.errors import Unauthorized
from contract.frames import MAX_TOPICS_PER_CONNECTION, ErrorFrame, Held
from push_proxy.graphql_documents import Documents, stream_schema
from push_proxy.graphql_stream import (
    ACK,
    MAX_ID_CHARS,
    MAX_NEW_DOCUMENTS,
    Alive,
    Asking,
    Begin,
    Carry,
    Drop,
    End,
    GraphqlAction,
    GraphqlStream,
    Open,
    Pong,
    Reply,
)
from push_proxy.session import Acked, Close, Follow, Grant, HoleReported, Send, Session, SessionTerms

SCHEMA = stream_schema((Path(contract.__file__).parent / "broadcasts.graphql").read_text())
QUERY = "subscription ($t: [TopicCursor!]!) { broadcasts(topics: $t) { __typename } }"
GRANT = Grant.of("p1", "d1", 1e9)
TERMS = SessionTerms(
    ping_s=30,
    pong_deadline_s=10,
    subscribe_deadline_s=10,
    reconnect_window_ms=10_000,
    refetch_window_ms=60_000,
    max_errors=6,
    renew_before_s=0,
    expiry_spread_s=0,
)


def verify(token: str) -> Grant:
    if token != "good":
        raise Unauthorized("no")
    return GRANT


class Machine:
    """A stream with a session as its shell would keep it."""

    def __init__(self, head_grant: Grant | None = None, *, topics: frozenset[str] | None = None) -> None:
        self.stream = GraphqlStream(head_grant)
        self.session: Session | None = None
        self.documents = Documents(SCHEMA)
        self.now_s = 0.0
        self.latest: dict[str, int] = {}
        self._topics = topics

    def give(self, message: object) -> list[GraphqlAction]:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        asking = Asking(self.documents, self.now_s, 1_000_000, self.latest.get, verify)
        actions = self.stream.received(data, self.session, asking)
        for action in actions:
            if isinstance(action, Open):
                self.session = Session(
                    action.grant._replace(topics=self._topics), TERMS, now_s=0, lifetime_s=100, first_ping_s=30, draw=0
                )
        return actions

    def acknowledged(self) -> Machine:
        assert self.give({"type": "connection_init", "payload": {"token": "good"}}) == [Open(GRANT), Reply(ACK)]
        return self

    def subscribe(self, id: str, *topics: Any, query: str = QUERY) -> list[GraphqlAction]:
        cursors = [topic if isinstance(topic, dict) else {"topic": topic} for topic in topics]
        return self.give({"id": id, "type": "subscribe", "payload": {"query": query, "variables": {"t": cursors}}})


def dropped(actions: list[GraphqlAction]) -> CloseCode | GraphqlCloseCode:
    (action,) = actions
    assert isinstance(action, Drop)
    assert action.reason
    return action.code


def errors(actions: list[GraphqlAction], id: str) -> list[dict[str, Any]]:
    """Of an `error` message, the only action."""
    (action,) = actions
    assert isinstance(action, Reply)
    message = json.loads(action.message)
    assert (message["id"], message["type"]) == (id, "error")
    assert action.errors == len(message["payload"])
    return list(message["payload"])


# Before the acknowledgement.


@pytest.mark.parametrize(
    "payload",
    [
        {"token": "good"},
        {"authorization": "Bearer good"},
        {"Authorization": "bearer  good"},
        {"token": "good", "Authorization": "Bearer bad"},
    ],
)
def test_a_good_token_is_acknowledged(payload: dict[str, Any]) -> None:
    machine = Machine()
    assert machine.give({"type": "connection_init", "payload": payload}) == [Open(GRANT), Reply(ACK)]


@pytest.mark.parametrize(
    "payload",
    [None, {}, {"token": "bad"}, {"token": 5}, {"token": ""}, {"Authorization": "Basic good"}, {"authorization": 1}],
)
def test_a_bad_token_is_forbidden(payload: dict[str, Any] | None) -> None:
    assert dropped(Machine().give({"type": "connection_init", "payload": payload})) is CloseCode.BAD_TOKEN


def test_the_token_of_the_request_is_enough_and_one_in_the_message_counts_more() -> None:
    grant = Grant.of("p2", "d2", 5.0)
    assert Machine(grant).give({"type": "connection_init"}) == [Open(grant), Reply(ACK)]
    assert Machine(grant).give({"type": "connection_init", "payload": {"token": "good"}})[0] == Open(GRANT)
    assert dropped(Machine(grant).give({"type": "connection_init", "payload": {"token": "bad"}}))


def test_a_second_init_ends_the_connection() -> None:
    code = dropped(Machine().acknowledged().give({"type": "connection_init", "payload": {"token": "good"}}))
    assert code is GraphqlCloseCode.TOO_MANY_INITS


def test_a_subscribe_before_the_acknowledgement_ends_the_connection() -> None:
    assert dropped(Machine().subscribe("1", "event:a")) is GraphqlCloseCode.UNAUTHORIZED
    assert dropped(Machine(GRANT).subscribe("1", "event:a")) is GraphqlCloseCode.UNAUTHORIZED


def test_pings_are_answered_at_any_time_with_their_payload() -> None:
    machine = Machine()
    assert machine.give({"type": "ping"}) == [Pong(b'{"type":"pong"}')]
    (pong,) = machine.acknowledged().give({"type": "ping", "payload": {"at": [1, "x"]}})
    assert isinstance(pong, Pong)
    assert json.loads(pong.message) == {"type": "pong", "payload": {"at": [1, "x"]}}
    assert machine.give({"type": "pong"}) == [Alive()]
    assert machine.give({"type": "pong", "payload": {}}) == [Alive()]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b"{}",
        b'{"type":"nonsense"}',
        b'{"type":5}',
        b'{"type":"connection_ack"}',
        b'{"type":"next","id":"1","payload":{}}',
        b'{"type":"connection_init","payload":[]}',
        b'{"type":"ping","payload":"x"}',
        b'{"type":"subscribe"}',
        b'{"type":"subscribe","id":"1"}',
        b'{"type":"subscribe","id":"1","payload":{}}',
        b'{"type":"subscribe","id":"1","payload":{"query":5}}',
        b'{"type":"subscribe","id":1,"payload":{"query":"{x}"}}',
        b'{"type":"subscribe","id":"","payload":{"query":"{x}"}}',
        b'{"type":"subscribe","id":"1","payload":{"query":"{x}","variables":[]}}',
        b'{"type":"subscribe","id":"1","payload":{"query":"{x}","operationName":5}}',
        b'{"type":"complete"}',
        b'{"type":"complete","id":null}',
        b'{"type":"ping"',
        b'{"type":"ping","payload":{"a":"\\ud800"}}',
        b'{"type":"ping","payload":' + b'{"a":' * 3000 + b"1" + b"}" * 3001,
        json.dumps({"type": "subscribe", "id": "x" * (MAX_ID_CHARS + 1), "payload": {"query": "x"}}).encode(),
    ],
)
def test_what_is_no_message_of_the_protocol_ends_the_connection(message: bytes) -> None:
    assert dropped(Machine().acknowledged().give(message)) is GraphqlCloseCode.BAD_REQUEST


def test_fields_the_protocol_does_not_know_are_ignored() -> None:
    machine = Machine().acknowledged()
    assert machine.give({"type": "pong", "more": 1}) == [Alive()]
    payload = {"query": QUERY, "variables": {"t": [{"topic": "a"}], "unused": 1}, "extensions": {"x": 1}, "more": 1}
    assert isinstance(machine.give({"id": "1", "type": "subscribe", "payload": payload})[0], Begin)


# Operations.


def test_an_operation_follows_its_topics_until_it_is_completed() -> None:
    machine = Machine().acknowledged()
    (begin,) = machine.subscribe("1", {"topic": "event:a", "cursor": 5}, "event:b")
    assert isinstance(begin, Begin)
    assert begin.actions == (Follow("event:a", 5, None), Follow("event:b", None, None))
    operation = begin.operation
    assert operation.topics == ("event:a", "event:b")
    assert machine.stream.owner("event:b") is operation
    assert machine.stream.owner("event:c") is None
    assert machine.give({"id": "1", "type": "complete"}) == [End(operation)]
    assert machine.stream.owner("event:a") is None
    assert machine.give({"id": "1", "type": "complete"}) == []


def test_a_completed_id_may_be_used_again_and_a_running_one_not() -> None:
    machine = Machine().acknowledged()
    machine.subscribe("1", "event:a")
    assert dropped(machine.subscribe("1", "event:b")) is GraphqlCloseCode.SUBSCRIBER_EXISTS
    machine.give({"id": "1", "type": "complete"})
    assert isinstance(machine.subscribe("1", "event:b")[0], Begin)


def test_a_refused_document_is_an_error_of_its_operation_alone() -> None:
    machine = Machine().acknowledged()
    machine.subscribe("1", "event:a")
    (error,) = errors(machine.subscribe("2", "event:b", query="subscription { nonsense }"), "2")
    assert error["extensions"] == {"code": "invalid_request", "field": "query"}
    assert error["locations"] == [{"line": 1, "column": 16}]
    assert len(machine.stream.operations) == 1
    assert isinstance(machine.subscribe("2", "event:b")[0], Begin)


def test_a_topic_belongs_to_one_operation() -> None:
    machine = Machine().acknowledged()
    machine.subscribe("1", "event:a")
    (error,) = errors(machine.subscribe("2", "event:b", "event:a"), "2")
    assert "followed by another operation" in error["message"]
    assert error["extensions"]["field"] == "topics[1]"
    (error,) = errors(machine.subscribe("3", "event:c", "event:c"), "3")
    assert "named twice" in error["message"]
    (error,) = errors(machine.subscribe("4"), "4")
    assert "at least one topic" in error["message"]


def test_topics_are_bounded_per_connection() -> None:
    machine = Machine().acknowledged()
    (error,) = errors(machine.subscribe("1", *(f"event:{n}" for n in range(10_000))), "1")
    assert "10000 topics" in error["message"]
    assert isinstance(machine.subscribe("2", *(f"event:{n}" for n in range(MAX_TOPICS_PER_CONNECTION)))[0], Begin)
    (error,) = errors(machine.subscribe("3", "event:more"), "3")
    assert error["extensions"]["code"] == "too_many_topics"


def test_a_refused_topic_leaves_the_others_of_its_operation() -> None:
    machine = Machine(topics=frozenset({"event:a"})).acknowledged()
    (begin,) = machine.subscribe("1", "event:b", "event:a")
    assert isinstance(begin, Begin)
    refused, follow = begin.actions
    assert isinstance(refused, Send)
    assert isinstance(refused.frame, ErrorFrame)
    assert (refused.frame.code, refused.frame.topic) == ("forbidden_topic", "event:b")
    assert follow == Follow("event:a", None, None)
    assert begin.operation.topics == ("event:a",)


def test_an_operation_of_which_nothing_may_be_followed_never_begins() -> None:
    machine = Machine(topics=frozenset()).acknowledged()
    told = errors(machine.subscribe("1", "event:a", {"topic": "event:b", "cursor": -1}), "1")
    assert [error["extensions"] for error in told] == [
        {"code": "forbidden_topic", "topic": "event:a"},
        {"code": "forbidden_topic", "topic": "event:b"},
    ]
    assert machine.stream.operations == ()
    machine = Machine().acknowledged()
    (error,) = errors(machine.subscribe("1", {"topic": "event:a", "cursor": 10**15}), "1")
    assert error["extensions"]["code"] == "cursor_in_future"


def test_an_operation_is_over_with_its_last_topic() -> None:
    machine = Machine().acknowledged()
    (begin,) = machine.subscribe("1", "event:a", "event:b")
    assert isinstance(begin, Begin)
    assert machine.stream.lost("event:a") is None
    assert machine.stream.lost("event:a") is None
    assert machine.stream.lost("event:b") is begin.operation
    assert machine.stream.operations == ()


def test_what_is_held_goes_with_the_cursor() -> None:
    machine = Machine().acknowledged()
    held = {"topic": "event:a", "cursor": 0, "heldVersion": 3, "heldRevision": 9}
    (begin,) = machine.subscribe("1", held)
    assert isinstance(begin, Begin)
    assert begin.actions == (Follow("event:a", 0, Held(3, 9)),)


# Reports.


def test_an_acknowledgement_and_a_hole_are_mutations_of_the_same_connection() -> None:
    machine = Machine().acknowledged()
    machine.subscribe("1", "event:a")
    machine.latest["event:a"] = 100
    query = """mutation { acknowledge(topic: "event:a", timestamp: 100)
                          reportHole(topic: "event:a", cursor: 1, prev: 50, timestamp: 90) }"""
    answer, complete, carry = machine.subscribe("2", query=query)
    assert carry == Carry((Acked("event:a", 100), HoleReported("event:a", 90)))
    assert isinstance(answer, Reply)
    assert json.loads(answer.message) == {
        "id": "2",
        "type": "next",
        "payload": {"data": {"acknowledge": True, "reportHole": True}},
    }
    assert complete == Reply(b'{"id":"2","type":"complete"}')
    assert isinstance(machine.subscribe("2", "event:b")[0], Begin), "its id is free again"


def test_a_report_about_a_topic_not_followed_is_an_error() -> None:
    machine = Machine().acknowledged()
    query = 'mutation { acknowledge(topic: "event:a", timestamp: 100) }'
    answer, _, carry = machine.subscribe("2", query=query)
    assert carry == Carry(())
    assert isinstance(answer, Reply)
    payload = json.loads(answer.message)["payload"]
    assert payload["data"] is None
    assert payload["errors"][0]["extensions"] == {"code": "not_subscribed"}


def test_reports_are_only_taken_once_acknowledged() -> None:
    query = 'mutation { acknowledge(topic: "event:a", timestamp: 100) }'
    assert dropped(Machine().subscribe("2", query=query)) is GraphqlCloseCode.UNAUTHORIZED


# Bounds.


def test_too_many_errors_end_the_session() -> None:
    machine = Machine().acknowledged()
    for number in range(TERMS.max_errors - 1):
        errors(machine.subscribe(str(number), query="{"), str(number))
    reply, drop = machine.subscribe("x", query="{")
    assert isinstance(reply, Reply)
    assert isinstance(drop, Drop)
    assert drop.code is CloseCode.TOO_MANY_ERRORS


def test_a_mutation_that_is_one_error_too_many_closes_too() -> None:
    machine = Machine().acknowledged()
    closes: list[Close] = []
    for _ in range(TERMS.max_errors):
        carry = machine.subscribe("m", query='mutation { acknowledge(topic: "t", timestamp: 1) }')[-1]
        assert isinstance(carry, Carry)
        closes += [action for action in carry.actions if isinstance(action, Close)]
    assert [close.code for close in closes] == [CloseCode.TOO_MANY_ERRORS]


def test_new_documents_of_one_connection_are_bounded_and_known_ones_are_not() -> None:
    machine = Machine().acknowledged()
    machine.documents.prepare(QUERY, None, {"t": []}, now_s=0)
    for number in range(MAX_NEW_DOCUMENTS):
        assert isinstance(machine.subscribe(f"a{number}", f"event:{number}", query=f"{QUERY} #{number}")[0], Begin)
    (error,) = errors(machine.subscribe("more", "event:more", query=f"{QUERY} # another"), "more")
    assert error["extensions"]["code"] == "overloaded"
    assert isinstance(machine.subscribe("known", "event:more")[0], Begin)
    assert isinstance(machine.subscribe("again", "event:again", query=f"{QUERY} #1")[0], Begin)


# Codes.


@pytest.mark.parametrize("code", [code for code in CloseCode if code >= 4000 or code is CloseCode.INTERNAL_ERROR])
def test_a_graphql_client_comes_back_where_a_device_would(code: CloseCode) -> None:
    """By what the npm package does with a code; with a bad token it asks its application for another one first."""
    fatal = graphql_close_code(code) in GRAPHQL_FATAL_CODES
    assert fatal == (not may_reconnect(code)) or code is CloseCode.BAD_TOKEN
    assert graphql_close_code(CloseCode.BAD_TOKEN) == 4403
