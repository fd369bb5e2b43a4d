"""The parent's side of clients that want maps, in a process of their own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from loadtest.bench.push.line_member import LineMember
from loadtest.gameday.clients.asker_child import AskerPlan, AskerStand
from loadtest.gameday.clients.records import Table, read_rows

__all__ = ["Asker"]


class Asker(LineMember):
    """`async with Asker(...) as asker:`. Raises CouldNotRun from every method when the process ended."""

    role: ClassVar[str] = "asker"

    def __init__(self, name: str, directory: Path, plan: AskerPlan, *, core: int) -> None:
        """Writes to `directory`; the plan's rows lie there, too."""
        super().__init__(name, directory, core=core)
        self.plan = plan

    def program(self) -> Sequence[str]:
        return [sys.executable, "-m", "loadtest.gameday.clients.asker_child", str(self._plan_path)]

    async def prepare(self) -> None:
        self._plan_path.write_bytes(msgspec.json.encode(self.plan))

    async def begin(self, *, rate: float, lasts_s: float) -> None:
        """Maps are wanted from now on, so many a second, for so long; returns at once."""
        await self.ask(f"start {rate} {lasts_s}")

    async def stand(self) -> AskerStand:
        return msgspec.convert(await self.ask("stand"), AskerStand)

    async def finish(self) -> tuple[Table, float]:
        """What they did, and how late their loop was at p99, ms. Last of all."""
        said = await self.ask("finish", within_s=60.0)
        rows = await asyncio.to_thread(read_rows, Path(self.plan.rows))
        return rows, float(said["lag_p99_ms"])

    @property
    def _plan_path(self) -> Path:
        return self.directory / f"{self.name}.plan.json"
