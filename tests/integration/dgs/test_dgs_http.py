"""The HTTP surface: GraphQL over HTTP, limits, artwork, operations."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import pytest
from dgs_world import CHANNEL, PREFETCH, World

from contract.errors import StoreUnavailable
from contract.kv.memory import MemoryScheduleView
from contract.schedule import TopicSchedule
from dgs.http.cors import ASKED_FOR
from dgs.prefetch import Prefetch

SMALL = 'prefetchEvent(eventId: "tyson-paul", profileId: "p-1") { version }'


class BrokenView(MemoryScheduleView):
    """A schedule view that fails on demand."""

    error: Exception | None = None

    async def schedules(self, topics: Sequence[str]) -> Mapping[str, TopicSchedule]:
        self._check()
        return await super().schedules(topics)

    async def topics_of(self, event_id: str) -> tuple[str, ...]:
        self._check()
        return await super().topics_of(event_id)

    def _check(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("{", "Syntax Error"),
        ("{ nope }", "Cannot query field 'nope'"),
        ("{ prefetchEvent { version } }", "eventId"),
        ('{ prefetchEvent(eventId: "e", profileId: "p", device: {kind: FRIDGE}) { version } }', "FRIDGE"),
        ('{ prefetchEvent(eventId: "e", profileId: "p", colour: 1) { version } }', "colour"),
        ("{" + " ".join(f"a{n}: __typename" for n in range(16)) + "}", "16 aliases found. Allowed: 15"),
        ("{" + " __typename" * 1000 + "}", "more than 1000 tokens"),
        ("{ ...Nope }", "Unknown fragment 'Nope'"),
        ("{ }", "a selection set is empty"),
    ],
)
async def test_documents_that_cannot_run(world: World, query: str, part: str) -> None:
    """What GraphQL finds wrong, and what exceeds a limit, is told with code invalid_request."""
    answer = await world.ask(query)
    assert "data" not in answer
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"invalid_request"}
    assert part in " ".join(error["message"] for error in answer["errors"])


@pytest.mark.parametrize("query", ["mutation { x }", "subscription { x }"])
async def test_only_queries_are_served(world: World, query: str) -> None:
    """Writes and streams live elsewhere: refused before anything runs."""
    answer = await world.http.post("/graphql", json={"query": query})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["message"] == "query: only queries are served here"


async def test_a_deep_document_is_refused(bare_world: World) -> None:
    """The depth limit holds for documents that are otherwise valid; 5 is what the whole schema needs."""
    world = bare_world
    deep = '{ prefetchEvent(eventId: "e", profileId: "p") { stages { rows { titles { artwork { url } } } } } }'
    async with world.client(world.build(max_query_depth=4)) as world.http:
        assert "exceeds maximum operation depth of 4" in (await world.refused(deep))["message"]
    async with world.client(world.build(max_query_depth=5)) as world.http:
        assert (await world.refused(deep))["extensions"]["code"] == "not_found"


async def test_one_request_buys_a_bounded_number_of_maps(bare_world: World) -> None:
    """Aliases may not multiply the work: over the limit the rest of the fields are errors."""
    world = bare_world
    async with world.client(world.build(max_maps_per_request=2)) as world.http:
        await world.plan()
        assert "errors" not in await world.ask(f"{{ a: {SMALL} b: {SMALL} }}")
        answer = await world.ask(f"{{ a: {SMALL} b: {SMALL} c: {SMALL} }}")
    assert answer["data"] is None
    assert answer["errors"][0]["extensions"]["rule"] == "at most 2; send several requests"


@pytest.mark.parametrize(
    ("body", "headers", "status", "field"),
    [
        (b"{", {}, 400, "body"),
        (b"[]", {}, 400, "body"),
        (b"[" * 30_000, {}, 400, "body"),
        (b'{"query": 7}', {}, 400, "body"),
        (b'{"query": "{__typename}", "variables": []}', {}, 400, "body"),
        (b"{}", {}, 400, "body"),
        (b'{"query": ""}', {}, 400, "query"),
        (b'{"query": "fragment f on Query {__typename}"}', {}, 400, "query"),
        (b'{"query": "query A {__typename}", "operationName": "B"}', {}, 400, "query"),
        (b'{"query": "query A {__typename} query B {__typename}"}', {}, 400, "operationName"),
        (b'{"query": "query A {__typename}", "operationName": ""}', {}, 400, "query"),
        (b"\xff", {}, 400, "body"),
        (b'{"query": "{__typename}\xff"}', {}, 400, "body"),
        (b"x" * 70_000, {}, 413, "body"),
        (b"query=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "Content-Type"),
        (b"", {"Content-Type": ""}, 415, "Content-Type"),
    ],
)
async def test_requests_that_are_no_graphql(
    world: World, body: bytes, headers: dict[str, str], status: int, field: str
) -> None:
    """A 4xx with the same error form, naming what is wrong."""
    answer = await world.http.post("/graphql", content=body, headers={"Content-Type": "application/json", **headers})
    assert answer.status_code == status, answer.text
    assert answer.json()["errors"][0]["extensions"]["field"] == field


async def test_a_body_without_a_length_is_bounded_too(world: World) -> None:
    """A chunked body is refused once it is too long, without being collected."""

    async def endless() -> Any:
        for _ in range(1000):
            yield b"x" * 1000

    answer = await world.http.post("/graphql", content=endless(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")


async def test_only_get_and_post(world: World) -> None:
    """405 with Allow."""
    for method in ("PUT", "DELETE", "PATCH"):
        answer = await world.http.request(method, "/graphql")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


async def test_a_query_by_get_is_the_same_query(world: World) -> None:
    """Query, variables and operation name as parameters; what else is there is read over."""
    await world.plan()
    asked = {"event": "tyson-paul", "profile": "p-1"}
    by_post = await world.http.post("/graphql", json={"query": PREFETCH, "variables": asked})
    by_get = await world.http.get(
        "/graphql",
        params={"query": PREFETCH, "variables": json.dumps(asked), "operationName": "Prefetch", "extensions": "{}"},
    )
    assert by_get.status_code == 200
    assert by_get.json() == by_post.json()
    assert by_get.headers["cache-control"].startswith("private, max-age=")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "query"),
        ("query=", "query"),
        ("query={__typename}&query={__typename}", "query"),
        ("query={__typename}&variables=[]", "variables"),
        ("query={__typename}&variables={", "variables"),
        ("query=%ff", "query string"),
        ("&".join(f"a{number}=1" for number in range(20)), "query string"),
        ("query=mutation{x}", "query"),
    ],
)
async def test_gets_that_are_no_query(world: World, query: str, field: str) -> None:
    """400 naming the parameter."""
    answer = await world.http.get(f"/graphql?{query}")
    assert answer.status_code == 400, answer.text
    assert answer.json()["errors"][0]["extensions"]["field"] == field


async def test_graphql_response_media_type(world: World) -> None:
    """A client of the newer media type gets 400 for what could not run, 200 for what ran with an error."""
    headers = {"Accept": "application/graphql-response+json"}
    bad = await world.http.post("/graphql", json={"query": "{ nope }"}, headers=headers)
    assert (bad.status_code, "data" in bad.json()) == (400, False)
    ran = await world.http.post("/graphql", json={"query": f"{{ {SMALL} }}"}, headers=headers)
    assert (ran.status_code, ran.json()["data"]) == (200, None)
    assert ran.headers["content-type"].startswith("application/graphql-response+json")


async def test_how_long_an_answer_may_be_kept(world: World) -> None:
    """A map as long as it lives, privately; a token or an error not at all."""
    await world.plan()

    async def cache_control(query: str) -> str:
        answer = await world.http.post("/graphql", json={"query": query})
        return str(answer.headers["cache-control"])

    channel = 'broadcastChannel(eventIds: ["tyson-paul"], profileId: "p-1", device: {kind: TV}) { token }'
    lifetime = (await world.prefetch())["ttlSeconds"]
    assert await cache_control(f"{{ {SMALL} }}") == f"private, max-age={lifetime}"
    assert await cache_control(f"{{ {SMALL} {channel} }}") == "no-store"
    assert await cache_control(f"{{ {SMALL.replace('tyson-paul', 'nope')} }}") == "no-store"
    assert await cache_control("{ __typename }") == "no-store"


async def test_the_store_is_down(bare_world: World) -> None:
    """Retryable, with a time to come back at; readiness turns off and on again with the store."""
    world = bare_world
    view = world.view = BrokenView()
    async with world.client(world.build()) as world.http:
        await world.plan()
        await world.prefetch()
        assert (await world.http.get("/readyz")).status_code == 200
        view.error = StoreUnavailable("no answer from the schedule view")
        error = await world.refused(PREFETCH, event="never-seen", profile="p-1")
        assert error["extensions"] == {"code": "store_unavailable", "retryAfterMs": 4000}
        assert (await world.prefetch())["revision"] == 12, "what is known is served all the same"
        not_ready = await world.http.get("/readyz")
        assert not_ready.status_code == 503
        assert not_ready.json()["failing"] == {"dgs.schedule_view": "no answer from the schedule view"}
        assert (await world.http.get("/healthz")).status_code == 200
        view.error = None
        assert (await world.http.get("/readyz")).status_code == 200


async def test_a_bug_is_masked(bare_world: World) -> None:
    """An unexpected exception's text stays out of the answer and is counted as internal."""
    world = bare_world
    async with world.client(world.build()) as world.http:
        await world.plan()
        with patch.object(Prefetch, "stage_map", side_effect=RuntimeError("secret: /etc/passwd")):
            error = await world.refused(PREFETCH, event="tyson-paul", profile="p-1")
        assert error["extensions"] == {"code": "internal"}
        assert "secret" not in json.dumps(error)
        assert 'stagecue_dgs_graphql_errors_total{code="internal"} 1.0' in (await world.http.get("/metrics")).text


async def test_a_request_that_takes_too_long(bare_world: World) -> None:
    """The whole request has one deadline; the client is told to come back."""
    world = bare_world

    class Hanging(MemoryScheduleView):
        async def schedules(self, topics: Sequence[str]) -> Mapping[str, TopicSchedule]:
            await asyncio.Event().wait()
            raise AssertionError

    world.view = Hanging()
    async with world.client(world.build(request_timeout_s=0.05)) as world.http:
        await world.plan()
        answer = await world.http.post("/graphql", json={"query": f"{{ {SMALL} }}"})
    assert answer.status_code == 408
    assert answer.json()["errors"][0]["extensions"] == {"code": "timeout", "retryAfterMs": 4000}


async def test_artwork_is_immutable(world: World) -> None:
    """Every URL of a map is served: SVG, cached for ever, revalidated with 304, HEAD without a body."""
    await world.plan()
    found = await world.prefetch()
    urls = [
        picture["url"]
        for entry in found["byKey"].values()
        for row in entry["rows"]
        for title in row["titles"]
        for picture in title["artwork"]
    ]
    assert len(urls) == 4 * 8
    for url in urls:
        answer = await world.http.get(url)
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
        assert answer.headers["content-type"] == "image/svg+xml; charset=utf-8"
        assert answer.content == (await world.http.get(url)).content
    etag = answer.headers["etag"]
    again = await world.http.get(urls[-1], headers={"If-None-Match": f'W/"x", {etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    head = await world.http.head(urls[-1])
    assert (head.status_code, head.content, int(head.headers["content-length"])) == (200, b"", len(answer.content))


async def test_artwork_nobody_was_given(world: World) -> None:
    """Wrong hash, unknown title, odd size, traversal: 404, not cached, nothing drawn; other methods: 405."""
    await world.plan()
    url = (await world.prefetch())["byKey"]["live"]["rows"][0]["titles"][0]["artwork"][0]["url"]
    head, _, tail = url.rpartition("-")
    for wrong in (
        f"{head}-{'0' * 16}.svg",
        url.replace("640x360", "641x360"),
        "/artwork/none/" + url.rpartition("/")[2],
        "/artwork/%2e%2e/%2e%2e/etc/passwd",
        f"{url}.png",
    ):
        answer = await world.http.get(wrong)
        assert (answer.status_code, answer.headers["cache-control"]) == (404, "no-store")
    assert (await world.http.post(url)).status_code == 405
    assert tail


async def test_requests_are_counted_for_the_judge(world: World) -> None:
    """Counts by kind in a half-open window, in /requests and in the metrics; operations' own pages do not count."""
    await world.plan()
    found = await world.prefetch()
    since = world.clock.now_ms()
    world.clock.advance_ms(1_000)
    await world.http.get(found["byKey"]["live"]["rows"][0]["titles"][0]["artwork"][0]["url"])
    await world.ask(CHANNEL, events=["tyson-paul"], profile="p-1", device={"kind": "TV"})
    await world.http.post("/graphql", content=b"no json")
    world.clock.advance_ms(1_000)

    async def counts(a: int, b: int) -> tuple[int, int]:
        answer = (await world.http.get("/requests", params={"since_ms": a, "until_ms": b})).json()
        assert answer["complete_since_ms"] <= a
        return answer["graphql"], answer["artwork"]

    assert await counts(since, since + 2_000) == (3, 1)
    assert await counts(since + 1, since + 2_000) == (2, 1)
    assert await counts(since + 1_001, since + 2_000) == (0, 0)
    text = (await world.http.get("/metrics")).text
    assert 'stagecue_dgs_requests_total{kind="graphql"} 3.0' in text
    assert 'stagecue_dgs_requests_total{kind="artwork"} 1.0' in text


@pytest.mark.parametrize("window", [{}, {"since_ms": "x", "until_ms": "1"}, {"since_ms": "5", "until_ms": "4"}])
async def test_a_window_that_is_none(world: World, window: dict[str, str]) -> None:
    """400 naming the parameter."""
    answer = await world.http.get("/requests", params=window)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["extensions"]["field"] in ("since_ms", "until_ms")


async def test_federation(world: World) -> None:
    """A gateway reads the SDL and resolves both entities; unknown ids are null, malformed representations told."""
    await world.plan()
    title = (await world.prefetch())["byKey"]["live"]["rows"][0]["titles"][0]
    shapes = "... on Title { name } ... on LiveEvent { title topic }"
    entities = f"query($of: [_Any!]!) {{ _entities(representations: $of) {{ {shapes} }} }}"
    answer = await world.ask(
        entities,
        of=[
            {"__typename": "Title", "id": title["id"]},
            {"__typename": "LiveEvent", "id": "tyson-paul"},
            {"__typename": "Title", "id": "nope"},
            {"__typename": "LiveEvent", "id": "nope"},
        ],
    )
    assert answer["data"]["_entities"] == [
        {"name": title["name"]},
        {"title": "Tyson vs. Paul", "topic": "event:tyson-paul"},
        None,
        None,
    ]
    for wrong in ({"id": "x"}, {"__typename": "Row", "id": "x"}, {"__typename": "Title"}, 7):
        error = await world.refused(entities, of=[wrong])
        assert error["extensions"]["code"] == "invalid_request"
    assert "prefetchEvent" in (await world.ask("{ _service { sdl } }"))["data"]["_service"]["sdl"]


async def test_fifty_prefetches_at_once(world: World) -> None:
    """Concurrent clients, kept connections, artwork beside maps."""
    await world.plan()
    maps = await asyncio.gather(*(world.prefetch(f"p-{number}") for number in range(50)))
    url = maps[0]["byKey"]["live"]["rows"][0]["titles"][0]["artwork"][0]["url"]
    assert (await world.http.get(url)).headers["content-type"].startswith("image/svg+xml")
    assert len({str(found["byKey"]) for found in maps}) >= 47


EVENT = 'query($x: ID!) { prefetchEvent(eventId: $x, profileId: "p") { version } }'
DEVICE = 'query($x: DeviceContext) { prefetchEvent(eventId: "e", profileId: "p", device: $x) { version } }'
WITHIN = 'query($x: Duration) { prefetchHome(profileId: "p", within: $x) { version } }'


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("{ \ud800 }", "1"),
        (EVENT, '"\\ud800"'),
        (EVENT, "1e999"),
        (EVENT, "[1]"),
        (DEVICE, '{"kind": {}}'),
        (DEVICE, "7"),
        (WITHIN, '{"a": 1}'),
        (WITHIN, "9" * 30),
        ("{ prefetchEvent(eventId: 7, profileId: 99999999999999999999999) { version } }", "1"),
        ("query A { __typename } query A { __typename }", "1"),
        ("{ ...f } fragment f on Query { ...f }", "1"),
        ("{ __typename @skip(if: 7) @nope }", "1"),
    ],
)
async def test_hostile_bodies_get_an_answer(world: World, query: str, value: str) -> None:
    """Lone surrogates, huge numbers, wrong shapes, cycles: an error in GraphQL's form, and never `internal`."""
    body = f'{{"query": {json.dumps(query)}, "variables": {{"x": {value}}}}}'.encode()
    answer = await world.http.post("/graphql", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400)
    codes = {error["extensions"]["code"] for error in answer.json()["errors"]}
    assert codes <= {"invalid_request", "not_found"}


async def test_a_web_device_may_ask_from_any_origin(world: World) -> None:
    """Preflight with every header field devices send, then the answer, its errors too; operators' pages stay shut."""
    await world.plan()
    origin = {"Origin": "https://tv.example"}
    asked = ", ".join(ASKED_FOR).lower()
    preflight = await world.http.options(
        "/graphql",
        headers=origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked},
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert set(preflight.headers["access-control-allow-headers"].lower().split(", ")) >= set(asked.split(", "))
    for query, status in ((f"{{ {SMALL} }}", 200), ("", 400)):
        answer = await world.http.post("/graphql", json={"query": query}, headers=origin)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, "*")
    assert "access-control-allow-origin" not in (await world.http.get("/metrics", headers=origin)).headers
    assert "access-control-allow-origin" not in (await world.http.post("/graphql", json={"query": ""})).headers
    assert (await world.http.options("/graphql")).status_code == 405
    url = (await world.prefetch())["byKey"]["live"]["rows"][0]["titles"][0]["artwork"][0]["url"]
    picture = await world.http.get(url, headers=origin)
    assert picture.headers.get_list("access-control-allow-origin") == ["*"]
