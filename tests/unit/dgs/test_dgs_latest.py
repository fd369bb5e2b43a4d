"""The newest broadcast of a topic: half a second old at most, both values of one entry, one read for all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from contract.broadcast import Broadcast
from contract.clock import ManualClock
from contract.errors import StoreUnavailable
from contract.kv.memory import MemoryReplayLog
from contract.replay_log import LogSnapshot
from dgs.caches.latest import LatestEntries, LatestEntry

TOPIC = "event:night"


class CountedLog(MemoryReplayLog):
    """Counts what it is asked, and may be silent."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.tails_asked = 0
        self.silent = False

    async def read(self, topic: str) -> LogSnapshot:
        self.reads += 1
        return await super().read(topic)

    async def tails(self, topics: Sequence[str]) -> Mapping[str, int]:
        self.tails_asked += 1
        await asyncio.sleep(0)
        if self.silent:
            raise StoreUnavailable("silent")
        return await super().tails(topics)

    async def announce(self, state: str, at: int) -> None:
        prev = (await super().read(TOPIC)).tail
        await self.append(Broadcast(topic=TOPIC, state_key=state, timestamp=at, prev=prev, event_id="night"))


async def test_a_look_every_half_second_and_a_read_only_when_it_moved() -> None:
    log, clock = CountedLog(), ManualClock()
    latest = LatestEntries(log, clock)
    assert await latest.latest(TOPIC) == LatestEntry(None, 0)
    await log.announce("live", 1_000)
    assert await latest.latest(TOPIC) == LatestEntry(None, 0), "from memory"
    clock.advance_ms(500)
    assert await latest.latest(TOPIC) == LatestEntry("live", 1_000)
    clock.advance_ms(500)
    assert await latest.latest(TOPIC) == LatestEntry("live", 1_000)
    assert (log.tails_asked, log.reads) == (3, 2)
    assert latest.stats() == {"hits": 1, "reads": 3, "joined": 0, "stale": 0, "topics": 1}


async def test_a_hundred_callers_make_one_read() -> None:
    log, clock = CountedLog(), ManualClock()
    await log.announce("live", 1_000)
    latest = LatestEntries(log, clock)
    found = await asyncio.gather(*(latest.latest(TOPIC) for _ in range(100)))
    assert set(found) == {LatestEntry("live", 1_000)}
    assert (log.tails_asked, log.reads) == (1, 1)


@pytest.mark.parametrize(("silent_ms", "served"), [(9_000, True), (10_000, False)])
async def test_a_silent_store_is_outlived_for_a_while(silent_ms: int, served: bool) -> None:
    """An older entry is served, counted, up to `stale_s`; then the store's silence is the caller's to hear."""
    log, clock = CountedLog(), ManualClock()
    latest = LatestEntries(log, clock, stale_s=10.0)
    await log.announce("live", 1_000)
    await latest.latest(TOPIC)
    log.silent = True
    clock.advance_ms(silent_ms)
    if served:
        assert await latest.latest(TOPIC) == LatestEntry("live", 1_000)
        assert latest.stats()["stale"] == 1
    else:
        with pytest.raises(StoreUnavailable):
            await latest.latest(TOPIC)


async def test_what_was_never_read_is_not_made_up() -> None:
    log = CountedLog()
    log.silent = True
    with pytest.raises(StoreUnavailable):
        await LatestEntries(log, ManualClock(), stale_s=10.0).latest(TOPIC)


async def test_topics_held_are_bounded() -> None:
    latest = LatestEntries(CountedLog(), ManualClock(), max_topics=3)
    for number in range(10):
        await latest.latest(f"event:{number}")
    assert latest.stats()["topics"] == 3
