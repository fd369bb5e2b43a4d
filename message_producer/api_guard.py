"""What stands before every request of the operator API: who asks, and how much they may send. Plain ASGI.

It comes before routing and parsing, so that a caller without a token learns nothing of the API's rules and costs
no JSON.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.clock import Clock
from contract.errors import BroadcastSystemError, Forbidden, InvalidRequest, Unauthorized
from contract.tokens import KeyRing, OperatorClaims, require_role
from message_producer.problems import problem_response

__all__ = ["BodyLimit", "OperatorGuard"]

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class OperatorGuard:
    """Demands an operator token under `/v1/` and `/graphql`: role viewer to read, operator to write.

    The claims are left in `request.state.operator`.
    """

    def __init__(self, app: ASGIApp, *, ring: KeyRing, clock: Clock) -> None:
        self._app = app
        self._ring = ring
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _guarded(scope["path"]):
            try:
                scope.setdefault("state", {})["operator"] = self._verify(scope)
            except (Unauthorized, Forbidden) as exc:
                await problem_response(exc, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _verify(self, scope: Scope) -> OperatorClaims:
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            token = ""
        claims = self._ring.verify_operator(token.strip(), now_s=self._clock.now_ms() / 1000)
        reads = scope["method"] in _READS or scope["path"].startswith("/graphql")
        require_role(claims, "viewer" if reads else "operator")
        return claims


def _guarded(path: str) -> bool:
    return path.startswith(("/v1/", "/graphql")) or path == "/v1"


class TooLarge(InvalidRequest):
    code = "too_large"
    http_status = 413


class BodyLimit:
    """Refuses bodies above `limit_bytes` (`calendar_bytes` for feed imports), declared or sent."""

    def __init__(self, app: ASGIApp, *, limit_bytes: int, calendar_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes
        self._calendar_bytes = calendar_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._calendar_bytes if scope["path"] == "/v1/feeds/import" else self._limit_bytes
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdigit() or int(declared) > limit:
            error: BroadcastSystemError = TooLarge("too large", field="body", rule=f"at most {limit} bytes")
            await problem_response(error, scope["path"])(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                # An HTTPException is the one error FastAPI lets through while it reads a body.
                raise HTTPException(413, f"body: too large (at most {limit} bytes)")
            return message

        await self._app(scope, counted, send)
