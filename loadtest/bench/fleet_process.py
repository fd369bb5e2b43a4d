"""A fleet in a process of its own, so that neither the judge nor the fault injection slows its devices down.

    plan = FleetPlan(devices=2_000, push_urls=urls, topics=topics, topics_per_device=4)
    async with FleetProcess(directory, plan, device_ring=device_ring(data_dir)) as fleet:
        await fleet.connect(over_s=2.0)
        await fleet.subscribed(timeout_s=20.0)
        ...
        record = await fleet.finish()
    audit = audit_fleet(outbox, record.logs)

The record's files are described in `fleet_files`, the commands in `fleet_child`.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from contract.token_rings import read_rings
from contract.tokens import DeviceClaims, KeyRing
from device_sim.fleet import Progress
from loadtest.bench.fleet_child import (
    PLAN_FILE,
    TOKENS_FILE,
    Command,
    Connect,
    Done,
    Drop,
    Finish,
    FleetSnapshot,
    Offline,
    Snapshot,
    Watch,
    Watched,
)
from loadtest.bench.fleet_plan import FleetPlan
from loadtest.bench.fleet_record import FleetRecord, read_fleet_record
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.validity import GeneratorReport

__all__ = ["FleetProcess", "FleetSnapshot", "device_ring", "device_tokens"]

_A = TypeVar("_A")

_READY_WITHIN_S: Final = 30.0
_ANSWER_WITHIN_S: Final = 20.0
"""A fleet busy with a burst answers late; one that does not answer at all is broken."""
_FINISH_WITHIN_S: Final = 60.0
_END_WITHIN_S: Final = 10.0
_TOKEN_LIFETIME_S: Final = 24 * 3600
_OTHER_FILES: Final = 200
"""Files a fleet's process needs besides its sockets, generously."""


def device_ring(data_dir: Path) -> KeyRing:
    """The device ring of an installation's `keys.json`. Raises CouldNotRun."""
    path = data_dir / "keys.json"
    try:
        return read_rings(path.read_bytes())["stagecue.device"].ring("stagecue.device", time.time())
    except (OSError, ValueError) as exc:
        raise CouldNotRun(f"no device keys in {path}: {exc!r}") from exc


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
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "loadtest.bench.fleet_child", str(self.directory),
                stdin=PIPE, stdout=PIPE, stderr=log,
            )  # fmt: skip
        try:
            await self._read(0, Done, _READY_WITHIN_S)
        except BaseException:
            await self.stop()
            raise

    async def connect(self, *, over_s: float = 0.0) -> None:
        """Start every device at a random moment of `over_s`; returns at once. Once."""
        await self._ask(Connect(over_s), Done)

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
            await asyncio.sleep(0.1)

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
        """How it stands: under a millisecond of the fleet's time for 2,000 devices."""
        return await self._ask(Snapshot(), FleetSnapshot)

    async def watch(self) -> None:
        """Count the fleet's CPU and loop lag from now on; the record carries it, if it is still watched then."""
        await self._ask(Watch(), Done)

    async def watched(self) -> GeneratorReport | None:
        """Since `watch`."""
        return await self._ask(Watched(), GeneratorReport | None)  # type: ignore[arg-type]

    async def drop(self) -> None:
        """Break all connections at once; devices come back within the windows they were told (R21)."""
        await self._ask(Drop(), Done)

    async def offline(self, *, share: float, seconds: float) -> None:
        """A random share of the devices loses the network for `seconds`."""
        await self._ask(Offline(share, seconds), Done)

    async def finish(self) -> FleetRecord:
        """Close the record as it stands now, stop the devices and read the record. Last of all."""
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
