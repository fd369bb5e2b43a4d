"""Ports of the KV store. The router writes, push nodes and the DGS read; nobody reads the producer's database.

Every method raises StoreUnavailable when the store does not answer; all are cancel-safe and idempotent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from contract.broadcast import Broadcast
from contract.replay_log import AppendResult, LogSnapshot
from contract.schedule import TopicSchedule

__all__ = [
    "MAX_EXTEND",
    "NodeLease",
    "NodeLeases",
    "ReplayLog",
    "ReplayLogReader",
    "ScheduleView",
    "ScheduleViewReader",
    "StoreLife",
]


MAX_EXTEND: Final = 500
"""Broadcasts of one `extend`: a few hundred KB at most, so that no single operation blocks the store for long."""


class StoreLife(msgspec.Struct, frozen=True):
    """Which life of the store this is. Whoever wrote during another one may have lost what it wrote (R10)."""

    name: str
    """Changes with a restart, a fail-over, a change of role."""
    whole: bool
    """Whether a router made everything whole during this life; until then, what is not there may still exist."""


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

    async def extend(self, broadcasts: Sequence[Broadcast], *, tail: int, floor: int | None = None) -> AppendResult:
        """Append one topic's chain in one atomic step if its log still ends in `tail`; else REFUSED, and its tail.

        With a floor all the log held is given up first (see `TopicLog.extend`). At most MAX_EXTEND at once.
        """
        ...

    async def trim(self, topic: str, *, keep: int, before: int) -> int:
        """Drop entries below `before` or beyond the newest `keep`, never the newest; returns how many."""
        ...


class ScheduleViewReader(Protocol):
    """What is planned, as push nodes and the DGS see it."""

    async def schedules(self, topics: Sequence[str]) -> Mapping[str, TopicSchedule]:
        """Schedules of those topics that exist, in one round trip."""
        ...

    async def revisions(self, topics: Sequence[str]) -> Mapping[str, int]:
        """Revisions of those topics that exist, in one round trip: for anti-entropy."""
        ...

    async def topics_of(self, event_id: str) -> tuple[str, ...]:
        """The event's topics, one per audience, sorted; empty for an unknown event."""
        ...

    async def events(self) -> tuple[str, ...]:
        """Ids of every event in the view, sorted; shadows are found by their ids alone."""
        ...

    async def life(self) -> StoreLife:
        """Which life of the store this is, and whether a router made it whole since it began."""
        ...


class ScheduleView(ScheduleViewReader, Protocol):
    """What is planned, as the router writes it."""

    async def put(self, schedule: TopicSchedule) -> bool:
        """Store it if its revision is higher than the one held; returns whether it was (R5)."""
        ...

    async def mark_whole(self, name: str) -> None:
        """Schedules and replay logs hold all they should, in the life `name`, read *before* that was made so."""
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
