"""The log in flight between producer and router, and the way reach comes back: ports and their records.

Embedded, the producer's outbox is the log; in a cluster Kafka is. Both look like this to the router.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import msgspec

from contract.broadcast import Broadcast
from contract.coverage import CoverageSink
from contract.reach import ReachCount
from contract.schedule import TopicSchedule

__all__ = ["BroadcastLog", "LogBatch", "LogEntry", "ReachSink", "ReportSink"]


class LogEntry(msgspec.Struct, frozen=True):
    """One record of the log in flight: a broadcast or a schedule, never both."""

    partition: int
    offset: int
    broadcast: Broadcast | None = None
    schedule: TopicSchedule | None = None
    traceparent: str | None = None
    """W3C trace context it came with, if the log carries one."""


class LogBatch(msgspec.Struct, frozen=True):
    """What one poll brought, to be handled in this order: revoked, assigned, entries."""

    revoked: tuple[int, ...] = ()
    assigned: Mapping[int, int] = {}
    """Partition -> next offset to deliver (the committed one), for partitions newly ours."""
    entries: tuple[LogEntry, ...] = ()


class BroadcastLog(Protocol):
    """Kafka's shape, so that the embedded outbox (one partition, 0) and a consumer group behave alike.

    Offsets are integers that rise within a partition; they need not be contiguous. Raises LogUnavailable.
    """

    async def poll(self, *, max_entries: int, timeout_s: float) -> LogBatch:
        """New entries of assigned partitions after the last poll; returns early with what there is. Cancel-safe."""
        ...

    def reread(self, partition: int, *, since_ms: int) -> AsyncIterator[LogEntry]:
        """Broadcasts of one partition with timestamps from `since_ms` to the end as of the call, ascending (R10).

        A log that still has it gives the newest of every topic too, however old: a store that is rebuilt must know the
        state that one that only trims would know (R9).
        """
        ...

    async def schedules(self) -> Sequence[TopicSchedule]:
        """The newest schedule of every topic: `stage.schedule` read whole (R10)."""
        ...

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Partition -> next offset to deliver: everything below is finished (R12)."""
        ...


class ReachSink(Protocol):
    """Where the router leaves what nodes report."""

    async def record_reach(self, counts: Sequence[ReachCount]) -> None:
        """Store absolute counts; repeats and reordering do no harm. Raises StoreUnavailable."""
        ...


class ReportSink(ReachSink, CoverageSink, Protocol):
    """Where the router leaves everything nodes report."""
