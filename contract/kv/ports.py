"""Ports of the KV store. The router writes, push nodes and the DGS read; nobody reads the producer's database.

Every method raises StoreUnavailable when the store does not answer; all are cancel-safe and idempotent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from contract.broadcast import Broadcast
from contract.replay_log import AppendResult, LogSnapshot
from contract.schedule import TopicSchedule

__all__ = ["NodeLease", "NodeLeases", "ReplayLog", "ReplayLogReader", "ScheduleView", "ScheduleViewReader"]


class ReplayLogReader(Protocol):
    """Replay logs as push nodes and the DGS see them."""

    async def read(self, topic: str) -> LogSnapshot:
        """The topic's whole bounded log at one instant; floor 0 and no entries for a topic never written."""
        ...

    async def tails(self, topics: Sequence[str]) -> Mapping[str, int]:
        """Tail per topic, in one round trip, 0 where nothing was written: for anti-entropy."""
        ...


class ReplayLog(ReplayLogReader, Protocol):
    """Replay logs as the router writes them."""

    async def append(self, broadcast: Broadcast) -> AppendResult:
        """One atomic append under R9's rules."""
        ...

    async def raise_floor(self, topic: str, floor: int) -> None:
        """Declare everything at or below `floor` lost; the floor only rises."""
        ...

    async def trim(self, topic: str, *, keep: int, before: int) -> int:
        """Drop entries below `before` or beyond the newest `keep`, never the newest; returns how many."""
        ...


class ScheduleViewReader(Protocol):
    """What is planned, as push nodes and the DGS see it."""

    async def schedules(self, topics: Sequence[str]) -> Mapping[str, TopicSchedule]:
        """Schedules of those topics that exist, in one round trip."""
        ...

    async def topics_of(self, event_id: str) -> tuple[str, ...]:
        """The event's topics, one per audience, sorted; empty for an unknown event."""
        ...

    async def events(self) -> tuple[str, ...]:
        """Ids of every event in the view, sorted."""
        ...


class ScheduleView(ScheduleViewReader, Protocol):
    """What is planned, as the router writes it."""

    async def put(self, schedule: TopicSchedule) -> bool:
        """Store it if its revision is higher than the one held; returns whether it was (R5)."""
        ...


class NodeLease(msgspec.Struct, frozen=True, kw_only=True):
    """A push node's claim to be alive at an address; the incarnation changes with every start."""

    node_id: str
    incarnation: str
    link_address: str
    """`host:port` of its internal listener."""


class NodeLeases(Protocol):
    """Which push nodes are alive, and where."""

    async def renew(self, lease: NodeLease, *, lifetime_s: float) -> None:
        """Hold the lease for `lifetime_s` from now, in place of any other incarnation's."""
        ...

    async def release(self, lease: NodeLease) -> None:
        """Drop it, unless a newer incarnation holds it."""
        ...

    async def alive(self) -> Iterable[NodeLease]:
        """Leases not expired, any order."""
        ...
