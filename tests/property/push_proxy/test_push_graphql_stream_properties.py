"""Any sequence of messages: the stream never raises, keeps its books with the session, and speaks only the protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import contract
from contract.close_codes import CloseCode, GraphqlCloseCode
from contract.errors import Unauthorized
from push_proxy.graphql_documents import Documents, stream_schema
from push_proxy.graphql_stream import (
    ACK,
    Asking,
    Begin,
    Carry,
    Drop,
    End,
    GraphqlAction,
    GraphqlStream,
    Open,
    Operation,
    Pong,
    Reply,
)
from push_proxy.session import Close, Follow, Grant, Session, SessionTerms

DOCUMENTS = Documents(stream_schema((Path(contract.__file__).parent / "broadcasts.graphql").read_text()))
GRANT = Grant.of("p1", "d1", 1e9, frozenset({"t0", "t1", "t2", "t3"}))
TERMS = SessionTerms(
    ping_s=30,
    pong_deadline_s=10,
    subscribe_deadline_s=10,
    reconnect_window_ms=10_000,
    refetch_window_ms=60_000,
    max_errors=8,
    renew_before_s=0,
    expiry_spread_s=0,
)
QUERIES = (
    "subscription ($t: [TopicCursor!]!) { broadcasts(topics: $t) { __typename } }",
    "subscription ($t: [TopicCursor!]!) { broadcasts(topics: $t) { ... on Broadcast { topic } } }",
    'subscription { broadcasts(topics: [{topic: "t0"}]) { __typename } }',
    "subscription { nonsense }",
    "{ streamProtocol }",
    "",
    'mutation { acknowledge(topic: "t0", timestamp: 5) }',
    'mutation { reportHole(topic: "t9", cursor: 1, prev: 2, timestamp: 5) }',
)
ids = st.sampled_from(["1", "2", "3", '"', "\N{SNOWMAN}"])
topics = st.sampled_from(["t0", "t1", "t2", "t3", "t9", ""])


def verify(token: str) -> Grant:
    if token != "good":
        raise Unauthorized("no")
    return GRANT


class Stream(RuleBasedStateMachine):
    """Messages of a client, and topics the node could not follow after all, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.connect()

    @precondition(lambda self: not self.open)
    @rule()
    def connect(self) -> None:
        self.stream = GraphqlStream(None)
        self.session: Session | None = None
        self.running: dict[str, Operation] = {}
        self.open = True

    def give(self, message: object) -> list[GraphqlAction]:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        asking = Asking(DOCUMENTS, 0.0, 1_000_000, lambda topic: 10, verify)
        actions = self.stream.received(data, self.session, asking)
        for action in actions:
            self.carry(action)
        if any(isinstance(a, Close) for action in actions if isinstance(action, Carry) for a in action.actions):
            self.open = False  # the answers went out; then the connection closes
        return actions

    def carry(self, action: GraphqlAction) -> None:
        assert self.open, "nothing follows the end"
        if isinstance(action, Open):
            assert self.session is None
            self.session = Session(action.grant, TERMS, now_s=0, lifetime_s=9, first_ping_s=9, draw=0)
        elif isinstance(action, Drop):
            self.open = False
            assert isinstance(action.code, CloseCode | GraphqlCloseCode)
        elif isinstance(action, Reply | Pong):
            message = json.loads(action.message)
            assert message["type"] in ("connection_ack", "pong", "next", "error", "complete")
            assert (action.message == ACK) == (message["type"] == "connection_ack")
            if message["type"] in ("error", "next", "complete"):
                assert message["id"] not in self.running
            if message["type"] == "error":
                assert message["payload"]
                assert all(error["message"] and error["extensions"]["code"] for error in message["payload"])
        elif isinstance(action, Begin):
            self.running[json.loads(action.operation.prefix + b"0}")["id"]] = action.operation
            followed = [a.topic for a in action.actions if isinstance(a, Follow)]
            assert tuple(followed) == action.operation.topics
            self.open = not any(isinstance(a, Close) for a in action.actions)
        elif isinstance(action, End):
            assert self.session is not None
            self.running = {id: o for id, o in self.running.items() if o is not action.operation}
            for topic in action.operation.topics:
                self.session.forget(topic)

    @precondition(lambda self: self.open)
    @rule(token=st.sampled_from(["good", "good", "bad", None]))
    def init(self, token: str | None) -> None:
        self.give({"type": "connection_init", "payload": {"token": token} if token else None})

    @precondition(lambda self: self.open)
    @rule(id=ids, query=st.sampled_from(QUERIES), asked=st.lists(topics, max_size=3), cursor=st.sampled_from([None, 3]))
    def subscribe(self, id: str, query: str, asked: list[str], cursor: int | None) -> None:
        before = dict(self.running)
        variables = {"t": [{"topic": topic, "cursor": cursor} for topic in asked]}
        actions = self.give({"id": id, "type": "subscribe", "payload": {"query": query, "variables": variables}})
        if self.open and id not in before and any(isinstance(action, Begin) for action in actions):
            assert id in self.running

    @precondition(lambda self: self.open)
    @rule(id=ids)
    def complete(self, id: str) -> None:
        self.give({"id": id, "type": "complete"})
        assert id not in self.running

    @precondition(lambda self: self.open)
    @rule(payload=st.none() | st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2))
    def ping(self, payload: dict[str, Any] | None) -> None:
        (pong,) = self.give({"type": "ping", "payload": payload})
        assert isinstance(pong, Pong)
        assert json.loads(pong.message).get("payload") == payload

    @precondition(lambda self: self.open and self.session is not None)
    @rule(topic=topics)
    def lose(self, topic: str) -> None:
        """The node could not follow it after all."""
        assert self.session is not None
        self.session.forget(topic)
        over = self.stream.lost(topic)
        self.running = {id: o for id, o in self.running.items() if o is not over}

    @invariant()
    def the_books_agree(self) -> None:
        assert {id(o) for o in self.stream.operations} == {id(o) for o in self.running.values()}
        followed = [topic for operation in self.stream.operations for topic in operation.topics]
        assert len(followed) == len(set(followed)), "a topic belongs to one operation"
        if self.session is not None:
            assert set(followed) == set(self.session.topics)
        else:
            assert not followed
        for topic in followed:
            owner = self.stream.owner(topic)
            assert owner is not None
            assert topic in owner.topics


Stream.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestStream = Stream.TestCase


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["type", "id", "payload", "query", "variables", "token", "operationName"]), inner
                )
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
        st.builds(
            lambda kind, more: json.dumps({**more, "type": kind}).encode(),
            st.sampled_from(["connection_init", "subscribe", "complete", "ping", "pong", "next", "x"]),
            st.dictionaries(st.sampled_from(["id", "payload"]), st.none() | st.text() | st.just({}) | st.integers()),
        ),
    ),
    st.booleans(),
)
def test_whatever_arrives_is_answered_by_the_protocol(data: bytes, acknowledged: bool) -> None:
    stream = GraphqlStream(None)
    session = Session(GRANT, TERMS, now_s=0, lifetime_s=9, first_ping_s=9, draw=0) if acknowledged else None
    for action in stream.received(data, session, Asking(DOCUMENTS, 0.0, 1_000_000, lambda topic: 10, verify)):
        if isinstance(action, Drop):
            assert action.reason
        if isinstance(action, Reply | Pong):
            assert json.loads(action.message)["type"] in ("connection_ack", "pong", "next", "error", "complete")
