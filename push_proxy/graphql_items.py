"""Frames as members of StreamItem: what each says, in the words of `contract/broadcasts.graphql`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from contract.frames import (
    BroadcastFrame,
    ContinuityFrame,
    GoawayFrame,
    ScheduleFrame,
    ServerFrame,
    StaleFrame,
    TokenFrame,
    WelcomeFrame,
    WindowFrame,
)

__all__ = ["stream_item"]


def stream_item(frame: ServerFrame) -> dict[str, Any]:
    """A frame as the schema's StreamItem, every field of its member there; no ErrorFrame, which is an error."""
    return _ITEMS[type(frame)](frame)


def _broadcast(frame: BroadcastFrame) -> dict[str, Any]:
    ack = frame.ack
    return {
        "__typename": "Broadcast",
        "topic": frame.topic,
        "stateKey": frame.state_key,
        "timestamp": frame.timestamp,
        "prev": frame.prev,
        "replayed": frame.replayed,
        "skipped": list(frame.skipped),
        "ack": None if ack is None else {"__typename": "AckRequest", "oneIn": ack.one_in, "withinMs": ack.within_ms},
    }


def _continuity(frame: ContinuityFrame) -> dict[str, Any]:
    return {
        "__typename": "Continuity",
        "topic": frame.topic,
        "verdict": frame.verdict.upper(),
        "stateKey": frame.state_key,
        "latest": frame.latest,
    }


def _schedule(frame: ScheduleFrame) -> dict[str, Any]:
    return {
        "__typename": "ScheduleChange",
        "topic": frame.topic,
        "revision": frame.revision,
        "version": frame.version,
        "times": [{"__typename": "StageTime", "key": key, "dueAt": due_at} for key, due_at in frame.times.items()],
    }


_SESSION: Final[Mapping[str, Any]] = {
    "__typename": "Session",
    "kind": "",
    "node": None,
    "serverTime": None,
    "lifetimeS": None,
    "pingS": None,
    "reconnectWindowMs": None,
    "refetchWindowMs": None,
    "token": None,
    "reason": None,
    "reconnectAfterMs": None,
}


def _welcome(frame: WelcomeFrame) -> dict[str, Any]:
    return {
        **_SESSION,
        "kind": "WELCOME",
        "node": frame.node,
        "serverTime": frame.server_time,
        "lifetimeS": frame.lifetime_s,
        "pingS": frame.ping_s,
        "reconnectWindowMs": frame.reconnect_window_ms,
        "refetchWindowMs": frame.refetch_window_ms,
    }


def _window(frame: WindowFrame) -> dict[str, Any]:
    return {
        **_SESSION,
        "kind": "WINDOW",
        "reconnectWindowMs": frame.reconnect_window_ms,
        "refetchWindowMs": frame.refetch_window_ms,
    }


def _token(frame: TokenFrame) -> dict[str, Any]:
    return {**_SESSION, "kind": "TOKEN", "token": frame.token}


def _stale(frame: StaleFrame) -> dict[str, Any]:
    return {**_SESSION, "kind": "STALE"}


def _goaway(frame: GoawayFrame) -> dict[str, Any]:
    return {
        **_SESSION,
        "kind": "GOAWAY",
        "reason": frame.reason,
        "reconnectAfterMs": frame.reconnect_after_ms,
        "reconnectWindowMs": frame.window_ms,
    }


_ITEMS: Final[Mapping[type, Callable[[Any], dict[str, Any]]]] = {
    BroadcastFrame: _broadcast,
    ContinuityFrame: _continuity,
    ScheduleFrame: _schedule,
    WelcomeFrame: _welcome,
    WindowFrame: _window,
    TokenFrame: _token,
    StaleFrame: _stale,
    GoawayFrame: _goaway,
}
