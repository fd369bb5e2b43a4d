"""Routes of the operator API that read and change events. Each is a translation; every rule lives behind Operations."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.security import HTTPBearer

from contract.errors import InvalidRequest, RevisionConflict
from message_producer.api_examples import ANSWERS
from message_producer.api_requests import CueIn, EventIn, EventPatchIn, RehearsalIn, ShiftIn
from message_producer.api_views import (
    AuditPage,
    AuditView,
    BroadcastList,
    BroadcastView,
    CoverageView,
    CueResult,
    EventPage,
    EventView,
    PreviewList,
    PreviewView,
    ReachList,
    ReachView,
)
from message_producer.feeds.template import StageTemplate
from message_producer.model import LiveEvent, WriteContext
from message_producer.moments import parse_moment
from message_producer.ports import Operations
from message_producer.problems import PreconditionRequired

__all__ = ["StaleRevision", "bearer", "events_router", "problem_docs"]

bearer = HTTPBearer(auto_error=False, description="Operator token: role viewer to read, operator to write.")
"""Declares the scheme in the OpenAPI document; the guard before the application does the work."""

_ETAG: Final = re.compile(r'"(\d{1,18})"')
_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
_PREVIEW_FIELD: Final = "until"

EventId = Annotated[str, Path(alias="id", max_length=200, description="Id of the event.", examples=["tyson-paul"])]
IfMatch = Annotated[
    str | None, Header(alias="If-Match", description="ETag of the revision this is based on, or `*`.", examples=['"3"'])
]


class StaleRevision(RevisionConflict):
    """RevisionConflict that also names the revision which is current."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the event is at revision {current}", field="If-Match", rule="read it again, then change it")
        self.extra = {"current_revision": current}


def problem_docs(*statuses: int, answer: str, ok: int = 200) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses: an example answer, and the problems; every operation may also answer 401 and 503."""
    example = {
        "type": "urn:stagecue:problem:invalid_request",
        "title": "The request breaks a rule",
        "status": 400,
        "detail": "stages[1].offset: '15 minutes' is no duration (an ISO 8601 duration such as PT15M)",
        "code": "invalid_request",
        "instance": "/v1/events",
        "field": "stages[1].offset",
        "rule": "an ISO 8601 duration such as PT15M, -PT30S or P1DT12H",
    }
    media = {"application/problem+json": {"schema": {"type": "object"}, "example": example}}
    found: dict[int | str, dict[str, Any]] = {
        ok: {"content": {"application/json": {"example": ANSWERS[answer]}}},
    }
    return found | {status: {"description": "Problem (RFC 9457)", "content": media} for status in (*statuses, 401, 503)}


async def _write_context(
    request: Request,
    idempotency_key: Annotated[
        str | None, Header(description="Repeating a write with the same key returns what the first one returned.")
    ] = None,
) -> WriteContext:
    if idempotency_key is not None and not _KEY.fullmatch(idempotency_key):
        raise InvalidRequest("not usable", field="Idempotency-Key", rule="1-200 printable ASCII characters, no blanks")
    digest = hashlib.sha256(f"{request.method} {request.url.path}\n".encode())
    digest.update(await request.body())
    return WriteContext(
        actor=request.state.operator.sub, idempotency_key=idempotency_key, fingerprint=digest.hexdigest()
    )


Context = Annotated[WriteContext, Depends(_write_context)]


def _revision(if_match: str | None) -> int | None:
    """Revision of an If-Match header; None for `*` or none. Raises InvalidRequest."""
    if if_match is None or if_match.strip() == "*":
        return None
    found = _ETAG.fullmatch(if_match.strip())
    if found is None:
        raise InvalidRequest(
            "not an ETag of an event", field="If-Match", rule='the ETag as received, such as "3", or *'
        )
    return int(found.group(1))


def _shown(event: LiveEvent, response: Response) -> EventView:
    response.headers["ETag"] = f'"{event.revision}"'
    return EventView.of(event)


async def _or_stale(operations: Operations, event_id: str, changing: Awaitable[LiveEvent]) -> LiveEvent:
    try:
        return await changing
    except RevisionConflict as exc:
        raise StaleRevision((await operations.get(event_id)).revision) from exc


def _next_page(path: str, **query: object) -> str:
    return f"{path}?{urlencode(query)}"


def events_router(operations: Operations, template: StageTemplate) -> APIRouter:
    """Everything under /v1/events."""
    router = APIRouter(prefix="/v1/events", dependencies=[Depends(bearer)])
    _add_reads(router, operations)
    _add_writes(router, operations, template)
    _add_announcements(router, operations)
    _add_reports(router, operations)
    return router


def _add_reads(router: APIRouter, operations: Operations) -> None:
    @router.get(
        "", tags=["events"], summary="List events, a page at a time", responses=problem_docs(400, answer="events")
    )
    async def list_events(
        response: Response,
        limit: Annotated[int, Query(ge=1, le=200, description="Events per page.")] = 50,
        after: Annotated[str | None, Query(max_length=500, description="Where the page before ended.")] = None,
        shadows: Annotated[bool, Query(description="Rehearsals too.")] = False,
    ) -> EventPage:
        page = await operations.page(limit=limit, after=after, shadows=shadows)
        asked: dict[str, object] = {"limit": limit} | ({"shadows": "true"} if shadows else {})
        following = _next_page("/v1/events", **asked, after=page.next_after) if page.next_after else None
        if following:
            response.headers["Link"] = f'<{following}>; rel="next"'
        return EventPage(items=[EventView.of(event) for event in page.items], next=following)

    @router.get("/{id}", tags=["events"], summary="Read one event", responses=problem_docs(404, answer="event"))
    async def get_event(event_id: EventId, response: Response) -> EventView:
        return _shown(await operations.get(event_id), response)

    @router.get(
        "/{id}/preview",
        tags=["events"],
        summary="What would go out, when, to which topics",
        responses=problem_docs(400, 404, answer="preview"),
    )
    async def preview(
        event_id: EventId,
        until: Annotated[
            str | None, Query(max_length=40, description="RFC 3339", examples=["2024-11-16T02:00:00Z"])
        ] = None,
    ) -> PreviewList:
        # A `+` of an offset that was not percent-encoded arrives as a blank.
        until_ms = None if until is None else parse_moment(until.replace(" ", "+"), _PREVIEW_FIELD)
        event = await operations.get(event_id)
        entries = await operations.preview(event_id, until=until_ms)
        return PreviewList(items=[PreviewView.of(entry, event.time_zone) for entry in entries])


def _add_writes(router: APIRouter, operations: Operations, template: StageTemplate) -> None:
    @router.post(
        "",
        tags=["events"],
        status_code=201,
        summary="Create an event",
        responses=problem_docs(400, 403, 409, answer="event", ok=201),
    )
    async def create_event(body: EventIn, context: Context, response: Response) -> EventView:
        event = await operations.create(body.to_draft(template), context)
        response.headers["Location"] = f"/v1/events/{event.event_id}"
        return _shown(event, response)

    @router.patch(
        "/{id}",
        tags=["events"],
        summary="Change an event",
        responses=problem_docs(400, 403, 404, 409, 412, 428, answer="event"),
    )
    async def change_event(
        event_id: EventId, body: EventPatchIn, context: Context, response: Response, if_match: IfMatch = None
    ) -> EventView:
        if if_match is None:
            raise PreconditionRequired("missing", field="If-Match", rule="the ETag this change is based on, or *")
        revision = _revision(if_match)
        changing = operations.change(event_id, body.to_patch(), context, if_revision=revision)
        return _shown(await _or_stale(operations, event_id, changing), response)

    @router.post(
        "/{id}/shift",
        tags=["events"],
        summary="Move start and end by a duration",
        responses=problem_docs(400, 403, 404, 409, 412, answer="event"),
    )
    async def shift_event(
        event_id: EventId, body: ShiftIn, context: Context, response: Response, if_match: IfMatch = None
    ) -> EventView:
        revision = _revision(if_match)
        changing = operations.shift(event_id, body.by_ms(), context, if_revision=revision)
        return _shown(await _or_stale(operations, event_id, changing), response)

    @router.post(
        "/{id}/cancel",
        tags=["events"],
        summary="Call an event off",
        responses=problem_docs(400, 403, 404, 409, 412, answer="event"),
    )
    async def cancel_event(
        event_id: EventId, context: Context, response: Response, if_match: IfMatch = None
    ) -> EventView:
        revision = _revision(if_match)
        changing = operations.cancel(event_id, context, if_revision=revision)
        return _shown(await _or_stale(operations, event_id, changing), response)

    @router.post(
        "/{id}/rehearse",
        tags=["events"],
        status_code=201,
        summary="Create a shadow of the event: its schedule compressed, on topics no real device follows",
        responses=problem_docs(400, 403, 404, 409, answer="rehearsal", ok=201),
    )
    async def rehearse_event(event_id: EventId, body: RehearsalIn, context: Context, response: Response) -> EventView:
        shadow = await operations.rehearse(event_id, body.to_plan(), context)
        response.headers["Location"] = f"/v1/events/{shadow.event_id}"
        return _shown(shadow, response)


def _add_announcements(router: APIRouter, operations: Operations) -> None:
    @router.post(
        "/{id}/cue",
        tags=["broadcasts"],
        summary="Broadcast a stage now",
        responses=problem_docs(400, 403, 404, 409, 429, answer="cue"),
    )
    async def cue_stage(event_id: EventId, body: CueIn, context: Context) -> CueResult:
        sent = await operations.cue(
            event_id, body.stage, context, audience=body.audience, override_coverage=body.override_coverage
        )
        zone = (await operations.get(event_id)).time_zone
        return CueResult(broadcasts=[BroadcastView.of(broadcast, zone) for broadcast in sent])

    @router.post(
        "/{id}/content",
        tags=["broadcasts"],
        summary="Say that the content of the stage maps changed; devices refetch over a window",
        responses=problem_docs(403, 404, 409, answer="event"),
    )
    async def announce_content(event_id: EventId, context: Context, response: Response) -> EventView:
        return _shown(await operations.announce_content(event_id, context), response)


def _add_reports(router: APIRouter, operations: Operations) -> None:
    @router.get(
        "/{id}/broadcasts",
        tags=["broadcasts"],
        summary="What went out, oldest first",
        responses=problem_docs(404, answer="broadcasts"),
    )
    async def broadcasts(event_id: EventId) -> BroadcastList:
        event = await operations.get(event_id)
        entries = await operations.broadcasts(event_id)
        return BroadcastList(items=[BroadcastView.of(e.broadcast, event.time_zone, e) for e in entries])

    @router.get(
        "/{id}/reach",
        tags=["broadcasts"],
        summary="Who got each broadcast, and how",
        responses=problem_docs(404, answer="reach"),
    )
    async def reach(event_id: EventId) -> ReachList:
        zone = (await operations.get(event_id)).time_zone
        return ReachList(items=[ReachView.of(item, zone) for item in await operations.reach(event_id)])

    @router.get(
        "/{id}/coverage",
        tags=["events"],
        summary="Which stage maps connected devices hold",
        responses=problem_docs(404, answer="coverage"),
    )
    async def coverage(event_id: EventId) -> CoverageView:
        return CoverageView.of(await operations.coverage(event_id))

    @router.get(
        "/{id}/audit", tags=["events"], summary="Who changed what", responses=problem_docs(400, 404, answer="audit")
    )
    async def audit(
        event_id: EventId,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        after: Annotated[int, Query(ge=0, le=2**62, description="Sequence of the last entry seen.")] = 0,
    ) -> AuditPage:
        entries = await operations.audit(event_id, limit=limit, after=after)
        more = len(entries) == limit
        path = f"/v1/events/{event_id}/audit"
        following = _next_page(path, limit=limit, after=entries[-1].sequence) if more else None
        return AuditPage(items=[AuditView.of(entry) for entry in entries], next=following)
