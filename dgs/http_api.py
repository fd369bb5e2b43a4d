"""ASGI endpoints: GraphQL over HTTP, artwork, and what operators look at.

Plain ASGI callables under Starlette's router: both hot paths read and send their bytes themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
import strawberry
import structlog
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from strawberry.exceptions import MissingQueryError
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types.graphql import OperationType

from contract.clock import Clock
from contract.errors import BroadcastSystemError, InvalidRequest, StoreUnavailable
from contract.kv.ports import ScheduleViewReader
from contract.runtime.runner import Readiness
from dgs.artwork import artwork_path, draw, parse_artwork_path
from dgs.callers import Caller, Callers, check_profile
from dgs.entity_tags import names_tag
from dgs.graphql_errors import error_code, format_error, to_error
from dgs.metrics import DgsMetrics
from dgs.model import ArtworkKind, Title
from dgs.prefetch import Prefetch
from dgs.request_log import RequestLog
from dgs.schema import OperationNotNamedError, RequestContext
from dgs.settings import DgsSettings
from dgs.sharding.report import ScalingReport

__all__ = ["ArtworkEndpoint", "GraphQLEndpoint", "OperationsEndpoints"]

_PROBED_TOPIC: Final = "readyz"
"""A topic nobody has: asking for it is one small question that really reaches the store."""

_log = structlog.get_logger(__name__)
_JSON: Final = b"application/json"
_GRAPHQL_JSON: Final = b"application/graphql-response+json"
_OPERATIONS: Final = (OperationType.QUERY,)


class _Operation(msgspec.Struct, frozen=True):
    """The body of a GraphQL request."""

    query: str
    variables: dict[str, Any] | None = None
    operationName: str | None = None  # noqa: N815 - GraphQL over HTTP's name


_decode = msgspec.json.Decoder(_Operation).decode
_encode = msgspec.json.Encoder().encode


class _TooLarge(InvalidRequest):
    http_status = 413


class _WrongMediaType(InvalidRequest):
    http_status = 415


class _WrongMethod(InvalidRequest):
    http_status = 405


class _Context(RequestContext):
    """A request's context that knows who asks."""

    __slots__ = ("caller",)

    caller: Caller


class _TimedOut(BroadcastSystemError):
    code = "timeout"
    http_status = 408
    retryable = True


class GraphQLEndpoint:
    """`/graphql` after the GraphQL-over-HTTP draft: one operation, POSTed as JSON or in a GET's parameters; no batches.

    A caller's token is looked at before the operation, and held against the profile of every root field that names one:
    whatever the schema gains later is guarded by the name of its argument.

    Answers are 200 in `application/json`; clients that accept `application/graphql-response+json` get 400 for a
    document that could not be run. Requests that are no GraphQL (size, type, JSON, token) get a 4xx in the same form.
    """

    def __init__(
        self,
        schema: strawberry.Schema,
        prefetch: Prefetch,
        metrics: DgsMetrics,
        requests: RequestLog | None,
        clock: Clock,
        *,
        settings: DgsSettings,
        draw: Callable[[], float],
        callers: Callers | None = None,
    ) -> None:
        """`requests`: None where arrivals are counted before they come here. Without `callers` anybody may ask."""
        _guard_profiles(schema)
        self._callers = callers or Callers(None, "off", clock.now_ms)
        self._schema = schema
        self._prefetch = prefetch
        self._metrics = metrics
        self._requests = requests
        self._clock = clock
        self._max_body_bytes = settings.max_body_bytes
        self._max_maps = settings.max_maps_per_request
        self._retry_after_mean_ms = settings.retry_after_mean_ms
        self._timeout_s = settings.request_timeout_s
        self._draw = draw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._requests is not None:
            self._requests.note("graphql", self._clock.now_ms())
        headers: dict[bytes, bytes] = dict(scope["headers"])
        media_type = _GRAPHQL_JSON if _GRAPHQL_JSON in headers.get(b"accept", b"") else _JSON
        extra: list[tuple[bytes, bytes]] = []
        kept = b"no-store"
        try:
            async with asyncio.timeout(self._timeout_s):
                if scope["method"] == "POST":
                    operation = self._parse(headers, await _read_body(headers, receive, self._max_body_bytes))
                elif scope["method"] == "GET":
                    operation = _parse_query(scope["query_string"])
                else:
                    extra.append((b"allow", b"GET, POST"))
                    raise _WrongMethod(
                        f"{scope['method']} is not allowed here", rule="POST a JSON operation, or GET it"
                    )
                status, body, max_age_s = await self._execute(operation, headers, media_type)
        except TimeoutError:
            status, body = self._refuse(_TimedOut(f"took longer than {self._timeout_s:g} s"))
            self._metrics.error(_TimedOut.code)
        except BroadcastSystemError as exc:
            status, body = self._refuse(exc)
            self._metrics.error(exc.code)
            if status == 401:
                extra.append((b"www-authenticate", b"Bearer"))
            if status == 413:
                extra.append((b"connection", b"close"))  # the rest of the body is not read
        else:
            if max_age_s is not None:
                kept = f"private, max-age={max_age_s}".encode()
        await _respond(send, status, media_type, body, (b"cache-control", kept), *extra)

    def _parse(self, headers: dict[bytes, bytes], body: bytes) -> _Operation:
        content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if content_type != _JSON:
            shown = content_type.decode("latin-1")[:60] or "nothing"
            raise _WrongMediaType(f"{shown} is not supported", field="Content-Type", rule="application/json")
        try:
            return _decode(body)
        except msgspec.ValidationError as exc:
            raise InvalidRequest(str(exc), field="body", rule="an object with query, variables, operationName") from exc
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            raise InvalidRequest(f"not JSON: {exc}", field="body") from exc

    async def _execute(
        self, operation: _Operation, headers: dict[bytes, bytes], media_type: bytes
    ) -> tuple[int, bytes, int | None]:
        """Status, body, and for how many seconds a private cache may keep it (None: not at all)."""
        context = _Context(
            self._prefetch,
            device_id=headers[b"x-device-id"].decode("latin-1") if b"x-device-id" in headers else None,
            max_maps=self._max_maps,
        )
        context.caller = self._callers.caller(headers)
        try:
            result = await self._schema.execute(
                operation.query,
                variable_values=operation.variables,
                context_value=context,
                operation_name=operation.operationName,
                allowed_operation_types=_OPERATIONS,
            )
        except (MissingQueryError, CannotGetOperationTypeError, InvalidOperationTypeError) as exc:
            field = "operationName" if isinstance(exc, OperationNotNamedError) else "query"
            raise InvalidRequest(_why_not_run(exc, operation.operationName), field=field) from exc
        answer: dict[str, Any] = {}
        if result.errors:
            answer["errors"] = [format_error(error, retry_after_ms=self._retry_after_ms()) for error in result.errors]
            for error in result.errors:
                self._note_error(error)
        # A request that was never executed has no data entry; one that failed has data: null.
        ran = result.data is not None or any(error.path for error in result.errors or ())
        if ran:
            answer["data"] = result.data
        if context.extensions:
            answer["extensions"] = context.extensions
        status = 400 if not ran and media_type == _GRAPHQL_JSON else 200
        return status, _encode(answer), None if result.errors else context.max_age_s

    def _refuse(self, error: BroadcastSystemError) -> tuple[int, bytes]:
        return error.http_status, _encode({"errors": [to_error(error, retry_after_ms=self._retry_after_ms())]})

    def _retry_after_ms(self) -> int:
        """Half to one and a half of the mean: what failed together does not come back together."""
        return round(self._retry_after_mean_ms * (0.5 + self._draw()))

    def _note_error(self, error: Any) -> None:
        code = error_code(error)
        self._metrics.error(code)
        if code == BroadcastSystemError.code:
            _log.error("graphql_internal_error", path=error.path, error=repr(error.original_error))


class ArtworkEndpoint:
    """`GET /artwork/...`: a drawn picture under an immutable URL; 404 for a URL nobody was given."""

    def __init__(
        self,
        title_of: Callable[[str], Title | None],
        metrics: DgsMetrics,
        requests: RequestLog | None,
        clock: Clock,
        *,
        cache_entries: int,
    ) -> None:
        """`requests`: None where arrivals are counted before they come here."""
        self._title_of = title_of
        self._metrics = metrics
        self._requests = requests
        self._clock = clock
        self._drawn = lru_cache(maxsize=cache_entries)(_draw)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._requests is not None:
            self._requests.note("artwork", self._clock.now_ms())
        if scope["method"] not in ("GET", "HEAD"):
            await _respond(send, 405, b"text/plain", b"GET or HEAD only\n", (b"allow", b"GET, HEAD"))
            return
        path: str = scope["path"]
        asked = parse_artwork_path(path)
        title = self._title_of(asked.title_id) if asked else None
        if asked is None or title is None:
            await self._not_found(send, b"no such artwork\n")
            return
        if artwork_path(title, asked.kind, asked.width, asked.height, asked.language) != path:
            await self._not_found(send, b"that hash is not this picture's: ask GraphQL for its URL\n")
            return
        etag = f'"{asked.hash}"'.encode()
        kept = ((b"cache-control", b"public, max-age=31536000, immutable"), (b"etag", etag))
        if names_tag(dict(scope["headers"]).get(b"if-none-match"), asked.hash.encode()):
            await _respond(send, 304, None, b"", *kept)
            return
        body = self._drawn(title, asked.kind, asked.width, asked.height, asked.language)
        # A picture is looked at, never run: no scripts, no requests of its own.
        guard = (
            (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
            (b"x-content-type-options", b"nosniff"),
            (b"access-control-allow-origin", b"*"),
        )
        await _respond(send, 200, b"image/svg+xml", body, *kept, *guard, head_only=scope["method"] == "HEAD")

    async def _not_found(self, send: Send, why: bytes) -> None:
        self._metrics.artwork_not_found += 1
        await _respond(send, 404, b"text/plain", why, (b"cache-control", b"no-store"))


class OperationsEndpoints:
    """`/healthz`, `/readyz`, `/metrics`, `/requests`, `/scaling`."""

    def __init__(
        self,
        readiness: Readiness,
        schedule_view: ScheduleViewReader,
        metrics: DgsMetrics,
        requests: RequestLog,
        scaling: ScalingReport,
        *,
        probe_timeout_s: float = 2.0,
    ) -> None:
        self._readiness = readiness
        self._schedule_view = schedule_view
        self._metrics = metrics
        self._requests = requests
        self._scaling = scaling
        self._probe_timeout_s = probe_timeout_s

    async def healthz(self, request: Request) -> Response:
        return _json({"status": "alive"})

    async def readyz(self, request: Request) -> Response:
        """Asks the schedule view: its loss and its recovery show while no traffic comes.

        What it finds is this answer's alone. Kept as a condition, a failure would stand until somebody asks again.
        """
        status, body = self._readiness.report()
        try:
            async with asyncio.timeout(self._probe_timeout_s):
                await self._schedule_view.schedules((_PROBED_TOPIC,))
        except (StoreUnavailable, TimeoutError) as exc:
            why = str(exc) or "no answer in time"
            status, body = 503, {"ready": False, "failing": self._readiness.failing() | {"dgs.schedule_view": why}}
        return _json(body, status=status)

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def scaling(self, request: Request) -> Response:
        """Desired capacity per cluster, for autoscalers; 503 while schedules cannot be read."""
        try:
            return Response(await self._scaling.body(), media_type="application/json")
        except StoreUnavailable as exc:
            return _json({"errors": [to_error(exc)]}, status=503)

    async def requests(self, request: Request) -> Response:
        """Counts of GraphQL and artwork requests with since_ms <= arrival < until_ms."""
        try:
            since_ms = _whole(request, "since_ms")
            until_ms = _whole(request, "until_ms", at_least=since_ms)
        except InvalidRequest as exc:
            return _json({"errors": [to_error(exc)]}, status=400)
        return _json(self._requests.counts(since_ms, until_ms))


def _guard_profiles(schema: strawberry.Schema) -> None:
    """Have every root field with a `profileId` ask the request's context first whether that is the caller's."""
    query = schema._schema.query_type
    assert query is not None
    for field in query.fields.values():
        if "profileId" in field.args and field.resolve is not None:
            field.resolve = _guarded(field.resolve)


def _guarded(resolve: Callable[..., Any]) -> Callable[..., Any]:
    def for_callers_own(source: Any, info: Any, **arguments: Any) -> Any:
        check_profile(info.context.caller, str(arguments["profileId"]))
        return resolve(source, info, **arguments)

    return for_callers_own


def _parse_query(query_string: bytes) -> _Operation:
    """The operation in a GET's parameters. Raises InvalidRequest naming the parameter."""
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError as exc:
        raise InvalidRequest("the parameters cannot be read", field="query string", rule="UTF-8, at most 16") from exc
    given: dict[str, str] = {}
    for name, value in pairs:
        if name in given:
            raise InvalidRequest("given twice", field=name[:40])
        given[name] = value
    if not given.get("query"):
        raise InvalidRequest("no document", field="query")
    variables = given.get("variables") or "null"
    try:
        return msgspec.convert(
            {
                "query": given["query"],
                "variables": msgspec.json.decode(variables),
                "operationName": given.get("operationName") or None,
            },
            _Operation,
        )
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:  # a ValidationError is one of the first
        raise InvalidRequest("not a JSON object", field="variables") from exc


def _whole(request: Request, name: str, *, at_least: int = 0) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InvalidRequest(f"{text[:20]!r} is not a time", field=name, rule="milliseconds since the epoch")
    if int(text) < at_least:
        raise InvalidRequest(f"{text} is before {at_least}", field=name, rule="a window ends after it starts")
    return int(text)


async def _read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The whole body; refuses one that is longer than `limit` without reading the rest."""
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit:
        raise _TooLarge(f"{int(length)} bytes", field="body", rule=f"at most {limit} bytes")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("the client went away", field="body")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _TooLarge(f"over {limit} bytes", field="body", rule=f"at most {limit} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _respond(
    send: Send,
    status: int,
    media_type: bytes | None,
    body: bytes,
    *headers: tuple[bytes, bytes],
    head_only: bool = False,
) -> None:
    listed = list(headers)
    if media_type is not None:
        listed.append((b"content-type", media_type + b"; charset=utf-8"))
        listed.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": b"" if head_only else body})


def _draw(title: Title, kind: ArtworkKind, width: int, height: int, language: str) -> bytes:
    return draw(title, kind, width, height, language).encode()


def _why_not_run(error: Exception, named: str | None) -> str:
    if isinstance(error, MissingQueryError):
        return "no document"
    if isinstance(error, InvalidOperationTypeError):
        return "only queries are served here"
    if isinstance(error, OperationNotNamedError):
        return "the document has several operations, and none is named"
    return "no operation in the document" if named is None else "operationName names no operation of the document"


def _json(value: object, status: int = 200) -> Response:
    return Response(_encode(value), status_code=status, media_type="application/json")
