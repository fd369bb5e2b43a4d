"""The route that takes a calendar: parsed in a thread, then given to the store entry by entry."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from contract.clock import Clock
from contract.errors import InvalidRequest
from message_producer.api_events import bearer, problem_docs
from message_producer.feeds.ics import parse_calendar
from message_producer.feeds.model import Rejection
from message_producer.feeds.sync import FeedChange, FeedReport, sync_feed
from message_producer.feeds.template import StageTemplate
from message_producer.model import EventPatch
from message_producer.moments import format_moment, parse_moment
from message_producer.ports import Operations

__all__ = ["FeedReportView", "feeds_router"]

_DAY_MS: Final = 86_400_000
_PAST_MS: Final = _DAY_MS
_AHEAD_MS: Final = 400 * _DAY_MS
_PARSE_BUDGET_S: Final = 20.0
_IMPORTS_AT_ONCE: Final = 2
_SOURCE: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_CALENDAR: Final = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//example//schedule//EN
BEGIN:VEVENT
UID:tyson-paul@example.org
DTSTAMP:20241101T000000Z
SUMMARY:Jake Paul vs. Mike Tyson
DTSTART;TZID=America/New_York:20241115T200000
DTEND;TZID=America/New_York:20241116T010000
END:VEVENT
END:VCALENDAR
"""


class FeedChangeView(BaseModel):
    id: str
    uid: str
    line: int
    title: str
    starts_at: str
    starts_at_ms: int
    before: dict[str, Any]
    after: dict[str, Any]

    @classmethod
    def of(cls, change: FeedChange) -> FeedChangeView:
        return cls(
            id=change.event_id,
            uid=change.uid,
            line=change.line,
            title=change.title,
            starts_at=format_moment(change.starts_at, change.time_zone),
            starts_at_ms=change.starts_at,
            before=_shown(change.before, change.time_zone),
            after=_shown(change.after, change.time_zone),
        )


class RejectionView(BaseModel):
    line: int
    uid: str | None
    field: str
    message: str
    rule: str

    @classmethod
    def of(cls, item: Rejection) -> RejectionView:
        return cls(line=item.line, uid=item.uid, field=item.field, message=item.message, rule=item.rule)


class FeedReportView(BaseModel):
    """What the calendar changed, or would change; `missing` events are reported and left alone."""

    source: str
    dry_run: bool
    from_: str = Field(serialization_alias="from")
    until: str
    created: list[FeedChangeView]
    moved: list[FeedChangeView]
    changed: list[FeedChangeView]
    cancelled: list[FeedChangeView]
    unchanged: int
    outside_horizon: int
    missing: list[str]
    rejected: list[RejectionView]
    rejected_unlisted: int

    @classmethod
    def of(cls, report: FeedReport, from_ms: int, until_ms: int) -> FeedReportView:
        return cls(
            source=report.source,
            dry_run=report.dry_run,
            from_=format_moment(from_ms),
            until=format_moment(until_ms),
            created=[FeedChangeView.of(item) for item in report.created],
            moved=[FeedChangeView.of(item) for item in report.moved],
            changed=[FeedChangeView.of(item) for item in report.changed],
            cancelled=[FeedChangeView.of(item) for item in report.cancelled],
            unchanged=report.unchanged,
            outside_horizon=report.outside,
            missing=list(report.missing),
            rejected=[RejectionView.of(item) for item in report.rejected],
            rejected_unlisted=report.rejected_unlisted,
        )


def feeds_router(operations: Operations, template: StageTemplate, clock: Clock) -> APIRouter:
    """Everything under /v1/feeds."""
    router = APIRouter(prefix="/v1/feeds", tags=["feeds"], dependencies=[Depends(bearer)])
    places = asyncio.Semaphore(_IMPORTS_AT_ONCE)

    @router.post(
        "/import",
        summary="Take a calendar: good entries are taken, bad ones listed by line; safe to repeat",
        responses=problem_docs(400, 403, 413, 415, answer="import"),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"text/calendar": {"schema": {"type": "string"}, "example": _CALENDAR}},
            }
        },
    )
    async def import_calendar(
        request: Request,
        dry_run: Annotated[bool, Query(description="Report what would change, change nothing.")] = False,
        source: Annotated[str, Query(description="Name of the feed; it owns the events it creates.")] = "import",
        from_: Annotated[str | None, Query(alias="from", max_length=40, description="RFC 3339; a day ago.")] = None,
        until: Annotated[str | None, Query(max_length=40, description="RFC 3339; 400 days ahead.")] = None,
    ) -> FeedReportView:
        _check_source(source)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/calendar":
            raise HTTPException(415, "Content-Type: send the calendar as text/calendar")
        now = clock.now_ms()
        from_ms = now - _PAST_MS if from_ is None else parse_moment(from_.replace(" ", "+"), "from")
        until_ms = max(now, from_ms) + _AHEAD_MS if until is None else parse_moment(until.replace(" ", "+"), "until")
        body = await request.body()
        async with places:
            deadline_s = clock.monotonic_s() + _PARSE_BUDGET_S
            contents = await asyncio.to_thread(
                parse_calendar,
                body,
                from_ms=from_ms,
                until_ms=until_ms,
                out_of_time=lambda: clock.monotonic_s() > deadline_s,
            )
            report = await sync_feed(
                contents,
                operations,
                source=source,
                actor=request.state.operator.sub,
                from_ms=from_ms,
                until_ms=until_ms,
                template=template,
                dry_run=dry_run,
            )
        return FeedReportView.of(report, from_ms, until_ms)

    return router


def _check_source(source: str) -> None:
    if not _SOURCE.fullmatch(source) or source == "api":
        raise InvalidRequest(
            f"{source[:80]!r} is no name for a feed", field="source", rule="1-64 of a-z 0-9 . _ -, and not `api`"
        )


def _shown(fields: Any, zone: str) -> dict[str, Any]:
    """Changed fields as an operator reads them: times in RFC 3339."""
    times = {"starts_at", "ends_at"} & set(EventPatch.__struct_fields__)
    return {k: format_moment(v, zone) if k in times and v is not None else v for k, v in fields.items()}
