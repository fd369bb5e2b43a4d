"""The process a `FleetProcess` starts: `python -m loadtest.bench.fleet_child DIRECTORY`. Ends with its parent.

Reads `plan.json` and `tokens.txt` from the directory, then one command per line on standard input, `[number, command]`,
and answers each with one line on standard output, `[number, answer]`, in order. The record lies in the directory once
`finish` is answered. Logs go to standard error.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from device_sim.client import DeviceClient
from device_sim.fleet import Fleet, FleetOptions
from loadtest.bench.fleet_files import FleetRecorder
from loadtest.bench.fleet_plan import FleetPlan
from loadtest.bench.validity import GeneratorReport, GeneratorWatch

__all__ = [
    "PLAN_FILE",
    "TOKENS_FILE",
    "Command",
    "Connect",
    "Done",
    "Drop",
    "Finish",
    "FleetSnapshot",
    "Offline",
    "Snapshot",
    "Watch",
    "Watched",
    "main",
]

PLAN_FILE: Final = "plan.json"
TOKENS_FILE: Final = "tokens.txt"


class Connect(msgspec.Struct, frozen=True, tag_field="do", tag="connect"):
    """Start every device at a random moment of `over_s`; answered at once. First of all, once."""

    over_s: float = 0.0


class Snapshot(msgspec.Struct, frozen=True, tag_field="do", tag="snapshot"):
    """Answered with a FleetSnapshot."""


class Watch(msgspec.Struct, frozen=True, tag_field="do", tag="watch"):
    """Count this process's CPU and loop lag from now on."""


class Watched(msgspec.Struct, frozen=True, tag_field="do", tag="watched"):
    """Answered with a GeneratorReport since `watch`; None without one."""


class Drop(msgspec.Struct, frozen=True, tag_field="do", tag="drop"):
    """Break the connections of all devices without a word; they come back within their windows (R21)."""


class Offline(msgspec.Struct, frozen=True, tag_field="do", tag="offline"):
    """A random share of the devices loses the network for some seconds."""

    share: float
    seconds: float


class Finish(msgspec.Struct, frozen=True, tag_field="do", tag="finish"):
    """Write the record as it stands now, stop every device and end."""


Command = Connect | Snapshot | Watch | Watched | Drop | Offline | Finish


class Done(msgspec.Struct, frozen=True):
    """The answer to a command that asks for nothing."""


class FleetSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How the fleet stands. Counts of frames and handshakes only rise."""

    devices: int
    connected: int
    """Devices with a welcomed connection."""
    subscribed: int
    """Devices that were connected and knew a cursor for each of their topics at some snapshot; never falls."""
    broadcasts: int
    """Received by all devices, repeats and replays included."""
    handshakes: int
    refused: int
    failed: int
    given_up: int
    protocol_violations: int
    cpu_s: float
    """Of this process since its start."""
    rss_bytes: int


class _Child:
    def __init__(self, directory: Path, plan: FleetPlan, fleet: Fleet, recorder: FleetRecorder) -> None:
        self._plan = plan
        self._fleet = fleet
        self._recorder = recorder
        self._unsubscribed: list[DeviceClient] = []
        self._watch: GeneratorWatch | None = None
        self._build((directory / TOKENS_FILE).read_text().split())

    def _build(self, tokens: list[str]) -> None:
        plan = self._plan
        # One string per topic, as devices that parse frames of one process share them.
        for number in range(plan.devices):
            client = self._fleet.add(
                plan.device_id(number),
                urls=plan.push_urls,
                token=tokens[number],
                topics=plan.topics_of(number),
                profile_id=plan.profile_id(number),
            )
            self._unsubscribed.append(client)
        _settle_memory()

    async def answer(self, command: Command) -> object:
        match command:
            case Connect(over_s):
                self._fleet.start_all(over_s=over_s)
            case Snapshot():
                return self._snapshot()
            case Watch():
                await self._end_watch()
                self._watch = await GeneratorWatch().__aenter__()
            case Watched():
                return await self._watched()
            case Drop():
                for client in self._fleet.clients:
                    client.drop()
            case Offline(share, seconds):
                self._fleet.take_offline(share, seconds)
            case Finish():
                await self._end_watch()
                for client in self._fleet.clients:
                    client.context.recorder = None
                self._recorder.close(self._fleet.clients)
        return Done()

    def _snapshot(self) -> FleetSnapshot:
        if self._unsubscribed:
            self._unsubscribed = [client for client in self._unsubscribed if not _subscribed(client)]
            if not self._unsubscribed:
                _settle_memory()
        stats = self._fleet.context.stats
        used = resource.getrusage(resource.RUSAGE_SELF)
        return FleetSnapshot(
            devices=self._plan.devices,
            connected=self._fleet.online,
            subscribed=self._plan.devices - len(self._unsubscribed),
            broadcasts=stats.broadcasts,
            handshakes=stats.handshakes,
            refused=stats.refused,
            failed=stats.failed,
            given_up=stats.given_up,
            protocol_violations=stats.protocol_violations,
            cpu_s=used.ru_utime + used.ru_stime,
            rss_bytes=int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
        )

    async def _watched(self) -> GeneratorReport | None:
        return None if self._watch is None else self._watch.report()

    async def _end_watch(self) -> None:
        if self._watch is not None:
            await self._watch.__aexit__(None, None, None)
            self._watch = None


def _subscribed(client: DeviceClient) -> bool:
    device = client.device
    return device.online and all(state.cursor is not None for state in device.topics.values())


def _settle_memory() -> None:
    """Devices live as long as the process: the collector need not walk them at every turn, in the middle of a burst."""
    gc.collect()
    gc.freeze()


async def _serve(directory: Path) -> None:
    plan = msgspec.json.decode((directory / PLAN_FILE).read_bytes(), type=FleetPlan)
    recorder = FleetRecorder(directory)
    options = FleetOptions(
        devices=plan.devices, first=plan.first, seed=plan.seed, sources=plan.sources, device=plan.device,
        opening_max=plan.opening_max, record_arrivals=False,
    )  # fmt: skip
    decoder = msgspec.json.Decoder(tuple[int, Command])
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Fleet(options, recorder=recorder) as fleet:
        child = _Child(directory, plan, fleet, recorder)
        _say(0, Done())
        # An empty line never comes: the end of the input is the end of the parent.
        while line := await reader.readline():
            number, command = decoder.decode(line)
            _say(number, await child.answer(command))
            if isinstance(command, Finish):
                break


def _say(number: int, answer: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode((number, answer)) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_serve(Path(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
