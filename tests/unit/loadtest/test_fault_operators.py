"""Goal: an operator gets the word through once, through whichever producer answers, or learns why not."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from loadtest.bench.faults.operators import Operators
from loadtest.bench.faults.plan import FaultPlan, cue_keys
from loadtest.bench.outcome import CouldNotRun

PLAN = FaultPlan(name="o", first_due_ms=1_000, lasts_s=1.0, channels=2, channels_per_device=1)


class Producer:
    """Answers as `answers` says, in turn and then for ever as the last one."""

    def __init__(self, *answers: int) -> None:
        self._answers = itertools.chain(answers, itertools.repeat(answers[-1]))
        self.heard: list[tuple[str, str, Any]] = []

    async def answer(self, request: web.Request) -> web.Response:
        status = next(self._answers)
        if status < 300:
            self.heard.append((request.path, request.headers["Idempotency-Key"], await request.json()))
        return web.json_response({}, status=status)


@asynccontextmanager
async def operators(*producers: Producer | None) -> AsyncIterator[Operators]:
    """None is a producer that is dead."""
    async with AsyncExitStack() as stack:
        urls = []
        for producer in producers:
            app = web.Application()
            if producer is not None:
                app.router.add_post("/{path:.*}", producer.answer)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            stack.push_async_callback(runner.cleanup)
            port = runner.addresses[0][1]
            if producer is None:
                await site.stop()
            urls.append(f"http://127.0.0.1:{port}")
        session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        yield Operators(session, cast("Any", SimpleNamespace(producer_urls=urls, operator_token="t")))


async def test_a_dead_producer_and_a_busy_one_are_passed_over() -> None:
    busy = Producer(503, 503, 201)
    async with operators(None, busy) as found:
        await found.create(PLAN.events())
    assert [heard[0] for heard in busy.heard] == ["/v1/events"] * len(PLAN.events())
    assert {heard[1] for heard in busy.heard} == {f"create-{event['id']}" for event in PLAN.events()}


async def test_a_refusal_is_told_and_not_repeated() -> None:
    async with operators(Producer(400)) as found:
        with pytest.raises(CouldNotRun, match="400"):
            await found.create(PLAN.events()[:1])


async def test_cancelling_reaches_every_event() -> None:
    one, other = Producer(200), Producer(200)
    async with operators(one, other) as found:
        await found.cancel(PLAN)
    wanted = {f"/v1/events/{event['id']}/cancel" for event in PLAN.events()}
    assert {heard[0] for heard in one.heard + other.heard} == wanted


async def test_cues_go_to_the_event_under_way_each_stage_once() -> None:
    plan = FaultPlan(name="o", first_due_ms=int(time.time() * 1000), lasts_s=5.0, channels=2, channels_per_device=1)
    producer = Producer(200)
    async with operators(producer) as found, found.cueing(plan, every_s=0.005):
        async with asyncio.timeout(5):
            while len(producer.heard) < 2 * len(cue_keys()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
    said = [(path, body["stage"]) for path, _, body in producer.heard]
    assert len(said) == len(set(said)) == 2 * len(cue_keys()), "manual stages run out, none is cued twice"
