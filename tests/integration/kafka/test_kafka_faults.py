"""Brokers and routers die and freeze: what was confirmed is delivered, in order, and it recovers by itself in time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from contract.broadcast import Broadcast
from contract.errors import LogUnavailable
from contract.runtime.kafka_settings import KafkaSettings
from contract.runtime.runner import Readiness
from contract.runtime.system_clock import SystemClock
from message_producer.adapters.kafka_publisher import KafkaPublisher
from message_router.adapters.kafka_log import open_kafka_log
from tests.integration.kafka.kafka_world import BASE, Polled, broadcast, polled, publisher
from tests.support.kafka_server import OwnKafka, kafka, kafka_group, kafka_server

__all__ = ["kafka", "kafka_group", "kafka_server"]
pytestmark = [pytest.mark.external_service, pytest.mark.fault, pytest.mark.timeout(180)]

# Patience with a busy machine, so that what hangs fails; how long it takes is measured by `stagecue bench faults`.
TAKE_OVER_S = 60.0
"""A router's partitions are with another one by then, killed or frozen."""
BACK_S = 120.0
"""After a broker is back, broadcasts flow again by then."""


async def insist(log: KafkaPublisher, one: Broadcast) -> None:
    """Publish as the outbox does: again and again until it is confirmed."""
    while True:
        try:
            return await log.publish_broadcast(one)
        except LogUnavailable:
            await asyncio.sleep(0.1)


async def test_a_broker_killed_and_restarted_loses_nothing(
    kafka: KafkaSettings, kafka_group: str, kafka_server: OwnKafka
) -> None:
    """Both sides say they are not ready, and go on by themselves; confirmed ones are there in order, once each."""
    producer, router = Readiness(), Readiness()
    async with publisher(kafka, producer) as log, polled(kafka, kafka_group, readiness=router) as reader:
        for number in range(1, 21):
            await log.publish_broadcast(broadcast("e0", number))
        await reader.until(lambda: len(reader.places) == 20)
        kafka_server.kill()
        publishing = asyncio.create_task(insist(log, broadcast("e0", 21)))
        await reader.until(lambda: bool(reader.troubles) and not producer.ready)
        started = asyncio.create_task(kafka_server.started())
        await started
        back_s = time.monotonic()
        await publishing
        await reader.until(lambda: len(reader.places) == 21)
        assert time.monotonic() - back_s < BACK_S
        for number in range(22, 31):
            await log.publish_broadcast(broadcast("e0", number))
        await reader.until(lambda: len(reader.places) == 30 and producer.ready)
        at = {entry.offset: entry.broadcast.timestamp for entry in reader.entries if entry.broadcast}
        assert at == {number - 1: BASE + number for number in range(1, 31)}
        reader.troubles.clear()
        await reader.commit()
        await asyncio.sleep(1.5)
        assert not reader.troubles


async def test_a_broker_away_for_longer_than_broken_clients_are_borne(
    kafka: KafkaSettings, kafka_group: str, kafka_server: OwnKafka
) -> None:
    """However long nobody answers, both sides go on once somebody does, in time, and in order."""
    hasty = kafka.model_copy(update={"send_timeout_s": 0.5, "renew_after_s": 5.0, "health_interval_s": 0.3})
    async with publisher(hasty) as log, polled(hasty, kafka_group) as reader:
        await log.publish_broadcast(broadcast("e0", 1))
        await reader.until(lambda: len(reader.places) == 1)
        kafka_server.kill()
        publishing = asyncio.create_task(insist(log, broadcast("e0", 2)))
        await asyncio.sleep(6)
        await kafka_server.started()
        back_s = time.monotonic()
        await publishing
        await insist(log, broadcast("e0", 3))
        await reader.until(lambda: bool(reader.broadcasts) and reader.broadcasts[-1].timestamp == BASE + 3)
        assert time.monotonic() - back_s < BACK_S / 2
        at = {entry.offset: entry.broadcast.timestamp for entry in reader.entries if entry.broadcast}
        stamps = [at[offset] for offset in sorted(at)]
        # An attempt that was given up may have been sent all the same: twice is allowed, out of order is not.
        assert stamps == sorted(stamps)
        assert list(dict.fromkeys(stamps)) == [BASE + 1, BASE + 2, BASE + 3]


async def test_clients_that_broke_are_replaced(kafka: KafkaSettings, kafka_group: str) -> None:
    """Brokers answer, yet a producer sends nothing and a consumer fetches nothing: both are made anew in time."""
    hasty = kafka.model_copy(
        update={"send_timeout_s": 0.3, "renew_after_s": 1.0, "health_interval_s": 0.2, "session_timeout_ms": 2_000}
    )
    async with publisher(hasty) as log, polled(hasty, kafka_group) as reader:
        await log.publish_broadcast(broadcast("e0", 1))
        await reader.until(lambda: len(reader.places) == 1)
        broken = log._sender._client.producer
        broken._sender.sender_task.cancel()
        with pytest.raises(LogUnavailable):
            await log.publish_broadcast(broadcast("e0", 2))
        async with asyncio.timeout(8):
            await insist(log, broadcast("e0", 2))
        await reader.until(lambda: len(reader.places) == 2)
        reader.log._member._consumer._fetcher._fetch_task.cancel()
        await asyncio.sleep(0.1)
        await insist(log, broadcast("e0", 3))
        await reader.until(lambda: bool(reader.broadcasts) and reader.broadcasts[-1].timestamp == BASE + 3)
        assert list(dict.fromkeys(one.timestamp for one in reader.broadcasts)) == [BASE + 1, BASE + 2, BASE + 3]


async def test_a_frozen_broker_is_an_outage_like_any_other(
    kafka: KafkaSettings, kafka_group: str, kafka_server: OwnKafka
) -> None:
    """It accepts connections and says nothing: sending ends in time, unready, and nothing overtakes what waits."""
    readiness = Readiness()
    async with publisher(kafka, readiness) as log, polled(kafka, kafka_group) as reader:
        await log.publish_broadcast(broadcast("e0", 1))
        kafka_server.broker.freeze()
        begun_s = time.monotonic()
        with pytest.raises(LogUnavailable):
            await log.publish_broadcast(broadcast("e0", 2))
        assert time.monotonic() - begun_s < kafka.send_timeout_s + 8
        assert not readiness.ready
        kafka_server.broker.thaw()
        await insist(log, broadcast("e0", 2))
        await insist(log, broadcast("e0", 3))
        await reader.until(lambda: len(reader.entries) >= 3)
        assert [one.timestamp for one in reader.broadcasts] == [BASE + 1, BASE + 2, BASE + 3]


async def test_a_broker_that_cannot_write_ends_and_what_it_confirmed_is_there(
    kafka: KafkaSettings, kafka_group: str, kafka_server: OwnKafka
) -> None:
    """A file-size limit does what a full disk does; nothing is confirmed meanwhile, and all goes on with room."""
    readiness = Readiness()
    async with publisher(kafka, readiness) as log, polled(kafka, kafka_group) as reader:
        await log.publish_broadcast(broadcast("e0", 1))
        resource.prlimit(kafka_server.broker.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        with pytest.raises(LogUnavailable, match="a full disk ends one"):
            await log.publish_broadcast(broadcast("e0", 2))
        assert not readiness.ready
        await reader.until(lambda: not kafka_server.broker.running)
        await kafka_server.started()
        await insist(log, broadcast("e0", 2))
        await insist(log, broadcast("e0", 3))
        await reader.until(lambda: len(reader.broadcasts) >= 3)
        assert [one.timestamp for one in reader.broadcasts] == [BASE + 1, BASE + 2, BASE + 3]


async def test_leaving_while_the_broker_is_away_takes_no_time(
    kafka: KafkaSettings, kafka_group: str, kafka_server: OwnKafka
) -> None:
    """A stop during an outage ends within seconds and leaves no task behind."""
    async with publisher(kafka) as log, polled(kafka, kafka_group) as reader:
        await log.publish_broadcast(broadcast("e0", 1))
        await reader.until(lambda: len(reader.places) == 1)
        kafka_server.kill()
        with pytest.raises(LogUnavailable):
            await log.publish_broadcast(broadcast("e0", 2))
        begun_s = time.monotonic()
    assert time.monotonic() - begun_s < 20
    await asyncio.sleep(0.1)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left


class _Router:
    """A router in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.ours: dict[int, int] = {}
        """Partitions, and where it was told to start with each."""
        self.changes = 0
        self.seen: set[tuple[str, int]] = set()
        self._reading = asyncio.create_task(self._read(), name="router-output")

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            if "ours" in said:
                self.ours, self.changes = dict(said["ours"]), said["changes"]
            else:
                self.seen.add((said["topic"], said["timestamp"]))

    def check(self) -> None:
        """Raises what ended the reading, if anything did: whoever waits for more waits for nothing."""
        if self._reading.done():
            self._reading.result()
            raise AssertionError("the router's process ended")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await asyncio.wait({self._reading})
        self._reading.result()


@asynccontextmanager
async def router_process(settings: KafkaSettings, group: str) -> AsyncIterator[_Router]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("router_process.py")),
        settings.model_dump_json(exclude={"sasl_password"}),
        group,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    router = _Router(process)
    try:
        yield router
    finally:
        await router.end()


async def both_have_some(here: Polled, there: _Router) -> None:
    def shared() -> bool:
        there.check()
        return 0 < len(here.ours) < 6 and len(there.ours) + len(here.ours) == 6

    await here.until(shared)


async def all_seen(here: Polled, there: _Router, wanted: set[tuple[str, int]]) -> None:
    """Each by one of them at least."""

    def seen() -> bool:
        there.check()
        return wanted <= there.seen | {(one.topic, one.timestamp) for one in here.broadcasts}

    await here.until(seen)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_the_partitions_of_a_router_that_is_gone_are_taken_over(
    kafka: KafkaSettings, kafka_group: str, how: signal.Signals
) -> None:
    """In time, from what it had committed; thawed, it takes nothing back, and hands over again without trouble."""
    events = [f"e{number}" for number in range(12)]

    async def publish(number: int) -> set[tuple[str, int]]:
        for event in events:
            await log.publish_broadcast(broadcast(event, number))
        return {(f"event:{event}", BASE + number) for event in events}

    async with publisher(kafka) as log, polled(kafka, kafka_group) as here:
        await here.until(lambda: len(here.ours) == 6)
        async with router_process(kafka, kafka_group) as there:
            await both_have_some(here, there)
            await all_seen(here, there, await publish(1))
            there.signal(how)
            gone_s = time.monotonic()
            second = await publish(2)
            await here.until(lambda: second <= {(one.topic, one.timestamp) for one in here.broadcasts})
            assert time.monotonic() - gone_s < TAKE_OVER_S
            assert len(here.ours) == 6
            if how is signal.SIGSTOP:
                await here.commit()
                finished, revoked = dict(here.finished), there.changes + len(there.ours)
                there.signal(signal.SIGCONT)
                # Until it has lost its partitions and been given others, what it says of them is old.
                await here.until(lambda: there.changes > revoked)
                await both_have_some(here, there)
                # Had a stale commit gone through, what was finished would come again.
                assert all(offset >= finished.get(partition, 0) for partition, offset in there.ours.items())
                await all_seen(here, there, await publish(3))
    async with polled(kafka, kafka_group) as after:
        await after.until(lambda: len(after.ours) == 6 and after.log.lag == 0)
        assert not [one for one in after.broadcasts if one.timestamp < BASE + 2]


async def test_polling_is_cancel_safe(kafka: KafkaSettings, kafka_group: str) -> None:
    """Cut off at any instant, again and again, a poll loses nothing."""
    got: list[int] = []
    async with (
        publisher(kafka) as log,
        open_kafka_log(kafka, group=kafka_group, readiness=Readiness(), clock=SystemClock()) as reader,
    ):

        async def night() -> None:
            for number in range(1, 201):
                await log.publish_broadcast(broadcast("e0", number))

        publishing = asyncio.create_task(night())
        cut = 0
        async with asyncio.timeout(60):
            # Hasty once it has joined. All may have come before eight polls were cut: the rest are cut on an empty log.
            while len(got) < 200 or cut < 8:
                hasty = bool(got) and (cut < 8 or len(got) % 3)
                polling = asyncio.create_task(reader.poll(max_entries=7, timeout_s=1))
                await asyncio.wait({polling}, timeout=0.003 if hasty else 0.5)
                polling.cancel()
                await asyncio.wait({polling})
                if polling.cancelled():
                    cut += 1
                else:
                    got += [entry.broadcast.timestamp for entry in polling.result().entries if entry.broadcast]
        await publishing
    assert got == [BASE + number for number in range(1, 201)]
