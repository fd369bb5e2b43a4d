"""The router's only listener: it takes no requests, but a supervisor must see how it is."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from contract.runtime.runner import Readiness

__all__ = ["health_app"]


def health_app(readiness: Readiness, registry: CollectorRegistry) -> Starlette:
    """`GET /healthz` (alive), `/readyz` (200, or 503 and what fails) and `/metrics`."""

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(request: Request) -> Response:
        status, body = readiness.report()
        return JSONResponse(body, status_code=status)

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])
