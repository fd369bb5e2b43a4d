"""What a run stands on: directories, cores, the sampler, systems it starts, and everything it found so far.

A runner adds to it as it measures, so that a run cut short keeps what it had.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
import numpy as np
import numpy.typing as npt

from device_sim.audit import BroadcastAudit, FleetAudit, OutboxBroadcast
from loadtest.bench.histogram import LatencyHistogram
from loadtest.bench.push.contender import OthersMeter
from loadtest.bench.push.cores import Cores, kept_on
from loadtest.bench.report import Reporter
from loadtest.bench.system import EmbeddedSystem
from loadtest.bench.validity import GeneratorReport, others_invalid
from loadtest.gameday import bins
from loadtest.gameday.lateness import late_ms
from loadtest.gameday.operator import Operator
from loadtest.gameday.watching import ROLES, CurrentPages, watch_system
from loadtest.report.histograms import keep_histogram
from loadtest.report.record import Chart, Fact, HistogramFile, Series, StageReach
from loadtest.report.sampling import Sampler
from loadtest.report.scales import amount
from loadtest.report.sources import Processes, watch_cpu, watch_kernel_memory, watch_memory

__all__ = ["Stage", "System"]

_Moments = npt.NDArray[np.float64]
_REST_TIMEOUT_S: Final = 20.0
_ENDS_AT_ONCE: Final = {"PUSH_DRAIN_S": "0.2", "PUSH_DRAIN_GUARD_S": "0", "PUSH_DRAIN_DEFER_MAX_S": "0"}
"""Nobody is connected any more when a system is taken down, or everybody is to go with it."""


class System:
    """A running embedded system and its operator API."""

    def __init__(self, server: EmbeddedSystem, api: Operator) -> None:
        self.server = server
        self.api = api

    @property
    def push_url(self) -> str:
        return self.server.addresses.push + "/v1/stream"

    @property
    def dgs_url(self) -> str:
        return self.server.addresses.dgs

    @property
    def dgs_port(self) -> int:
        return int(self.dgs_url.rpartition(":")[2])


class Stage:
    """`async with Stage(...) as stage:`; moments given to it are CLOCK_MONOTONIC seconds unless they say otherwise."""

    def __init__(
        self, *, directory: Path, output: Path, beside: Path, reporter: Reporter, seed: int, cores: Cores
    ) -> None:
        self.directory = directory
        """For what is gone afterwards."""
        self.output = output
        """Of the report."""
        self.beside = beside
        """Where the scenario's file lies, and what it names."""
        self.reporter = reporter
        self.seed = seed
        self.cores = cores
        self.sampler = Sampler(every_s=0.5)
        self.zero_s = 0.0
        """CLOCK_MONOTONIC at second 0 of all charts."""
        self.measured: dict[str, float | None] = {}
        self.invalid_because: list[str] = []
        self.notes: list[str] = []
        self.reach: list[StageReach] = []
        self.histograms: list[HistogramFile] = []
        self.devices: int | None = None
        self._charts: list[Chart] = []
        self._facts: dict[str, list[Fact]] = {}
        self._pids: dict[str, list[int]] = {role: [] for role in ROLES}
        self._pages = CurrentPages()

    async def __aenter__(self) -> Stage:
        processes = Processes({role: partial(tuple, self._pids[role]) for role in ROLES})
        self.sampler.feed(processes)
        self.sampler.feed(self._pages)
        watch_cpu(self.sampler, processes)
        watch_memory(self.sampler, processes)
        watch_kernel_memory(self.sampler)
        watch_system(self.sampler, self._pages)
        await self.sampler.__aenter__()
        self.zero_s = time.monotonic() - self.sampler.now_s
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.sampler.stop()

    # What a run found

    def measure(self, **found: float | None) -> None:
        """Numbers by the names of the kind's measures; the newest stands."""
        self.measured.update(found)

    def mark(self, label: str, at_s: float | None = None) -> None:
        """Something happened, now or at a moment."""
        self.sampler.mark(label, None if at_s is None else at_s - self.zero_s)

    def chart(
        self,
        title: str,
        unit: str,
        series: Mapping[str, Sequence[tuple[float, float]]],
        *,
        explains: str = "",
        since: str = "",
    ) -> None:
        """Curves of points (seconds of the run, value). The same title again adds curves to that chart, and the same
        name goes on with that curve, broken between. `since`: seconds are counted from when that was."""
        found = [Series(name=name, points=points) for name, points in series.items()]
        for number, each in enumerate(self._charts):
            if each.title == title:
                self._charts[number] = msgspec.structs.replace(each, series=_joined(each.series, found))
                return
        self._charts.append(Chart(title=title, unit=unit, series=found, explains=explains, since=since))

    def counted(
        self,
        title: str,
        series: Mapping[str, _Moments],
        begin_s: float,
        end_s: float,
        *,
        width_s: float = bins.BIN_S,
        explains: str = "",
        since: tuple[str, float] | None = None,
    ) -> None:
        """Curves of events per bin; `since`: what they are counted from, and when it was."""
        unit = f"in {width_s * 1000:g} ms" if width_s < 1 else f"in {width_s:g} s"
        what, zero_s = since or ("", self.zero_s)
        curves = {
            name: bins.points(at_s, begin_s, end_s, width_s=width_s, zero_s=zero_s) for name, at_s in series.items()
        }
        self.chart(title, unit, curves, explains=explains, since=what)

    def histogram(self, name: str, found: LatencyHistogram) -> None:
        """Kept beside the report, raw; nothing if it is empty."""
        if found.count:
            self.histograms.append(keep_histogram(self.output, name, found))

    def reached(self, audit: FleetAudit, *, devices: int, outbox: Sequence[OutboxBroadcast]) -> None:
        """Reach per stage, as the judge of the devices' logs has it; what was overdue counts from its dispatch. The
        topic is named where several had a stage of that name."""
        late, followed = late_ms(outbox), [each for each in audit.broadcasts if each.devices]
        topics = Counter(key for _, key in {(each.topic, each.state_key) for each in followed})

        def counted(each: BroadcastAudit, found_ms: float | None) -> float | None:
            return None if found_ms is None else found_ms - late.get((each.topic, each.timestamp), 0)

        self.reach.extend(
            StageReach(
                state_key=each.state_key if topics[each.state_key] == 1 else f"{each.state_key} ({each.topic})",
                devices=each.devices,
                delivered_live=each.delivered_live,
                replayed=each.replayed,
                missed=each.missed,
                p50_ms=counted(each, each.p50_ms),
                p99_ms=counted(each, each.p99_ms),
                last_ms=counted(each, each.last_ms),
            )
            for each in followed
        )
        self.devices = devices

    def fact(self, heading: str, label: str, value: object) -> None:
        shown = amount(value) if isinstance(value, int | float) else str(value)
        self._facts.setdefault(heading, []).append(Fact(label, shown))

    def note(self, line: str) -> None:
        """What a reader must know to judge the run."""
        if line not in self.notes:
            self.notes.append(line)

    def invalid(self, *because: str) -> None:
        """Why the measurement does not count."""
        self.invalid_because.extend(line for line in because if line not in self.invalid_because)

    def generator(self, name: str, found: GeneratorReport | None) -> None:
        """What a load generator used, and whether it was the limit."""
        if found is None:
            return
        self.fact("load generators", name, f"{found.cores:.2f} cores, loop lag p99 {found.lag_p99_ms:.1f} ms")
        self.invalid(*(f"{name}: {because}" for because in found.invalid_because))

    @property
    def charts(self) -> list[Chart]:
        """The run's own, then what was sampled; curves that never left zero say nothing and are left out."""
        return [*self._charts, *(kept for each in self.sampler.charts() if (kept := _telling(each)) is not None)]

    @property
    def facts(self) -> dict[str, list[Fact]]:
        # What is not part of this run has nothing but gaps: of these only the reasons are told.
        told = [fact for fact in self.sampler.facts() if not fact.label.startswith("gaps in ")]
        return {**self._facts, "sampling": told}

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Measure inside: what others use of the machine meanwhile may void the run. Whatever runs at the beginning
        must still run at the end."""
        meter = OthersMeter()
        yield
        cores = meter.cores()
        self.fact("machine", "others' cores while measured", cores)
        self.invalid(*others_invalid(cores))

    # What it runs

    def watch(self, role: str, pid: int) -> Callable[[], None]:
        """Count this process and what it starts among those of `role`, until the returned function is called."""
        self._pids[role].append(pid)
        return lambda: self._pids[role].remove(pid) if pid in self._pids[role] else None

    @asynccontextmanager
    async def watched(self, role: str, pid: int, pages: Iterable[str] = ()) -> AsyncIterator[None]:
        """Its CPU and memory are sampled inside, and its metrics pages, if it has any."""
        gone = self.watch(role, pid)
        shown = self._pages.add(pages)
        try:
            yield
        finally:
            gone()
            shown()

    @asynccontextmanager
    async def system(
        self, name: str, *, environment: Mapping[str, str] | None = None, options: Sequence[str] = ()
    ) -> AsyncIterator[System]:
        """The whole system in a process of its own, on the server's core; gone afterwards. Raises CouldNotRun."""
        settings = {**_ENDS_AT_ONCE, **(environment or {})}
        server = EmbeddedSystem(self.directory / name, environment=settings, options=options, dies_with_us=True)
        timeout = aiohttp.ClientTimeout(total=_REST_TIMEOUT_S)
        try:
            with kept_on(self.cores.server):
                await server.start()
            pages = [f"{server.addresses.dgs}/metrics", f"{server.addresses.push.replace('ws:', 'http:', 1)}/metrics"]
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
                self.watched("system", server.pid, pages),
            ):
                yield System(server, Operator(session, server.addresses))
        finally:
            await server.stop()


def _telling(chart: Chart) -> Chart | None:
    kept = [series for series in chart.series if any(value for _, value in series.points)]
    return msgspec.structs.replace(chart, series=kept) if kept else None


def _joined(before: Sequence[Series], after: Sequence[Series]) -> list[Series]:
    """Curves of one chart, measured in two stretches of time."""
    found = {series.name: series for series in before}
    for series in after:
        first = found.get(series.name)
        if first is None or not first.points or not series.points:
            found[series.name] = series if first is None or not first.points else first
            continue
        gap = (first.points[-1][0], series.points[0][0])
        found[series.name] = Series(
            name=series.name, points=[*first.points, *series.points], gaps=[*first.gaps, gap, *series.gaps]
        )
    return list(found.values())
