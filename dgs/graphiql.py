"""GraphiQL for development, from files that ship with the service: the page asks no other host.

Off unless DGS_GRAPHIQL is set. A browser's bare `GET /graphql` gets the page; everything else goes on to GraphQL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from starlette.responses import FileResponse, HTMLResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["ASSETS", "GraphiQLPage", "asset_routes"]

_STATIC: Final = Path(__file__).parent / "static"
ASSETS: Final = {
    "react.min.js": "text/javascript",
    "react-dom.min.js": "text/javascript",
    "graphiql.min.js": "text/javascript",
    "graphiql.min.css": "text/css",
    "start.js": "text/javascript",
}
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>stagecue prefetch: GraphiQL</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/graphiql/graphiql.min.css">
</head>
<body style="margin: 0">
<div id="graphiql" style="height: 100vh"></div>
<script src="/graphiql/react.min.js"></script>
<script src="/graphiql/react-dom.min.js"></script>
<script src="/graphiql/graphiql.min.js"></script>
<script src="/graphiql/start.js"></script>
</body>
</html>
"""
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src data:; "
    "connect-src 'self'"
)


class GraphiQLPage:
    """ASGI: the page for a browser that asks nothing else, `inner` for everybody."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner
        self._page = HTMLResponse(_PAGE, headers={"content-security-policy": _POLICY, "cache-control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asks_nothing = scope["method"] == "GET" and not scope["query_string"]
        if asks_nothing and b"text/html" in dict(scope["headers"]).get(b"accept", b""):
            await self._page(scope, receive, send)
        else:
            await self._inner(scope, receive, send)


class _Asset:
    """ASGI: one vendored file."""

    def __init__(self, name: str, media_type: str) -> None:
        self._path = _STATIC / name
        self._media_type = media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = FileResponse(
            self._path, media_type=self._media_type, headers={"cache-control": "public, max-age=3600"}
        )
        await answer(scope, receive, send)


def asset_routes() -> list[Route]:
    """Routes of the files the page needs, below `/graphiql/`."""
    return [
        Route(f"/graphiql/{name}", _Asset(name, media_type), methods=["GET"]) for name, media_type in ASSETS.items()
    ]
