"""What the producer needs of the world, and what its interfaces need of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from contract.broadcast import Broadcast
from contract.coverage import TopicCoverage
from contract.reach import ReachCount
from contract.schedule import TopicSchedule
from message_producer.coverage import EventCoverage
from message_producer.model import (
    AuditEntry,
    BroadcastReach,
    EventDraft,
    EventPatch,
    LiveEvent,
    OutboxEntry,
    Page,
    PreviewEntry,
    WriteContext,
)
from message_producer.shadows import ShadowPlan

__all__ = ["AlarmClock", "Operations", "Publisher"]


class Operations(Protocol):
    """Everything an operator or a feed can do. Every interface goes through this one door.

    Errors: InvalidRequest (names field and rule), NotFound, Conflict, RevisionConflict, BudgetSpent,
    StoreUnavailable. A failed call changes nothing. Writes are one transaction each, audit entry and idempotency
    record included; a repeated idempotency key returns what the first call returned.
    """

    async def create(self, draft: EventDraft, context: WriteContext) -> LiveEvent:
        """Store a new event and publish its schedules; what is due already, the dispatcher finds (R4)."""
        ...

    async def get(self, event_id: str) -> LiveEvent: ...

    async def find_by_source(self, source: str, source_uid: str) -> LiveEvent | None:
        """The event a feed made of its entry `source_uid`, if any."""
        ...

    async def page(self, *, limit: int, after: str | None = None, shadows: bool = False) -> Page:
        """Events in a stable order, rehearsals only with `shadows`; `after` is the `next_after` of the page before."""
        ...

    async def change(
        self, event_id: str, patch: EventPatch, context: WriteContext, *, if_revision: int | None
    ) -> LiveEvent: ...

    async def shift(
        self, event_id: str, by_ms: int, context: WriteContext, *, if_revision: int | None = None
    ) -> LiveEvent:
        """Move start and end by `by_ms`; re-arms every stage anchored to them, rewinds if needed (R4)."""
        ...

    async def cancel(self, event_id: str, context: WriteContext, *, if_revision: int | None = None) -> LiveEvent:
        """Call it off for good; broadcasts `cancelled` where anything was announced (R4)."""
        ...

    async def rehearse(self, event_id: str, plan: ShadowPlan, context: WriteContext) -> LiveEvent:
        """A shadow of the event: its schedule compressed, on shadow topics. The event itself does not change.

        Conflict: it is cancelled, or OPEN_SHADOWS_MAX rehearsals are under way.
        """
        ...

    async def cue(
        self,
        event_id: str,
        stage_key: str,
        context: WriteContext,
        *,
        audience: str | None = None,
        override_coverage: bool = False,
    ) -> tuple[Broadcast, ...]:
        """Broadcast a stage now, to one audience or all.

        A stage added late needs coverage at the event's threshold (R7): Conflict otherwise, unless overridden.
        """
        ...

    async def announce_content(self, event_id: str, context: WriteContext) -> LiveEvent:
        """Content of the stage maps changed: the version rises and devices refetch (R5)."""
        ...

    async def preview(self, event_id: str, *, until: int | None = None) -> tuple[PreviewEntry, ...]:
        """What would go out, when, to which topics; nothing is changed."""
        ...

    async def broadcasts(self, event_id: str) -> tuple[OutboxEntry, ...]:
        """What was dispatched, published or not."""
        ...

    async def reach(self, event_id: str) -> tuple[BroadcastReach, ...]:
        """Who got each broadcast, as far as nodes reported."""
        ...

    async def coverage(self, event_id: str) -> EventCoverage:
        """Which maps the devices of each topic hold, as far as nodes reported lately."""
        ...

    async def audit(self, event_id: str, *, limit: int = 100, after: int = 0) -> tuple[AuditEntry, ...]: ...

    async def record_reach(self, counts: Sequence[ReachCount]) -> None:
        """See contract.log.ReachSink."""
        ...

    async def record_coverage(self, shares: Sequence[TopicCoverage]) -> None:
        """See contract.coverage.CoverageSink."""
        ...


class Publisher(Protocol):
    """The log, seen from the producer. Returning means the log has it durably (R2)."""

    async def publish_broadcast(self, broadcast: Broadcast) -> None: ...

    async def publish_schedule(self, schedule: TopicSchedule) -> None: ...


class AlarmClock(Protocol):
    """Wakes the dispatcher; may wake it early, late or twice: truth lies in the store."""

    def arm(self, at_ms: int | None) -> None:
        """Ring at `at_ms` instead of any earlier appointment; None: never."""
        ...
