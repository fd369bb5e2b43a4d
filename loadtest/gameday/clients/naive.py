"""The parent's side of naive devices in a process of their own."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import msgspec

from contract.tokens import DeviceClaims, KeyRing
from device_sim.fleet import Progress
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.push.line_member import LineMember
from loadtest.gameday.clients.naive_child import NaivePlan, NaiveStand
from loadtest.gameday.clients.records import Table, read_rows

__all__ = ["NaiveDevices", "address_of"]

_TOKEN_LIFETIME_S: Final = 24 * 3600
_LOOK_EVERY_S: Final = 0.1


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a URL."""
    parts = urlsplit(url)
    assert parts.hostname, url
    assert parts.port, url
    return parts.hostname, parts.port


class NaiveDevices(LineMember):
    """`async with NaiveDevices(...) as naive:`. Raises CouldNotRun from every method when the process ended."""

    role: ClassVar[str] = "naive"

    def __init__(
        self,
        directory: Path,
        *,
        core: int,
        devices: int,
        push_url: str,
        topic: str,
        event_id: str,
        ring: KeyRing,
        dgs_url: str | None = None,
        ask_timeout_s: float = 5.0,
        seed: int = 1,
    ) -> None:
        """`ring` signs the devices' tokens; without `dgs_url` they only hold their streams."""
        super().__init__("naive", directory, core=core)
        self._ring = ring
        self.plan = NaivePlan(
            devices=devices,
            push=address_of(push_url),
            tokens=str(directory / "tokens.txt"),
            rows=str(directory / "rows.bin"),
            topic=topic,
            event_id=event_id,
            dgs=address_of(dgs_url) if dgs_url else None,
            ask_timeout_s=ask_timeout_s,
            seed=seed,
        )

    def program(self) -> Sequence[str]:
        return [sys.executable, "-m", "loadtest.gameday.clients.naive_child", str(self._plan_path)]

    def ready(self, said: Mapping[str, Any]) -> None:
        assert said["devices"] == self.plan.devices

    async def prepare(self) -> None:
        await asyncio.to_thread(self._write_plan)

    async def connect(self, *, over_s: float) -> None:
        """Each at a random moment of it; returns at once."""
        await self.ask(f"connect {over_s}")

    async def connected(self, timeout_s: float, *, progress: Progress | None = None) -> None:
        """Wait until all are. Raises CouldNotRun."""
        deadline_s = time.monotonic() + timeout_s
        while (found := await self.stand()).connected < self.plan.devices:
            if progress is not None:
                progress(found.connected, self.plan.devices)
            if time.monotonic() >= deadline_s:
                raise CouldNotRun(f"{found.connected} of {self.plan.devices} naive devices connected; {found}")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def answered(self, timeout_s: float) -> None:
        """Wait until nobody waits for an answer any more, or the time is over."""
        deadline_s = time.monotonic() + timeout_s
        while (await self.stand()).waiting and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)

    async def stand(self) -> NaiveStand:
        return msgspec.convert(await self.ask("stand"), NaiveStand)

    async def break_all(self) -> None:
        """All connections at once, without a word."""
        await self.ask("break")

    async def finish(self) -> tuple[Table, float]:
        """What they did, and how late their loop was at p99, ms. Last of all."""
        said = await self.ask("finish", within_s=30.0)
        rows = await asyncio.to_thread(read_rows, Path(self.plan.rows))
        return rows, float(said["lag_p99_ms"])

    def _write_plan(self) -> None:
        self._plan_path.write_bytes(msgspec.json.encode(self.plan))
        expiry_s = int(time.time()) + _TOKEN_LIFETIME_S
        tokens = Path(self.plan.tokens)
        tokens.touch(mode=0o600)
        tokens.write_text(
            "\n".join(
                self._ring.sign(DeviceClaims(sub=f"p-{number}", dev=f"d-{number}", exp=expiry_s))
                for number in range(self.plan.devices)
            )
        )

    @property
    def _plan_path(self) -> Path:
        return self.directory / "plan.json"
