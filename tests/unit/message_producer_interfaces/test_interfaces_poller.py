"""The poller: cheap when nothing changed, quiet when it fails, and never beyond its bounds."""

from __future__ import annotations

import asyncio
import os

import httpx
import pytest
import structlog

from contract.clock import ManualClock
from contract.errors import StoreUnavailable
from message_producer.feeds.model import FeedLimits
from message_producer.feeds.poller import FeedPoller, FeedSource, next_delay_s
from tests.support.fake_operations import FakeOperations

NOW = 1_731_000_000_000
EVENT = "BEGIN:VEVENT\r\nUID:{uid}\r\nSUMMARY:Fight\r\nDTSTART:{start}\r\nEND:VEVENT\r\n"
ONE = "BEGIN:VCALENDAR\r\n" + EVENT.format(uid="a", start="20241115T200000Z") + "END:VCALENDAR\r\n"
TWO = ONE.replace("END:VCALENDAR", EVENT.format(uid="b", start="20241116T200000Z") + "END:VCALENDAR")


class Origin:
    """A feed's server: what it answers, and what it was asked."""

    def __init__(self, body=ONE, etag='"1"'):
        self.body, self.etag, self.status, self.error = body.encode(), etag, 200, None
        self.asked = []

    def __call__(self, request):
        self.asked.append(request.headers)
        if self.error is not None:
            raise self.error
        if self.status == 200 and request.headers.get("if-none-match") == self.etag:
            return httpx.Response(304)
        return httpx.Response(self.status, content=self.body, headers={"ETag": self.etag, "Last-Modified": "today"})


@pytest.fixture
def operations():
    return FakeOperations(ManualClock(NOW))


@pytest.fixture
async def polled(operations):
    """(origin, poller) over a mock transport; the client is closed afterwards."""
    origin = Origin()
    client = httpx.AsyncClient(transport=httpx.MockTransport(origin))
    source = FeedSource(name="night", location="https://feed.example/live.ics")
    yield origin, FeedPoller(source, operations, clock=operations.clock, draw=lambda: 0.5, client=client)
    await client.aclose()


async def test_an_unchanged_address_is_asked_conditionally_and_costs_the_store_nothing(polled, operations):
    origin, poller = polled
    first = await poller.poll_once()
    assert len(first.created) == 1
    assert await poller.poll_once() is None
    assert "if-none-match" not in origin.asked[0]
    assert (origin.asked[1]["if-none-match"], origin.asked[1]["if-modified-since"]) == ('"1"', "today")
    assert operations.writes == 1


async def test_a_server_without_validators_is_compared_by_content(polled, operations):
    origin, poller = polled
    origin.etag = ""
    await poller.poll_once()
    reads = operations.writes
    assert await poller.poll_once() is None
    origin.body = TWO.encode()
    assert len((await poller.poll_once()).created) == 1
    assert operations.writes == reads + 1


async def test_an_unchanged_feed_is_read_again_after_a_day_because_the_horizon_moved(polled, operations):
    origin, poller = polled
    await poller.poll_once()
    operations.clock.advance_ms(86_400_001)
    assert (await poller.poll_once()).unchanged == 1
    assert "if-none-match" not in origin.asked[-1]


@pytest.mark.parametrize(
    ("break_it", "kind"),
    [
        (lambda origin: setattr(origin, "status", 500), "http_500"),
        (lambda origin: setattr(origin, "error", httpx.ConnectError("refused")), "unreachable"),
        (lambda origin: (setattr(origin, "body", b"<html>"), setattr(origin, "etag", '"2"')), "not_a_calendar"),
        (lambda origin: (setattr(origin, "body", b"x" * 3000), setattr(origin, "etag", '"2"')), "too_large"),
    ],
)
async def test_a_failure_keeps_the_last_good_state_and_is_logged_once_per_kind(operations, break_it, kind):
    origin = Origin()
    source = FeedSource(name="night", location="https://feed.example/live.ics")
    async with httpx.AsyncClient(transport=httpx.MockTransport(origin)) as client:
        poller = FeedPoller(
            source,
            operations,
            clock=operations.clock,
            draw=lambda: 0.5,
            client=client,
            limits=FeedLimits(file_bytes=2000),
        )
        await poller.poll_once()
        good = dict(operations.events)
        break_it(origin)
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                assert await poller.poll_once() is None
        assert poller.failing == kind
        assert [log["event"] for log in logs] == ["feed_failed"]
        assert operations.events == good
        origin.status, origin.error, origin.body, origin.etag = 200, None, TWO.encode(), '"3"'
        assert len((await poller.poll_once()).created) == 1
        assert poller.failing is None


async def test_what_did_not_reach_the_store_is_fetched_again(polled, operations):
    origin, poller = polled
    operations.fail_with = StoreUnavailable("locked")
    assert await poller.poll_once() is None
    assert poller.failing == "store_unavailable"
    assert len((await poller.poll_once()).created) == 1
    assert "if-none-match" not in origin.asked[-1]


async def test_a_file_is_read_when_it_changed(operations, tmp_path):
    path = tmp_path / "live.ics"
    source = FeedSource(name="file", location=str(path))
    poller = FeedPoller(source, operations, clock=operations.clock, draw=lambda: 0.5)
    assert await poller.poll_once() is None
    assert poller.failing == "unreadable"
    path.write_text(ONE, newline="")
    assert len((await poller.poll_once()).created) == 1
    assert await poller.poll_once() is None
    path.write_text(TWO, newline="")
    assert len((await poller.poll_once()).created) == 1
    os.utime(path, (1, 1))  # touched, not changed
    assert await poller.poll_once() is None


def test_failures_back_off_within_a_bound_and_jitter_spreads():
    source = FeedSource(name="night", location="x", interval_s=100, jitter=0.1)
    assert [next_delay_s(source, failures, 0.5) for failures in (0, 1, 2, 4, 9, 10_000)] == [
        100, 200, 400, 1600, 1600, 1600
    ]  # fmt: skip
    assert next_delay_s(source, 0, 0.0) == pytest.approx(90)
    assert next_delay_s(source, 0, 1.0) == pytest.approx(110)


async def test_it_runs_as_a_service_is_ready_at_once_and_stops_in_the_middle_of_a_request(operations):
    asked = asyncio.Event()

    async def hang(request):
        asked.set()
        await asyncio.sleep(3600)

    client = httpx.AsyncClient(transport=httpx.MockTransport(hang))
    source = FeedSource(name="night", location="https://feed.example/live.ics")
    poller = FeedPoller(source, operations, clock=operations.clock, draw=lambda: 0.5, client=client)
    ready, stop = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(poller.run(ready, stop))
    async with asyncio.timeout(5):
        await ready.wait()
        await asked.wait()
        stop.set()
        await running
    assert client.is_closed


def test_a_source_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="interval_s"):
        FeedSource(name="night", location="x", interval_s=0)
