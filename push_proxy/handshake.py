"""What to answer to an HTTP request head, pure: a page, a refusal, or a stream in one of three protocols."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

from contract.close_codes import CloseCode
from contract.errors import InvalidRequest, Unauthorized
from contract.frames import BEARER_SUBPROTOCOL_PREFIX, GRAPHQL_SUBPROTOCOL, SUBPROTOCOL
from push_proxy.admission import Room
from push_proxy.metrics import HandshakeOutcome, StreamProtocol
from push_proxy.request_head import RequestHead
from push_proxy.session import Grant
from push_proxy.sse import EVENTS_PATH, EventsRequest, preflight_headers, read_events_request
from push_proxy.websocket import is_key

__all__ = [
    "STREAM_PATH",
    "Accept",
    "Page",
    "PageName",
    "Refuse",
    "RefuseSoftly",
    "judge_request",
    "problem",
]

STREAM_PATH: Final = "/v1/stream"
PageName = Literal["healthz", "readyz", "metrics", "status", "preflight"]
_PAGES: Final[Mapping[str, PageName]] = {
    "/healthz": "healthz",
    "/readyz": "readyz",
    "/metrics": "metrics",
    "/status": "status",
}
_WEBSOCKET_VERSION: Final = b"13"


class Page(NamedTuple):
    name: PageName
    headers: tuple[tuple[str, str], ...] = ()


class Refuse(NamedTuple):
    """A plain HTTP answer; its body is an RFC 9457 problem."""

    status: int
    detail: str
    field: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    outcome: HandshakeOutcome = "malformed"


class RefuseSoftly(NamedTuple):
    """A browser cannot read an HTTP refusal: begin the protocol, say goodbye in it, and end."""

    protocol: StreamProtocol
    code: CloseCode
    outcome: HandshakeOutcome
    why: str | None = None
    """Reason of a goaway that says when to come back; None: do not."""
    events: EventsRequest | None = None


class Accept(NamedTuple):
    protocol: StreamProtocol
    grant: Grant | None
    """None: the protocol brings its token later."""
    origin: str | None = None
    events: EventsRequest | None = None
    """What a request for server-sent events asks for."""
    by_header: bool = False
    """Whether the token came in the Authorization header."""


Verdict = Page | Refuse | RefuseSoftly | Accept
_REFUSALS: Final[Mapping[Room, tuple[int, CloseCode, str]]] = {
    "full": (503, CloseCode.NODE_FULL, "node is full"),
    "draining": (503, CloseCode.DRAIN, "node is draining"),
    "too_fast": (503, CloseCode.REFUSED_FOR_NOW, "too many connects at once"),
    "address": (429, CloseCode.REFUSED_FOR_NOW, "too many connections or connects from this address"),
}


def judge_request(
    head: RequestHead,
    *,
    verify: Callable[[str], Grant],
    room: Callable[[], Room],
    retry_after_s: Callable[[str], int],
    origin_allowed: Callable[[str], bool] = lambda origin: True,
    check_events: Callable[[EventsRequest], None] = lambda request: None,
) -> Verdict:
    """Decide on one request. `verify` raises Unauthorized for a token that is not good, `check_events` InvalidRequest.

    `room` is asked before the token: turning one away must cost less than serving it.
    """
    path, _, query = head.target.partition("?")
    if not path.startswith("/"):
        try:
            parts = urlsplit(head.target)
        except ValueError:
            return Refuse(400, f"no URL anybody could follow; the stream is {STREAM_PATH}", "request line")
        path, query = parts.path, parts.query
    if path == STREAM_PATH:
        protocol: StreamProtocol | Page | Refuse = _websocket(head)
    elif path == EVENTS_PATH:
        protocol = _events(head, origin_allowed)
    else:
        return _page(path, head.method)
    if isinstance(protocol, Refuse | Page):
        return protocol
    return _judge_stream(head, protocol, query, verify, room, retry_after_s, origin_allowed, check_events)


def _judge_stream(
    head: RequestHead,
    protocol: StreamProtocol,
    query: str,
    verify: Callable[[str], Grant],
    room: Callable[[], Room],
    retry_after_s: Callable[[str], int],
    origin_allowed: Callable[[str], bool],
    check_events: Callable[[EventsRequest], None],
) -> Verdict:
    origin = _text(head.get(b"origin"))
    if origin is not None and not origin_allowed(origin):
        return Refuse(403, "pages of this origin may not connect", "Origin", outcome="origin")
    events = None
    if protocol == "sse":
        try:
            events = read_events_request(query, head)
        except InvalidRequest as exc:
            return Refuse(exc.http_status, str(exc), exc.field, _cors(origin))
    # A browser's code cannot read a refused handshake, nor can EventSource: it would never come back.
    softly = origin is not None or protocol == "sse"
    has_room = room()
    if has_room != "yes":
        status, code, detail = _REFUSALS[has_room]
        if softly:
            return RefuseSoftly(protocol, code, has_room, has_room, events)
        return Refuse(status, detail, headers=(("Retry-After", str(retry_after_s(has_room))),), outcome=has_room)
    token = _token(head, query)
    if not token and protocol == "graphql":
        return Accept(protocol, None, origin)
    try:
        grant = verify(token)
    except Unauthorized as exc:
        if origin is not None and protocol != "sse":
            return RefuseSoftly(protocol, CloseCode.BAD_TOKEN, "unauthorized")
        realm = ("WWW-Authenticate", 'Bearer realm="stagecue"')
        return Refuse(401, str(exc), "token", (realm, *_cors(origin)), outcome="unauthorized")
    if events is not None:
        if grant.topics is not None and events.topic not in grant.topics:
            return Refuse(403, "the token does not allow this topic", "topic", _cors(origin), outcome="forbidden")
        try:
            check_events(events)
        except InvalidRequest as exc:
            return Refuse(exc.http_status, str(exc), exc.field, _cors(origin))
    return Accept(protocol, grant, origin, events, by_header=head.get(b"authorization") is not None)


def problem(status: int, detail: str, field: str | None = None) -> bytes:
    """RFC 9457 problem details as JSON."""
    body: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body["detail"] = detail
    if field is not None:
        body["field"] = field
    return json.dumps(body).encode()


def _page(path: str, method: str) -> Page | Refuse:
    name = _PAGES.get(path)
    if name is None:
        return Refuse(
            404, f"{path[:100]} is not here; the streams are {STREAM_PATH} and {EVENTS_PATH}", outcome="not_found"
        )
    return Page(name) if method == "GET" else _wrong_method(method)


def _wrong_method(method: str) -> Refuse:
    return Refuse(405, f"{method[:20]} is not possible here; use GET", headers=(("Allow", "GET"),), outcome="method")


def _events(head: RequestHead, origin_allowed: Callable[[str], bool]) -> StreamProtocol | Page | Refuse:
    if head.method == "GET":
        return "sse"
    origin = _text(head.get(b"origin"))
    if head.method == "OPTIONS" and origin is not None and origin_allowed(origin):
        return Page("preflight", preflight_headers(origin))
    return _wrong_method(head.method)


def _websocket(head: RequestHead) -> StreamProtocol | Refuse:
    """Which subprotocol, if all of RFC 6455's opening handshake (section 4.2.1) is there."""
    if head.method != "GET":
        return _wrong_method(head.method)
    if not _has(head.get(b"upgrade"), b"websocket"):
        return Refuse(426, "this is a WebSocket endpoint", "Upgrade", (("Upgrade", "websocket"),), "not_websocket")
    if not _has(head.get(b"connection"), b"upgrade"):
        return Refuse(400, "must contain Upgrade", "Connection")
    if head.get(b"sec-websocket-version") != _WEBSOCKET_VERSION:
        return Refuse(
            426,
            "only version 13 is spoken",
            "Sec-WebSocket-Version",
            (("Sec-WebSocket-Version", "13"),),
            "not_websocket",
        )
    if not is_key(head.get(b"sec-websocket-key") or b""):
        return Refuse(400, "16 bytes in base64 are needed", "Sec-WebSocket-Key")
    for name in _offered(head):
        if name == SUBPROTOCOL:
            return "v1"
        if name == GRAPHQL_SUBPROTOCOL:
            return "graphql"
    return Refuse(
        400,
        f"offer the subprotocol {SUBPROTOCOL} or {GRAPHQL_SUBPROTOCOL}",
        "Sec-WebSocket-Protocol",
        outcome="subprotocol",
    )


def _has(value: bytes | None, word: bytes) -> bool:
    if value is None:
        return False
    lower = value.lower()
    return lower == word or word in [part.strip() for part in lower.split(b",")]


def _offered(head: RequestHead) -> list[str]:
    value = head.get(b"sec-websocket-protocol")
    return [part.strip() for part in value.decode("latin-1").split(",")] if value else []


def _token(head: RequestHead, query: str) -> str:
    """The first of: Authorization, the bearer subprotocol, the query; empty if there is none."""
    authorization = head.get(b"authorization")
    if authorization is not None:
        scheme, _, credentials = authorization.partition(b" ")
        if scheme.lower() == b"bearer":
            return credentials.strip().decode("latin-1")
    for name in _offered(head):
        if name.startswith(BEARER_SUBPROTOCOL_PREFIX):
            return name.removeprefix(BEARER_SUBPROTOCOL_PREFIX)
    return parse_qs(query).get("access_token", [""])[0] if query else ""


def _cors(origin: str | None) -> tuple[tuple[str, str], ...]:
    """So that a page may read why it was refused; the origin was allowed before."""
    return () if origin is None else (("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
