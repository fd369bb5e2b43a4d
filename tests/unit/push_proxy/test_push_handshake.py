"""What is answered to a request head: pages, refusals in the client's own form, streams in three protocols."""

from __future__ import annotations

import json

import pytest

from contract.close_codes import CloseCode
from contract.errors import Unauthorized
from push_proxy.admission import Room
from push_proxy.handshake import Accept, Page, Refuse, RefuseSoftly, Verdict, judge_request, problem
from push_proxy.request_head import parse_head
from push_proxy.session import Grant

GRANT = Grant.of("p", "d", 1.0)
KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
WS = {
    "Upgrade": "WebSocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Protocol": "stagecue.v1",
}
GOOD = {"Authorization": "Bearer good"}
EVENTS = "/v1/events?topic=event:x"


def judge(
    headers: dict[str, str] | None = None, *, method: str = "GET", target: str = "/v1/stream", room: Room = "yes"
) -> Verdict:
    def verify(token: str) -> Grant:
        if token != "good":
            raise Unauthorized("not a valid token", field="token")
        return GRANT

    lines = [f"{method} {target} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return judge_request(
        parse_head("\r\n".join([*lines, "", ""]).encode()),
        verify=verify,
        room=lambda: room,
        retry_after_s=lambda why: 7,
        origin_allowed=lambda origin: origin.endswith(".example"),
        check_events=lambda events: None,
    )


@pytest.mark.parametrize(
    ("headers", "target", "method", "room", "status"),
    [
        ({}, "/nowhere", "GET", "yes", 404),
        ({}, "/v1/stream", "POST", "yes", 405),
        ({}, "/healthz", "POST", "yes", 405),
        ({}, "/v1/stream", "GET", "yes", 426),
        (WS | {"Connection": "close"}, "/v1/stream", "GET", "yes", 400),
        (WS | {"Sec-WebSocket-Version": "8"}, "/v1/stream", "GET", "yes", 426),
        (WS | {"Sec-WebSocket-Key": "short"}, "/v1/stream", "GET", "yes", 400),
        (WS | {"Sec-WebSocket-Protocol": "chat"}, "/v1/stream", "GET", "yes", 400),
        (WS, "/v1/stream", "GET", "yes", 401),
        (WS | {"Authorization": "Bearer forged"}, "/v1/stream", "GET", "yes", 401),
        (WS | {"Authorization": "Basic good"}, "/v1/stream", "GET", "yes", 401),
        (WS | GOOD, "/v1/stream", "GET", "full", 503),
        (WS | GOOD, "/v1/stream", "GET", "draining", 503),
        (WS | GOOD, "/v1/stream", "GET", "too_fast", 503),
        (WS | GOOD, "/v1/stream", "GET", "address", 429),
        (WS | GOOD | {"Origin": "https://elsewhere"}, "/v1/stream", "GET", "yes", 403),
        ({}, EVENTS, "GET", "yes", 401),
        (GOOD, "/v1/events", "GET", "yes", 400),
        (GOOD, EVENTS, "DELETE", "yes", 405),
    ],
)
def test_refusals(headers: dict[str, str], target: str, method: str, room: Room, status: int) -> None:
    """Each wrong request has its own status; one that may be right later says when to come back."""
    verdict = judge(headers, target=target, method=method, room=room)
    assert isinstance(verdict, Refuse)
    assert verdict.status == status
    if room != "yes":
        assert ("Retry-After", "7") in verdict.headers


@pytest.mark.parametrize("page", ["healthz", "readyz", "metrics", "status"])
def test_pages(page: str) -> None:
    """Plain pages need no token and no upgrade; an absolute address is as good as a path."""
    assert judge(target=f"/{page}?x=1") == Page(page)  # type: ignore[arg-type]
    assert judge(target=f"http://node:8402/{page}") == Page(page)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "target", "by_header"),
    [
        ({"Authorization": "bearer good"}, "/v1/stream", True),
        ({"Sec-WebSocket-Protocol": "stagecue.v1, stagecue.bearer.good"}, "/v1/stream", False),
        ({}, "/v1/stream?access_token=good", False),
    ],
)
def test_three_ways_to_carry_a_token(headers: dict[str, str], target: str, by_header: bool) -> None:
    """Header, subprotocol, query."""
    assert judge(WS | headers, target=target) == Accept("v1", GRANT, by_header=by_header)


def test_three_protocols() -> None:
    """By subprotocol and path; GraphQL may bring its token later, the others may not."""
    graphql = WS | {"Sec-WebSocket-Protocol": "graphql-transport-ws"}
    assert judge(graphql) == Accept("graphql", None)
    assert judge(graphql | GOOD) == Accept("graphql", GRANT, by_header=True)
    events = judge(GOOD, target=EVENTS)
    assert isinstance(events, Accept)
    assert (events.protocol, events.events and events.events.topic) == ("sse", "event:x")


def test_browsers_are_refused_in_a_form_they_can_read() -> None:
    """A request with Origin gets a close code instead of a status; an event stream begins, says when, and ends."""
    browser = WS | {"Origin": "https://tv.example"}
    assert judge(browser) == RefuseSoftly("v1", CloseCode.BAD_TOKEN, "unauthorized")
    for room, code in (("full", CloseCode.NODE_FULL), ("draining", CloseCode.DRAIN), ("address", 4008)):
        verdict = judge(browser | GOOD, room=room)  # type: ignore[arg-type]
        assert verdict == RefuseSoftly("v1", code, room, room)  # type: ignore[arg-type]
    events = judge(GOOD, target=EVENTS, room="full")
    assert isinstance(events, RefuseSoftly)
    assert (events.protocol, events.why) == ("sse", "full")


def test_room_is_asked_before_the_token() -> None:
    """Turning one away costs less than serving it: nobody's token is looked at on a full node."""
    verdict = judge(WS | {"Authorization": "Bearer forged"}, room="full")
    assert isinstance(verdict, Refuse)
    assert verdict.status == 503


def test_problem_body() -> None:
    """RFC 9457, with the field at fault."""
    assert json.loads(problem(401, "no token", "token")) == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "no token",
        "field": "token",
    }
