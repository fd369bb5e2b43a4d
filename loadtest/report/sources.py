"""Ready-made sources for a sampler: CPU and memory by role, the kernel's memory, counters of `/metrics` pages."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from loadtest.bench.cpu import process_cpu_s
from loadtest.report.sampling import Sampler, Source
from loadtest.report.tracks import Kind

__all__ = [
    "Metric",
    "MetricsPages",
    "Pids",
    "Processes",
    "kernel_memory_bytes",
    "metric_sum",
    "watch_cpu",
    "watch_kernel_memory",
    "watch_memory",
    "watch_metrics",
]

Pids = Iterable[int] | Callable[[], Iterable[int]]
"""Process ids of one role, or what tells them at each round: processes may come and go."""
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_PROC: Final = Path("/proc")
_FETCH_WITHIN_S: Final = 2.0
_PAGE_BYTES_MAX: Final = 4 * 1024 * 1024


class Processes:
    """A feed: what the processes of each role use, and everything they started unless it is another role's. Read in a
    thread.

    CPU counts what they used since first seen and keeps that of those which have ended; a process that begins and ends
    between two rounds is not seen. Memory is RSS, in which pages shared by several processes count for each; with
    `pss_every` > 0 the proportional set as well, each so many rounds, since the kernel walks all pages for it.
    """

    def __init__(self, roles: Mapping[str, Pids], *, pss_every: int = 0) -> None:
        self._roles = {role: pids if callable(pids) else tuple(pids) for role, pids in roles.items()}
        self._pss_every = pss_every
        self._rounds = 0
        # A round that was cancelled goes on in its thread; the next waits for it.
        self._reading = threading.Lock()
        self._cpu_of: dict[tuple[str, int], float] = {}
        self.cpu_s: dict[str, float | None] = dict.fromkeys(roles)
        self.cpu_read_s: dict[str, float | None] = dict.fromkeys(roles)
        """When that was read, CLOCK_MONOTONIC: of many processes on a busy machine it takes a while."""
        self.rss_bytes: dict[str, float | None] = dict.fromkeys(roles)
        self.pss_bytes: dict[str, float | None] = dict.fromkeys(roles)

    async def read(self) -> None:
        # Asked on the loop: what tells the ids belongs to it.
        roots = {role: tuple(pids() if callable(pids) else pids) for role, pids in self._roles.items()}
        await asyncio.to_thread(self._read_alone, roots)

    async def aclose(self) -> None:
        """Nothing is held."""

    def _read_alone(self, roots: Mapping[str, Sequence[int]]) -> None:
        with self._reading:
            self._read(roots)

    def _read(self, roots: Mapping[str, Sequence[int]]) -> None:
        started = _started_by()
        with_pss = self._pss_every > 0 and self._rounds % self._pss_every == 0
        self._rounds += 1
        everyone = {pid for pids in roots.values() for pid in pids}
        for role, pids in roots.items():
            others = everyone.difference(pids)
            alive = [pid for pid in _with_children(pids, started, others) if pid in started.alive]
            self.cpu_read_s[role] = time.monotonic()
            grown = sum(self._cpu_grown(role, pid) for pid in alive)
            self.cpu_s[role] = (self.cpu_s[role] or 0.0) + grown if alive or self.cpu_s[role] is not None else None
            self.rss_bytes[role] = sum(_rss_bytes(pid) for pid in alive) if alive else None
            if with_pss:
                self.pss_bytes[role] = sum(_pss_bytes(pid) for pid in alive) if alive else None
            for key in [key for key in self._cpu_of if key[0] == role and key[1] not in alive]:
                del self._cpu_of[key]

    def _cpu_grown(self, role: str, pid: int) -> float:
        try:
            now = process_cpu_s(pid)
        except OSError:
            return 0.0
        before = self._cpu_of.get((role, pid), now)
        self._cpu_of[role, pid] = now
        return max(0.0, now - before)


def watch_cpu(sampler: Sampler, processes: Processes, *, explains: str = "") -> None:
    """A chart of the cores each role keeps busy, stacked. The feed must be given to the sampler once: `feed`."""
    explains = explains or f"Cores kept busy by each role and all it started, of {psutil.cpu_count()} there are."
    sources = {role: _of(processes.cpu_s, role) for role in processes.cpu_s}
    read_s = {role: _of(processes.cpu_read_s, role) for role in processes.cpu_s}
    sampler.watch("CPU by role", "cores", sources, kind="rate", explains=explains, stacked=True, read_s=read_s)


def watch_memory(
    sampler: Sampler, processes: Processes, *, kind: Literal["rss", "pss"] = "rss", explains: str = ""
) -> None:
    """A chart of each role's memory, stacked."""
    found = processes.rss_bytes if kind == "rss" else processes.pss_bytes
    what = "Resident memory; pages shared count for each process." if kind == "rss" else "Shared pages counted once."
    sources = {role: _of(found, role) for role in found}
    sampler.watch("Memory by role", "bytes", sources, explains=explains or what, stacked=True)


def watch_kernel_memory(sampler: Sampler) -> None:
    """A chart of what the kernel holds for sockets: TCP buffers, and all its slabs that it cannot give back."""

    def told(name: str) -> Source:
        return lambda: kernel_memory_bytes().get(name)

    sources = {name: told(name) for name in ("TCP buffers", "slabs in use")}
    sampler.watch("Kernel memory", "bytes", sources, explains="Of the whole machine, other programs' included.")


def kernel_memory_bytes(proc: Path = _PROC) -> dict[str, float]:
    """`TCP buffers` (of /proc/net/sockstat) and `slabs in use` (SUnreclaim of /proc/meminfo), as far as told."""
    found: dict[str, float] = {}
    tcp = re.search(r"^TCP:.* mem (\d+)", (proc / "net" / "sockstat").read_text(), re.MULTILINE)
    if tcp:
        found["TCP buffers"] = float(tcp[1]) * _PAGE_BYTES
    slab = re.search(r"^SUnreclaim:\s+(\d+) kB", (proc / "meminfo").read_text(), re.MULTILINE)
    if slab:
        found["slabs in use"] = float(slab[1]) * 1024
    return found


class Metric(NamedTuple):
    """A sample of a metrics page: its full name (`..._total`), and labels that must be so; others may be anything."""

    name: str
    labels: Mapping[str, str] = {}


class MetricsPages:
    """A feed: the `/metrics` pages at some addresses, fetched side by side each round.

    One page that does not answer makes all its metrics a gap: a sum without it would look like a drop.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._urls = tuple(urls)
        self._pages: list[list[_Sample]] = []
        self._session: aiohttp.ClientSession | None = None

    async def read(self) -> None:
        self._pages = []
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_FETCH_WITHIN_S))
        pages = await asyncio.gather(*(self._fetched(self._session, url) for url in self._urls))
        self._pages = list(pages)

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def source(self, metric: Metric) -> Source:
        """The sum over all pages and label sets; None while a page is missing."""
        return lambda: metric_sum(self._pages, metric) if self._pages else None

    async def _fetched(self, session: aiohttp.ClientSession, url: str) -> list[_Sample]:
        async with session.get(url) as answer:
            answer.raise_for_status()
            content = bytearray()
            async for piece in answer.content.iter_chunked(65_536):
                content += piece
                if len(content) > _PAGE_BYTES_MAX:
                    raise ValueError(f"{url} is larger than {_PAGE_BYTES_MAX:,} bytes")
            return _samples(content.decode(errors="replace"))


def watch_metrics(
    sampler: Sampler,
    pages: MetricsPages,
    title: str,
    unit: str,
    metrics: Mapping[str, Metric],
    *,
    kind: Kind = "value",
    explains: str = "",
) -> None:
    """A chart of metrics, summed over pages. `kind="rate"` for counters. Give the pages to the sampler once: `feed`."""
    sources = {name: pages.source(metric) for name, metric in metrics.items()}
    sampler.watch(title, unit, sources, kind=kind, explains=explains)


_Sample = tuple[str, dict[str, str], float]


def _samples(text: str) -> list[_Sample]:
    return [
        (sample.name, dict(sample.labels), float(sample.value))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def metric_sum(pages: Sequence[Sequence[_Sample]], metric: Metric) -> float | None:
    """The sum of what fits on all pages; None when nothing does on any."""
    wanted = metric.labels.items()
    fitting = [
        value for page in pages for name, labels, value in page if name == metric.name and wanted <= labels.items()
    ]
    return sum(fitting) if fitting else None


def _of(found: Mapping[str, float | None], role: str) -> Source:
    return lambda: found[role]


class _Tree(NamedTuple):
    alive: frozenset[int]
    children: Mapping[int, Sequence[int]]


def _started_by() -> _Tree:
    """All processes of this machine and who started whom, from one pass over /proc."""
    children: dict[int, list[int]] = {}
    alive: set[int] = set()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # After the name in brackets, which may hold anything: state and parent.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state not in ("Z", "X"):
            alive.add(int(entry.name))
        children.setdefault(int(parent), []).append(int(entry.name))
    return _Tree(frozenset(alive), children)


def _with_children(pids: Iterable[int], tree: _Tree, others: Container[int]) -> list[int]:
    """Each once; without `others` and what those started."""
    found: dict[int, None] = {}
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid not in found and pid not in others:
            found[pid] = None
            waiting.extend(tree.children.get(pid, ()))
    return list(found)


def _rss_bytes(pid: int) -> float:
    try:
        return float((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0.0


def _pss_bytes(pid: int) -> float:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return float(found[1]) * 1024 if found else 0.0
