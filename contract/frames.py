"""The device protocol `stagecue.v1`: every frame as a struct, decoding with clear errors, encoding.

JSON text frames, tagged by `type`; unknown fields are ignored, unknown types answered with an error frame.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from contract.broadcast import Broadcast
from contract.cursor import Cursor
from contract.errors import MalformedFrame
from contract.schedule import TopicSchedule

__all__ = [
    "BEARER_SUBPROTOCOL_PREFIX",
    "GRAPHQL_SUBPROTOCOL",
    "MAX_CLIENT_FRAME_BYTES",
    "MAX_TOPICS_PER_CONNECTION",
    "NODE_FULL",
    "SUBPROTOCOL",
    "UNKNOWN_TOPIC",
    "AckFrame",
    "AckRequest",
    "AuthFrame",
    "BroadcastFrame",
    "ClientFrame",
    "ContinuityFrame",
    "ErrorFrame",
    "GoawayFrame",
    "Held",
    "HoleFrame",
    "ScheduleFrame",
    "ServerFrame",
    "StaleFrame",
    "SubscribeFrame",
    "TokenFrame",
    "UnsubscribeFrame",
    "Verdict",
    "WelcomeFrame",
    "WindowFrame",
    "broadcast_frame",
    "decode_client_frame",
    "decode_server_frame",
    "encode_frame",
    "schedule_frame",
]

SUBPROTOCOL: Final = "stagecue.v1"
GRAPHQL_SUBPROTOCOL: Final = "graphql-transport-ws"
"""The same stream for GraphQL clients: contract/broadcasts.graphql."""
BEARER_SUBPROTOCOL_PREFIX: Final = "stagecue.bearer."
"""A browser cannot set Authorization; it offers this prefix and its token as a second subprotocol."""

MAX_CLIENT_FRAME_BYTES: Final = 16 * 1024
"""A subscribe to MAX_TOPICS_PER_CONNECTION topics of the longest legal name fits with room to spare."""
MAX_TOPICS_PER_CONNECTION: Final = 64

UNKNOWN_TOPIC: Final = "unknown_topic"
"""Code of the error frame for a topic a node does not know; it may learn of it, so devices ask again, paced (R21)."""
NODE_FULL: Final = "node_full"
"""Code of the error frame for a topic when the node follows as many as it may; devices ask again, likewise."""

Verdict = Literal["complete", "gap", "ahead", "pending"]


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""What JavaScript counts exactly; JSON's integers may have thousands of digits."""


class _Frame(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    pass


# device -> node
class Held(msgspec.Struct, frozen=True):
    """The stage map a device holds for a topic: the node's share of coverage."""

    version: _Count
    revision: _Count


class SubscribeFrame(_Frame, frozen=True, tag="subscribe"):
    topics: dict[str, Cursor]
    """Topic -> cursor; a topic named again replaces its cursor."""
    held: dict[str, Held] = {}


class UnsubscribeFrame(_Frame, frozen=True, tag="unsubscribe"):
    topics: list[str]


class AckFrame(_Frame, frozen=True, tag="ack"):
    """Cumulative: everything of `topic` up to `timestamp` was applied or is known."""

    topic: str
    timestamp: int


class AuthFrame(_Frame, frozen=True, tag="auth"):
    token: str


class HoleFrame(_Frame, frozen=True, tag="hole"):
    """A device applied `timestamp` whose `prev` lay above its `cursor` (R18)."""

    topic: str
    cursor: int
    prev: int
    timestamp: int


ClientFrame = SubscribeFrame | UnsubscribeFrame | AckFrame | AuthFrame | HoleFrame


# node -> device
class WelcomeFrame(_Frame, frozen=True, tag="welcome"):
    node: str
    server_time: int
    lifetime_s: float
    ping_s: float
    reconnect_window_ms: int
    refetch_window_ms: int


class ContinuityFrame(msgspec.Struct, frozen=True, tag_field="type", tag="continuity"):
    """Said per topic on every subscribe, before replayed frames (R15)."""

    topic: str
    verdict: Verdict
    state_key: str | None
    """The state `latest` announced; None before the first broadcast."""
    latest: int


class AckRequest(msgspec.Struct, frozen=True):
    """Each device draws once: with chance 1/one_in it acks at a random moment within `within_ms`."""

    one_in: int
    within_ms: int


class BroadcastFrame(_Frame, frozen=True, tag="broadcast"):
    topic: str
    state_key: str
    timestamp: int
    prev: int
    replayed: bool = False
    skipped: tuple[int, ...] = ()
    ack: AckRequest | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.prev < self.timestamp:
            raise ValueError("prev must lie in 0 <= prev < timestamp")


class ScheduleFrame(_Frame, frozen=True, tag="schedule"):
    topic: str
    revision: int
    version: int
    times: dict[str, int | None]


class GoawayFrame(_Frame, frozen=True, tag="goaway"):
    reason: str
    reconnect_after_ms: int
    window_ms: int


class WindowFrame(_Frame, frozen=True, tag="window"):
    reconnect_window_ms: int
    refetch_window_ms: int


class TokenFrame(_Frame, frozen=True, tag="token"):
    token: str


class StaleFrame(_Frame, frozen=True, tag="stale"):
    """The node lost its sources: open a second socket within the reconnect window (R17)."""


class ErrorFrame(_Frame, frozen=True, tag="error"):
    code: str
    message: str
    topic: str | None = None


ServerFrame = (
    WelcomeFrame
    | ContinuityFrame
    | BroadcastFrame
    | ScheduleFrame
    | GoawayFrame
    | WindowFrame
    | TokenFrame
    | StaleFrame
    | ErrorFrame
)

_encoder = msgspec.json.Encoder()
_client_decoder: msgspec.json.Decoder[ClientFrame] = msgspec.json.Decoder(ClientFrame)
_server_decoder: msgspec.json.Decoder[ServerFrame] = msgspec.json.Decoder(ServerFrame)
_CLIENT_TYPES = "subscribe, unsubscribe, ack, auth, hole"


def encode_frame(frame: ClientFrame | ServerFrame) -> bytes:
    """UTF-8 JSON of one frame, for a text message."""
    return _encoder.encode(frame)


def decode_client_frame(data: bytes | str) -> ClientFrame:
    """A device's frame, or MalformedFrame that names the field and the rule."""
    if len(data) > MAX_CLIENT_FRAME_BYTES:
        raise MalformedFrame(f"{len(data)} bytes", field="frame", rule=f"at most {MAX_CLIENT_FRAME_BYTES} bytes")
    try:
        return _client_decoder.decode(data)
    except msgspec.ValidationError as exc:
        message, _, path = str(exc).partition(" - at `$")
        field = path.rstrip("`").lstrip(".") or "frame"
        rule = f"type is one of {_CLIENT_TYPES}" if field == "type" or "`type`" in message else "see docs/protocol.md"
        raise MalformedFrame(message, field=field, rule=rule) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedFrame(f"not JSON: {exc}", field="frame", rule="one JSON object per text message") from exc
    except RecursionError as exc:  # in a field to be ignored, too: skipping it goes as deep
        raise MalformedFrame("nested too deep", field="frame", rule="see docs/protocol.md") from exc


def decode_server_frame(data: bytes | str) -> ServerFrame | None:
    """A node's frame; None for a type this version does not know, which a device ignores."""
    try:
        return _server_decoder.decode(data)
    except msgspec.ValidationError as exc:
        if "Invalid value" in str(exc) and "$.type" in str(exc):
            return None
        raise MalformedFrame(str(exc), field="frame") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedFrame(f"not JSON: {exc}", field="frame") from exc


def broadcast_frame(
    broadcast: Broadcast, *, replayed: bool = False, skipped: tuple[int, ...] = (), ack: AckRequest | None = None
) -> BroadcastFrame:
    """The frame of a broadcast: its two facts, its topic and its chain."""
    return BroadcastFrame(
        topic=broadcast.topic,
        state_key=broadcast.state_key,
        timestamp=broadcast.timestamp,
        prev=broadcast.prev,
        replayed=replayed,
        skipped=skipped,
        ack=ack,
    )


def schedule_frame(schedule: TopicSchedule) -> ScheduleFrame:
    return ScheduleFrame(
        topic=schedule.topic, revision=schedule.revision, version=schedule.version, times=schedule.times()
    )
