"""One module per kind of run: `async def run(stage, parameters) -> str`, the answer in a sentence or two."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from loadtest.gameday.kinds import Kind
from loadtest.gameday.stage import Stage

__all__ = ["Runner", "runner_of"]


class Runner(Protocol):
    async def __call__(self, stage: Stage, parameters: Any, /) -> str:
        """Measure on `stage`; returns the answer. Raises CouldNotRun. Cancelled, nothing of it is left running."""
        ...


def runner_of(kind: Kind) -> Runner:
    return cast("Runner", import_module(f"{__name__}.{kind.module}").run)
