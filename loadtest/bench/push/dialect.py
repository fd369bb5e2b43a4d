"""How devices of a benchmark speak to a server: what each sends, and what it waits for until it is ready. Pure but for
keys and masks, which are random."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from contract.frames import SUBPROTOCOL, encode_frame
from device_sim.wire import TEXT, handshake_request, masked_frame
from loadtest.bench.push.chain import TOPICS, Chain

__all__ = ["EVENTS", "GRAPHQL", "STREAM", "Dialect", "Marker", "bare"]


class Marker(NamedTuple):
    """A device is ready once `text` came in so many messages."""

    times: int
    text: str


class Dialect(NamedTuple):
    request: Callable[[str, str, Chain], bytes]
    """The head a device sends to a host, with its token."""
    opening: Callable[[Chain], bytes]
    """What it sends after the answer, the same for all devices; empty: nothing."""
    ready_when: Sequence[Marker]
    """None: the answer alone."""
    mode: Literal["messages", "events"] = "messages"
    """WebSocket messages, or server-sent events."""


def bare(path: str, ready_when: Sequence[Marker] = ()) -> Dialect:
    """An upgrade that offers no subprotocol and no token."""

    def request(host: str, token: str, chain: Chain) -> bytes:
        return (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_key().decode()}\r\n\r\n"
        ).encode()

    return Dialect(request, _nothing, ready_when)


def _key() -> bytes:
    return base64.b64encode(secrets.token_bytes(16))


def _nothing(chain: Chain) -> bytes:
    return b""


def _text(payload: bytes) -> bytes:
    return masked_frame(TEXT, payload, secrets.token_bytes(4))


def _stream_request(host: str, token: str, chain: Chain) -> bytes:
    return handshake_request(host, "/v1/stream", subprotocol=SUBPROTOCOL, token=token, key=_key())


def _stream_opening(chain: Chain) -> bytes:
    return _text(encode_frame(chain.subscribe()))


STREAM: Final = Dialect(
    _stream_request,
    _stream_opening,
    (
        Marker(1, '"type":"welcome"'),
        Marker(len(TOPICS), '"verdict":"complete"'),
        Marker(1, '"replayed":true'),
    ),
)
"""stagecue.v1: two topics, of which one lacks a broadcast."""

_QUERY: Final = """subscription ($topics: [TopicCursor!]!) { broadcasts(topics: $topics) {
  __typename
  ... on Broadcast { topic stateKey timestamp prev replayed skipped ack { oneIn withinMs } }
  ... on Continuity { topic verdict current: stateKey latest }
  ... on ScheduleChange { topic revision version times { key dueAt } }
  ... on Session { kind serverTime reconnectWindowMs refetchWindowMs token reconnectAfterMs }
} }"""


def _graphql_request(host: str, token: str, chain: Chain) -> bytes:
    return handshake_request(host, "/v1/stream", subprotocol="graphql-transport-ws", token=token, key=_key())


def _graphql_opening(chain: Chain) -> bytes:
    asked = chain.subscribe()
    topics = [
        {
            "topic": topic,
            "cursor": cursor,
            "heldVersion": asked.held[topic].version,
            "heldRevision": asked.held[topic].revision,
        }
        for topic, cursor in asked.topics.items()
    ]
    payload = {"query": _QUERY, "variables": {"topics": topics}}
    return _text(b'{"type":"connection_init"}') + _text(
        msgspec.json.encode({"id": "1", "type": "subscribe", "payload": payload})
    )


GRAPHQL: Final = Dialect(
    _graphql_request,
    _graphql_opening,
    (Marker(1, '"connection_ack"'), Marker(len(TOPICS), '"verdict":"COMPLETE"'), Marker(1, '"replayed":true')),
)
"""graphql-transport-ws: the same, as one operation."""


def _events_request(host: str, token: str, chain: Chain) -> bytes:
    topic = TOPICS[0]
    cursor = chain.subscribe().topics[topic]
    return (
        f"GET /v1/events?topic={topic} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n"
        f"Cache-Control: no-cache\r\nLast-Event-ID: {cursor}\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()


EVENTS: Final = Dialect(
    _events_request, _nothing, (Marker(1, "event: continuity"), Marker(1, '"replayed":true')), mode="events"
)
"""Server-sent events: the one topic that lacks a broadcast."""
