"""Watching a run: named sources read every so often in the background, kept within bounds, given back as charts."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

import msgspec

from loadtest.report.record import Chart, Fact, Mark
from loadtest.report.tracks import POINTS_MIN, Kind, Track

__all__ = ["Feed", "Sampler", "Source"]

Source = Callable[[], float | None]
"""Read on the loop, so it answers at once from memory; None: there is nothing to say just now, a gap."""
_MARKS_MAX: Final = 200
_STOP_WITHIN_S: Final = 2.0


class Feed(Protocol):
    """Something that takes a moment to read, off the loop; sources answer from what it read last."""

    async def read(self) -> None:
        """Once before each round of samples, and never twice at once. An exception makes its sources say nothing for
        that round: it must forget what it read before."""
        ...

    async def aclose(self) -> None:
        """Let go of connections. Idempotent."""
        ...


class _Watched(msgspec.Struct):
    title: str
    unit: str
    explains: str
    stacked: bool
    tracks: list[tuple[Track, Source, Source | None]]
    """Each with what tells its value, and when that was read."""


class Sampler:
    """`async with Sampler() as sampler: sampler.watch(...); ...; charts = sampler.charts()`.

    Samples every `every_s` seconds from the moment it is entered, which is second 0 of its charts. Once there are
    `points_max` samples of a source it keeps the least and greatest of each four and doubles its step, so memory stays
    bounded whatever the run's length, and peaks stay. A source or feed that raises leaves a gap; `facts` says so.
    """

    def __init__(
        self, *, every_s: float = 0.5, points_max: int = 1_200, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        assert every_s > 0
        assert points_max >= POINTS_MIN
        self.step_s = every_s
        """Seconds between samples; doubles when full."""
        self._points_max = points_max
        self._clock = now_s
        self._began_s = now_s()
        self._charts: list[_Watched] = []
        self._feeds: list[Feed] = []
        self._marks: list[Mark] = []
        self._sampled_s = -math.inf
        self._rounds = 0
        self._late = 0
        self._first_errors: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        assert self._task is None, "already sampling"
        self._began_s = self._clock()
        self._task = asyncio.create_task(self._run(), name="sampler")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """One last sample unless there has just been one, then no more; what was seen stays. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            # Growth over next to no time would be a peak that never was.
            if self.now_s - self._sampled_s >= self.step_s / 2:
                async with asyncio.timeout(_STOP_WITHIN_S):
                    await self.sample()
        except TimeoutError:
            self._first_errors.setdefault("last sample", f"not read within {_STOP_WITHIN_S:.0f} s")
        finally:
            for feed in self._feeds:
                await feed.aclose()

    def watch(
        self,
        title: str,
        unit: str,
        sources: Mapping[str, Source],
        *,
        kind: Kind = "value",
        explains: str = "",
        stacked: bool = False,
        read_s: Mapping[str, Source] | None = None,
    ) -> None:
        """One chart with a curve per source. `kind="rate"`: sources count up, and growth per second is drawn.

        `read_s` tells when each was read (CLOCK_MONOTONIC, seconds), for counters that are read some time before they
        are asked for. May be called while sampling; the same title again adds curves to that chart.
        """
        tracks = [(Track(name, kind), source, (read_s or {}).get(name)) for name, source in sources.items()]
        for chart in self._charts:
            if chart.title == title:
                chart.tracks.extend(tracks)
                return
        self._charts.append(_Watched(title, unit, explains, stacked, tracks))

    def feed(self, feed: Feed) -> None:
        """Read this before each round; closed when sampling stops."""
        self._feeds.append(feed)

    def mark(self, label: str, at_s: float | None = None) -> None:
        """Something happened, now or at a second of the run. The first 200 are kept."""
        if len(self._marks) < _MARKS_MAX:
            self._marks.append(Mark(round(self.now_s if at_s is None else at_s, 3), label))

    @property
    def now_s(self) -> float:
        """Seconds since it was entered."""
        return self._clock() - self._began_s

    @property
    def marks(self) -> Sequence[Mark]:
        return tuple(sorted(self._marks, key=lambda mark: mark.at_s))

    def charts(self) -> tuple[Chart, ...]:
        """What was seen so far; sources that never said anything are left out, and charts without any."""
        found = (
            Chart(
                title=each.title, unit=each.unit, explains=each.explains, stacked=each.stacked,
                series=[series for series in (track.series() for track, *_ in each.tracks) if series.points],
            )
            for each in self._charts
        )  # fmt: skip
        return tuple(chart for chart in found if chart.series)

    def facts(self) -> Sequence[Fact]:
        """How well it could watch: rounds, step, gaps and their first reasons."""
        facts = [Fact("samples", f"{self._rounds:,}, in the end every {self.step_s:g} s, {self._late:,} of them late")]
        for chart in self._charts:
            facts.extend(
                Fact(
                    f"gaps in {chart.title}: {track.name}",
                    f"{track.missing if track.spoke else self._rounds:,} of {self._rounds:,} samples",
                )
                for track, *_ in chart.tracks
                if track.missing or not track.spoke
            )
        facts.extend(Fact(f"why: {name}", why) for name, why in self._first_errors.items())
        return facts

    async def sample(self) -> None:
        """One round: feeds side by side, then every source."""
        results = await asyncio.gather(*(feed.read() for feed in self._feeds), return_exceptions=True)
        for feed, result in zip(self._feeds, results, strict=False):
            if isinstance(result, Exception):
                self._first_errors.setdefault(type(feed).__name__, f"{type(result).__name__}: {result}")
            elif isinstance(result, BaseException):
                raise result
        at_s = self._sampled_s = self.now_s
        self._rounds += 1
        longest = 0
        for chart in self._charts:
            for track, source, read_s in chart.tracks:
                value = self._value(f"{chart.title}: {track.name}", source)
                track.add(at_s, value, None if read_s is None else read_s())
                longest = max(longest, len(track))
        if longest >= self._points_max:
            self.step_s *= 2
            for chart in self._charts:
                for track, *_ in chart.tracks:
                    track.halve()

    def _value(self, name: str, source: Source) -> float | None:
        try:
            value = source()
            return None if value is None else float(value)
        except Exception as exc:  # whatever a source raises is a gap, and the run goes on
            self._first_errors.setdefault(name, f"{type(exc).__name__}: {exc}")
            return None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self.sample()
            due += self.step_s
            left = due - loop.time()
            if left <= 0:
                # Too busy for this step: skip what was missed rather than catch up.
                self._late += 1
                due = loop.time()
            await asyncio.sleep(max(left, 0.01))
