"""One server under test with its devices: connects them, broadcasts to them, and reads what that cost the server."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import time
from pathlib import Path
from typing import Final

import msgspec
import psutil

from loadtest.bench.cpu import others_cpu_s, tree_cpu_s
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.push.chain import TOPICS, Chain
from loadtest.bench.push.load import Arrivals, Connected, LoadProcess, device_tokens, write_requests
from loadtest.bench.push.subject import Subject

__all__ = ["ConnectRound", "Contender", "FanOutRound", "OthersMeter", "tree_rss_bytes"]

_SETTLED_CORES: Final = 0.03
"""A server that uses less than this is done with what it was given."""
_SETTLE_STEP_S: Final = 0.1
_SETTLE_WITHIN_S: Final = 10.0
_LONGER_THAN_A_TICK_S: Final = 0.012
_RESTING_WITHIN_S: Final = 0.3
_DEVICES_PER_S: Final = 500.0
"""A server slower than this at connects or deliveries is given up."""


class ConnectRound(msgspec.Struct, frozen=True):
    """All devices connected once."""

    us_per_connect: float
    wall_s: float
    load_cores: float


class FanOutRound(msgspec.Struct, frozen=True):
    """One broadcast to all devices."""

    us_per_delivery: float
    missed: int
    sent_at_ns: int
    arrivals: Arrivals
    load_cores: float

    def arrivals_ms(self) -> list[float]:
        """From the broadcast's publication to each device."""
        before_us = (self.sent_at_ns - self.arrivals.at_ns) / 1000
        return [(arrival_us - before_us) / 1000 for arrival_us in self.arrivals.arrivals_us]


class Contender:
    """Raises CouldNotRun from every method when server or devices do not do what they should."""

    def __init__(
        self,
        subject: Subject,
        load: LoadProcess,
        *,
        chain: Chain,
        directory: Path,
        connects_per_s: float = math.inf,
    ) -> None:
        """`connects_per_s`: what the server admits in the long run; rounds of connects begin that far apart."""
        self.subject = subject
        self.load = load
        self.baseline_bytes = 0
        """The server's memory when ready, before the first connection ever."""
        self._chain = chain
        self._directory = directory
        self._connects_per_s = connects_per_s
        self._admits_at_s = -math.inf
        self._series = itertools.count(1)

    @property
    def name(self) -> str:
        return self.subject.name

    @property
    def devices(self) -> int:
        return self.load.devices

    async def take_baseline(self) -> None:
        """Once, before anything connects."""
        await self.settled()
        self.baseline_bytes = self.memory_bytes()

    def memory_bytes(self) -> int:
        return tree_rss_bytes(self.subject.pid)

    async def bytes_per_device(self) -> float:
        """Memory above the baseline, at rest, over the devices connected."""
        await self.settled()
        return (self.memory_bytes() - self.baseline_bytes) / self.devices

    async def publish_unheard(self) -> None:
        """One broadcast while nobody is connected: what those who come are replayed."""
        broadcast = self._chain.next()
        await self.subject.publish(broadcast, self._chain.payload(broadcast))
        await self.settled()

    async def connect(self) -> ConnectRound:
        """Connect all devices, each with a token never used before."""
        requests, opening = await asyncio.to_thread(self._write_what_is_sent)
        await self.settled()
        await asyncio.sleep(max(0.0, self._admits_at_s - time.monotonic()))
        self._admits_at_s = time.monotonic() + self.devices / self._connects_per_s
        reading = await _Reading.begin(self.subject.pid, self.load.pid)
        found = await self.load.connect(requests, opening, within_s=10.0 + self.devices / _DEVICES_PER_S)
        cpu_s, _ = await reading.used()
        self._check(found)
        load_cores = 1 - found.idle_us / max(1, found.wall_us)  # it never sleeps: its CPU time says nothing
        return ConnectRound(cpu_s / self.devices * 1e6, found.wall_us / 1e6, load_cores)

    async def fan_out(self, *, probing: bool = False) -> FanOutRound:
        """One broadcast to all connected devices."""
        broadcast = self._chain.next()
        within_s = 5.0 + self.devices / _DEVICES_PER_S
        await self.settled()
        reading = await _Reading.begin(self.subject.pid, self.load.pid)
        await self.load.expect(self._chain.marker(broadcast), within_s=within_s, probing=probing)
        sent_at_ns = time.monotonic_ns()
        await self.subject.publish(broadcast, self._chain.payload(broadcast))
        arrivals = await self.load.arrivals(within_s=within_s)
        cpu_s, load_cores = await reading.used()
        if not arrivals.received:
            raise CouldNotRun(f"{self.name}: no device got the broadcast")
        return FanOutRound(
            us_per_delivery=cpu_s / arrivals.received * 1e6,
            missed=self.devices - arrivals.received,
            sent_at_ns=sent_at_ns,
            arrivals=arrivals,
            load_cores=load_cores,
        )

    async def disconnect(self) -> None:
        """Cut all devices off, and wait until the server has noticed."""
        await self.load.close_all()
        await self.settled()

    async def settled(self) -> None:
        """Return once the server rests, or after a bound: one that never rests is measured as it is."""
        until_s = time.monotonic() + _SETTLE_WITHIN_S
        while time.monotonic() < until_s:
            before_s, began_s = tree_cpu_s(self.subject.pid), time.monotonic()
            await asyncio.sleep(_SETTLE_STEP_S)
            if tree_cpu_s(self.subject.pid) - before_s < _SETTLED_CORES * (time.monotonic() - began_s):
                return

    def _write_what_is_sent(self) -> tuple[Path, Path | None]:
        """Files of every device's request, and of what all send after the answer, if they do."""
        dialect, ring, devices = self.subject.dialect, self.subject.token_ring, self.devices
        series = next(self._series)
        if ring is None:
            tokens = [""] * devices
        else:
            tokens = device_tokens(ring, devices, now_s=time.time(), topics=TOPICS, series=series)
        host = f"127.0.0.1:{self.subject.port}"
        requests = self._directory / f"{self.name}.requests"
        write_requests(requests, (dialect.request(host, token, self._chain) for token in tokens))
        said = dialect.opening(self._chain)
        if not said:
            return requests, None
        opening = self._directory / f"{self.name}.opening"
        opening.write_bytes(said)
        return requests, opening

    def _check(self, found: Connected) -> None:
        if found.ready != self.devices:
            raise CouldNotRun(
                f"{self.name}: {found.ready} of {self.devices} devices became ready ({found.refused} refused, "
                f"{found.failed} failed, {found.lost} lost; first: {found.error or 'nothing said'})"
            )


class _Reading:
    """CPU of server and load, from `begin` to `used`."""

    def __init__(self, server_pid: int, load_pid: int) -> None:
        self._server_pid, self._load_pid = server_pid, load_pid
        self._server_s = self._load_s = self._at_s = 0.0

    @classmethod
    async def begin(cls, server_pid: int, load_pid: int) -> _Reading:
        found = cls(server_pid, load_pid)
        found._server_s = await _resting_cpu_s(server_pid)
        found._load_s, found._at_s = tree_cpu_s(load_pid), time.monotonic()
        return found

    async def used(self) -> tuple[float, float]:
        """The server's CPU seconds once it rests, and the load's cores until now."""
        load_cores = (tree_cpu_s(self._load_pid) - self._load_s) / (time.monotonic() - self._at_s)
        return await _resting_cpu_s(self._server_pid) - self._server_s, load_cores


async def _resting_cpu_s(pid: int) -> float:
    """CPU seconds a process tree has used, read while it sleeps: the kernel knows a running one's last tick only."""
    until_s = time.monotonic() + _RESTING_WITHIN_S
    found = tree_cpu_s(pid)
    while time.monotonic() < until_s:
        await asyncio.sleep(_LONGER_THAN_A_TICK_S)
        before, found = found, tree_cpu_s(pid)
        if found == before:
            break
    return found


class OthersMeter:
    """What is no part of the benchmark, from its making on; processes of ours must not end meanwhile."""

    def __init__(self) -> None:
        self._cpu_s, self._at_s = others_cpu_s(), time.monotonic()

    def cores(self) -> float:
        return max(0.0, others_cpu_s() - self._cpu_s) / (time.monotonic() - self._at_s)


def tree_rss_bytes(pid: int) -> int:
    """Resident memory of a process and its children, page by page: the kernel's counters lag by some hundred pages."""
    root = psutil.Process(pid)
    return sum(_rss_bytes(each) for each in (pid, *(child.pid for child in root.children(recursive=True))))


def _rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise CouldNotRun(f"/proc/{pid}/smaps_rollup tells no Rss on {os.uname().release}")
