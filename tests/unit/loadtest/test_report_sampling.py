"""Goal: a sampler sees what happens, stays within bounds, and outlives whatever its sources do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.report.sampling import Sampler
from loadtest.report.sources import (
    Metric,
    MetricsPages,
    Processes,
    kernel_memory_bytes,
    metric_sum,
    watch_cpu,
    watch_memory,
    watch_metrics,
)
from loadtest.report.tracks import Track


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def sampled(sampler: Sampler, clock: Clock, rounds: int, step: Callable[[int], None] = lambda _: None) -> None:
    for number in range(rounds):
        step(number)
        await sampler.sample()
        clock.now += 1.0


async def test_values_are_drawn_as_they_are_and_counters_as_their_growth() -> None:
    clock, counted = Clock(), [0.0]
    sampler = Sampler(now_s=clock)
    sampler.watch("Devices", "devices", {"here": lambda: counted[0]}, explains="Those here.")
    sampler.watch("Deliveries", "/s", {"live": lambda: counted[0]}, kind="rate")
    await sampled(sampler, clock, 4, lambda number: counted.__setitem__(0, number * 10.0))
    devices, deliveries = sampler.charts()
    assert list(devices.series[0].points) == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert list(deliveries.series[0].points) == [(1, 10), (2, 10), (3, 10)]
    assert (devices.unit, devices.explains) == ("devices", "Those here.")


def test_a_counter_that_begins_anew_has_grown_by_what_it_shows() -> None:
    track = Track("x", "rate")
    for at, reading in enumerate((100.0, 160.0, 5.0, 15.0)):
        track.add(float(at), reading)
    assert list(track.series().points) == [(1, 60), (2, 5), (3, 10)]


def test_growth_is_over_the_time_between_readings_whenever_they_are_asked_for() -> None:
    """A sample that comes late does not make the next one, in time, a peak that never was."""
    track = Track("x", "rate")
    for at, reading, read in ((0.0, 0.0, 0.0), (3.0, 1.0, 1.0), (3.1, 3.0, 3.0), (4.0, 3.0, 3.0), (5.0, 5.0, 5.0)):
        track.add(at, reading, read)
    assert list(track.series().points) == [(3, 1), (3.1, 1), (5, 1)]


def test_what_comes_before_the_first_reading_and_after_the_last_is_no_gap() -> None:
    track = Track("x", "value")
    for at, reading in enumerate((None, None, 1.0, None, 2.0, None)):
        track.add(float(at), reading)
    assert (track.missing, track.spoke) == (1, True)


async def test_a_source_that_raises_or_has_nothing_to_say_leaves_a_gap() -> None:
    clock = Clock()
    sampler = Sampler(now_s=clock)
    answers = iter([1.0, None, "no", 2.0, float("nan"), 3.0])

    def source() -> float | None:
        found = next(answers)
        if found == "no":
            raise OSError("gone")
        return found  # type: ignore[return-value]

    sampler.watch("X", "", {"x": source, "steady": lambda: 7.0})
    await sampled(sampler, clock, 6)
    broken, steady = sampler.charts()[0].series
    assert list(broken.points) == [(0, 1), (3, 2), (5, 3)]
    assert list(broken.gaps) == [(1, 2), (4, 4)]
    assert len(steady.points) == 6
    assert not steady.gaps
    told = {fact.label: fact.value for fact in sampler.facts()}
    assert told["gaps in X: x"] == "3 of 6 samples"
    assert told["why: X: x"] == "OSError: gone"


async def test_memory_is_bounded_peaks_stay_and_the_step_doubles() -> None:
    clock = Clock()
    sampler = Sampler(every_s=1.0, points_max=32, now_s=clock)
    values = [0.0]
    sampler.watch("X", "", {"x": lambda: values[0]})
    await sampled(sampler, clock, 500, lambda number: values.__setitem__(0, 99.0 if number == 217 else number % 3))
    points = sampler.charts()[0].series[0].points
    assert len(points) <= 32
    assert (217.0, 99.0) in points
    assert sampler.step_s >= 16


async def test_a_feed_is_read_before_its_sources_and_may_fail() -> None:
    class Feed:
        def __init__(self) -> None:
            self.value: float | None = None
            self.reads = 0
            self.closed = 0

        async def read(self) -> None:
            self.reads += 1
            self.value = None
            if self.reads == 2:
                raise TimeoutError("late")
            self.value = float(self.reads)

        async def aclose(self) -> None:
            self.closed += 1

    clock, feed = Clock(), Feed()
    sampler = Sampler(now_s=clock)
    sampler.feed(feed)
    sampler.watch("X", "", {"x": lambda: feed.value})
    await sampled(sampler, clock, 3)
    (series,) = sampler.charts()[0].series
    assert list(series.points) == [(0, 1), (2, 3)]
    assert "why: Feed" in {fact.label for fact in sampler.facts()}


async def test_it_samples_in_the_background_until_it_is_left() -> None:
    seen, enough = 0, asyncio.Event()

    def source() -> float:
        nonlocal seen
        seen += 1
        if seen == 3:
            enough.set()
        return float(seen)

    async with Sampler(every_s=0.01) as sampler:
        sampler.watch("X", "", {"x": source})
        async with asyncio.timeout(10):
            await enough.wait()
        sampler.mark("second", at_s=5.0)
        sampler.mark("first", at_s=0.5)
    assert [mark.label for mark in sampler.marks] == ["first", "second"]
    seen_then = seen
    await asyncio.sleep(0.03)
    assert seen == seen_then
    await sampler.stop()


async def test_one_title_is_one_chart_and_what_never_spoke_is_left_out() -> None:
    clock = Clock()
    sampler = Sampler(now_s=clock)
    sampler.watch("X", "", {"a": lambda: 1.0})
    sampler.watch("X", "", {"b": lambda: 2.0, "silent": lambda: None})
    sampler.watch("Silent", "", {"c": lambda: None})
    await sampled(sampler, clock, 2)
    (chart,) = sampler.charts()
    assert [series.name for series in chart.series] == ["a", "b"]


async def test_marks_are_bounded() -> None:
    sampler = Sampler()
    for number in range(1_000):
        sampler.mark(str(number))
    assert len(sampler.marks) == 200


async def test_processes_are_read_by_role_and_one_that_is_gone_is_a_gap() -> None:
    clock = Clock()
    processes = Processes({"here": [os.getpid()], "gone": [2**22 + 1], "asked": lambda: [os.getpid()]}, pss_every=1)
    sampler = Sampler(now_s=clock)
    sampler.feed(processes)
    watch_cpu(sampler, processes)
    watch_memory(sampler, processes)
    watch_memory(sampler, processes, kind="pss")
    await sampled(sampler, clock, 2, lambda _: sum(range(200_000)) and None)
    cpu, memory = sampler.charts()
    assert [series.name for series in cpu.series] == ["here", "asked"]
    assert cpu.series[0].points[0][1] > 0
    assert memory.series[0].points[0][1] > 1e6
    assert "gaps in CPU by role: gone" in {fact.label for fact in sampler.facts()}
    here, pss = processes.rss_bytes["here"], processes.pss_bytes["here"]
    assert here is not None
    assert pss is not None
    assert 0 < pss <= here


def test_kernel_memory_is_read_as_the_kernel_writes_it(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "sockstat").write_text("sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 mem 10\nUDP: mem 3\n")
    (tmp_path / "meminfo").write_text("Slab:  9 kB\nSUnreclaim:        7 kB\n")
    page = os.sysconf("SC_PAGE_SIZE")
    assert kernel_memory_bytes(tmp_path) == {"TCP buffers": 10.0 * page, "slabs in use": 7.0 * 1024}
    assert set(kernel_memory_bytes()) <= {"TCP buffers", "slabs in use"}


def test_metrics_are_summed_over_pages_and_labels() -> None:
    pages = [
        [("sent_total", {"kind": "live"}, 3.0), ("sent_total", {"kind": "old"}, 4.0), ("up", {}, 1.0)],
        [("sent_total", {"kind": "live", "node": "b"}, 5.0)],
    ]
    assert metric_sum(pages, Metric("sent_total")) == 12
    assert metric_sum(pages, Metric("sent_total", {"kind": "live"})) == 8
    assert metric_sum(pages, Metric("sent_total", {"kind": "none"})) is None
    assert metric_sum([], Metric("up")) is None


async def test_metrics_pages_are_fetched_and_one_that_is_down_is_a_gap() -> None:
    body = b'# TYPE sent_total counter\nsent_total{kind="live"} 3\n'
    answers = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (len(body), body)]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers[0])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        pages = MetricsPages([f"http://127.0.0.1:{port}/metrics"])
        sampler = Sampler()
        sampler.feed(pages)
        watch_metrics(sampler, pages, "Sent", "", {"live": Metric("sent_total", {"kind": "live"})})
        try:
            await sampler.sample()
            answers[0] = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            await sampler.sample()
        finally:
            await pages.aclose()
        await pages.aclose()
    (series,) = sampler.charts()[0].series
    assert [value for _, value in series.points] == [3.0]
    assert len(series.gaps) == 1


def test_a_step_is_longer_than_nothing() -> None:
    with pytest.raises(AssertionError):
        Sampler(every_s=0)
