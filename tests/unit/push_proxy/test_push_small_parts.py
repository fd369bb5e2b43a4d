"""Reach tally, drain plan, request judgement, settings and frames: the small pure parts."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.frames import Frame, Opcode

from contract.broadcast import Broadcast
from contract.close_codes import CloseCode
from contract.errors import Unauthorized
from contract.frames import AckRequest, ErrorFrame, decode_server_frame
from contract.schedule import TopicSchedule
from push_proxy.drain import plan_drain
from push_proxy.fanout import FanOut
from push_proxy.followed import FollowedTopic, text_frame
from push_proxy.handshake import Accept, Page, Refuse, RefuseAfterUpgrade, judge_request, problem
from push_proxy.reach_tally import ReachTally
from push_proxy.recovery import Phase, Subscription
from push_proxy.session import Grant
from push_proxy.settings import PushSettings

# Reach.


def test_tally_reports_absolute_counts_that_changed() -> None:
    """Each report has what changed since the last one, as it stands."""
    tally = ReachTally("n1", "i1")
    tally.begin("t", 10, subscribers=3, now_s=0.0)
    tally.written("t", 10, 3, now_s=0.0)
    tally.begin("t", 20, subscribers=3, now_s=0.0)
    first = {count.timestamp: count for count in tally.report()}
    assert (first[10].node_id, first[10].incarnation, first[10].subscribers, first[10].written) == ("n1", "i1", 3, 3)
    assert tally.report() == ()
    tally.acked("t", 10, now_s=0.0)
    tally.replayed("t", 10, now_s=0.0)
    tally.gap_told("t", 10, now_s=0.0)
    tally.hole_told("t", 10, now_s=0.0)
    (again,) = tally.report()
    assert (again.written, again.acked, again.replayed, again.gaps, again.holes) == (3, 1, 1, 1, 1)
    tally.report_all_again()
    assert {count.timestamp for count in tally.report()} == {10, 20}


def test_tally_keeps_the_first_time_a_router_delivered_a_broadcast() -> None:
    """None until delivered over a link; later deliveries, of another router say, change and report nothing."""
    tally = ReachTally("n1", "i1")
    tally.replayed("t", 10, now_s=0.0)
    assert [count.routed_at for count in tally.report()] == [None]
    tally.routed("t", 10, at_ms=500, now_s=0.0)
    assert [(count.routed_at, count.replayed) for count in tally.report()] == [(500, 1)]
    tally.routed("t", 10, at_ms=900, now_s=0.1)
    tally.routed("t", 10, at_ms=400, now_s=0.2)  # the wall clock stepped back meanwhile
    assert tally.report() == ()
    tally.acked("t", 10, now_s=0.3)
    assert [(count.routed_at, count.acked) for count in tally.report()] == [(500, 1)]


def test_tally_does_not_time_a_broadcast_that_left_it() -> None:
    """A late redelivery of one that left must not be reported as its first: the stored time is the true one."""
    tally = ReachTally("n1", "i1", max_broadcasts=1)
    tally.routed("t", 10, at_ms=500, now_s=0.0)
    tally.routed("t", 20, at_ms=600, now_s=0.0)
    assert [(count.timestamp, count.routed_at) for count in tally.report()] == [(20, 600)]
    tally.routed("t", 10, at_ms=700, now_s=0.0)
    assert tally.report() == ()


def test_tally_is_bounded_and_never_restarts_a_count() -> None:
    """Oldest leave by number and by age; a straggler of one that left does not begin it again from zero."""
    tally = ReachTally("n1", "i1", max_broadcasts=2, max_age_s=100.0)
    for timestamp in (1, 2, 3):
        tally.written("t", timestamp, 5, now_s=0.0)
    assert len(tally) == 2
    tally.report()
    tally.acked("t", 1, now_s=0.0)
    assert tally.report() == ()
    tally.written("t", 4, 1, now_s=101.0)
    assert len(tally) == 1


# Drain.


def test_drain_is_spread_and_complete() -> None:
    """Everyone leaves once, evenly, within the time, each with its own moment to return."""
    draws = [n / 1000 for n in range(1000)]
    plan = plan_drain(range(1000), draws, drain_s=5.0, window_ms=10_000)
    gone = [departure.connection for part in plan for departure in part.departures]
    assert gone == list(range(1000))
    assert (len(plan), plan[0].at_s) == (50, 0.0)
    assert all(part.at_s < 5.0 and len(part.departures) == 20 for part in plan)
    moments = [departure.reconnect_after_ms for part in plan for departure in part.departures]
    assert len(set(moments)) == 1000
    assert all(0 <= moment < 10_000 for moment in moments)


def test_drain_of_nobody_and_of_no_time() -> None:
    """No connections: no slices. No time: one slice."""
    assert plan_drain([], [], drain_s=5.0, window_ms=1) == ()
    assert len(plan_drain([1, 2], [0.0, 0.5], drain_s=0.0, window_ms=1)) == 1


# Requests.


class Headers:
    def __init__(self, **values: str) -> None:
        self._values = {name.lower().replace("_", "-"): value for name, value in values.items()}

    def get_all(self, key: str, /) -> list[str]:
        value = self._values.get(key.lower())
        return [] if value is None else [value]


GRANT = Grant("p", "d", 1.0)


def judge(method: str = "GET", target: str = "/v1/stream", room: str = "yes", **headers: str) -> object:
    def verify(token: str) -> Grant:
        if token != "good":
            raise Unauthorized("not a valid token", field="token")
        return GRANT

    return judge_request(method, target, Headers(**headers), verify=verify, room=room, retry_after_s=10)  # type: ignore[arg-type]


WS = {"upgrade": "WebSocket", "sec_websocket_protocol": "stagecue.v1"}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"target": "/nowhere"}, 404),
        ({"method": "POST"}, 405),
        ({}, 426),
        ({"upgrade": "websocket"}, 400),
        (WS, 401),
        ({**WS, "authorization": "Bearer forged"}, 401),
        ({**WS, "authorization": "Bearer good", "room": "full"}, 503),
        ({**WS, "authorization": "Bearer good", "room": "draining"}, 503),
    ],
)
def test_refusals(request_: dict[str, str], status: int) -> None:
    """Each wrong request has its own status."""
    verdict = judge(**request_)
    assert isinstance(verdict, Refuse)
    assert verdict.status == status


@pytest.mark.parametrize("page", ["healthz", "readyz", "metrics", "status"])
def test_pages(page: str) -> None:
    """Plain pages need no token and no upgrade."""
    assert judge(target=f"/{page}?x=1") == Page(page)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "how",
    [
        {"authorization": "bearer good"},
        {"sec_websocket_protocol": "stagecue.v1, stagecue.bearer.good"},
        {"target": "/v1/stream?access_token=good"},
    ],
)
def test_three_ways_to_carry_a_token(how: dict[str, str]) -> None:
    """Header, subprotocol, query."""
    assert judge(**(WS | how)) == Accept(GRANT)


def test_browsers_are_refused_after_the_upgrade() -> None:
    """A request with Origin gets a close code instead of a status it cannot read."""
    browser = {**WS, "origin": "https://tv.example"}
    good = {**browser, "authorization": "Bearer good"}
    assert judge(**browser) == RefuseAfterUpgrade(CloseCode.BAD_TOKEN, goaway=False)
    assert judge(**good, room="full") == RefuseAfterUpgrade(CloseCode.NODE_FULL, goaway=True)
    assert judge(**good, room="draining") == RefuseAfterUpgrade(CloseCode.DRAIN, goaway=True)


def test_problem_body() -> None:
    """RFC 9457, with the field at fault."""
    assert json.loads(problem(401, "no token", "token")) == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "no token",
        "field": "token",
    }


# Frames and topics.


@pytest.mark.parametrize("size", [0, 10, 80, 125, 126, 400, 65_000, 66_000])
def test_text_frame_is_what_the_codec_would_send(size: int) -> None:
    """Byte for byte the library's own serialisation, at every length form."""
    frame = ErrorFrame(code="x", message="m" * size)
    made = text_frame(frame)
    payload = made[made.index(b"{") :]
    assert made == Frame(Opcode.TEXT, payload).serialize(mask=False)
    assert decode_server_frame(payload) == frame


def test_followed_topic_caches_and_takes_the_higher_revision() -> None:
    """Frames are encoded once and anew when what they say changed; an older schedule is not taken."""
    topic = FollowedTopic("t", ack=AckRequest(100, 30_000))
    entry = Broadcast(topic="t", state_key="live", timestamp=10, prev=0, event_id="x")
    assert topic.replay_frame(entry) is topic.replay_frame(entry)
    assert b'"replayed":true' in topic.replay_frame(entry)
    assert b'"one_in":100' in topic.live_frame(entry)
    before = topic.continuity_frame("complete")
    assert topic.continuity_frame("complete") is before
    topic.state.accept(entry, 0.0)
    assert b'"latest":10' in topic.continuity_frame("complete")
    plan = TopicSchedule(topic="t", event_id="x", title="X", revision=3, version=1, starts_at=0)
    older = TopicSchedule(topic="t", event_id="x", title="X", revision=2, version=1, starts_at=0)
    assert topic.put_schedule(plan)
    assert not topic.put_schedule(older)
    assert b'"revision":3' in topic.schedule_bytes


# Fan-out.


class Sink:
    def __init__(self, log: list[tuple[int, bytes]], number: int, *, breaks: bool = False) -> None:
        self.log = log
        self.number = number
        self.breaks = breaks

    def write(self, frames: bytes, /) -> None:
        if self.breaks:
            raise RuntimeError("socket gone")
        self.log.append((self.number, frames))


def _live(log: list[tuple[int, bytes]], count: int, broken: int = -1) -> list[Subscription]:
    made = []
    for number in range(count):
        subscription = Subscription(Sink(log, number, breaks=number == broken), "t", 0, deadline_s=0.0)
        subscription.phase = Phase.LIVE
        made.append(subscription)
    return made


async def test_fanout_yields_keeps_order_and_skips_the_ended() -> None:
    """First slice at once, the rest over turns of the loop; a second broadcast never overtakes the first."""
    log: list[tuple[int, bytes]] = []
    done: list[int] = []
    fanout = FanOut(slice_size=3)
    to = _live(log, 8)
    fanout.broadcast(b"one", to, done.append)
    fanout.broadcast(b"two", to, done.append)
    assert len(log) == 3
    assert fanout.waiting == 2
    to[7].end()
    await asyncio.sleep(0)
    assert len(log) == 6
    for _ in range(10):
        await asyncio.sleep(0)
    assert done == [7, 7]
    assert fanout.waiting == 0
    for number in range(7):
        assert [frame for at, frame in log if at == number] == [b"one", b"two"]


async def test_fanout_failure_of_one_is_its_own() -> None:
    """A write that raises costs nobody else the frame."""
    log: list[tuple[int, bytes]] = []
    done: list[int] = []
    FanOut().broadcast(b"x", _live(log, 5, broken=2), done.append)
    for _ in range(3):
        await asyncio.sleep(0)
    assert [number for number, _ in log] == [0, 1, 3, 4]
    assert done == [4]


async def test_fanout_goes_on_after_whoever_waited_for_a_job_failed() -> None:
    """What is done once a job ended may fail; the next broadcast goes out all the same, to everybody."""
    log: list[tuple[int, bytes]] = []
    done: list[int] = []

    def fails(count: int) -> None:
        raise RuntimeError(f"{count} written, nobody to tell")

    fanout = FanOut(slice_size=2)
    fanout.broadcast(b"one", _live(log, 2), fails)
    fanout.broadcast(b"two", _live(log, 3), done.append)
    for _ in range(5):
        await asyncio.sleep(0)
    assert done == [3]
    assert fanout.waiting == 0


# Settings.


def test_settings_relations() -> None:
    """What cannot work together is refused by name."""
    with pytest.raises(ValueError, match="lifetime_max_s"):
        PushSettings(lifetime_min_s=10, lifetime_max_s=5)
    with pytest.raises(ValueError, match="pong_deadline_s"):
        PushSettings(ping_s=5, pong_deadline_s=5)
    with pytest.raises(ValueError, match="3 s"):
        PushSettings(anti_entropy_s=2, kv_timeout_s=2)
    with pytest.raises(ValueError, match="token_renew_before_s"):
        PushSettings(token_lifetime_s=300, token_renew_before_s=270)
    assert PushSettings().resolved_node_id(8402).endswith("-8402")
    assert PushSettings(node_id="n7").resolved_node_id(1) == "n7"
