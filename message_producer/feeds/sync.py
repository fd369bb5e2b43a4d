"""Entries of a feed -> operations: what is new is created, what moved is moved, what was called off is cancelled.

The feed owns an event's start, end, time zone and title; stages, audiences and everything else stay as operators made
them. An event the feed no longer names is reported as missing and left alone: files are cut off, addresses answer
with last week's copy, calendars drop what is past - none of that calls off a night. STATUS:CANCELLED and EXDATE do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from contract.errors import AlreadyDispatched, Conflict, InvalidRequest, NotFound
from message_producer.feeds.model import FeedContents, FeedEntry, Rejection
from message_producer.feeds.template import DEFAULT_TEMPLATE, StageTemplate, draft_of
from message_producer.model import EventPatch, LiveEvent, WriteContext
from message_producer.ports import Operations

__all__ = ["FeedChange", "FeedReport", "sync_feed"]

Outcome = Literal["created", "moved", "changed", "cancelled", "unchanged"]
_PAGE: Final = 200
_MAX_PAGES: Final = 100
"""Events looked through for missing ones: 20,000."""


class FeedChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one entry; before and after of the fields that changed."""

    event_id: str
    uid: str
    line: int
    title: str
    starts_at: int
    time_zone: str = "UTC"
    before: Mapping[str, object] = {}
    after: Mapping[str, object] = {}


class FeedReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one synchronisation did, or would do (`dry_run`)."""

    source: str
    dry_run: bool
    created: tuple[FeedChange, ...] = ()
    moved: tuple[FeedChange, ...] = ()
    """Start, end or time zone changed (and the title, perhaps)."""
    changed: tuple[FeedChange, ...] = ()
    """The title alone changed."""
    cancelled: tuple[FeedChange, ...] = ()
    unchanged: int = 0
    missing: tuple[str, ...] = ()
    """Ids of this feed's coming events within the horizon that the file no longer names; nothing was done to them."""
    rejected: tuple[Rejection, ...] = ()
    rejected_unlisted: int = 0
    outside: int = 0
    """UIDs with nothing within the horizon."""


async def sync_feed(
    contents: FeedContents,
    operations: Operations,
    *,
    source: str,
    actor: str,
    from_ms: int,
    until_ms: int,
    template: StageTemplate = DEFAULT_TEMPLATE,
    dry_run: bool = False,
) -> FeedReport:
    """Make the store agree with `contents`; every entry on its own, so that one refused entry stops no other.

    Safe to repeat and to cancel: what was done stays done, and the next run goes on from there. Raises
    StoreUnavailable (and whatever else is no refusal of an entry) at once.
    """
    sync = _Sync(operations, source, WriteContext(actor=actor), template, dry_run=dry_run)
    for entry in contents.entries:
        await sync.take(entry)
    missing = await _missing(contents, operations, source, from_ms, until_ms)
    return FeedReport(
        source=source,
        dry_run=dry_run,
        created=tuple(sync.done["created"]),
        moved=tuple(sync.done["moved"]),
        changed=tuple(sync.done["changed"]),
        cancelled=tuple(sync.done["cancelled"]),
        unchanged=len(sync.done["unchanged"]),
        missing=missing,
        rejected=tuple(sorted((*contents.rejected, *sync.refused), key=lambda item: item.line)),
        rejected_unlisted=contents.rejected_unlisted,
        outside=contents.outside,
    )


class _Sync:
    def __init__(
        self, operations: Operations, source: str, context: WriteContext, template: StageTemplate, *, dry_run: bool
    ) -> None:
        self._operations = operations
        self._source = source
        self._context = context
        self._template = template
        self._dry_run = dry_run
        self.done: dict[Outcome, list[FeedChange]] = {
            "created": [], "moved": [], "changed": [], "cancelled": [], "unchanged": []
        }  # fmt: skip
        self.refused: list[Rejection] = []

    async def take(self, entry: FeedEntry) -> None:
        known = await self._operations.find_by_source(self._source, entry.source_uid)
        try:
            outcome, change = await (self._create(entry) if known is None else self._update(entry, known))
        except (InvalidRequest, Conflict, NotFound) as exc:
            self.refused.append(_refusal(entry, exc))
            return
        self.done[outcome].append(change)

    async def _create(self, entry: FeedEntry) -> tuple[Outcome, FeedChange]:
        change = _change(entry, entry.event_id)
        if entry.cancelled:
            return "unchanged", change  # called off before anyone here knew of it
        if self._dry_run:
            await self._check_free(entry)
        else:
            await self._operations.create(draft_of(entry, self._template, self._source), self._context)
        return "created", change

    async def _check_free(self, entry: FeedEntry) -> None:
        try:
            await self._operations.get(entry.event_id)
        except NotFound:
            return
        raise Conflict(
            f"event {entry.event_id!r} exists and is not this feed's", field="id", rule="one owner per event"
        )

    async def _update(self, entry: FeedEntry, known: LiveEvent) -> tuple[Outcome, FeedChange]:
        if known.cancelled:
            # What was cancelled stays cancelled: its devices were told. A new entry needs a new UID.
            return "unchanged", _change(entry, known.event_id)
        if entry.cancelled:
            if not self._dry_run:
                await self._operations.cancel(known.event_id, self._context, if_revision=known.revision)
            return "cancelled", _change(entry, known.event_id)
        wanted = {
            "title": entry.title,
            "starts_at": entry.starts_at,
            "ends_at": entry.ends_at,
            "time_zone": entry.time_zone,
        }
        before = {name: getattr(known, name) for name in wanted}
        differing = {name: value for name, value in wanted.items() if value != before[name]}
        change = _change(entry, known.event_id, {name: before[name] for name in differing}, differing)
        if not differing:
            return "unchanged", change
        if not self._dry_run:
            patch = msgspec.convert(differing, EventPatch)
            await self._operations.change(known.event_id, patch, self._context, if_revision=known.revision)
        return ("changed" if set(differing) == {"title"} else "moved"), change


def _change(
    entry: FeedEntry,
    event_id: str,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
) -> FeedChange:
    return FeedChange(
        event_id=event_id,
        uid=entry.uid,
        line=entry.line,
        title=entry.title,
        starts_at=entry.starts_at,
        time_zone=entry.time_zone,
        before=before or {},
        after=after or {},
    )


def _refusal(entry: FeedEntry, exc: InvalidRequest | Conflict | NotFound) -> Rejection:
    rule = exc.rule or ("already announced" if isinstance(exc, AlreadyDispatched) else "")
    return Rejection(
        line=entry.line,
        field=exc.field or "event",
        message=exc.message,
        rule=rule,
        uid=entry.uid,
        occurrence=entry.occurrence,
    )


async def _missing(
    contents: FeedContents, operations: Operations, source: str, from_ms: int, until_ms: int
) -> tuple[str, ...]:
    named = {entry.source_uid for entry in contents.entries}
    unclear = {_source_uid(item) for item in contents.rejected}
    if contents.rejected_unlisted:
        return ()  # what the file names is not fully known
    found: list[str] = []
    after: str | None = None
    for _ in range(_MAX_PAGES):
        page = await operations.page(limit=_PAGE, after=after)
        found.extend(
            event.event_id
            for event in page.items
            if event.source == source
            and not event.cancelled
            and from_ms <= event.starts_at <= until_ms
            and event.source_uid is not None
            and event.source_uid not in named
            and event.source_uid not in unclear
            and event.source_uid.rpartition("#")[0] not in unclear
        )
        after = page.next_after
        if after is None:
            break
    return tuple(found)


def _source_uid(item: Rejection) -> str | None:
    return item.uid if item.occurrence is None else f"{item.uid}#{item.occurrence}"
