"""What ends a night before its end: a signal, or memory that runs out. What was measured stays."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from loadtest.bench.herd.footprint import available_bytes

__all__ = ["Interruption"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_LOOK_EVERY_S: Final = 0.5
_SECOND_SIGNAL_CODE: Final = 130


class Interruption:
    """`with Interruption(...).watching(): ...` cancels the current task once, and knows why."""

    def __init__(self, *, available_least_bytes: int) -> None:
        self.because: str | None = None
        """Why; None: nothing happened."""
        self._least = available_least_bytes
        self._task: asyncio.Task[object] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The first signal cancels the task inside; the second one ends the process at once, and all it started."""
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._signalled, signal.Signals(number).name)
        looking = loop.create_task(self._look(), name="herd.memory")
        try:
            yield
        finally:
            self._task = None
            looking.cancel()

    def end(self) -> None:
        """Signals mean what they meant before."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    def _signalled(self, name: str) -> None:
        if self.because is not None and self.because.startswith("interrupted"):
            os._exit(_SECOND_SIGNAL_CODE)
        self._interrupt(f"interrupted by {name}")

    async def _look(self) -> None:
        while True:
            left = available_bytes()
            if left < self._least:
                self._interrupt(f"memory ran out: {left / (1 << 30):.1f} GiB left, stopped before the kernel would")
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    def _interrupt(self, because: str) -> None:
        if self.because is None:
            self.because = because
        if self._task is not None:
            self._task.cancel()
