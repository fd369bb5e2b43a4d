"""The schedule store as the use cases see it: transactions over values, run off the event loop. A port.

`Store.write(work)` runs `work(transaction)` in one write transaction; everything it did is durable when the call
returns, and nothing of it happened when it raises. `work` is synchronous, runs in the store's own thread and must be
safe to repeat. Errors: StoreUnavailable (disk full, locked, gone), and whatever `work` raises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import Protocol, TypeVar

import msgspec

from contract.broadcast import Broadcast
from contract.coverage import TopicCoverage
from contract.log import LogEntry
from contract.reach import ReachCount
from contract.schedule import TopicSchedule
from message_producer.coverage import TopicHoldings
from message_producer.model import AuditEntry, BroadcastReach, EventState, LiveEvent, OutboxEntry, WriteContext
from message_producer.timeline import Outcome, Sent

__all__ = [
    "CoverageRows",
    "EventRows",
    "JournalRows",
    "LeaseLock",
    "LeaseRow",
    "LeaseRows",
    "OutboxRows",
    "ReachRows",
    "Remembered",
    "Store",
    "Transaction",
    "Unpublished",
]

T = TypeVar("T")


class LeaseRow(msgspec.Struct, frozen=True):
    """Who dispatches and publishes. The epoch rises with every change of holder and fences the old one (R3)."""

    holder: str = ""
    epoch: int = 0
    expires_at: int = 0
    """By the database's clock, ms."""


class LeaseLock(Enum):
    """How the lease's row is read."""

    NONE = "none"
    FENCE = "fence"
    """Nobody takes the lease over until this transaction ends; renewals and other fenced transactions go on."""
    TAKE = "take"
    """Alone with it, to take it over: waits for every fenced transaction."""


class Unpublished(msgspec.Struct, frozen=True):
    """What waits to be published, in the order it may go: schedules, then broadcasts by timestamp."""

    schedules: tuple[TopicSchedule, ...] = ()
    broadcasts: tuple[Broadcast, ...] = ()


class Remembered(msgspec.Struct, frozen=True):
    """What an idempotency key answered the first time."""

    action: str
    fingerprint: str
    response: bytes


class EventRows(Protocol):
    def load(self, event_id: str, *, lock: bool = False) -> EventState | None:
        """The event; with `lock` nobody else changes or dispatches it until this transaction ends (R1)."""
        ...

    def find_by_source(self, source: str, source_uid: str) -> str | None: ...

    def page(self, limit: int, after: str | None, *, shadows: bool = False) -> tuple[LiveEvent, ...]:
        """By id; rehearsals only with `shadows`."""
        ...

    def shadows(self) -> list[EventState]:
        """Every rehearsal there is, under way or over."""
        ...

    def forget(self, event_ids: Collection[str]) -> None:
        """Delete events with everything but their audit trail; nobody may follow their topics any more."""
        ...

    def load_free(self, event_ids: Collection[str]) -> list[EventState]:
        """Of these events the ones nobody else holds; nobody else gets them until this transaction ends (R1)."""
        ...

    def upcoming(self, limit: int, *, skip: Collection[str] = ()) -> list[tuple[int, str]]:
        """(due time, event id) of the next armed stages, overdue ones included, the earliest first."""
        ...

    def insert(self, state: EventState) -> None: ...

    def save(self, before: EventState, outcome: Outcome) -> None:
        """Write what differs from `before`, and the broadcasts sent. Raises AlreadyDispatched (R2)."""
        ...

    def save_all(self, changes: Sequence[tuple[EventState, Outcome]]) -> None:
        """`save` for several events at once."""
        ...


class OutboxRows(Protocol):
    def append(self, sent: Iterable[Sent]) -> None: ...

    def put_schedules(self, schedules: Iterable[TopicSchedule]) -> None:
        """To be published; a topic's older revision that was not yet is dropped: schedules are state."""
        ...

    def of_event(self, event_id: str, limit: int) -> tuple[OutboxEntry, ...]:
        """The newest `limit`, ascending by timestamp."""
        ...

    def dispatched_since(self, topic: str, since: int) -> list[int]:
        """Dispatch times of a topic's broadcasts after `since`, ascending."""
        ...

    def unpublished(self, limit: int) -> Unpublished: ...

    def position(self, batch: Unpublished, now: int) -> list[LogEntry]:
        """Give each its position in the embedded log; a schedule replaced meanwhile keeps waiting."""
        ...

    def mark_published(self, published: Sequence[tuple[Broadcast | TopicSchedule, int]]) -> None:
        """A log outside has these since then (ms); a schedule replaced meanwhile keeps waiting."""
        ...

    def entries_after(self, position: int, limit: int) -> list[LogEntry]:
        """Published broadcasts and schedules above `position`, ascending."""
        ...

    def broadcasts_since(self, since_ms: int, after: int, until: int, limit: int) -> list[LogEntry]:
        """Published broadcasts with timestamps from `since_ms` and the newest of every topic, however old.

        With positions in (after, until], ascending.
        """
        ...

    def head(self) -> int:
        """The newest position given out."""
        ...

    def schedules(self) -> list[TopicSchedule]: ...

    def committed(self, consumer: str) -> int: ...

    def commit(self, consumer: str, next_offset: int) -> None: ...


class LeaseRows(Protocol):
    def database_now_ms(self) -> int: ...

    def read(self, lock: LeaseLock = LeaseLock.NONE) -> LeaseRow: ...

    def renew(self, lease: LeaseRow) -> bool:
        """Move `expires_at`, if holder and epoch are still these; returns whether they were."""
        ...

    def write(self, lease: LeaseRow) -> None:
        """Replace the row, read under LeaseLock.TAKE before."""
        ...


class JournalRows(Protocol):
    def remember(self, context: WriteContext, action: str, response: bytes, now: int, *, keep_ms: int) -> None: ...

    def recall(self, context: WriteContext, now: int, *, keep_ms: int) -> Remembered | None: ...

    def audit(
        self,
        at: int,
        actor: str,
        action: str,
        event_id: str,
        before: dict[str, object] | None,
        after: dict[str, object] | None,
    ) -> None: ...

    def audit_of(self, event_id: str, limit: int, after: int) -> tuple[AuditEntry, ...]: ...


class ReachRows(Protocol):
    def record(self, counts: Sequence[ReachCount]) -> None:
        """Keep the greatest of each count, and the earliest `routed_at`."""
        ...

    def of_event(self, event_id: str, limit: int) -> tuple[BroadcastReach, ...]: ...


class CoverageRows(Protocol):
    def record(self, shares: Sequence[TopicCoverage], now: int) -> None:
        """Keep each share unless one with a higher `seq` is there; their nodes were heard from at `now`."""
        ...

    def of_topics(self, topics: Sequence[str], since: int) -> Mapping[str, TopicHoldings]:
        """Sums over nodes heard from since then, of each the latest incarnation; unreported topics are left out."""
        ...

    def prune(self, before: int) -> None:
        """Forget nodes not heard from since then, their shares, and empty shares counted before then."""
        ...


class Transaction(Protocol):
    @property
    def events(self) -> EventRows: ...

    @property
    def outbox(self) -> OutboxRows: ...

    @property
    def leases(self) -> LeaseRows: ...

    @property
    def journal(self) -> JournalRows: ...

    @property
    def reach(self) -> ReachRows: ...

    @property
    def coverage(self) -> CoverageRows: ...

    def tell_others(self) -> None:
        """Let other producers know at once, when this commits (see Store.watch). A hint: it may get lost."""
        ...


class Store(Protocol):
    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` on one consistent snapshot. Cancel-safe."""
        ...

    async def write(
        self,
        work: Callable[[Transaction], T],
        *,
        urgent: bool = False,
        failpoints: tuple[str | None, str | None] = ...,
    ) -> T:
        """Run `work` in one transaction; `failpoints` are passed before and after its commit, if its result is true.

        `urgent`: the lease and dispatching, which never wait behind what operators do. A cancelled caller does not
        know whether it happened; it happened wholly or not at all.
        """
        ...

    async def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever another producer may have told of a commit, until cancelled.

        Also once after every gap in which it could not listen. Never raises for the store's trouble.
        """
        ...
