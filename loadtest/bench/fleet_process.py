"""A fleet in a process of its own, so that neither the judge nor the fault injection slows its devices down.

    plan = FleetPlan(devices=2_000, push_urls=urls, topics=topics, topics_per_device=4)
    async with FleetProcess(directory, plan, device_ring=device_ring(data_dir)) as fleet:
        await fleet.connect(over_s=2.0)
        await fleet.subscribed(timeout_s=20.0)
        ...
        record = await fleet.finish()
    audit = audit_fleet(outbox, record.logs)

The record's files are described in `fleet_files`, the commands in `fleet_commands`.

A fleet of 18,000 records lightly: nothing on disk, and whom each broadcast reached is asked while it runs, any number
of times. Several fleets' answers add up (`fleet_reach.merged_reach`). Maps come from a real DGS before it connects.

    maps = PrefetchPlan(dgs_url=url, event_ids=("final",), profiles=900, first_profile=900 * number)
    plan = FleetPlan(devices=18_000, ..., sources=source_addresses(1, block=number + 1), record="light", prefetch=maps)
    async with FleetProcess(directory, plan, device_ring=ring) as fleet:
        print((await fleet.prefetch(progress=show)).seconds)
        await fleet.connect(over_s=60.0, shape="wave")
        await fleet.subscribed(timeout_s=150.0)
        ...
        for each in await fleet.stage_reach({("event:final", timestamp): due_ms}):
            assert each.missed == 0 and each.devices == 18_000
            print(each.live, each.replayed, each.told, each.first_ms, each.last_ms, each.histogram.summary())

A broadcast that reached none of its devices is not in the answer: compare with the outbox.

Faults, each for a share of the devices drawn by the plan's seed, each answered with how many were chosen: `drop`
(reset), `offline`, `freeze`, `half_open`, `slow_down`, `churn`.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from contract.tokens import DeviceClaims, KeyRing
from device_sim.fleet import Progress
from device_sim.start_shape import StartShape
from loadtest.bench.fleet_child import PLAN_FILE, TOKENS_FILE
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
    Origin,
    Prefetch,
    PrefetchAnswer,
    Reach,
    ReachAnswer,
    SlowDown,
    Snapshot,
    Watch,
    Watched,
)
from loadtest.bench.fleet_plan import FleetPlan
from loadtest.bench.fleet_reach import BroadcastReach
from loadtest.bench.fleet_record import FleetRecord, read_fleet_record
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.validity import GeneratorReport

__all__ = ["FleetProcess", "FleetSnapshot", "device_tokens"]

_A = TypeVar("_A")

_READY_WITHIN_S: Final = 120.0
_ANSWER_WITHIN_S: Final = 60.0
"""A fleet busy with a burst answers late; one that does not answer at all is broken."""
_ANSWER_BYTES_MAX: Final = 16 << 20
_FINISH_WITHIN_S: Final = 60.0
_END_WITHIN_S: Final = 10.0
_TOKEN_LIFETIME_S: Final = 24 * 3600
_OTHER_FILES: Final = 200
"""Files a fleet's process needs besides its sockets, generously."""


def device_tokens(plan: FleetPlan, ring: KeyRing, *, now_s: float) -> list[str]:
    """One token per device, good for a day and for any topic: what the DGS would have handed out."""
    expiry_s = int(now_s) + _TOKEN_LIFETIME_S
    return [
        ring.sign(DeviceClaims(sub=plan.profile_id(number), dev=plan.device_id(number), exp=expiry_s))
        for number in range(plan.devices)
    ]


class FleetProcess:
    """One fleet. An async context manager: started inside, gone afterwards, whatever happens. Not reusable.

    Every method raises CouldNotRun, with the end of the process's log, when the process ended or does not answer.
    One command at a time: calls from several tasks wait for each other.
    """

    def __init__(self, directory: Path, plan: FleetPlan, *, device_ring: KeyRing) -> None:
        self.directory = directory
        self.plan = plan
        self._ring = device_ring
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._asked = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def log_path(self) -> Path:
        return self.directory / "fleet.log"

    async def start(self) -> None:
        """Start the process and build its devices; none connects yet."""
        assert self._process is None, "started once"
        _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
        if self.plan.devices > files_max - _OTHER_FILES:
            raise CouldNotRun(
                f"{self.plan.devices} devices in one process, which may open {files_max} files: use several fleets"
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        tokens = await asyncio.to_thread(device_tokens, self.plan, self._ring, now_s=time.time())
        (self.directory / PLAN_FILE).write_bytes(msgspec.json.encode(self.plan))
        tokens_file = self.directory / TOKENS_FILE
        tokens_file.touch(mode=0o600)
        tokens_file.write_text("\n".join(tokens))
        # A session of its own: Ctrl-C is for the parent, which asks what was measured. And Linux divides cores among
        # sessions first: fifty fleets in one session had together what a single push node had.
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "loadtest.bench.fleet_child", str(self.directory),
                stdin=PIPE, stdout=PIPE, stderr=log, limit=_ANSWER_BYTES_MAX, start_new_session=True,
            )  # fmt: skip
        try:
            await self._read(0, Done, _READY_WITHIN_S)
        except BaseException:
            await self.stop()
            raise

    async def prefetch(self, *, timeout_s: float = 600.0, progress: Progress | None = None) -> PrefetchAnswer:
        """Fetch the plan's maps from the DGS and give them to the devices; before `connect`. Raises CouldNotRun."""
        if self.plan.prefetch is None:
            raise CouldNotRun("the fleet's plan names no DGS to prefetch from")
        deadline = time.monotonic() + timeout_s
        while True:
            found = await self._ask(Prefetch(), PrefetchAnswer)
            if progress is not None:
                progress(found.done, found.profiles)
            if found.failed:
                raise CouldNotRun(f"prefetch failed: {found.failed}")
            if found.over:
                return found
            if time.monotonic() >= deadline:
                raise CouldNotRun(f"{found.done} of {found.profiles} maps prefetched after {timeout_s:.0f} s")
            await asyncio.sleep(0.2)

    async def connect(self, *, over_s: float = 0.0, shape: StartShape = "uniform") -> None:
        """Start every device at a random moment of `over_s`; returns at once. Once. Shapes: see `start_shape`."""
        await self._ask(Connect(over_s, shape), Done)

    async def subscribed(self, timeout_s: float, *, progress: Progress | None = None) -> FleetSnapshot:
        """Wait until every device has been connected with a cursor for each topic. Raises CouldNotRun after that."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = await self.snapshot()
            if progress is not None:
                progress(found.subscribed, found.devices)
            if found.subscribed == found.devices:
                return found
            if time.monotonic() >= deadline:
                raise CouldNotRun(
                    f"{found.subscribed} of {found.devices} devices subscribed after {timeout_s:.0f} s "
                    f"({found.connected} connected, {found.failed} connections failed, {found.refused} refused)"
                )
            await asyncio.sleep(0.2)

    async def received(
        self, broadcasts: int, devices_each: float, *, timeout_s: float, progress: Progress | None = None
    ) -> bool:
        """Wait until devices got `broadcasts` broadcasts of `devices_each` devices each, counted from the start.

        Returns whether they did within `timeout_s`; repeats count, so it may be early, never too late.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            came = (await self.snapshot()).broadcasts / devices_each
            if progress is not None:
                progress(int(came), broadcasts)
            if came >= broadcasts or time.monotonic() >= deadline:
                return came >= broadcasts
            await asyncio.sleep(0.2)

    async def snapshot(self) -> FleetSnapshot:
        """How it stands: a fraction of a millisecond of the fleet's time, however many devices it has."""
        return await self._ask(Snapshot(), FleetSnapshot)

    async def watch(self) -> None:
        """Count the fleet's CPU and loop lag from now on; the record carries it, if it is still watched then."""
        await self._ask(Watch(), Done)

    async def watched(self) -> GeneratorReport | None:
        """Since `watch`."""
        return await self._ask(Watched(), GeneratorReport | None)  # type: ignore[arg-type]

    # faults: each returns how many devices it befell
    async def drop(self, *, share: float = 1.0) -> int:
        """Break connections by a reset; devices come back within the windows they were told (R21)."""
        return (await self._ask(Drop(share), Chosen)).devices

    async def offline(self, *, share: float, seconds: float) -> int:
        """Devices lose the network for `seconds`."""
        return (await self._ask(Offline(share, seconds), Chosen)).devices

    async def freeze(self, *, share: float, seconds: float) -> int:
        """Devices neither read, write nor keep time for `seconds`, then go on where they were."""
        return (await self._ask(Freeze(share, seconds), Chosen)).devices

    async def half_open(self, *, share: float, seconds: float) -> int:
        """Devices vanish for `seconds` without their node learning of it: their old sockets stay, unread."""
        return (await self._ask(HalfOpen(share, seconds), Chosen)).devices

    async def slow_down(self, *, share: float, seconds: float, bytes_per_s: int = 256) -> int:
        """Devices read `bytes_per_s` at most for `seconds`."""
        return (await self._ask(SlowDown(share, seconds, bytes_per_s), Chosen)).devices

    async def churn(self, *, share: float, over_s: float = 0.0, away_s: float | None = None) -> int:
        """Devices leave, spread over `over_s`; they return `away_s` later, or (None) new ones come in their place."""
        return (await self._ask(Churn(share, over_s, away_s), Chosen)).devices

    # the end
    async def reach(self, origins: Mapping[tuple[str, int], float] | None = None) -> ReachAnswer:
        """As `stage_reach`, and what else the tally knows."""
        if self.plan.record != "light":
            raise CouldNotRun('the fleet records in full (`record="full"`): finish it and judge its record')
        asked = tuple(Origin(*key, at_ms) for key, at_ms in (origins or {}).items())
        return await self._ask(Reach(asked), ReachAnswer)

    async def stage_reach(self, origins: Mapping[tuple[str, int], float] | None = None) -> list[BroadcastReach]:
        """What became of every broadcast so far, oldest first; for a plan that records lightly, any number of times.

        `origins`: (topic, timestamp) -> wall-clock milliseconds its latencies count from; else its own timestamp.
        """
        answer = await self.reach(origins)
        if answer.unknown:
            raise CouldNotRun(f"{answer.unknown} broadcasts were too many to remember: ask earlier, or record in full")
        return list(answer.broadcasts)

    async def finish(self) -> FleetRecord:
        """Close the record as it stands now, stop the devices and read the record. Last of all; full records only."""
        if self.plan.record != "full":
            raise CouldNotRun("the fleet records lightly: ask `stage_reach`, then `stop`")
        generator = await self.watched()
        await self._ask(Finish(), Done, within_s=_FINISH_WITHIN_S)
        await self.stop()
        try:
            return await asyncio.to_thread(read_fleet_record, self.directory, self.plan, generator=generator)
        except (OSError, ValueError) as exc:
            raise CouldNotRun(f"the fleet's record cannot be read: {exc}{self._log_end()}") from exc

    async def stop(self) -> None:
        """End the process: by itself after `finish` or the end of its input, killed if that takes long. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_WITHIN_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _ask(self, command: Command, answer: type[_A], *, within_s: float = _ANSWER_WITHIN_S) -> _A:
        async with self._turn:
            process = self._process
            if process is None:
                raise CouldNotRun("the fleet's process was stopped")
            assert process.stdin is not None
            self._asked += 1
            try:
                process.stdin.write(msgspec.json.encode((self._asked, command)) + b"\n")
                await process.stdin.drain()
            except ConnectionError as exc:
                raise CouldNotRun(f"the fleet's process ended{self._log_end()}") from exc
            found: _A = await self._read(self._asked, answer, within_s)
            return found

    async def _read(self, number: int, answer: Any, within_s: float) -> Any:
        """The answer to command `number`; those of earlier ones whose caller gave up are passed over."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                while line := await process.stdout.readline():
                    answered, found = msgspec.json.decode(line, type=tuple[int, msgspec.Raw])
                    if answered == number:
                        return msgspec.json.decode(found, type=answer)
        except TimeoutError:
            raise CouldNotRun(f"the fleet's process did not answer within {within_s:.0f} s{self._log_end()}") from None
        raise CouldNotRun(f"the fleet's process ended{self._log_end()}")

    def _log_end(self, lines: int = 12) -> str:
        found = self.log_path.read_text(errors="replace").splitlines()[-lines:] if self.log_path.exists() else []
        return "; its log ends:\n" + "\n".join(found) if found else "; it logged nothing"
