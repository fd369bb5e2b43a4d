"""Goal: the benchmark's ranking service speaks as the DGS's source `http` asks, and its slots are the limit.

Method: the service in a process of its own, asked by the production source.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dgs.breaker import Breaker
from dgs.ports import Need
from dgs.sources.http_recommend import HttpRecommendations
from dgs.sources.profiles import SeededProfiles
from dgs.stage_map import Recommendations
from loadtest.bench.overload.arena import RankingService
from loadtest.bench.prefetch.picked import demo_catalog
from loadtest.bench.push.cores import choose_cores


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[RankingService]:
    async with RankingService(tmp_path, core=choose_cores().load, slots=4, slot_ms=10.0) as found:
        yield found


async def test_the_production_source_gets_what_it_needs_and_waits_for_slots(service: RankingService) -> None:
    catalog, need = demo_catalog(), Need(24, 2, 6)
    profiles = [SeededProfiles(catalog).profile(f"p-{number}") for number in range(40)]
    source = HttpRecommendations(
        f"http://127.0.0.1:{service.port}/rank",
        lambda: catalog,
        breaker=Breaker(jitter=random.Random(1).random),
        batch=10,
        deadline_s=5.0,
    )
    try:
        began_s = time.monotonic()
        answers = await source.recommend(profiles, need, 5.0)
        took_s = time.monotonic() - began_s
        for profile, answer in zip(profiles, answers, strict=True):
            assert isinstance(answer, Recommendations)
            assert len(answer.ranked) == 24
            assert [seen.id for seen, _ in answer.because] == [seen.title_id for seen in profile.history[:2]]
            assert all(len(near) == 6 for _, near in answer.because)
        # Forty profiles, four at a time, ten milliseconds each.
        assert took_s >= 0.095
        stats = source.stats()
        assert (stats["answered"], stats["unknown_titles"], stats["malformed"], stats["calls"]) == (40, 0, 0, 4)
        said = await service.ask("stats")
        assert said["profiles"] == 40
        assert said["busy_s"] == pytest.approx(0.4)
        assert said["longest_wait_s"] >= 0.05
    finally:
        await source.aclose()


async def test_questions_of_one_connection_are_answered_in_order_and_nonsense_is_refused(
    service: RankingService,
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    try:
        bodies = [
            b'{"need":{"ranked":1,"because":0,"near":0},"profiles":[%s]}' % b",".join([b'{"id":"a"}'] * many)
            for many in (8, 1)
        ]
        bodies.insert(1, b"nonsense")
        for body in bodies:
            writer.write(b"POST /rank HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        found = []
        for _ in bodies:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            found.append((head.split()[1], (await reader.readexactly(length)).count(b'"profile"')))
        assert found == [(b"200", 8), (b"400", 0), (b"200", 1)]
    finally:
        writer.close()
