"""Two producers on one PostgreSQL: one leads, and whatever is done to it, each broadcast goes out once, in order.

Published means: printed by a process (see producer_for_postgres.py), or collected here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from contract.broadcast import Broadcast
from contract.errors import StoreUnavailable
from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from contract.schedule import TopicSchedule
from message_producer.app import Producer, open_producer
from message_producer.lease_keeper import LeaseKeeper
from message_producer.model import Anchor, EventDraft, Stage, WriteContext
from message_producer.settings import ProducerSettings
from tests.support.postgres_server import OwnPostgres

pytestmark = [pytest.mark.external_service, pytest.mark.fault]
SCRIPT = Path(__file__).with_name("producer_for_postgres.py")
FAILPOINTS = [
    "producer.dispatch.before_commit",
    "producer.dispatch.after_commit",
    "producer.schedule.before_commit",
    "producer.schedule.after_commit",
    "producer.publish.before_send",
    "producer.publish.after_send",
    "producer.publish.after_mark",
]
CLOCK = SystemClock()
ME = WriteContext(actor="op")
Line = tuple[str, int, int, str]
"""Topic, timestamp, prev, state key."""


class Collected:
    """A Publisher that remembers what it was given, and when."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.at_s: list[float] = []
        self.schedules: list[tuple[str, int]] = []

    async def publish_broadcast(self, broadcast: Broadcast) -> None:
        await asyncio.sleep(0.002)
        self.lines.append((broadcast.topic, broadcast.timestamp, broadcast.prev, broadcast.state_key))
        self.at_s.append(time.monotonic())

    async def publish_schedule(self, schedule: TopicSchedule) -> None:
        self.schedules.append((schedule.topic, schedule.revision))


class Process:
    """A producer process and what it printed so far."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.words: list[list[str]] = []
        self.at_s: list[float] = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.child.stdout is not None
        async for line in self.child.stdout:
            if line.endswith(b"\n"):  # the last one may be cut off by the kill
                self.words.append(line.decode().split())
                self.at_s.append(time.monotonic())

    @property
    def lines(self) -> list[Line]:
        return [(w[1], int(w[2]), int(w[3]), w[4]) for w in self.words if w[0] == "published"]

    def send(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def says(self, word: str) -> bool:
        return any(words[0] == word for words in self.words)


@asynccontextmanager
async def process(url: str, failpoint: str = "-", skip: int = 0) -> AsyncIterator[Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        failpoint,
        str(skip),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PRODUCER_DATABASE_URL": url},
    )
    found = Process(child)
    try:
        yield found
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
        await found.reading


@asynccontextmanager
async def producing(url: str, log: Collected, readiness: Readiness | None = None) -> AsyncIterator[Producer]:
    """A producer of this process, running."""
    stop = asyncio.Event()
    settings = ProducerSettings(database_url=url)
    async with open_producer(settings, clock=CLOCK, readiness=readiness or Readiness(), publisher=log) as producer:
        running = asyncio.create_task(run_services(producer.services, stop=stop))
        try:
            yield producer
        finally:
            stop.set()
            await running


async def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Patience with a busy machine; how long things take is measured by the benchmarks."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - another process or task brings it about
            await asyncio.sleep(0.01)


def rows(url: str, statement: str) -> Sequence[sa.Row[tuple[object, ...]]]:
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            result = connection.execute(sa.text(statement))
            return result.all() if result.returns_rows else []
    finally:
        engine.dispose()


def night(event_id: str, stages: int, every_ms: int, in_ms: int) -> EventDraft:
    return EventDraft(
        event_id=event_id,
        title=event_id,
        starts_at=CLOCK.now_ms() + in_ms,
        stages=(
            *(Stage(key=f"s{n}", offset_ms=n * every_ms) for n in range(stages)),
            Stage(key="extra", anchor=Anchor.MANUAL),
        ),
    )


def check(url: str, published: Sequence[Line]) -> int:
    """The outbox against what reached the log, in the order it did; returns how many broadcasts there are."""
    outbox = rows(
        url, 'SELECT topic, "timestamp", prev, state_key, arming, event_id, published_at FROM outbox ORDER BY 2, id'
    )
    assert all(row[6] is not None for row in outbox), "a dispatched broadcast was not published"
    assert len({(row[5], row[1]) for row in outbox}) == len(outbox), "a timestamp was given out twice (R1)"
    assert len({(row[0], row[3], row[4]) for row in outbox}) == len(outbox), "an occurrence went out twice (R2)"
    tails: dict[str, int] = {}
    for topic, timestamp, prev, *_ in outbox:
        assert prev == tails.get(topic, 0), "the chain is broken (R8)"
        tails[topic] = timestamp
    assert set(published) == {tuple(row[:4]) for row in outbox}, "the log has something else than the outbox"
    newest: dict[str, int] = {}
    for topic, timestamp, prev, _ in published:
        if timestamp > newest.get(topic, 0):  # else an exact repeat: it is one of the outbox
            assert prev == newest.get(topic, 0), "a broadcast overtook the one before it (R2)"
            newest[topic] = timestamp
    return len(outbox)


def work_left(url: str) -> int:
    found = rows(
        url,
        "SELECT (SELECT count(*) FROM occurrences WHERE state = 'armed')"
        " + (SELECT count(*) FROM outbox WHERE published_at IS NULL)"
        " + (SELECT count(*) FROM schedule_outbox WHERE published_at IS NULL)",
    )
    return int(str(found[0][0]))


async def settled(url: str) -> None:
    async with asyncio.timeout(30):
        while await asyncio.to_thread(work_left, url):  # noqa: ASYNC110 - another connection's view, on purpose
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("failpoint", FAILPOINTS)
async def test_killed_at_a_failpoint(postgres_url: str, failpoint: str) -> None:
    """Goal: `kill -9` there loses nothing that was said or dispatched; the successor publishes it, in order."""
    async with process(postgres_url, failpoint, 7) as dying:
        async with asyncio.timeout(25):
            assert await dying.child.wait() == -signal.SIGKILL
    log = Collected()
    async with producing(postgres_url, log):
        await settled(postgres_url)
    assert check(postgres_url, [*dying.lines, *log.lines]) > 3
    known = {(row[0], row[1], row[2]) for row in rows(postgres_url, 'SELECT topic, "timestamp", state_key FROM outbox')}
    events = {row[0] for row in rows(postgres_url, "SELECT event_id FROM events")}
    for words in dying.words:
        match words:
            case ["said", "created", event_id]:
                assert event_id in events
            case ["said", "broadcast", topic, timestamp, key]:
                assert (topic, int(timestamp), key) in known


async def test_a_killed_leader_is_followed(postgres_url: str) -> None:
    log = Collected()
    async with process(postgres_url) as leader:
        await until(lambda: leader.says("leads"))
        async with producing(postgres_url, log) as follower:
            await follower.operations.create(night("e", 60, 100, 300), ME)
            await until(lambda: len(leader.lines) > 5)
            assert not follower.status()["leads"]
            leader.send(signal.SIGKILL)
            await until(lambda: bool(log.lines))
            assert follower.status()["leads"]
            await settled(postgres_url)
    assert check(postgres_url, [*leader.lines, *log.lines]) > 10


async def test_a_frozen_leader_holds_nobody_up_and_thawed_says_nothing_new(postgres_url: str) -> None:
    """Goal: its locks end with its idle transactions; awake again, it finds its epoch gone and only follows."""
    log = Collected()
    async with process(postgres_url) as leader:
        await until(lambda: leader.says("leads"))
        async with producing(postgres_url, log) as follower:
            for number in range(8):
                await follower.operations.create(night(f"e{number}", 60, 100, 300 + number * 7), ME)
            await until(lambda: len(leader.lines) > 20)
            leader.send(signal.SIGSTOP)
            await until(lambda: bool(log.lines))
            await asyncio.sleep(0.5)
            before = len(leader.lines)
            leader.send(signal.SIGCONT)
            await until(lambda: leader.says("follows"))
            await settled(postgres_url)
            late = leader.lines[before:]
            assert len(late) <= 8, "at most what was on its way when it froze"
            assert follower.status()["leads"]
            # What the thawed one still said are repeats of what it dispatched before it froze.
            assert check(postgres_url, [*leader.lines[:before], *log.lines, *late]) > 50


async def test_two_who_both_believe_they_lead(postgres_url: str) -> None:
    """Goal: the lease is taken away under a leader that dispatches; the epoch in each transaction keeps them apart."""
    one, two = Collected(), Collected()
    async with producing(postgres_url, one) as first:
        await until(lambda: bool(first.status()["leads"]))
        async with producing(postgres_url, two) as second:
            for number in range(6):
                await first.operations.create(night(f"e{number}", 25, 100, 400 + number * 3), ME)
            for _ in range(5):
                await asyncio.sleep(0.4)
                # Another epoch from one moment to the next: either takes it up, while its holder still believes.
                await asyncio.to_thread(rows, postgres_url, "UPDATE lease SET expires_at = 0, epoch = epoch + 1")
            await settled(postgres_url)
            assert not (first.status()["leads"] and second.status()["leads"])
    in_order = sorted([*zip(one.at_s, one.lines, strict=True), *zip(two.at_s, two.lines, strict=True)])
    published = [line for _, line in in_order]
    outbox = rows(postgres_url, 'SELECT topic, "timestamp", prev, state_key FROM outbox')
    assert set(published) == {tuple(row) for row in outbox}
    assert len({(row[0], row[1]) for row in outbox}) == len(outbox)
    assert rows(postgres_url, "SELECT count(*) FROM outbox WHERE published_at IS NULL") == [(0,)]


async def test_a_follower_serves_operators_and_the_leader_acts_at_once(postgres_url: str) -> None:
    """Goal: a cue and a changed time given to the one that does not lead reach the log without a polling interval."""
    leading, following = Collected(), Collected()
    async with producing(postgres_url, leading) as leader:
        await until(lambda: bool(leader.status()["leads"]))
        async with producing(postgres_url, following) as follower:
            await follower.operations.create(night("e", 1, 0, 3_600_000), ME)
            await until(lambda: ("event:e", 1) in leading.schedules)
            for _ in range(5):
                (said,) = await follower.operations.cue("e", "extra", ME)
                await until(lambda: bool(leading.lines) and leading.lines[-1][1] == said.timestamp)  # noqa: B023
            started_at = (await follower.operations.get("e")).starts_at
            await follower.operations.shift("e", CLOCK.now_ms() + 300 - started_at, ME)
            await until(lambda: leading.lines[-1][3] == "s0")
            assert not following.lines
            assert not follower.status()["leads"]


async def test_a_leader_that_stops_hands_over_at_once(postgres_url: str) -> None:
    """Goal: a rolling restart leaves no gap in the lead: giving it up wakes whoever waits for it."""
    one, two = Collected(), Collected()
    async with AsyncExitStack() as stack:
        first_stack = await stack.enter_async_context(AsyncExitStack())
        first = await first_stack.enter_async_context(producing(postgres_url, one))
        await until(lambda: bool(first.status()["leads"]))
        second = await stack.enter_async_context(producing(postgres_url, two))
        await until(lambda: second.status()["seen_epoch"] == first.status()["epoch"])
        lease = first.services[0]
        assert isinstance(lease, LeaseKeeper)
        stopping = asyncio.create_task(first_stack.aclose())
        await until(lambda: lease.epoch is None)
        await until(lambda: bool(second.status()["leads"]))
        await stopping


async def test_a_killed_postgres_is_noticed_and_forgiven(postgres_server: OwnPostgres, postgres_url: str) -> None:
    """Goal: not ready while it is away, operators are told at once, and dispatching again soon after it is back."""
    log, readiness = Collected(), Readiness()
    async with producing(postgres_url, log, readiness) as producer:
        await producer.operations.create(night("e", 60, 130, 300), ME)
        await until(lambda: len(log.lines) > 5)
        assert readiness.ready
        postgres_server.kill()
        await until(lambda: not readiness.ready)
        assert "store" in readiness.failing()
        for attempt in (producer.operations.get("e"), producer.operations.shift("e", 1000, ME)):
            with pytest.raises(StoreUnavailable) as refused:
                async with asyncio.timeout(15):
                    await attempt
            assert refused.value.retry_after_s
        await asyncio.sleep(1.5)
        before = len(log.lines)
        await asyncio.to_thread(postgres_server.start)
        await until(lambda: len(log.lines) > before)
        await until(lambda: readiness.ready)
        await settled(postgres_url)
    assert check(postgres_url, log.lines) > 10
