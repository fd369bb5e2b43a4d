"""Routers' logs polled in the background, and what they were given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from contract.broadcast import Broadcast
from contract.errors import LogUnavailable
from contract.log import LogEntry
from contract.runtime.kafka_settings import KafkaSettings
from contract.runtime.runner import Readiness
from contract.runtime.system_clock import SystemClock
from message_producer.adapters.kafka_publisher import KafkaPublisher, open_kafka_publisher
from message_router.adapters.kafka_log import KafkaLog, open_kafka_log

BASE = 1_763_700_000_000


def broadcast(event_id: str, number: int, *, topic: str | None = None) -> Broadcast:
    """The `number`-th broadcast of an event, from 1; each a millisecond after the one before."""
    return Broadcast(
        topic=topic or f"event:{event_id}",
        state_key="live",
        timestamp=BASE + number,
        prev=0 if number == 1 else BASE + number - 1,
        event_id=event_id,
    )


class Polled:
    """One router's log, polled like the relay does: everything is finished at once, and committed now and then."""

    def __init__(self, log: KafkaLog, *, commits: bool = True) -> None:
        self.log = log
        self.entries: list[LogEntry] = []
        self.ours: dict[int, int] = {}
        self.begun: dict[int, int] = {}
        self.finished: dict[int, int] = {}
        self.troubles: list[LogUnavailable] = []
        self.changes = 0
        self._commits = commits
        self._task = asyncio.create_task(self._run(), name="polled")

    @property
    def broadcasts(self) -> list[Broadcast]:
        return [entry.broadcast for entry in self.entries if entry.broadcast is not None]

    @property
    def places(self) -> set[tuple[int, int]]:
        """Partition and offset of what was given out: once each, though a rebalance gives out again what is not
        committed, so that nobody waits for a number that a count of entries has jumped over."""
        return {(entry.partition, entry.offset) for entry in self.entries}

    async def until(self, condition: Callable[[], bool], within_s: float = 45.0) -> None:
        async with asyncio.timeout(within_s):
            while not condition():
                self.check()
                await asyncio.sleep(0.005)

    def check(self) -> None:
        """Raises what ended the polling, if anything did."""
        if self._task.done():
            self._task.result()

    def go_on(self) -> None:
        """Poll again after `stop`."""
        self._task = asyncio.create_task(self._run(), name="polled")

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()

    async def commit(self) -> None:
        await self.log.commit(
            {partition: self.finished[partition] for partition in self.ours if partition in self.finished}
        )

    async def _run(self) -> None:
        while True:
            try:
                batch = await self.log.poll(max_entries=100, timeout_s=0.2)
                for number in batch.revoked:
                    del self.ours[number]  # nothing is revoked that was not assigned
                    self.changes += 1
                for number, offset in batch.assigned.items():
                    assert number not in self.ours, f"{number} assigned twice"
                    self.ours[number] = offset
                    self.begun[number] = offset - 1
                    self.finished.pop(number, None)
                    self.changes += 1
                for entry in batch.entries:
                    assert entry.partition in self.ours, f"{entry} of somebody else's partition"
                    assert entry.offset > self.begun[entry.partition], f"{entry.offset} again or out of order"
                    self.begun[entry.partition] = entry.offset
                    self.finished[entry.partition] = entry.offset + 1
                    self.entries.append(entry)
                if self._commits:
                    await self.commit()
            except LogUnavailable as exc:
                self.troubles.append(exc)
                await asyncio.sleep(0.05)


@asynccontextmanager
async def publisher(settings: KafkaSettings, readiness: Readiness | None = None) -> AsyncIterator[KafkaPublisher]:
    async with open_kafka_publisher(settings, readiness=readiness or Readiness()) as opened:
        yield opened


@asynccontextmanager
async def polled(
    settings: KafkaSettings, group: str, *, readiness: Readiness | None = None, commits: bool = True
) -> AsyncIterator[Polled]:
    """A log that is polled until left."""
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(
            open_kafka_log(settings, group=group, readiness=readiness or Readiness(), clock=SystemClock())
        )
        router = Polled(log, commits=commits)
        stack.push_async_callback(router.stop)
        yield router
