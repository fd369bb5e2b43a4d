"""A broadcast: a state key and a timestamp on a topic, chained to the one before it (R1, R8)."""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = ["Broadcast", "Cause", "decode_broadcast", "encode_broadcast"]


class Cause(StrEnum):
    """Why a broadcast went out."""

    SCHEDULED = "scheduled"
    CUE = "cue"
    REWIND = "rewind"
    CANCELLED = "cancelled"


class Broadcast(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a topic's log, as it travels from the outbox to the push node.

    Devices see `topic`, `state_key`, `timestamp` and `prev` only. No personal data (R7).
    """

    topic: str
    state_key: str
    timestamp: int
    """Cursor: milliseconds since the epoch, strictly increasing per event (R1)."""
    prev: int
    """The topic's previous timestamp, 0 for its first broadcast (R8)."""
    event_id: str
    cause: Cause = Cause.SCHEDULED
    due_at: int | None = None
    """When it should have gone out, ms; None for what was never scheduled (cues)."""
    dispatched_at: int | None = None
    """The dispatcher's clock inside the dispatch transaction, ms: for latencies, never for order (R3)."""

    def __post_init__(self) -> None:
        assert 0 <= self.prev < self.timestamp, f"broken chain: prev {self.prev}, timestamp {self.timestamp}"

    def same_payload(self, other: Broadcast) -> bool:
        """Whether both say the same to a device; a repeat that differs is an alarm (R9)."""
        return (self.state_key, self.prev) == (other.state_key, other.prev)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Broadcast)


def encode_broadcast(broadcast: Broadcast) -> bytes:
    """The value of a `stage.broadcasts` record and of a replay log entry."""
    return _encoder.encode(broadcast)


def decode_broadcast(data: bytes) -> Broadcast:
    """Inverse of `encode_broadcast`; raises msgspec.ValidationError or DecodeError on anything else."""
    return _decoder.decode(data)
