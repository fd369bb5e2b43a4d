"""The parent's side of an audience in a process of its own."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from device_sim.fleet import Progress
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.push.line_member import LineMember
from loadtest.gameday.clients.audience_child import AudiencePlan, AudienceResult, AudienceStand

__all__ = ["Audience"]

_LOOK_EVERY_S: Final = 0.1
_PREFETCHES_PER_S: Final = 100.0
"""Slower than this, and it is given up."""


class Audience(LineMember):
    """`async with Audience(directory, plan, core=0) as audience:`. Raises CouldNotRun from every method."""

    role: ClassVar[str] = "audience"

    def __init__(self, directory: Path, plan: AudiencePlan, *, core: int, name: str = "audience") -> None:
        super().__init__(name, directory, core=core)
        self.plan = plan

    def program(self) -> Sequence[str]:
        return [sys.executable, "-m", "loadtest.gameday.clients.audience_child", str(self._plan_path)]

    def ready(self, said: Mapping[str, Any]) -> None:
        assert said["devices"] == self.plan.devices

    async def prepare(self) -> None:
        self._plan_path.write_bytes(msgspec.json.encode(self.plan))

    async def prefetch(self) -> None:
        """Maps, pictures and channel of every device."""
        plan = self.plan
        await self.ask("prefetch", within_s=30.0 + plan.prefetch_window_s + plan.devices / _PREFETCHES_PER_S)

    async def connect(self, *, over_s: float) -> None:
        """Each at a random moment of it; returns at once."""
        await self.ask(f"connect {over_s}")

    async def stand(self) -> AudienceStand:
        return msgspec.convert(await self.ask("stand"), AudienceStand)

    async def until(
        self, holds: Callable[[AudienceStand], bool], what: str, *, timeout_s: float, progress: Progress | None = None
    ) -> AudienceStand:
        """Wait for it. Raises CouldNotRun when it does not come."""
        deadline_s = time.monotonic() + timeout_s
        while not holds(found := await self.stand()):
            if progress is not None:
                progress(found.subscribed, found.devices)
            if time.monotonic() >= deadline_s:
                raise CouldNotRun(f"{what}: not within {timeout_s:.0f} s; {found}")
            await asyncio.sleep(_LOOK_EVERY_S)
        return found

    async def subscribed(self, *, timeout_s: float, progress: Progress | None = None) -> None:
        """Wait until every device is connected and knows where it stands."""
        await self.until(
            lambda found: found.subscribed == found.devices, "subscribed", timeout_s=timeout_s, progress=progress
        )

    async def holding(self, topic: str, revision: int) -> int:
        """Devices that hold this revision of the topic's schedule, or a newer one."""
        return int((await self.ask(f"holding {topic} {revision}"))["devices"])

    async def offline(self, share: float, seconds: float) -> int:
        """So many lose the network for so long."""
        return int((await self.ask(f"offline {share} {seconds}"))["devices"])

    async def watch(self) -> None:
        """Count its CPU and loop lag from now on."""
        await self.ask("watch")

    async def judge(self, outbox: Sequence[Mapping[str, Any]]) -> AudienceResult:
        """Join the outbox with what sockets received and screens showed."""
        outbox_path, result_path = self.directory / f"{self.name}.outbox.json", self.directory / f"{self.name}.json"
        outbox_path.write_bytes(msgspec.json.encode(outbox))
        await self.ask(f"judge {outbox_path} {result_path}", within_s=60.0)
        return await asyncio.to_thread(lambda: msgspec.json.decode(result_path.read_bytes(), type=AudienceResult))

    @property
    def _plan_path(self) -> Path:
        return self.directory / f"{self.name}.plan.json"
