"""The operator API: REST, problem details, health, documentation, and a read-only GraphQL beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from contract.clock import Clock
from contract.runtime.runner import Readiness
from contract.tokens import KeyRing
from message_producer.api_events import events_router
from message_producer.api_feeds import feeds_router
from message_producer.api_guard import BodyLimit, OperatorGuard
from message_producer.feeds.template import DEFAULT_TEMPLATE, StageTemplate
from message_producer.graphql import graphql_router
from message_producer.ports import Operations
from message_producer.problems import install_problem_handlers

__all__ = ["BODY_LIMIT_BYTES", "CALENDAR_LIMIT_BYTES", "create_app"]

BODY_LIMIT_BYTES: Final = 1024 * 1024
CALENDAR_LIMIT_BYTES: Final = 5 * 1024 * 1024
_STATIC: Final = Path(__file__).parent / "static"
_ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "docs.js": "text/javascript",
}
_DOCS_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>stagecue operator API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/docs.js"></script>
</body>
</html>
"""
_DOCS_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)
_DESCRIPTION: Final = """Set up live events, watch them, shift and cue their stages.

Every address under `/v1` wants `Authorization: Bearer <operator token>`: role *viewer* to read, *operator* to write.
Errors are problem details (RFC 9457) that name the `field` and the `rule`. Writes take an `Idempotency-Key`;
changes take the event's `ETag` as `If-Match`."""


def create_app(
    operations: Operations,
    *,
    operator_ring: KeyRing,
    readiness: Readiness,
    clock: Clock,
    stage_template: StageTemplate = DEFAULT_TEMPLATE,
    registries: Sequence[CollectorRegistry] = (),
) -> FastAPI:
    """The ASGI application. `stage_template` gives events their stages when they name none.

    `registries` are what `/metrics` shows: those of every service of this process that has no listener of its own.
    """
    app = FastAPI(
        title="stagecue operator API",
        version="1",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.include_router(events_router(operations, stage_template))
    app.include_router(feeds_router(operations, stage_template, clock))
    app.include_router(graphql_router(operations), include_in_schema=False)
    _add_health(app, readiness)
    _add_metrics(app, registries)
    _add_docs(app)
    install_problem_handlers(app)
    # The one added last stands first: a caller without a token sends no byte of a body.
    app.add_middleware(BodyLimit, limit_bytes=BODY_LIMIT_BYTES, calendar_bytes=CALENDAR_LIMIT_BYTES)
    app.add_middleware(OperatorGuard, ring=operator_ring, clock=clock)
    return app


def _add_health(app: FastAPI, readiness: Readiness) -> None:
    alive: dict[str, Any] = {"content": {"application/json": {"example": {"status": "alive"}}}}
    ready: dict[str, Any] = {"content": {"application/json": {"example": {"ready": True, "failing": {}}}}}
    failing: dict[str, Any] = {
        "description": "Not ready; which conditions fail, and why",
        "content": {"application/json": {"example": {"ready": False, "failing": {"store": "disk full"}}}},
    }

    @app.get("/healthz", tags=["health"], summary="The process is alive", responses={200: alive})
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["health"], summary="It can do its work", responses={200: ready, 503: failing})
    async def readyz() -> JSONResponse:
        status, body = readiness.report()
        return JSONResponse(body, status_code=status)


def _add_metrics(app: FastAPI, registries: Sequence[CollectorRegistry]) -> None:
    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(b"".join(map(generate_latest, registries)), media_type=CONTENT_TYPE_LATEST)


def _add_docs(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_DOCS_PAGE, headers={"Content-Security-Policy": _DOCS_POLICY})

    def add_asset(name: str, media_type: str) -> None:
        @app.get(f"/docs/{name}", include_in_schema=False, name=f"docs-{name}")
        async def asset() -> Response:
            return FileResponse(
                _STATIC / name, media_type=media_type, headers={"Cache-Control": "public, max-age=3600"}
            )

    for name, media_type in _ASSETS.items():
        add_asset(name, media_type)
