"""A producer process on PostgreSQL, to be killed and frozen by tests: `python producer_for_postgres.py FAILPOINT SKIP`.

Its log is its standard output: one line per broadcast published, as durable as a pipe the test holds. With a FAILPOINT
it operates, too (creates, cues and shifts), and dies there; with `-` it only leads or waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import uvloop

from contract.broadcast import Broadcast
from contract.errors import BroadcastSystemError
from contract.runtime.failpoints import arm
from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from contract.schedule import TopicSchedule
from message_producer.app import Producer, open_producer
from message_producer.model import Anchor, Audience, EventDraft, Stage, WriteContext
from message_producer.settings import ProducerSettings

CONTEXT = WriteContext(actor="load")


def say(*words: object) -> None:
    print(*words, flush=True)


class PrintedLog:
    """A Publisher whose confirmations take a while, as a network's do."""

    async def publish_broadcast(self, broadcast: Broadcast) -> None:
        await asyncio.sleep(0.002)
        say("published", broadcast.topic, broadcast.timestamp, broadcast.prev, broadcast.state_key)
        await asyncio.sleep(0.001)

    async def publish_schedule(self, schedule: TopicSchedule) -> None:
        await asyncio.sleep(0.002)
        say("schedule", schedule.topic, schedule.revision)


async def operate(producer: Producer, clock: SystemClock) -> None:
    number = 0
    while True:
        number += 1
        event_id = f"e{clock.now_ms()}"
        stages = (*(Stage(key=f"s{n}", offset_ms=n * 60) for n in range(6)), Stage(key="extra", anchor=Anchor.MANUAL))
        draft = EventDraft(
            event_id=event_id,
            title=event_id,
            starts_at=clock.now_ms() + 150,
            stages=stages,
            audiences=(Audience(), Audience(name="west", regions=("US",), offsets_ms={"s1": 90})),
            broadcast_budget_per_hour=3600,
        )
        await producer.operations.create(draft, CONTEXT)
        say("said", "created", event_id)
        await asyncio.sleep(0.1)
        with contextlib.suppress(BroadcastSystemError):
            for broadcast in await producer.operations.cue(event_id, "extra", CONTEXT):
                say("said", "broadcast", broadcast.topic, broadcast.timestamp, broadcast.state_key)
        await producer.operations.shift(event_id, 35 if number % 2 else -35, CONTEXT)


async def main(failpoint: str, skip: int) -> None:
    clock, stop = SystemClock(), asyncio.Event()
    async with open_producer(
        ProducerSettings(), clock=clock, readiness=Readiness(), publisher=PrintedLog()
    ) as producer:
        running = asyncio.create_task(run_services(producer.services, stop=stop))
        say("up")
        if failpoint != "-":
            arm(failpoint, skip=skip)
            await operate(producer, clock)
        led = False
        while not running.done():
            leads = bool(producer.status()["leads"])
            if leads != led:
                say("leads" if leads else "follows")
                led = leads
            await asyncio.sleep(0.02)
        await running


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
