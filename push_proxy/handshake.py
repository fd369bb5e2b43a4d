"""What to answer to an HTTP request head, pure: a page, a refusal, or the upgrade to stagecue.v1."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, Literal, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

from contract.close_codes import CloseCode
from contract.errors import Unauthorized
from contract.frames import BEARER_SUBPROTOCOL_PREFIX, SUBPROTOCOL
from push_proxy.session import Grant

__all__ = [
    "STREAM_PATH",
    "Accept",
    "HeaderSource",
    "Page",
    "PageName",
    "Refuse",
    "RefuseAfterUpgrade",
    "judge_request",
    "problem",
]

STREAM_PATH: Final = "/v1/stream"
PageName = Literal["healthz", "readyz", "metrics", "status"]
_PAGES: Final[Mapping[str, PageName]] = {
    "/healthz": "healthz",
    "/readyz": "readyz",
    "/metrics": "metrics",
    "/status": "status",
}


class HeaderSource(Protocol):
    def get_all(self, key: str, /) -> Sequence[str]:
        """Every value of a header, by its name in any case."""
        ...


class Page(NamedTuple):
    name: PageName


class Refuse(NamedTuple):
    """A plain HTTP answer; its body is an RFC 9457 problem."""

    status: int
    detail: str
    field: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


class RefuseAfterUpgrade(NamedTuple):
    """A browser cannot read an HTTP refusal: upgrade, say goodbye, close with a code it can read."""

    code: CloseCode
    goaway: bool


class Accept(NamedTuple):
    grant: Grant


Verdict = Page | Refuse | RefuseAfterUpgrade | Accept


def judge_request(
    method: str,
    target: str,
    headers: HeaderSource,
    *,
    verify: Callable[[str], Grant],
    room: Literal["yes", "full", "draining"],
    retry_after_s: int,
) -> Verdict:
    """Decide on one request; `verify` raises Unauthorized for a token that is not good."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return Refuse(400, f"no URL anybody could follow; the stream is {STREAM_PATH}", "request line")
    if parts.path != STREAM_PATH and parts.path not in _PAGES:
        return Refuse(404, f"{parts.path[:100]} is not here; the stream is {STREAM_PATH}")
    if method != "GET":
        return Refuse(405, f"{method[:20]} is not possible here; use GET", headers=(("Allow", "GET"),))
    if parts.path != STREAM_PATH:
        return Page(_PAGES[parts.path])
    if "websocket" not in _tokens(headers, "Upgrade", lower=True):
        return Refuse(426, "this is a WebSocket endpoint", "Upgrade", (("Upgrade", "websocket"),))
    offered = _tokens(headers, "Sec-WebSocket-Protocol")
    if SUBPROTOCOL not in offered:
        return Refuse(400, f"offer the subprotocol {SUBPROTOCOL}", "Sec-WebSocket-Protocol")
    browser = bool(headers.get_all("Origin"))
    try:
        grant = verify(_token(headers, offered, parts.query))
    except Unauthorized as exc:
        if browser:
            return RefuseAfterUpgrade(CloseCode.BAD_TOKEN, goaway=False)
        return Refuse(401, str(exc), "token", (("WWW-Authenticate", 'Bearer realm="stagecue"'),))
    if room == "yes":
        return Accept(grant)
    if browser:
        return RefuseAfterUpgrade(CloseCode.NODE_FULL if room == "full" else CloseCode.DRAIN, goaway=True)
    detail = "node is full" if room == "full" else "node is draining"
    return Refuse(503, detail, headers=(("Retry-After", str(max(1, retry_after_s))),))


def problem(status: int, detail: str, field: str | None = None) -> bytes:
    """RFC 9457 problem details as JSON."""
    body: dict[str, object] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body["detail"] = detail
    if field is not None:
        body["field"] = field
    return json.dumps(body).encode()


def _token(headers: HeaderSource, offered: Sequence[str], query: str) -> str:
    """The first of: Authorization, the bearer subprotocol, the query; empty if there is none."""
    for value in headers.get_all("Authorization"):
        scheme, _, credentials = value.partition(" ")
        if scheme.lower() == "bearer":
            return credentials.strip()
    for name in offered:
        if name.startswith(BEARER_SUBPROTOCOL_PREFIX):
            return name.removeprefix(BEARER_SUBPROTOCOL_PREFIX)
    return parse_qs(query).get("access_token", [""])[0]


def _tokens(headers: HeaderSource, name: str, *, lower: bool = False) -> list[str]:
    found = [part.strip() for value in headers.get_all(name) for part in value.split(",") if part.strip()]
    return [part.lower() for part in found] if lower else found
