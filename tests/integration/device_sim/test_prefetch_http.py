"""Goal: prefetch is bounded, retried with care, recorded raw, and refetched only when the device's moment has come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from scripted_node import eventually, scripted_node

from contract.device_operations import DEVICE_OPERATIONS
from contract.errors import InvalidRequest, Unavailable
from device_sim.device import DeviceOptions
from device_sim.fleet import Fleet, FleetOptions
from device_sim.prefetch import Prefetcher

TOPIC = "event:fight"
TV = {"kind": "TV"}


class ScriptedDgs:
    """A DGS of a few lines, with failures on demand. `version` is what its maps carry."""

    def __init__(self) -> None:
        self.url = ""
        self.push_url = "ws://127.0.0.1:1/v1/stream"
        self.version = 1
        self.refresh_url: str | None = None
        self.fail_next: list[int] = []
        self.errors: list[dict[str, Any]] | None = None
        self.known: dict[str, str] | None = dict(DEVICE_OPERATIONS)
        """Documents by hash; None: it wants documents, by POST."""
        self.whole = 0
        self.tokens: list[str | None] = []
        self.told: list[str | None] = []
        self.asked: list[dict[str, Any]] = []
        self.device_ids: list[str] = []
        self.pictures: list[str] = []
        self.shows = ("shared",)
        """Pictures in every map, beside one of the profile's own."""
        self.passes_ms: Callable[[int], None] = lambda _: None
        """Called with what an answer takes, of a clock of the test's own."""
        self.server_time = 0
        self.at_once = self.at_once_max = 0

    async def graphql(self, request: web.Request) -> web.Response:
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            await asyncio.sleep(0.005)
            self.passes_ms(5_000)
            if self.fail_next:
                return web.Response(status=self.fail_next.pop(0), headers={"Retry-After": "0"})
            if request.method == "GET":
                operation = {
                    "documentId": request.query["documentId"],
                    "variables": json.loads(request.query["variables"]),
                }
            else:
                operation = await request.json()
            refusal = self.unknown(operation)
            if refusal is not None:
                return refusal
            self.asked.append(operation)
            self.device_ids.append(request.headers["X-Device-Id"])
            self.tokens.append(request.headers.get("Authorization"))
            self.told.append(request.headers.get("X-Stagecue-Version"))
            if self.errors is not None:
                return web.json_response({"errors": self.errors, "data": None})
            tag = f'W/"v{self.version}"'
            kept = {"ETag": tag, "Cache-Control": "private, max-age=77"}
            if request.method == "GET" and request.headers.get("If-None-Match") == tag:
                return web.Response(status=304, headers=kept)
            return web.json_response({"data": self.data(operation["variables"])}, headers=kept)
        finally:
            self.at_once -= 1

    def unknown(self, operation: dict[str, Any]) -> web.Response | None:
        """The refusal of an operation without a document it knows."""
        self.whole += "query" in operation
        if "query" in operation:
            if self.known is not None:
                self.known[operation["extensions"]["persistedQuery"]["sha256Hash"]] = operation["query"]
            return None
        if self.known is None:
            return web.json_response({"errors": [{"message": "no document"}]}, status=400)
        if operation["documentId"].removeprefix("sha256:") not in self.known:
            code = {"code": "PERSISTED_QUERY_NOT_FOUND"}
            return web.json_response({"errors": [{"message": "PersistedQueryNotFound", "extensions": code}]})
        return None

    def data(self, variables: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if "eventId" in variables:
            event = variables["eventId"]
            scalars = {
                "version": self.version,
                "revision": self.version,
                "ttlSeconds": 3600,
                "serverTime": self.server_time,
            }
            pictures = [{"url": f"/artwork/{name}.svg"} for name in (*self.shows, variables["profileId"])]
            rows = [{"titles": [{"id": "x", "artwork": pictures}]}]
            by_key = {
                key: {"key": key, "startsAt": None, "rows": rows, "profile": variables["profileId"], "v": self.version}
                for key in ("live", "default")
            }
            found["prefetchEvent"] = {"event": {"id": event, "topic": f"event:{event}"}, **scalars, "byKey": by_key}
            found["prefetchEvent"]["refreshUrl"] = self.refresh_url
        if "eventIds" in variables:
            topics = [
                {"eventId": event, "topic": f"event:{event}", "stateKey": None, "lastBroadcastAt": 0}
                for event in variables["eventIds"]
            ]
            channel = {"url": self.push_url, "subprotocol": "stagecue.v1", "token": "t", "connectWindowMs": 0}
            found["broadcastChannel"] = {**channel, "topics": topics}
        return found

    async def picture(self, request: web.Request) -> web.Response:
        self.passes_ms(1_000)
        self.pictures.append(request.path)
        return web.Response(body=b"<svg/>", content_type="image/svg+xml")


@pytest.fixture
async def dgs() -> AsyncIterator[ScriptedDgs]:
    scripted = ScriptedDgs()
    app = web.Application()
    app.router.add_post("/graphql", scripted.graphql)
    app.router.add_get("/graphql", scripted.graphql, allow_head=False)
    app.router.add_get("/artwork/{name}", scripted.picture)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield scripted
    await runner.cleanup()


async def test_maps_channel_and_pictures_arrive_and_answers_are_recorded_raw(dgs: ScriptedDgs) -> None:
    async with Prefetcher(dgs.url) as prefetcher:
        found = await prefetcher.prefetch("p-1", "d-1", ("fight", "race"), device=TV)
    assert (found.url, found.token) == (dgs.push_url, "t")
    assert set(found.maps) == {"event:fight", "event:race"}
    assert sorted(dgs.pictures) == ["/artwork/p-1.svg", "/artwork/shared.svg"], "each once per device"
    assert found.artwork == frozenset(dgs.pictures)
    assert [json.loads(each.body)["data"]["prefetchEvent"]["event"]["id"] for each in prefetcher.recorded["p-1"]] == [
        "fight",
        "race",
    ]
    assert dgs.device_ids == ["d-1", "d-1"]


async def test_an_edge_asks_the_origin_once_for_each_picture(dgs: ScriptedDgs) -> None:
    async with Fleet(FleetOptions(devices=20, dgs_url=dgs.url, event_ids=("fight",), artwork="edge")) as fleet:
        await fleet.prefetch_all()
        assert len(dgs.pictures) == len(set(dgs.pictures)) == 21
        assert all(len(client.device.artwork) == 2 for client in fleet.clients)


async def test_concurrency_is_bounded(dgs: ScriptedDgs) -> None:
    options = FleetOptions(devices=40, dgs_url=dgs.url, event_ids=("fight",), artwork="none", prefetch_concurrency=4)
    async with Fleet(options) as fleet:
        seen: list[int] = []
        await fleet.prefetch_all(lambda done, total: seen.append(done))
    assert dgs.at_once_max == 4
    assert seen == list(range(1, 41))


async def test_overload_is_retried_a_few_times_refusals_are_not(dgs: ScriptedDgs) -> None:
    async with Prefetcher(dgs.url, artwork="none", seed=1) as prefetcher:
        dgs.fail_next = [503, 429]
        await prefetcher.prefetch("p-1", "d-1", ("fight",), device=TV)
        assert prefetcher.counts.retries == 2
        dgs.fail_next = [400, 400]  # the hash, then the whole document
        with pytest.raises(InvalidRequest, match="answered 400"):
            await prefetcher.prefetch("p-1", "d-1", ("fight",), device=TV)
        dgs.errors = [{"message": "no such event", "extensions": {"code": "not_found"}}]
        with pytest.raises(InvalidRequest, match="no such event"):
            await prefetcher.prefetch("p-1", "d-1", ("fight",), device=TV)
        assert len(dgs.asked) == 2


async def test_a_dgs_that_is_away_is_unavailable(unused_tcp_port: int) -> None:
    async with Prefetcher(f"http://127.0.0.1:{unused_tcp_port}", artwork="none", seed=1) as prefetcher:
        with pytest.raises(Unavailable, match="after 4 tries"):
            await prefetcher.prefetch("p-1", "d-1", ("fight",), device=TV)


async def test_changed_content_is_refetched_in_the_window_and_rendered(dgs: ScriptedDgs) -> None:
    async with scripted_node() as node:
        dgs.push_url = node.url
        options = FleetOptions(devices=5, dgs_url=dgs.url, event_ids=("fight",), device=DeviceOptions(ttl_spread=0.0))
        async with Fleet(options) as fleet:
            await fleet.prefetch_all()
            await fleet.connect_all()
            await fleet.wait_subscribed(timeout_s=5)
            await node.broadcast(TOPIC, "live", 1000)
            await eventually(lambda: all(client.device.topics[TOPIC].cursor == 1000 for client in fleet.clients))
            assert len(dgs.asked) == 5, "a broadcast asks for nothing"
            dgs.version = 2
            dgs.fail_next = [403]  # one of them fails, and tries again in a later window
            change = {"type": "schedule", "topic": TOPIC, "revision": 2, "version": 2, "times": {}}
            for connection in list(node.connections):
                await node.say(connection, change)
            await eventually(lambda: all(each.device.topics[TOPIC].stage_map.version == 2 for each in fleet.clients))
            assert len(dgs.asked) == 10
            assert [r.cause for r in fleet.clients[0].device.renders or ()][-2:] == ["live", "refreshed"]
            assert all(len(answers) == 2 for answers in fleet.recorded.values())


async def test_operations_go_by_hash_and_a_dgs_that_forgot_one_is_told_once(dgs: ScriptedDgs) -> None:
    dgs.known = {}
    async with Prefetcher(dgs.url, artwork="none") as prefetcher:
        for number in range(3):
            await prefetcher.prefetch(f"p-{number}", "d-1", ("fight", "race"), device=TV)
    assert dgs.whole == prefetcher.counts.whole_documents == 2, "one for each of two operations"
    assert prefetcher.counts.operations == 8
    assert dgs.known == {each: DEVICE_OPERATIONS[each] for each in dgs.known}


async def test_a_dgs_without_hashes_is_asked_twice_once(dgs: ScriptedDgs) -> None:
    dgs.known = None
    async with Prefetcher(dgs.url, artwork="none") as prefetcher:
        for number in range(3):
            await prefetcher.prefetch(f"p-{number}", "d-1", ("fight", "race"), device=TV)
    assert prefetcher.counts.operations == 7
    assert dgs.whole == 6


async def test_a_map_that_did_not_change_costs_a_head_and_lives_on(dgs: ScriptedDgs) -> None:
    async with scripted_node() as node:
        dgs.push_url = node.url
        options = FleetOptions(
            devices=1, dgs_url=dgs.url, event_ids=("race", "fight"), token_of=lambda profile_id: f"of-{profile_id}"
        )
        async with Fleet(options) as fleet:
            await fleet.prefetch_all()
            await fleet.connect_all()
            client, prefetcher = fleet.clients[0], fleet.prefetcher
            assert prefetcher is not None
            state = client.device.topics[TOPIC]
            assert state.stage_map is not None
            before = state.stage_map
            assert (before.etag, before.ttl_s) == ('W/"v1"', 3600)
            prefetcher.request(client, TOPIC)
            await eventually(lambda: prefetcher.counts.unmodified == 1)
            await eventually(lambda: state.stage_map.ttl_s == 77)
            assert state.stage_map.entries == before.entries
            assert dgs.told[-1] == "1"
            dgs.version = 2
            prefetcher.request(client, TOPIC)
            await eventually(lambda: state.stage_map.version == 2)
            assert state.stage_map.etag == 'W/"v2"'
    assert set(dgs.tokens) == {"Bearer of-p-0"}


async def test_each_device_reads_the_servers_clock_when_its_own_map_came(dgs: ScriptedDgs) -> None:
    """A fleet that prefetches for a while must not hold its first maps' clock for the last one's."""
    options = FleetOptions(devices=2, dgs_url=dgs.url, event_ids=("race", "fight"), prefetch_window_s=0.5, seed=1)
    async with Fleet(options) as fleet:
        await fleet.prefetch_all()
        first, last = (client.device.clock_offset_ms for client in fleet.clients)
    assert last < first - 100, "the scripted server's clock stands still at 0"


async def test_the_servers_clock_is_read_when_an_answer_comes(
    dgs: ScriptedDgs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither before it is asked for, which a retry may make long, nor when the last picture is there."""
    ours_ms, ahead_ms = time.time_ns() // 1_000_000, 7_000

    def passes(ms: int) -> None:
        nonlocal ours_ms
        ours_ms += ms
        dgs.server_time = ours_ms + ahead_ms

    dgs.passes_ms = passes
    for module in ("prefetch", "fleet"):
        monkeypatch.setattr(f"device_sim.{module}.now_ms", lambda: ours_ms)
    async with Fleet(FleetOptions(devices=1, dgs_url=dgs.url, event_ids=("race", "fight"))) as fleet:
        await fleet.prefetch_all()
        client, prefetcher = fleet.clients[0], fleet.prefetcher
        assert prefetcher is not None
        assert client.device.clock_offset_ms == ahead_ms
        prefetcher.request(client, TOPIC)
        await eventually(lambda: client.device.topics[TOPIC].stage_map.ttl_s == 77)
        assert (prefetcher.counts.unmodified, client.device.clock_offset_ms) == (1, ahead_ms)
        dgs.version, dgs.shows = 2, ("shared", "other")
        prefetcher.request(client, TOPIC)
        await eventually(lambda: client.device.topics[TOPIC].stage_map.version == 2)
        assert client.device.clock_offset_ms == ahead_ms


async def test_a_picture_that_a_later_map_has_again_is_held_with_it(dgs: ScriptedDgs) -> None:
    """What no map shows any more leaves the cache, and must be fetched before the next one that does is held."""
    async with Fleet(FleetOptions(devices=1, dgs_url=dgs.url, event_ids=("fight",))) as fleet:
        await fleet.prefetch_all()
        client, prefetcher = fleet.clients[0], fleet.prefetcher
        assert prefetcher is not None
        for version, shows in ((2, ("other",)), (3, ("shared", "other"))):
            dgs.version, dgs.shows = version, shows
            prefetcher.request(client, TOPIC)
            await eventually(lambda version=version: client.device.topics[TOPIC].stage_map.version == version)
            assert client.device.artwork_missing(TOPIC) == 0


@pytest.mark.parametrize("broken", [{}, {"broadcastChannel": None}, {"broadcastChannel": {"url": 3}}])
async def test_an_answer_without_a_channel_is_a_refusal(dgs: ScriptedDgs, broken: dict[str, Any]) -> None:
    """Whatever stands at that address speaks GraphQL, and is no DGS."""
    good = dgs.data
    async with Prefetcher(dgs.url, artwork="none") as prefetcher:
        for drops in ("prefetchEvent", "broadcastChannel"):
            dgs.data = lambda variables, drops=drops: {  # type: ignore[method-assign]
                **{key: value for key, value in good(variables).items() if key != drops}, **broken
            }  # fmt: skip
            with pytest.raises(InvalidRequest):
                await prefetcher.prefetch("p-1", "d-1", ("fight",), device=TV)


async def test_a_refetch_that_finds_no_map_is_tried_again(dgs: ScriptedDgs) -> None:
    async with Fleet(FleetOptions(devices=1, dgs_url=dgs.url, event_ids=("fight",), artwork="none")) as fleet:
        await fleet.prefetch_all()
        client, prefetcher = fleet.clients[0], fleet.prefetcher
        assert prefetcher is not None
        dgs.version, dgs.data = 2, lambda variables: {}  # type: ignore[method-assign]
        prefetcher.request(client, TOPIC)
        await eventually(lambda: client.device.topics[TOPIC].map_failures == 1)


async def test_a_map_is_refreshed_where_its_answer_said_and_nowhere_else(dgs: ScriptedDgs) -> None:
    """A redirect leads nowhere; after a failure there, the next refresh goes where the first one did."""
    other = ScriptedDgs()
    elsewhere: list[str] = []

    async def away(request: web.Request) -> web.Response:
        elsewhere.append(request.path)
        return web.Response(status=302, headers={"Location": "/graphql"})

    app = web.Application()
    app.router.add_get("/c/night/graphql", other.graphql, allow_head=False)
    app.router.add_get("/away", away, allow_head=False)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    options = FleetOptions(devices=1, dgs_url=dgs.url, event_ids=("fight",), artwork="none")
    try:
        async with Fleet(options) as fleet:
            dgs.refresh_url = f"{origin}/c/night/graphql?via=map"
            await fleet.prefetch_all()
            client, prefetcher = fleet.clients[0], fleet.prefetcher
            assert prefetcher is not None
            other.refresh_url = f"{origin}/away"
            prefetcher.request(client, TOPIC)
            await eventually(lambda: len(other.asked) == 1)
            await eventually(lambda: client.device.topics[TOPIC].stage_map.refresh_url == other.refresh_url)
            assert (len(dgs.asked), prefetcher.counts.moved) == (1, 1)
            prefetcher.request(client, TOPIC)
            await eventually(lambda: elsewhere == ["/away"] and prefetcher.counts.failures == 1)
            dgs.refresh_url = "ftp://127.0.0.1/x"
            dgs.version = 2
            prefetcher.request(client, TOPIC)
            await eventually(lambda: client.device.topics[TOPIC].stage_map.version == 2)
            assert client.device.topics[TOPIC].stage_map.refresh_url == ""
            assert len(other.asked) == 1
    finally:
        await runner.cleanup()
