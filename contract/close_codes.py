"""The tables of WebSocket close codes. In stagecue.v1 the range tells the device what to do:

4000-4499  reconnect: now, or as the last goaway or window said (R21)
4500-4999  do not reconnect with the same credentials or the same code
1xxx       RFC 6455's own, as its protocol rules demand

graphql-transport-ws has codes of its own, and its clients decide by single codes: `graphql_close_code` says the same
thing to them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = ["GRAPHQL_FATAL_CODES", "CloseCode", "GraphqlCloseCode", "graphql_close_code", "may_reconnect", "reason"]


class CloseCode(IntEnum):
    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_UTF8 = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011

    DRAIN = 4000
    LIFETIME = 4001
    NODE_FULL = 4002
    SLOW_CONSUMER = 4003
    PONG_TIMEOUT = 4004
    STALE_NODE = 4005
    TOKEN_EXPIRED_RENEWABLE = 4006
    NO_SUBSCRIBE = 4007
    REFUSED_FOR_NOW = 4008
    TOO_MANY_FRAMES = 4009

    BAD_TOKEN = 4500
    BAD_FRAME = 4501
    FORBIDDEN = 4502
    TOO_MANY_ERRORS = 4503


_REASONS: dict[CloseCode, str] = {
    CloseCode.TOO_BIG: "frame too large",
    CloseCode.UNSUPPORTED_DATA: "stagecue.v1 is JSON in text frames",
    CloseCode.DRAIN: "node is draining",
    CloseCode.LIFETIME: "connection lifetime reached",
    CloseCode.NODE_FULL: "node is full",
    CloseCode.SLOW_CONSUMER: "too slow to read",
    CloseCode.PONG_TIMEOUT: "no pong in time",
    CloseCode.STALE_NODE: "node lost its sources",
    CloseCode.TOKEN_EXPIRED_RENEWABLE: "token expired; reconnect with the renewed one",
    CloseCode.NO_SUBSCRIBE: "nothing subscribed in time",
    CloseCode.REFUSED_FOR_NOW: "refused for now; obey the window",
    CloseCode.TOO_MANY_FRAMES: "too many frames at a time",
    CloseCode.BAD_TOKEN: "token missing, expired or not ours",
    CloseCode.BAD_FRAME: "frame breaks stagecue.v1",
    CloseCode.FORBIDDEN: "token does not allow this",
    CloseCode.TOO_MANY_ERRORS: "too many frames in error",
}


def reason(code: CloseCode) -> str:
    """The close frame's reason, at most 123 bytes; empty where RFC 6455's meaning needs none."""
    return _REASONS.get(code, "")


def may_reconnect(code: int) -> bool:
    """Whether a device should come back: everything but 4500-4999 (a broken network reports 1006)."""
    return not 4500 <= code <= 4999


class GraphqlCloseCode(IntEnum):
    """Codes on a graphql-transport-ws connection that stagecue.v1 has no use for, or another meaning.

    4400-4429 are the protocol's own; 41xx are ours, under numbers no client takes for one of its own.
    """

    TRY_AGAIN_LATER = 1013
    PONG_TIMEOUT = 4104
    STALE_NODE = 4105
    BAD_REQUEST = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    INIT_TIMEOUT = 4408
    SUBSCRIBER_EXISTS = 4409
    TOO_MANY_INITS = 4429


GRAPHQL_FATAL_CODES: Final = frozenset({4004, 4005, 4400, 4401, 4406, 4409, 4429, 4500})
"""What the npm package graphql-ws does not reconnect after, whatever its options; and 1002-1011 without 1005 and 1006.

4403 is not among them: it asks for new connection parameters on every attempt, so a client with a fresh token gets in.
"""

_GRAPHQL: dict[CloseCode, GraphqlCloseCode] = {
    CloseCode.INTERNAL_ERROR: GraphqlCloseCode.TRY_AGAIN_LATER,
    CloseCode.PONG_TIMEOUT: GraphqlCloseCode.PONG_TIMEOUT,
    CloseCode.STALE_NODE: GraphqlCloseCode.STALE_NODE,
    CloseCode.BAD_TOKEN: GraphqlCloseCode.FORBIDDEN,
    CloseCode.BAD_FRAME: GraphqlCloseCode.BAD_REQUEST,
    CloseCode.FORBIDDEN: GraphqlCloseCode.UNAUTHORIZED,
    CloseCode.TOO_MANY_ERRORS: GraphqlCloseCode.BAD_REQUEST,
}


def graphql_close_code(code: CloseCode) -> int:
    """The code that makes a graphql-transport-ws client do what `code` makes a stagecue.v1 device do."""
    return _GRAPHQL.get(code, code)
