"""The curves of a night: sampled in the background, whoever sleeps or waits in front."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from loadtest.bench.herd.crowd import Crowd, CrowdSnapshot
from loadtest.bench.herd.scene import Scene
from loadtest.bench.herd.spent import CLIENTS, PIPELINE, SERVERS
from loadtest.report.record import Chart, Fact, Mark
from loadtest.report.sampling import Sampler, Source
from loadtest.report.sources import Processes, watch_cpu, watch_kernel_memory, watch_memory

__all__ = ["Watching"]

_EVERY_S: Final = 0.5
_EVERY_MANY_S: Final = 1.0
_MANY: Final = 200_000
"""Devices from which on the processes are so many that looking at them takes its time."""


class Watching:
    """`async with watching.over(scene): ...`; charts and marks are there afterwards as well."""

    def __init__(self, devices: int) -> None:
        self.crowd: Crowd | None = None
        """Once there are fleets."""
        self._sampler = Sampler(every_s=_EVERY_S if devices < _MANY else _EVERY_MANY_S)

    @asynccontextmanager
    async def over(self, scene: Scene) -> AsyncIterator[None]:
        processes = Processes(
            {role: lambda role=role: scene.pids()[role] for role in (SERVERS, CLIENTS, PIPELINE)}  # type: ignore[misc]
        )
        sampler = self._sampler
        sampler.feed(processes)
        self._watch_crowd()
        watch_cpu(sampler, processes)
        watch_memory(sampler, processes)
        watch_kernel_memory(sampler)
        async with sampler:
            try:
                yield
            finally:
                # What is sampled ends soon; charts of a tear-down say nothing.
                await sampler.stop()

    def mark(self, label: str, *, in_s: float = 0.0) -> None:
        """Something happens, now or in some seconds."""
        self._sampler.mark(label, self._sampler.now_s + in_s)

    def charts(self) -> Sequence[Chart]:
        return self._sampler.charts()

    @property
    def marks(self) -> Sequence[Mark]:
        return self._sampler.marks

    def facts(self) -> Sequence[Fact]:
        return self._sampler.facts()

    def _watch_crowd(self) -> None:
        sampler = self._sampler
        sampler.watch(
            "Devices", "devices", {"connected": self._of("connected"), "subscribed once": self._of("subscribed")},
            explains="Connected now, and subscribed at some time, as of the last look at the client processes.",
        )  # fmt: skip
        sampler.watch(
            "Deliveries", "1/s", {"broadcasts received": self._of("broadcasts")}, kind="rate",
            explains="What devices received per second, replays included.",
        )  # fmt: skip
        sampler.watch(
            "Connects", "1/s", {"handshakes": self._of("handshakes"), "refused": self._of("refused")}, kind="rate",
            explains="Handshakes that devices completed per second; refusals beside them.",
        )  # fmt: skip

    def _of(self, field: str) -> Source:
        def read() -> float | None:
            last: CrowdSnapshot | None = None if self.crowd is None else self.crowd.last
            return None if last is None else float(getattr(last, field))

        return read
