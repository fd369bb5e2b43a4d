"""Goal: locust users do what their kind does, tell the truth about time, and leave no process behind.

Method: all four kinds on two workers against the embedded system; then servers that stall and refuse on purpose, and
processes that are killed under the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest
from hdrh.histogram import HdrHistogram

from loadtest.bench.operator_api import OperatorApi
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.system import EmbeddedSystem
from loadtest.users.plan import Crowd, UsersPlan
from loadtest.users.run import LocustRun
from loadtest.users.targets import check_targets

EVENT = {
    "id": "cup-final",
    "title": "Cup final",
    "starts_at": "2031-09-11T18:00:00-07:00",
    "stages": [{"key": "live"}, {"key": "first_goal", "anchor": "manual"}, {"key": "second_goal", "anchor": "manual"}],
}
ANSWER = b'{"data":{"prefetchHome":[]}}'
Respond = Callable[[int], Awaitable[tuple[int, Mapping[str, str], bytes]]]
"""Number of the request -> status, headers, body."""


@asynccontextmanager
async def serving(respond: Respond) -> AsyncIterator[str]:
    """An HTTP/1.1 server with kept connections that answers as `respond` says; its address."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
                await reader.readexactly(int(fields.get(b"content-length", b"0")))
                asked += 1
                status, headers, body = await respond(asked)
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def stage_map(event_id: str, refresh_url: str) -> dict[str, Any]:
    found = {
        "event": {"id": event_id}, "version": 1, "revision": 1, "ttlSeconds": 5, "serverTime": 1,
        "refreshUrl": refresh_url, "byKey": {"default": {"headline": "Soon"}},
    }  # fmt: skip
    return {"prefetchEvent": found}


def channel(*event_ids: str, url: str = "ws://127.0.0.1:9/v1/stream") -> dict[str, Any]:
    topics = [{"eventId": each, "topic": f"event:{each}", "stateKey": None, "lastBroadcastAt": 0} for each in event_ids]
    return {"broadcastChannel": {"url": url, "token": "t", "connectWindowMs": 0, "topics": topics}}


def home(users: int, **changes: Any) -> Crowd:
    given: dict[str, Any] = {"home_share": 1.0, "think_median_s": 0.1, "think_sigma": 0.0}
    return Crowd(name="home", kind="browse", users=users, **(given | changes))


async def eventually(condition: Callable[[], bool], within_s: float = 15.0) -> None:
    deadline_s = asyncio.get_running_loop().time() + within_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline_s, f"not within {within_s} s"
        await asyncio.sleep(0.05)


def processes_of(directory: Path) -> list[psutil.Process]:
    """Those of a run, which name its directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(directory) in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
async def test_all_four_kinds_on_two_workers_against_the_embedded_system(tmp_path: Path) -> None:
    crowds = (
        Crowd(name="browse", kind="browse", users=20, think_median_s=0.5),
        Crowd(name="tv", kind="connect", users=25, connect_within_s=1.0, artwork=True),
        Crowd(name="naive", kind="naive", users=11, connect_within_s=1.0, spawn_per_s=20),
        Crowd(name="ops", kind="operate", users=1, act_every_s=0.2),
    )
    # As in production: nobody gets a map of a profile without its token.
    secured = EmbeddedSystem(tmp_path / "system", environment={"DGS_TOKENS": "required"})
    async with secured as system, aiohttp.ClientSession() as session:
        at = system.addresses
        api = OperatorApi(session, at)
        await api.create_event(EVENT)
        plan = UsersPlan(
            crowds=crowds,
            dgs_url=at.dgs,
            producer_url=at.producer,
            operator_token=at.operator_token,
            event_ids=("cup-final",),
            profile_keys=str(system.data_dir),
            workers=2,
        )
        await check_targets(plan)
        with pytest.raises(CouldNotRun, match=r"unauth.*--sign-profiles"):
            await check_targets(msgspec.structs.replace(plan, profile_keys=""))
        async with LocustRun(plan, tmp_path / "run") as run:
            await run.started()
            assert len(processes_of(tmp_path / "run")) == 3
            await eventually(lambda: run.snapshot().open == 36)
            for stage in ("first_goal", "second_goal"):
                await api._call("POST", "/v1/events/cup-final/cue", json.dumps({"stage": stage}).encode())
                await asyncio.sleep(0.7)
            await eventually(lambda: run.snapshot().delivered >= 72)
            assert run.snapshot().users == {"browse": 20, "tv": 25, "naive": 11, "ops": 1}
            result = await run.finish()
    assert processes_of(tmp_path / "run") == []
    assert {each.crowd: (each.welcomed, each.open, each.lost, each.failed) for each in result.sockets} == {
        "tv": (25, 25, 0, 0),
        "naive": (11, 11, 0, 0),
    }
    assert [(each.crowd, each.state_key, each.devices, each.live, each.since) for each in result.deliveries] == [
        ("naive", "first_goal", 11, 11, "dispatched"),
        ("naive", "second_goal", 11, 11, "dispatched"),
        ("tv", "first_goal", 25, 25, "dispatched"),
        ("tv", "second_goal", 25, 25, "dispatched"),
    ]
    naive, first, artwork = (result.request(*of) for of in (("naive", "naive"), ("tv", "first"), ("tv", "artwork")))
    assert naive is not None
    assert (naive.asks, naive.answered, naive.time.count) == (22, 22, 22)
    assert first is not None
    assert (first.asks, first.answered) == (25, 25)
    assert artwork is not None
    assert artwork.answered == artwork.asks >= 25
    # A broadcast makes devices with maps ask nobody.
    assert result.request("tv", "refresh") is None
    assert sum(result.summed("sent", kind="naive").values) == 33
    for request in ("create", "shift", "cue", "cancel"):
        found = result.request("ops", request)
        assert found is not None
        assert found.answered == found.asks > 0
    home_row, page = result.request("browse", "home"), result.request("browse", "map")
    assert home_row is not None
    assert page is not None
    assert home_row.answered > 20
    assert 0 < page.asks <= 20
    assert result.cache_hits["browse"] > 0
    assert sum(each.failed + each.refused for each in result.requests) == 0
    assert len(result.generators) == 2
    assert not result.partial


@pytest.mark.slow
async def test_a_stall_is_seen_by_every_ask_that_was_due_in_it(tmp_path: Path) -> None:
    """A tool that waits for each answer before it thinks of the next request would see it once per user; and a stall
    that does not end by the one request of each that was on the wire."""
    loop = asyncio.get_running_loop()
    stalls: list[float] = []

    async def respond(number: int) -> tuple[int, Mapping[str, str], bytes]:
        if number == 20:
            stalls.append(loop.time() + 1.0)
        elif stalls and loop.time() > stalls[0] + 0.8:
            stalls.append(loop.time() + 3.0)
        await asyncio.sleep(max(0.0, stalls[-1] - loop.time()) if stalls else 0.0)
        return 200, {}, ANSWER

    async with serving(respond) as url:
        plan = UsersPlan(crowds=(home(4),), dgs_url=url, event_ids=("e",), duration_s=3.5, drain_s=0.1)
        async with LocustRun(plan, tmp_path) as run:
            await run.ended()
            result = await run.finish()
    found = result.request("home", "home")
    assert found is not None
    assert found.asks == found.answered + found.unfinished
    # Four users, ten asks a second each: some forty were due while nothing was answered, four of them on the wire.
    late, served_late = (
        sum(count for value_ms, count in recorded(times.hdr) if value_ms > 100) for times in (found.time, found.service)
    )
    assert served_late <= 4
    assert late - found.unfinished >= 25
    assert found.unfinished >= 25
    assert found.sent < found.asks


@pytest.mark.slow
async def test_refusals_are_no_failures_and_are_obeyed(tmp_path: Path) -> None:
    async def respond(number: int) -> tuple[int, Mapping[str, str], bytes]:
        return (200, {}, ANSWER) if number > 4 else (503, {"Retry-After": "1"}, b"")

    async with serving(respond) as url:
        plan = UsersPlan(crowds=(home(4, think_median_s=10.0),), dgs_url=url, event_ids=("e",), duration_s=3.5)
        async with LocustRun(plan, tmp_path) as run:
            await run.ended()
            result = await run.finish()
    found = result.request("home", "home")
    assert found is not None
    assert (found.asks, found.answered, found.sent, found.retries) == (4, 4, 8, 4)
    assert (found.refused, found.refused_with_retry_after, found.failed) == (4, 4, 0)
    assert found.statuses == {"200": 4, "503": 4}
    assert (found.time.histogram().percentile_ms(0) or 0) > 1000
    assert (found.service.max_ms or 0) < 1000


@pytest.mark.slow
async def test_maps_are_refreshed_where_their_answers_said(tmp_path: Path) -> None:
    """Two events, so that two refreshes are under way at once. Nobody listens at the channel's address."""
    asked: dict[str, int] = {"home": 0, "elsewhere": 0}

    def responding(where: str) -> Respond:
        async def respond(number: int) -> tuple[int, Mapping[str, str], bytes]:
            asked[where] = number
            await asyncio.sleep(0.05)
            return 200, {}, json.dumps({"data": {**stage_map("e", told), **channel("e", "f")}}).encode()

        return respond

    async with serving(responding("elsewhere")) as elsewhere, serving(responding("home")) as url:
        told = f"{elsewhere}/graphql"
        crowd = Crowd(name="tv", kind="connect", users=1, ttl_spread=0.0, connect_within_s=0.0)
        plan = UsersPlan(crowds=(crowd,), dgs_url=url, event_ids=("e", "f"), duration_s=1.6, time_compression=10.0)
        async with LocustRun(plan, tmp_path) as run:
            await run.ended()
            result = await run.finish()
    refreshed = result.request("tv", "refresh")
    assert refreshed is not None
    assert refreshed.asks == refreshed.answered == refreshed.moved == asked["elsewhere"] >= 2
    assert asked["home"] == 2  # the first map with the channel, and the other event's map
    (found,) = result.sockets
    assert found.handshakes == found.failed == found.reasons["connection refused"] > 0
    assert result.invalid_because == []


@pytest.mark.slow
async def test_after_a_refresh_that_failed_where_it_was_sent_the_next_one_asks_at_home(tmp_path: Path) -> None:
    asked: list[str] = []

    def responding(where: str) -> Respond:
        async def respond(number: int) -> tuple[int, Mapping[str, str], bytes]:
            asked.append(where)
            fails = where == "elsewhere" and number == 1
            return (400, {}, b"") if fails else (200, {}, json.dumps({"data": stage_map("e", told)}).encode())

        return respond

    async with serving(responding("elsewhere")) as elsewhere, serving(responding("home")) as url:
        told = f"{elsewhere}/graphql?here=b"
        crowd = Crowd(name="phone", kind="browse", users=1, home_share=0.0, ttl_spread=0.0)
        plan = UsersPlan(crowds=(crowd,), dgs_url=url, event_ids=("e",), duration_s=1.5, time_compression=50.0)
        async with LocustRun(plan, tmp_path) as run:
            await run.ended()
            result = await run.finish()
    assert asked[:4] == ["home", "elsewhere", "home", "elsewhere"]
    refreshed = result.request("phone", "refresh")
    assert refreshed is not None
    assert refreshed.reasons == {"status 400": 1}
    assert refreshed.moved == refreshed.sent - 1 == asked.count("elsewhere")


@pytest.mark.slow
async def test_nobody_is_led_outside_this_machine(tmp_path: Path) -> None:
    async def respond(number: int) -> tuple[int, Mapping[str, str], bytes]:
        return 200, {}, json.dumps({"data": {**stage_map("e", ""), **channel("e", url="ws://192.0.2.1/v1")}}).encode()

    async with serving(respond) as url:
        crowd = Crowd(name="tv", kind="connect", users=1, connect_within_s=0.0)
        plan = UsersPlan(crowds=(crowd,), dgs_url=url, event_ids=("e",), duration_s=0.7)
        with pytest.raises(CouldNotRun, match=r"192\.0\.2\.1.*--remote"):
            await check_targets(plan)
        async with LocustRun(plan, tmp_path) as run:
            await run.ended()
            result = await run.finish()
    first = result.request("tv", "first")
    assert first is not None
    assert first.reasons == {"channel outside this machine": 1}
    assert result.sockets[0].handshakes == 0
    assert "outside this machine" in result.invalid_because[0]


@pytest.mark.slow
async def test_a_worker_that_is_killed_makes_the_run_invalid_and_the_rest_is_kept(tmp_path: Path) -> None:
    async def respond(number: int) -> tuple[int, Mapping[str, str], bytes]:
        return 200, {}, ANSWER

    async with serving(respond) as url:
        plan = UsersPlan(crowds=(home(4),), dgs_url=url, event_ids=("e",), workers=2)
        async with LocustRun(plan, tmp_path) as run:
            await run.started()
            await eventually(lambda: run.snapshot().sent >= 20)
            worker = next(each for each in processes_of(tmp_path) if each.cmdline()[-2:-1] == ["1"])
            worker.kill()
            await run.ended()  # by itself, and this plan has no duration
            result = await run.finish()
    found = result.request("home", "home")
    assert found is not None
    assert found.answered >= 20
    assert [each.worker for each in result.generators] == [0]
    assert any("worker 1 ended" in because for because in result.invalid_because)
    assert processes_of(tmp_path) == []


@pytest.mark.slow
async def test_a_run_whose_master_dies_says_so_and_leaves_nobody(tmp_path: Path) -> None:
    plan = UsersPlan(crowds=(home(2),), dgs_url="http://127.0.0.1:9", event_ids=("e",), workers=1)
    async with LocustRun(plan, tmp_path) as run:
        await run.started()
        master = next(each for each in processes_of(tmp_path) if each.cmdline()[-1] == str(tmp_path))
        master.kill()
        with pytest.raises(CouldNotRun, match="processes ended"):
            await run.finish()
    await eventually(lambda: not processes_of(tmp_path))


def recorded(hdr: str) -> list[tuple[float, int]]:
    """(milliseconds, count) of an encoded histogram."""
    found = HdrHistogram.decode(hdr)
    return [(each.value_iterated_to / 1000, each.count_at_value_iterated_to) for each in found.get_recorded_iterator()]
