"""The process a `FleetProcess` starts: `python -m loadtest.bench.fleet_child DIRECTORY`. Ends with its parent.

Reads `plan.json` and `tokens.txt` from the directory, then one command per line on standard input, `[number, command]`,
and answers each with one line on standard output, `[number, answer]`, in order. The record lies in the directory once
`finish` is answered. Logs go to standard error.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path
from typing import Final

import msgspec

from device_sim.device_loop import run_devices
from device_sim.fleet import Fleet, FleetOptions
from device_sim.fleet_faults import FleetFaults
from loadtest.bench.fleet_commands import (
    Chosen,
    Churn,
    Command,
    Connect,
    Done,
    Drop,
    Finish,
    FleetSnapshot,
    Freeze,
    HalfOpen,
    Offline,
    Prefetch,
    Reach,
    SlowDown,
    Snapshot,
    Watch,
    Watched,
)
from loadtest.bench.fleet_files import FleetRecorder
from loadtest.bench.fleet_maps import FleetMaps
from loadtest.bench.fleet_plan import FleetPlan
from loadtest.bench.fleet_tally import FleetTally
from loadtest.bench.settled_memory import settle_memory
from loadtest.bench.validity import GeneratorReport, GeneratorWatch
from loadtest.open_files import raise_file_limit

__all__ = ["PLAN_FILE", "TOKENS_FILE", "main"]

PLAN_FILE: Final = "plan.json"
TOKENS_FILE: Final = "tokens.txt"


class _Child:
    def __init__(self, directory: Path, plan: FleetPlan, fleet: Fleet, recorder: FleetRecorder | FleetTally) -> None:
        self._plan = plan
        self._fleet = fleet
        self._recorder = recorder
        self._faults = FleetFaults(fleet, replaced=recorder.replaced if isinstance(recorder, FleetTally) else None)
        self._maps = None if plan.prefetch is None else FleetMaps(plan.prefetch, fleet, plan.seed)
        self._watch: GeneratorWatch | None = None
        # Kept open: a fleet whose devices have taken all files must still say how it stands.
        self._memory = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._build((directory / TOKENS_FILE).read_text().split())

    def _build(self, tokens: list[str]) -> None:
        plan = self._plan
        # One string per topic, as devices that parse frames of one process share them.
        for number in range(plan.devices):
            self._fleet.add(
                plan.device_id(number),
                urls=plan.urls_of(number),
                token=tokens[number],
                topics=plan.topics_of(number),
                profile_id=plan.profile_id(number),
            )
        settle_memory()

    async def answer(self, command: Command) -> object:
        match command:
            case Connect(over_s, shape):
                self._fleet.start_all(over_s=over_s, shape=shape)
            case Snapshot():
                return self._snapshot()
            case Watch():
                await self._end_watch()
                self._watch = await GeneratorWatch().__aenter__()
            case Watched():
                return await self._watched()
            case Prefetch():
                assert self._maps is not None, "the plan names a DGS"
                return self._maps.fetch()
            case Reach(origins):
                assert isinstance(self._recorder, FleetTally), "records lightly"
                told = {(each.topic, each.timestamp): each.at_ms for each in origins}
                return self._recorder.reach(self._fleet.clients, told)
            case Finish():
                await self._end_watch()
                for client in self._fleet.clients:
                    client.context.recorder = None
                if isinstance(self._recorder, FleetRecorder):
                    self._recorder.close(self._fleet.clients)
            case _:
                return Chosen(self._befall(command))
        return Done()

    def _befall(self, fault: Drop | Offline | Freeze | HalfOpen | SlowDown | Churn) -> int:
        match fault:
            case Drop(share):
                return self._faults.drop(share)
            case Offline(share, seconds):
                return self._faults.offline(share, seconds)
            case Freeze(share, seconds):
                return self._faults.freeze(share, seconds)
            case HalfOpen(share, seconds):
                return self._faults.half_open(share, seconds)
            case SlowDown(share, seconds, bytes_per_s):
                return self._faults.slow_down(share, seconds, bytes_per_s)
            case Churn(share, over_s, away_s):
                return self._faults.churn(share, over_s=over_s, away_s=away_s)

    async def close(self) -> None:
        if self._maps is not None:
            await self._maps.close()
        os.close(self._memory)

    def _snapshot(self) -> FleetSnapshot:
        stats = self._fleet.context.stats
        used = resource.getrusage(resource.RUSAGE_SELF)
        return FleetSnapshot(
            devices=self._plan.devices,
            connected=stats.online,
            subscribed=stats.subscribed,
            broadcasts=stats.broadcasts,
            handshakes=stats.handshakes,
            refused=stats.refused,
            failed=stats.failed,
            given_up=stats.given_up,
            protocol_violations=stats.protocol_violations,
            cpu_s=used.ru_utime + used.ru_stime,
            rss_bytes=int(os.pread(self._memory, 200, 0).split()[1]) * resource.getpagesize(),
        )

    async def _watched(self) -> GeneratorReport | None:
        return None if self._watch is None else self._watch.report()

    async def _end_watch(self) -> None:
        if self._watch is not None:
            await self._watch.__aexit__(None, None, None)
            self._watch = None


async def _serve(directory: Path) -> None:
    plan = msgspec.json.decode((directory / PLAN_FILE).read_bytes(), type=FleetPlan)
    recorder = FleetRecorder(directory) if plan.record == "full" else FleetTally(plan.devices, plan.topics)
    # Nobody watches the screens of a fleet that records lightly.
    device = msgspec.structs.replace(plan.device, tells_renders=plan.device.tells_renders and plan.record == "full")
    options = FleetOptions(
        devices=plan.devices, first=plan.first, seed=plan.seed, sources=plan.sources, device=device,
        opening_max=plan.opening_max, record_arrivals=False,
    )  # fmt: skip
    decoder = msgspec.json.Decoder(tuple[int, Command])
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Fleet(options, recorder=recorder) as fleet:
        child = _Child(directory, plan, fleet, recorder)
        _say(0, Done())
        try:
            # An empty line never comes: the end of the input is the end of the parent.
            while line := await reader.readline():
                number, command = decoder.decode(line)
                _say(number, await child.answer(command))
                if isinstance(command, Finish):
                    break
        finally:
            await child.close()


def _say(number: int, answer: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode((number, answer)) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    raise_file_limit()
    run_devices(_serve(Path(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
