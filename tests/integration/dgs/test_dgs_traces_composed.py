"""Followed requests through a composed DGS: their lines, and what others are told of them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import httpx
from dgs_world import PREFETCH, World
from structlog.testing import capture_logs

from contract.trace import parse_traceparent
from tests.support.ranking_services import speaking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


@asynccontextmanager
async def serving(world: World, **settings: Any) -> AsyncIterator[World]:
    async with world.client(world.build(trace_sample_per_s=0, **settings)) as world.http:
        await world.plan()
        yield world


async def ask(world: World, profile: str, headers: dict[str, str]) -> tuple[httpx.Response, list[dict[str, Any]]]:
    with capture_logs() as logged:
        answer = await world.http.post("/graphql", json=prefetch(profile), headers=headers)
    assert answer.status_code == 200, answer.text
    assert "errors" not in answer.json()
    return answer, spans(logged)


def prefetch(profile: str) -> dict[str, Any]:
    """By hash and text, so that the operation is known by its name from the second request on."""
    return {
        "query": PREFETCH,
        "variables": {"event": "tyson-paul", "profile": profile, "device": {"kind": "TV"}},
        "extensions": {"persistedQuery": {"version": 1, "sha256Hash": sha256(PREFETCH.encode()).hexdigest()}},
    }


async def nothing(asked: dict[str, Any]) -> dict[str, Any]:
    """Nothing for anybody: the next source is asked."""
    return {"recommendations": [{"profile": each["id"], "missing": "unheard of"} for each in asked["profiles"]]}


def spans(logged: list[Any]) -> list[dict[str, Any]]:
    return [line for line in logged if line["event"] == "span"]


async def test_a_cold_profile_and_then_a_warm_one(bare_world: World) -> None:
    """The fast path: a miss waits for its ranking, a hit for nobody; without the wish there is no line."""
    async with serving(bare_world) as world:
        await ask(world, "p-2", {})  # from now on the document is known by its operation
        answer, (line,) = await ask(world, "p-1", SAMPLED)
        assert answer.headers["traceresponse"] == f"00-{TRACE}-{line['span_id']}-01"
        assert (line["operation"], line["status"], line["cache"], line["trace_id"]) == (
            "prefetchEvent",
            200,
            "miss",
            TRACE,
        )
        assert line["class"] in ("critical", "best_effort")
        assert list(line["phases_us"]) == ["waiting", "reading", "picks", "joining"]
        assert [(call["name"], call["outcome"]) for call in line["calls"]] == [("picks", "ok")]
        assert sum(line["phases_us"].values()) <= line["took_us"] + 4
        _, (warm,) = await ask(world, "p-1", SAMPLED)
        assert warm["cache"] == "hit"
        assert "calls" not in warm
        answer, lines = await ask(world, "p-1", {"traceparent": SAMPLED["traceparent"][:-1] + "0"})
        assert (lines, answer.headers.get("traceresponse")) == ([], None)
        text = (await world.http.get("/metrics", headers=SAMPLED)).text
    assert 'stagecue_dgs_traces_total{outcome="asked"} 2.0' in text, "operators' pages are not followed"


async def test_the_ranking_service_is_told_the_trace_of_who_wants_it(bare_world: World) -> None:
    """Two ask at once, and mostly share a call: the one that is followed has its trace go along, nobody else."""
    async with speaking() as service, serving(
        bare_world, recommendations="http,catalog", ranking_url=service.url, ranking_deadline_ms=20_000,
        ranking_batch=2, ranking_batch_wait_ms=100,
    ) as world:  # fmt: skip
        service.script = nothing
        with capture_logs() as logged:
            await asyncio.gather(
                world.http.post("/graphql", json=prefetch("p-1"), headers=SAMPLED),
                world.http.post("/graphql", json=prefetch("p-2")),
            )
            await asyncio.gather(*(world.http.post("/graphql", json=prefetch(each)) for each in ("p-3", "p-4")))
    (line,) = spans(logged)
    (call,) = [each for each in line["calls"] if each["name"] == "ranking_service"]
    assert call["outcome"] == "ok"
    assert [told for told in service.traceparents if told is not None] == [f"00-{TRACE}-{call['span_id']}-01"]
    assert len(service.traceparents) > 1
    assert {each["name"] for each in line["calls"]} >= {"picks", "http"}


async def test_what_is_left_to_graphql_is_followed_too(bare_world: World) -> None:
    """A document the fast path does not take: the time is the executing one's."""
    async with serving(bare_world) as world:
        with capture_logs() as logged:
            answer = await world.http.post("/graphql", json={"query": "{ _service { sdl } }"}, headers=SAMPLED)
            page = await world.http.get("/artwork/nothing", headers=SAMPLED)
        assert (answer.status_code, page.status_code) == (200, 404)
    lines = spans(logged)
    assert [(line["operation"], line["status"]) for line in lines] == [("", 200), ("page", 404)]
    for line in lines:
        assert line["phases_us"]["executing"] > 0
        assert "cache" not in line


async def test_a_few_are_followed_unasked(bare_world: World) -> None:
    """The service's own choice, in a trace of its own: the first of all, and then for long nobody."""
    world = bare_world
    async with world.client(world.build(trace_sample_per_s=0.001)) as world.http:
        await world.plan()
        (line,) = [line for number in range(4) for line in (await ask(world, f"p-{number}", {}))[1]]
    assert line["sampled_by"] == "dgs"
    assert "parent_span_id" not in line
    assert parse_traceparent(f"00-{line['trace_id']}-{line['span_id']}-01") is not None
