"""The one table of WebSocket close codes: the range tells the device what to do.

4000-4499  reconnect: now, or as the last goaway or window said (R21)
4500-4999  do not reconnect with the same credentials or the same code
1xxx       RFC 6455's own, as its protocol rules demand
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CloseCode", "may_reconnect", "reason"]


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
