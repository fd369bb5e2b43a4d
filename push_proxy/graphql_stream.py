"""graphql-transport-ws, pure: messages in, actions out. The protocol of the npm package `graphql-ws`, its PROTOCOL.md.

One object per connection: whether it was acknowledged, and which operation follows which topics. What follows of a
subscribe (limits, cursors, the token's topics, deadlines) is the session's, which all protocols share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from contract.close_codes import CloseCode, GraphqlCloseCode
from contract.errors import InvalidRequest, Overloaded, Unauthorized
from contract.frames import (
    MAX_TOPICS_PER_CONNECTION,
    AckFrame,
    ClientFrame,
    ErrorFrame,
    HoleFrame,
    SubscribeFrame,
)
from push_proxy.forms import Form
from push_proxy.graphql_documents import Documents, GraphqlForm, Prepared, Report, TopicCursor
from push_proxy.graphql_selection import OperationRefused
from push_proxy.session import Action, Close, Follow, Grant, LatestOf, Send, Session

__all__ = [
    "ACK",
    "MAX_ID_CHARS",
    "MAX_NEW_DOCUMENTS",
    "PING",
    "Alive",
    "Asking",
    "Begin",
    "Carry",
    "Drop",
    "End",
    "GraphqlAction",
    "GraphqlStream",
    "Open",
    "Operation",
    "Pong",
    "Reply",
    "complete_message",
    "next_prefix",
]

MAX_ID_CHARS: Final = 128
"""Of an operation's id, which stands in every frame of it; clients send 36."""

MAX_NEW_DOCUMENTS: Final = 16
"""Documents one connection may bring that its node has not read: nobody alone uses up what a node reads at all."""

ACK: Final = b'{"type":"connection_ack"}'
PING: Final = b'{"type":"ping"}'
_PONG: Final = b'{"type":"pong"}'
_BEFORE_ID: Final = b'{"id":'
_BEFORE_PAYLOAD: Final = b',"type":"next","payload":'


class _Message(msgspec.Struct, frozen=True, tag_field="type"):
    pass


class _Init(_Message, frozen=True, tag="connection_init"):
    payload: dict[str, Any] | None = None


class _PingMessage(_Message, frozen=True, tag="ping"):
    payload: dict[str, Any] | None = None


class _PongMessage(_Message, frozen=True, tag="pong"):
    payload: dict[str, Any] | None = None


class _Request(msgspec.Struct, frozen=True):
    query: str
    operationName: str | None = None  # noqa: N815 - the protocol's spelling
    variables: dict[str, Any] | None = None
    extensions: dict[str, Any] | None = None


class _Subscribe(_Message, frozen=True, tag="subscribe"):
    id: str
    payload: _Request


class _Complete(_Message, frozen=True, tag="complete"):
    id: str


_decode = msgspec.json.Decoder(_Init | _PingMessage | _PongMessage | _Subscribe | _Complete).decode
_encode = msgspec.json.Encoder().encode


class Operation:
    """One subscription that runs: the form of its payloads, and the topics it follows."""

    __slots__ = ("form", "prefix", "topics")

    def __init__(self, prefix: bytes, form: Form, topics: tuple[str, ...]) -> None:
        self.prefix = prefix
        """What stands before the payload in each of its messages, its id in it: kept once, in the form most needed."""
        self.form: Form = form
        self.topics = topics


class Asking(NamedTuple):
    """What the stream has to ask, at one moment."""

    documents: Documents
    now_s: float
    now_ms: int
    latest_of: LatestOf
    verify: Callable[[str], Grant]
    """Raises Unauthorized."""
    operation: Callable[[bytes, GraphqlForm, tuple[str, ...]], Operation] = Operation
    """Makes what stands for a new operation: the shell gives it what it needs to write."""


class Reply(NamedTuple):
    """One message, as JSON."""

    message: bytes
    errors: int = 0
    """How many errors it tells."""


class Pong(NamedTuple):
    """The answer to a ping; may be left out while the socket takes no more."""

    message: bytes


class Open(NamedTuple):
    """The token is good: begin a session with this grant, then acknowledge."""

    grant: Grant


class Begin(NamedTuple):
    """An operation runs from now on: welcome it, then carry out what its subscribe made of the session."""

    operation: Operation
    actions: tuple[Action, ...]


class End(NamedTuple):
    """An operation was completed by the client; nothing more may be sent for it."""

    operation: Operation


class Carry(NamedTuple):
    """What a mutation reported, for the session's actions to be carried out."""

    actions: tuple[Action, ...]


class Alive(NamedTuple):
    """The client answered our ping."""


class Drop(NamedTuple):
    """Close the connection with a code of this protocol."""

    code: CloseCode | GraphqlCloseCode
    reason: str


GraphqlAction = Reply | Pong | Open | Begin | End | Carry | Alive | Drop


class _NotTaken(InvalidRequest):
    """The session answered a report with an error frame."""

    def __init__(self, frame: ErrorFrame) -> None:
        super().__init__(frame.message)
        self.code = frame.code


class GraphqlStream:
    """State of one connection; `operations` is read by the shell and changed here only."""

    __slots__ = ("_initialised", "_new_documents", "head_grant", "operations")

    def __init__(self, head_grant: Grant | None) -> None:
        self.head_grant = head_grant
        """Of the token in the HTTP request, if a good one was there: `connection_init` need not bring another."""
        self.operations: tuple[Operation, ...] = ()
        """Most connections have one: a tuple is searched as fast as a dictionary, and a fifth of its size."""
        self._initialised = False
        self._new_documents = 0

    def owner(self, topic: str) -> Operation | None:
        """The operation that follows a topic: at most one."""
        for operation in self.operations:
            if topic in operation.topics:
                return operation
        return None

    def _named(self, prefix: bytes) -> Operation | None:
        for operation in self.operations:
            if operation.prefix == prefix:
                return operation
        return None

    def _forget(self, operation: Operation) -> None:
        self.operations = tuple(other for other in self.operations if other is not operation)

    def received(self, data: bytes, session: Session | None, asking: Asking) -> list[GraphqlAction]:
        """One text message. `session` is None until the connection was acknowledged."""
        try:
            message = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            why = "nested too deep" if isinstance(exc, RecursionError) else str(exc)
            return [Drop(GraphqlCloseCode.BAD_REQUEST, f"Invalid message: {why}")]
        if isinstance(message, _Subscribe):
            return self._subscribe(message, session, asking)
        if isinstance(message, _Complete):
            operation = self._named(next_prefix(message.id))
            if operation is None:
                return []
            self._forget(operation)
            return [End(operation)]
        if isinstance(message, _PongMessage):
            return [Alive()]
        if isinstance(message, _PingMessage):
            return [Pong(_PONG if message.payload is None else _encode({"type": "pong", "payload": message.payload}))]
        return self._init(message, asking)

    def lost(self, topic: str) -> Operation | None:
        """A topic is no longer followed; returns its operation if that was its last: it is over, and forgotten here."""
        operation = self.owner(topic)
        if operation is None:
            return None
        operation.topics = tuple(known for known in operation.topics if known != topic)
        if operation.topics:
            return None
        self._forget(operation)
        return operation

    def _init(self, message: _Init, asking: Asking) -> list[GraphqlAction]:
        if self._initialised:
            return [Drop(GraphqlCloseCode.TOO_MANY_INITS, "Too many initialisation requests")]
        self._initialised = True
        token = _token(message.payload or {})
        if token is None and self.head_grant is not None:
            grant = self.head_grant
        else:
            try:
                grant = asking.verify(token or "")
            except Unauthorized:
                return [Drop(CloseCode.BAD_TOKEN, "Forbidden: token missing, expired or not ours")]
        self.head_grant = None
        return [Open(grant), Reply(ACK)]

    def _subscribe(self, message: _Subscribe, session: Session | None, asking: Asking) -> list[GraphqlAction]:
        if session is None:
            return [Drop(GraphqlCloseCode.UNAUTHORIZED, "Unauthorized")]
        if not 0 < len(message.id) <= MAX_ID_CHARS:
            return [Drop(GraphqlCloseCode.BAD_REQUEST, f"Invalid message: id of 1-{MAX_ID_CHARS} characters expected")]
        prefix = next_prefix(message.id)
        if self._named(prefix) is not None:
            return [Drop(GraphqlCloseCode.SUBSCRIBER_EXISTS, f"Subscriber for {message.id[:60]} already exists")]
        request = message.payload
        try:
            if not asking.documents.is_known(request.query):
                self._count_new_document()
            prepared = asking.documents.prepare(
                request.query, request.operationName, request.variables, now_s=asking.now_s
            )
            if isinstance(prepared, Report):
                return self._report(prefix, prepared, session, asking)
            topics = self._topics(prepared)
        except OperationRefused as exc:
            return self._refuse(message.id, exc.errors, session.rejected(exc.code, exc.message))
        except (InvalidRequest, Overloaded) as exc:
            return self._refuse(message.id, [_error(exc)], session.rejected(exc.code, str(exc)))
        return self._begin(message.id, prefix, prepared.form, topics, session, asking)

    def _count_new_document(self) -> None:
        if self._new_documents >= MAX_NEW_DOCUMENTS:
            raise Overloaded(
                f"more than {MAX_NEW_DOCUMENTS} new documents of one connection",
                field="query",
                rule="send one document with variables",
            )
        self._new_documents += 1

    def _begin(
        self,
        id: str,
        prefix: bytes,
        form: GraphqlForm,
        topics: Sequence[TopicCursor],
        session: Session,
        asking: Asking,
    ) -> list[GraphqlAction]:
        held = {entry.topic: entry.held for entry in topics if entry.held is not None}
        actions = _to_session(session, SubscribeFrame({entry.topic: entry.cursor for entry in topics}, held), asking)
        followed = tuple(action.topic for action in actions if isinstance(action, Follow))
        if not followed:
            errors = [form.error(a.frame) for a in actions if isinstance(a, Send) and isinstance(a.frame, ErrorFrame)]
            return self._refuse(id, errors, actions)
        if followed == session.topics:
            followed = session.topics  # the same object, once
        operation = asking.operation(prefix, form, followed)
        self.operations = (*self.operations, operation)
        return [Begin(operation, tuple(actions))]

    def _report(self, prefix: bytes, report: Report, session: Session, asking: Asking) -> list[GraphqlAction]:
        """A mutation: what its fields say is handed to the session, its answer is one payload."""
        carried: list[Action] = []

        def told(frame: AckFrame | HoleFrame) -> None:
            actions = _to_session(session, frame, asking)
            carried.extend(action for action in actions if not isinstance(action, Send))
            for action in actions:
                if isinstance(action, Send) and isinstance(action.frame, ErrorFrame):
                    raise _NotTaken(action.frame)

        payload = report.execute(told)
        return [Reply(prefix + payload + b"}"), Reply(complete_message(prefix)), Carry(tuple(carried))]

    def _topics(self, prepared: Prepared) -> tuple[TopicCursor, ...]:
        """The topics asked for, each once and by this operation alone."""
        if not prepared.topics:
            raise InvalidRequest("empty", field="topics", rule="name at least one topic")
        if len(prepared.topics) > MAX_TOPICS_PER_CONNECTION:
            rule = f"at most {MAX_TOPICS_PER_CONNECTION} per connection"
            raise InvalidRequest(f"{len(prepared.topics)} topics", field="topics", rule=rule)
        seen: set[str] = set()
        for place, (topic, _, _) in enumerate(prepared.topics):
            field, shown = f"topics[{place}]", topic[:80]
            if topic in seen:
                raise InvalidRequest(f"{shown!r} is named twice", field=field, rule="each topic once")
            if self.owner(topic) is not None:
                raise InvalidRequest(
                    f"{shown!r} is followed by another operation of this connection",
                    field=field,
                    rule="complete that one first: one operation per topic and connection",
                )
            seen.add(topic)
        return prepared.topics

    def _refuse(self, id: str, errors: Sequence[Mapping[str, Any]], of: Sequence[Action]) -> list[GraphqlAction]:
        """An `error` message ends an operation that never began; `of` may also end the session."""
        told: list[GraphqlAction] = [Reply(_encode({"id": id, "type": "error", "payload": errors}), len(errors))]
        told += [Drop(action.code, "Too many operations in error") for action in of if isinstance(action, Close)]
        return told


def _to_session(session: Session, frame: ClientFrame, asking: Asking) -> list[Action]:
    return session.received(
        b"",
        now_s=asking.now_s,
        now_ms=asking.now_ms,
        latest_of=asking.latest_of,
        verify=asking.verify,
        read=lambda data: frame,
    )


def next_prefix(id: str) -> bytes:
    """What stands before the payload in every `next` message of an operation; behind it stands one brace."""
    return _BEFORE_ID + _encode(id) + _BEFORE_PAYLOAD


def complete_message(prefix: bytes) -> bytes:
    """The end of the operation whose messages begin with `prefix`."""
    return prefix.removesuffix(_BEFORE_PAYLOAD) + b',"type":"complete"}'


def _token(payload: Mapping[str, Any]) -> str | None:
    """The first of `token` and `authorization` in a payload of connection_init; None if there is none."""
    token = payload.get("token")
    if token is not None:
        return token if isinstance(token, str) else ""
    for name in ("authorization", "Authorization"):
        value = payload.get(name)
        if value is not None:
            scheme, _, credentials = value.partition(" ") if isinstance(value, str) else ("", "", "")
            return credentials.strip() if scheme.lower() == "bearer" else ""
    return None


def _error(error: InvalidRequest | Overloaded) -> dict[str, Any]:
    extensions: dict[str, Any] = {"code": error.code}
    if error.field is not None:
        extensions["field"] = error.field
    if error.rule is not None:
        extensions["rule"] = error.rule
    if error.retryable:
        extensions["retryAfterMs"] = round((error.retry_after_s or 1.0) * 1000)
    return {"message": str(error), "extensions": extensions}
