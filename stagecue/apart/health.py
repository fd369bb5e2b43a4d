"""What a supervisor and `stagecue cluster status` ask of a service beside what it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from contract.runtime.runner import Readiness

__all__ = ["Status", "health_app", "with_status"]

Status = Callable[[], Mapping[str, object]]
"""What a service says of itself now, as plain JSON values."""


def health_app(readiness: Readiness, registry: CollectorRegistry, status: Status) -> ASGIApp:
    """The router's only listener: `GET /healthz` (alive), `/readyz` (200, or 503 and why), `/status`, `/metrics`."""

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(request: Request) -> Response:
        code, body = readiness.report()
        return JSONResponse(body, status_code=code)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
    return with_status(Starlette(routes=routes), status)


def with_status(app: ASGIApp, status: Status) -> ASGIApp:
    """`app`, answering `GET /status` besides, without a token: it names nobody and nothing that is planned."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/status" and scope["method"] in ("GET", "HEAD"):
            await JSONResponse(dict(status()))(scope, receive, send)
        else:
            await app(scope, receive, send)

    return serve
