"""The broadcast half of the schema as the producer tells it: what `contract/broadcasts.graphql` says, in strawberry.

Read-only and thin: operators' tools ask for an event's broadcasts here in the very types devices are streamed.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Final, NewType

import strawberry
from fastapi import Request
from graphql import GraphQLError
from graphql.language import IntValueNode, ValueNode
from strawberry.extensions import MaxAliasesLimiter, MaxTokensLimiter
from strawberry.fastapi import GraphQLRouter
from strawberry.schema.config import StrawberryConfig

from contract.errors import BroadcastSystemError
from message_producer.model import OutboxEntry
from message_producer.ports import Operations

__all__ = [
    "AckRequest",
    "Broadcast",
    "BroadcastChannel",
    "ChannelTopic",
    "Continuity",
    "ContinuityVerdict",
    "ScheduleChange",
    "Session",
    "SessionKind",
    "StageTime",
    "TopicCursor",
    "build_schema",
    "graphql_router",
]

_MAX_ALIASES: Final = 10
_MAX_TOKENS: Final = 1_000
_MAX_TIMESTAMP: Final = 2**53 - 1
"""Beyond it a JSON number is no longer exact in JavaScript."""


def _parse_timestamp(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_TIMESTAMP:
        raise GraphQLError("Timestamp: milliseconds since the epoch as a JSON number")
    return value


def _parse_timestamp_literal(node: ValueNode, variables: dict[str, Any] | None = None) -> int:
    if not isinstance(node, IntValueNode):
        raise GraphQLError("Timestamp: milliseconds since the epoch as an integer", node)
    return _parse_timestamp(int(node.value))


Timestamp = NewType("Timestamp", int)
_TIMESTAMP = strawberry.scalar(
    name="Timestamp",
    description="Milliseconds since the epoch, as a JSON number.",
    serialize=_parse_timestamp,
    parse_value=_parse_timestamp,
    parse_literal=_parse_timestamp_literal,
)


@strawberry.enum
class ContinuityVerdict(Enum):
    COMPLETE = "complete"
    GAP = "gap"
    AHEAD = "ahead"
    PENDING = "pending"


@strawberry.enum
class SessionKind(Enum):
    WELCOME = "welcome"
    WINDOW = "window"
    TOKEN = "token"  # noqa: S105 - a kind of frame
    STALE = "stale"
    GOAWAY = "goaway"


@strawberry.type
class ChannelTopic:
    event_id: strawberry.ID
    topic: str
    state_key: str | None
    last_broadcast_at: Timestamp


@strawberry.type
class BroadcastChannel:
    url: str
    subprotocol: str
    token: str
    topics: list[ChannelTopic]
    connect_window_ms: int


@strawberry.input
class TopicCursor:
    topic: str
    cursor: Timestamp | None = strawberry.UNSET
    held_version: int | None = strawberry.UNSET
    held_revision: int | None = strawberry.UNSET


@strawberry.type
class AckRequest:
    one_in: int
    within_ms: int


@strawberry.type
class Broadcast:
    topic: str
    state_key: str
    timestamp: Timestamp
    prev: Timestamp
    replayed: bool
    skipped: list[Timestamp]
    ack: AckRequest | None


@strawberry.type
class Continuity:
    topic: str
    verdict: ContinuityVerdict
    state_key: str | None
    latest: Timestamp


@strawberry.type
class StageTime:
    key: str
    due_at: Timestamp | None


@strawberry.type
class ScheduleChange:
    topic: str
    revision: int
    version: int
    times: list[StageTime]


@strawberry.type
class Session:
    kind: SessionKind
    node: str | None
    server_time: Timestamp | None
    lifetime_s: float | None
    ping_s: float | None
    reconnect_window_ms: int | None
    refetch_window_ms: int | None
    token: str | None
    reason: str | None
    reconnect_after_ms: int | None


StreamItem = Annotated[Broadcast | Continuity | ScheduleChange | Session, strawberry.union("StreamItem")]


async def _broadcasts(info: strawberry.Info, event_id: strawberry.ID) -> list[Broadcast]:
    return [_broadcast(entry) for entry in await _outbox(info, event_id)]


async def _latest(info: strawberry.Info, event_id: strawberry.ID) -> list[StreamItem]:
    newest: dict[str, OutboxEntry] = {}
    for entry in sorted(await _outbox(info, event_id), key=lambda item: item.broadcast.timestamp):
        newest[entry.broadcast.topic] = entry
    return [_broadcast(entry) for entry in newest.values()]


async def _outbox(info: strawberry.Info, event_id: strawberry.ID) -> tuple[OutboxEntry, ...]:
    operations: Operations = info.context["operations"]
    try:
        return await operations.broadcasts(str(event_id))
    except BroadcastSystemError as exc:
        raise GraphQLError(str(exc), extensions={"code": exc.code}) from exc


@strawberry.type
class Query:
    broadcasts: list[Broadcast] = strawberry.field(
        resolver=_broadcasts, description="What went out for an event, oldest first."
    )
    latest: list[StreamItem] = strawberry.field(
        resolver=_latest, description="The newest broadcast of each topic of an event, as a stream item."
    )


def _aliases_limit() -> MaxAliasesLimiter:
    return MaxAliasesLimiter(max_alias_count=_MAX_ALIASES)


def _tokens_limit() -> MaxTokensLimiter:
    return MaxTokensLimiter(max_token_count=_MAX_TOKENS)


def build_schema() -> strawberry.Schema:
    """The schema; types no query reaches are in it too, because they are agreed on."""
    return strawberry.Schema(
        query=Query,
        types=[BroadcastChannel, ChannelTopic, Continuity, ScheduleChange, Session, TopicCursor],
        # One request may not ask the store a thousand times.
        extensions=[_aliases_limit, _tokens_limit],
        config=StrawberryConfig(scalar_map={Timestamp: _TIMESTAMP}),
    )


def graphql_router(operations: Operations) -> GraphQLRouter[Any, None]:
    """`POST /graphql`, without the browser page (it would load from elsewhere). Answers errors of ours by code."""

    async def context(request: Request) -> dict[str, Any]:
        return {"operations": operations}

    return GraphQLRouter(
        build_schema(), path="/graphql", graphql_ide=None, context_getter=context, allow_queries_via_get=False
    )


def _broadcast(entry: OutboxEntry) -> Broadcast:
    item = entry.broadcast
    return Broadcast(
        topic=item.topic,
        state_key=item.state_key,
        timestamp=Timestamp(item.timestamp),
        prev=Timestamp(item.prev),
        replayed=False,
        skipped=[],
        ack=None,
    )
