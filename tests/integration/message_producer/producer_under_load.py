"""A small producer process under write load, to be killed by tests: `python producer_under_load.py DIR FAILPOINT SKIP`.

Prints one line per fact it knows to be durable: `said` (an operation returned) and `heard` (polled from the log).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import uvloop

from contract.errors import BroadcastSystemError
from contract.runtime.failpoints import arm
from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from message_producer.app import Producer, open_producer
from message_producer.model import Audience, EventDraft, Stage, WriteContext
from message_producer.settings import ProducerSettings

CONTEXT = WriteContext(actor="load")
STAGES = 12


def draft(event_id: str, now: int) -> EventDraft:
    return EventDraft(
        event_id=event_id,
        title=event_id,
        starts_at=now,
        stages=tuple(Stage(key=f"s{n}", offset_ms=n * 40) for n in range(STAGES)),
        audiences=(Audience(), Audience(name="west", regions=("US",), offsets_ms={"s1": 60})),
        broadcast_budget_per_hour=3600,
    )


def say(*words: object) -> None:
    print(*words, flush=True)


async def operate(producer: Producer, clock: SystemClock) -> None:
    operations, number = producer.operations, 0
    while True:
        number += 1
        event_id = f"e{clock.now_ms()}"
        await operations.create(draft(event_id, clock.now_ms() + 100), CONTEXT)
        say("said", "created", event_id)
        await asyncio.sleep(0.1)
        with contextlib.suppress(BroadcastSystemError):
            for broadcast in await operations.cue(event_id, f"s{number % STAGES}", CONTEXT):
                say("said", "broadcast", broadcast.topic, broadcast.timestamp, broadcast.state_key)
        await operations.shift(event_id, 35 if number % 2 else -35, CONTEXT)


async def listen(producer: Producer) -> None:
    while True:
        batch = await producer.log.poll(max_entries=100, timeout_s=0.5)
        for entry in batch.entries:
            if entry.broadcast is not None:
                say("heard", entry.offset, entry.broadcast.topic, entry.broadcast.timestamp, entry.broadcast.state_key)
        if batch.entries:
            await producer.log.commit({0: batch.entries[-1].offset + 1})


async def main(directory: Path, failpoint: str, skip: int) -> None:
    clock, stop = SystemClock(), asyncio.Event()
    async with open_producer(ProducerSettings(data_dir=directory), clock=clock, readiness=Readiness()) as producer:
        running = asyncio.create_task(run_services(producer.services, stop=stop))
        say("up")
        if failpoint != "-":
            arm(failpoint, skip=skip)
        async with asyncio.TaskGroup() as group:
            group.create_task(operate(producer, clock))
            group.create_task(listen(producer))
        await running


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
