"""A DGS on one core, and on the other its load and, if it asks one, a ranking service; runs of that load."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np

from device_sim.client import now_ms
from loadtest.bench.cpu import tree_cpu_s
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.overload.plan import CRITICAL, OTHER, Stretch, arrivals_of
from loadtest.bench.peers.http_load import RECORD, HttpLoad, LoadRun, write_requests, write_schedule
from loadtest.bench.prefetch.asking import Secret, request_of
from loadtest.bench.prefetch.dgs_setup import DgsSetup
from loadtest.bench.prefetch.night import profile_id, schedule_of
from loadtest.bench.prefetch.subject import DgsSubject
from loadtest.bench.push.cores import Cores
from loadtest.bench.push.line_member import LineMember

__all__ = ["NOTHING_KEPT", "Arena", "OpenRun", "RankingService", "open_arena"]

NOTHING_KEPT: Final = {"DGS_PICKS_CACHE_BYTES": "0", "DGS_RANKING_STALE_S": "0"}
"""Every answer costs what a profile's first one does, so that a few thousand stand for millions."""
_REFRESHING: Final = 'If-None-Match: W/"0000000000000000"\r\n'
"""A device that holds a map, another one than it would be given."""
_MARK: Final = '"degraded":'
_POOLS: Final = (256, 1_024)
"""Connections of critical requests and of others: more than wait at any time, unless the server leaves them."""
_TIMEOUT_S: Final = 5.0
_EXPIRES_IN_S: Final = 24 * 3_600


class RankingService(LineMember):
    """So many slots, each busy for so long per profile."""

    role: ClassVar[str] = "ranking"

    def __init__(self, directory: Path, *, core: int, slots: int, slot_ms: float) -> None:
        super().__init__("ranking", directory, core=core)
        self._slots, self._slot_ms = slots, slot_ms
        self.port = 0

    def program(self) -> Sequence[str]:
        module = "loadtest.bench.overload.ranking_service"
        return [sys.executable, "-m", module, str(self._slots), str(self._slot_ms)]

    def ready(self, said: Mapping[str, Any]) -> None:
        self.port = int(said["port"])


class OpenRun(NamedTuple):
    """One run in open loop."""

    records: np.ndarray[Any, Any]
    run: LoadRun
    server_cpu_s: float
    log_bytes: int
    load_core_share: float
    """What load and ranking service together used of their core."""


class Arena:
    """Raises CouldNotRun when the server or the load ends, or does not do as told."""

    def __init__(
        self,
        subject: DgsSubject,
        load: HttpLoad,
        ranking: RankingService | None,
        *,
        directory: Path,
        profiles: int,
        seed: int,
    ) -> None:
        self.subject = subject
        self.ranking = ranking
        self._load = load
        self._directory = directory
        self._profiles = profiles
        self._seeds = itertools.count(seed)

    async def run_open(self, stretches: Sequence[Stretch]) -> OpenRun:
        """Requests as they are due, whatever becomes of them."""
        arrivals = arrivals_of(stretches, profiles=self._profiles, seed=next(self._seeds))
        schedule, records = self._directory / "schedule", self._directory / "records"
        write_schedule(schedule, arrivals.at_us, arrivals.which)
        cpu_s, ranking_s, log, began_s = self._cpu_s(), self._ranking_cpu_s(), self._log_bytes(), time.monotonic()
        run = await self._load.open(
            schedule, pools=_POOLS, lasts_s=arrivals.lasts_s, timeout_s=_TIMEOUT_S, records=records
        )
        share = run.load_cores + (self._ranking_cpu_s() - ranking_s) / (time.monotonic() - began_s)
        found = await asyncio.to_thread(np.fromfile, records, RECORD)
        return OpenRun(found, run, self._cpu_s() - cpu_s, self._log_bytes() - log, share)

    async def run_closed(self, connections: int, within_s: float) -> tuple[LoadRun, float]:
        """First prefetches, as fast as it answers over so few connections; and the server's CPU seconds."""
        cpu_s = self._cpu_s()
        run = await self._load.closed(connections=connections, within_s=within_s, timeout_s=_TIMEOUT_S)
        return run, self._cpu_s() - cpu_s

    async def rest(self, seconds: float = 1.0) -> None:
        """Let what was begun end, and limits settle."""
        await self._load.close_all()
        await asyncio.sleep(seconds)

    def _cpu_s(self) -> float:
        return tree_cpu_s(self.subject.pid)

    def _ranking_cpu_s(self) -> float:
        return tree_cpu_s(self.ranking.pid) if self.ranking is not None else 0.0

    def _log_bytes(self) -> int:
        path = self.subject.log_path
        return path.stat().st_size if path.exists() else 0


@asynccontextmanager
async def open_arena(
    cores: Cores,
    *,
    environment: Mapping[str, str],
    profiles: int,
    seed: int,
    ranking: tuple[int, float] | None = None,
    refuses: bool = False,
) -> AsyncIterator[Arena]:
    """Start the DGS with these settings; with `ranking` (slots, ms of each) it asks such a service, else itself.

    `refuses`: its rules refuse everybody, so it cannot be asked how it takes the operation: by the hash.
    Raises CouldNotRun; nothing is left running.
    """
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stagecue-bench-")))
        settings = {**NOTHING_KEPT, "DGS_RECOMMENDATIONS": "catalog", **environment}
        service = None
        if ranking is not None:
            service = RankingService(directory, core=cores.load, slots=ranking[0], slot_ms=ranking[1])
            stack.push_async_callback(service.stop)
            await service.start()
            url = f"http://127.0.0.1:{service.port}/rank"
            settings = {**settings, "DGS_RECOMMENDATIONS": "http", "DGS_RANKING_URL": url}
        secret = Secret("k1", secrets.token_bytes(32))
        setup = DgsSetup(schedule_of(now_ms()), secret)
        subject = DgsSubject(
            "stagecue",
            directory,
            core=cores.server,
            setup=setup,
            environment=settings,
            form="hash" if refuses else None,
        )
        stack.push_async_callback(subject.stop)
        await subject.start()
        load = HttpLoad("load", directory, core=cores.load, port=subject.port, spin=True)
        stack.push_async_callback(load.stop)
        await load.start()
        # It does not sleep, since to wake it would be a cost of the server's, and it leaves the core it shares with the
        # ranking service to that whenever there is something to do.
        os.sched_setscheduler(load.pid, os.SCHED_IDLE, os.sched_param(0))
        requests = directory / "requests"
        await asyncio.to_thread(_write, requests, subject, secret, profiles)
        if await load.load(requests) != 2 * profiles:
            raise CouldNotRun(f"{requests} was not read whole")
        await load.mark(_MARK)
        yield Arena(subject, load, service, directory=directory, profiles=profiles, seed=seed)


def _write(path: Path, subject: DgsSubject, secret: Secret, profiles: int) -> None:
    """First prefetches of every profile, then refreshes of as many others."""
    sign, exp_s = secret.signer(), int(time.time()) + _EXPIRES_IN_S

    def made(tag: int, number: int) -> tuple[int, bytes]:
        profile = profile_id(number + tag * profiles)
        fields = _REFRESHING if tag == OTHER else ""
        return tag, request_of(subject.form, subject.port, profile, sign(profile, exp_s), fields)

    write_requests(path, (made(tag, number) for tag in (CRITICAL, OTHER) for number in range(profiles)))
