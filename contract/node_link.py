"""The node link: what a router and a push node say to each other, acknowledged in both directions (R12, R14).

The same messages travel over an in-process channel (embedded) and a WebSocket (cluster).

    node   -> router   Hello                     identity and all topics, first message of a connection
    router -> node     HelloAccepted
    node   -> router   InterestDelta(seq)        topics added and removed since
    router -> node     InterestAck(seq)          from now on deliveries of these topics come over this link
    router -> node     Deliver(seq)              broadcasts and schedules, in order per topic
    node   -> router   DeliverAck(seq)           all of it is in the node's memory and written to its connections
    node   -> router   ReachReport               absolute counts, repeated until they stand still
    node   -> router   CoverageReport(seq)       absolute counts of the stage maps held, changed ones and others in turn
    either             LinkPing / LinkPong
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from contract.broadcast import Broadcast
from contract.coverage import CoverageShare
from contract.reach import ReachCount
from contract.schedule import TopicSchedule

__all__ = [
    "LINK_PROTOCOL",
    "CoverageReport",
    "Deliver",
    "DeliverAck",
    "Hello",
    "HelloAccepted",
    "InterestAck",
    "InterestDelta",
    "LinkMessage",
    "LinkPing",
    "LinkPong",
    "MessageChannel",
    "ReachReport",
    "decode_link_message",
    "encode_link_message",
]

LINK_PROTOCOL: Final = 1


class _Message(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t"):
    pass


class Hello(_Message, frozen=True, tag="hello"):
    node_id: str
    incarnation: str
    topics: tuple[str, ...]
    protocol: int = LINK_PROTOCOL


class HelloAccepted(_Message, frozen=True, tag="accepted"):
    router_id: str
    protocol: int = LINK_PROTOCOL


class InterestDelta(_Message, frozen=True, tag="interest"):
    seq: int
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


class InterestAck(_Message, frozen=True, tag="interest_ack"):
    seq: int


class Deliver(_Message, frozen=True, tag="deliver"):
    seq: int
    broadcasts: tuple[Broadcast, ...] = ()
    schedules: tuple[TopicSchedule, ...] = ()


class DeliverAck(_Message, frozen=True, tag="deliver_ack"):
    seq: int
    written: int = 0
    """Connections written to, summed over the batch."""


class ReachReport(_Message, frozen=True, tag="reach"):
    counts: tuple[ReachCount, ...]


class CoverageReport(_Message, frozen=True, tag="coverage"):
    """Of the incarnation that said hello."""

    begun_at: int
    """When it began: ms since the epoch, the node's clock."""
    seq: int
    """Rises with every report of an incarnation, whichever router it goes to."""
    shares: tuple[CoverageShare, ...]


class LinkPing(_Message, frozen=True, tag="ping"):
    pass


class LinkPong(_Message, frozen=True, tag="pong"):
    pass


LinkMessage = (
    Hello
    | HelloAccepted
    | InterestDelta
    | InterestAck
    | Deliver
    | DeliverAck
    | ReachReport
    | CoverageReport
    | LinkPing
    | LinkPong
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[LinkMessage] = msgspec.json.Decoder(LinkMessage)


def encode_link_message(message: LinkMessage) -> bytes:
    return _encoder.encode(message)


def decode_link_message(data: bytes | str) -> LinkMessage:
    """Raises msgspec.ValidationError or DecodeError; the adapter closes the link on either."""
    return _decoder.decode(data)


class MessageChannel(Protocol):
    """An ordered, reliable, bounded two-way channel of link messages; identity is proven before it is handed out."""

    async def send(self, message: LinkMessage) -> None:
        """Queue one message, waiting while the bound is reached. Raises NodeUnreachable once closed."""
        ...

    async def receive(self) -> LinkMessage:
        """The next message. Raises NodeUnreachable once closed by either side and drained. Cancel-safe."""
        ...

    def close(self) -> None:
        """End it for both sides; idempotent."""
        ...
