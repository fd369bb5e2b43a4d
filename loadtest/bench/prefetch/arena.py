"""Servers under test side by side on one core, each with a load client on the other, and one round of one of them."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from contract.schedule import TopicSchedule
from device_sim.client import now_ms
from loadtest.bench.cpu import tree_cpu_s
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.peers.http_load import HttpLoad, LoadRun, read_samples, write_requests
from loadtest.bench.peers.mercurius_peer import MercuriusPeer
from loadtest.bench.peers.strawberry_peer import StrawberryPeer
from loadtest.bench.prefetch.asking import Secret, requests_of
from loadtest.bench.prefetch.dgs_setup import DgsSetup
from loadtest.bench.prefetch.judge import Bounds, NotAlike, canonical
from loadtest.bench.prefetch.night import profile_id
from loadtest.bench.prefetch.peer_night import PeerNight, ttl_range_s, write_night
from loadtest.bench.prefetch.picked import PickedProfiles
from loadtest.bench.prefetch.subject import DgsSubject, Subject
from loadtest.bench.push.cores import Cores

__all__ = ["COLD", "CONNECTIONS", "OURS", "PEERS", "SAMPLES", "WITHOUT_TOKENS", "Arena", "Asked", "Contender",
           "check_peers", "fresh_profile", "open_arena"]  # fmt: skip

OURS: Final = "stagecue"
WITHOUT_TOKENS: Final = "without-tokens"
COLD: Final = "cold"
PEERS: Final = ("mercurius", "strawberry")
CONNECTIONS: Final = 64
SAMPLES: Final = 1_000
_REFUSED: Final = 503
_ROUND_S: Final = 6.0
_SETTLED_CORES: Final = 0.03
_SETTLE_STEP_S: Final = 0.1
_SETTLE_WITHIN_S: Final = 5.0
_CLOCK_SLACK_MS: Final = 1_000
_TOLD_SHORTER_S: Final = 2
"""Ends are drawn from spans made up to a second before, and what is left is told in whole seconds, rounded down."""
_MOVED_ASIDE_S: Final = 2 * 3_600
"""A lifetime that would end near a stage is longer than any drawn elsewhere, by this much at most."""
_EXPIRES_IN_S: Final = 24 * 3_600


class Asked(msgspec.Struct, frozen=True):
    """One server, asked by every profile once, or as many as the time allowed."""

    rps_per_core: float
    """Good answers over the CPU seconds of the server's process."""
    rps: float
    """And over the time it took."""
    p99_ms: float
    bytes: float
    """Of one answer's body."""
    load_cores: float
    refused: int
    """503, which is no answer: a server that sheds load may find this too much."""
    run: LoadRun


class Contender:
    """Raises CouldNotRun when the server does not answer as it should."""

    def __init__(
        self, subject: Subject, load: HttpLoad, *, secret: Secret | None, directory: Path, series: itertools.count[int]
    ) -> None:
        self.subject = subject
        self.answers: dict[int, str] = {}
        """Canonical answers to the first requests of the last round."""
        self._load = load
        self._secret = secret
        self._directory = directory
        self._series = series

    @property
    def name(self) -> str:
        return self.subject.name

    async def ask(self, profile: Callable[[int], str], profiles: int, *, within_s: float = _ROUND_S) -> Asked:
        """Every profile once, each with a token never used before, over CONNECTIONS; it ends early after `within_s`."""
        requests, samples = self._directory / f"{self.name}.requests", self._directory / f"{self.name}.samples"
        await asyncio.to_thread(self._write, requests, profile, profiles)
        await self._load.load(requests)
        await self._settled()
        least = min(SAMPLES, profiles)
        before_s, from_ms = tree_cpu_s(self.subject.pid), now_ms()
        run = await self._load.closed(
            connections=CONNECTIONS, at_least=least, within_s=within_s, samples=(least, samples)
        )
        used_s = tree_cpu_s(self.subject.pid) - before_s
        await self._load.close_all()
        refused = run.tags[0].statuses.get(_REFUSED, 0)
        if not run.good_count or run.good_count + refused != run.sent:
            failed = run.sent - run.good_count - refused
            raise CouldNotRun(f"{self.name}: {failed} of {run.sent} requests failed; {run.error}")
        self._read(samples, from_ms)
        return Asked(
            rps_per_core=run.good_count / used_s,
            rps=run.good_count / run.wall_s,
            p99_ms=run.good().percentile_ms(99) or 0.0,
            bytes=run.body_bytes / run.answered,
            load_cores=run.load_cores,
            refused=refused,
            run=run,
        )

    def _write(self, path: Path, profile: Callable[[int], str], profiles: int) -> None:
        # Another expiry for each round: no token is ever seen twice.
        exp_s = int(time.time()) + _EXPIRES_IN_S + next(self._series)
        form, port = self.subject.form, self.subject.port
        ids = (profile(number) for number in range(profiles))
        write_requests(path, requests_of(form, port, ids, secret=self._secret, exp_s=exp_s))

    def _read(self, samples: Path, from_ms: int) -> None:
        low, high = ttl_range_s()
        bounds = Bounds(
            (from_ms - _CLOCK_SLACK_MS, now_ms() + _CLOCK_SLACK_MS), (low - _TOLD_SHORTER_S, high + _MOVED_ASIDE_S)
        )
        try:
            self.answers = {
                request: canonical(answer, bounds)
                for request, answer in read_samples(samples)
                if not answer.startswith(b"HTTP/1.1 %d " % _REFUSED)
            }
        except NotAlike as exc:
            raise CouldNotRun(f"{self.name}: {exc}") from exc

    async def _settled(self) -> None:
        until_s = time.monotonic() + _SETTLE_WITHIN_S
        while time.monotonic() < until_s:
            before_s, began_s = tree_cpu_s(self.subject.pid), time.monotonic()
            await asyncio.sleep(_SETTLE_STEP_S)
            if tree_cpu_s(self.subject.pid) - before_s < _SETTLED_CORES * (time.monotonic() - began_s):
                return


class Arena:
    def __init__(self, contenders: Sequence[Contender], picked: PickedProfiles, cores: Cores) -> None:
        self.contenders = {contender.name: contender for contender in contenders}
        self.picked = picked
        self.cores = cores

    def turn(self, number: int) -> Sequence[Contender]:
        """The order of a round: each begins with another, so that no server always comes after the same one."""
        found = list(self.contenders.values())
        start = number % len(found)
        return found[start:] + found[:start]


def check_peers(named: str) -> tuple[str, ...]:
    """The peers of a comma-separated option, each once. Raises CouldNotRun for one nobody knows."""
    peers = tuple(dict.fromkeys(part.strip() for part in named.split(",") if part.strip()))
    for peer in peers:
        if peer not in PEERS:
            raise CouldNotRun(f"--peers: {peer} is none of {', '.join(PEERS)}")
    return peers


@asynccontextmanager
async def open_arena(
    peers: Sequence[str],
    *,
    schedule: TopicSchedule,
    picked: PickedProfiles,
    cores: Cores,
    form: str | None = None,
) -> AsyncIterator[Arena]:
    """Start our DGS three times (as it is, without tokens, ranking for itself) and the peers. Raises CouldNotRun."""
    async with AsyncExitStack() as stack:
        room = _Room(stack, cores, schedule, picked, form)
        await picked.materialise(room.materialised, schedule)
        yield Arena([await room.enter(name) for name in (OURS, WITHOUT_TOKENS, COLD, *peers)], picked, cores)


class _Room:
    """Where servers under test are started; the stack ends them."""

    def __init__(
        self, stack: AsyncExitStack, cores: Cores, schedule: TopicSchedule, picked: PickedProfiles, form: str | None
    ) -> None:
        self._stack = stack
        self._cores = cores
        self._form = form
        self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stagecue-bench-")))
        self.materialised = self._directory / "materialised"
        self._secret = Secret("k1", secrets.token_bytes(32))
        self._schedule = schedule
        self._night = write_night(self._directory, schedule, picked, self._secret)
        self._series = itertools.count(1)

    async def enter(self, name: str) -> Contender:
        """Start it and its load client."""
        subject = self._subject(name)
        self._stack.push_async_callback(subject.stop)
        await subject.start()
        load = HttpLoad(f"load-{name}", self._directory, core=self._cores.load, port=subject.port)
        self._stack.push_async_callback(load.stop)
        await load.start()
        secret = self._secret if subject.takes_tokens else None
        return Contender(subject, load, secret=secret, directory=self._directory, series=self._series)

    def _subject(self, name: str) -> Subject:
        directory, core = self._directory, self._cores.server
        night: PeerNight = self._night
        if name == "mercurius":
            return MercuriusPeer(directory, core=core, night=night)
        if name == "strawberry":
            return StrawberryPeer(directory, core=core, night=night)
        return DgsSubject(
            name,
            directory,
            core=core,
            setup=DgsSetup(self._schedule, self._secret),
            environment={"DGS_RECOMMENDATIONS": "catalog"}
            if name == COLD
            else {"DGS_MATERIALISED_PATH": str(self.materialised)},
            takes_tokens=name != WITHOUT_TOKENS,
            form=self._form,
        )


def fresh_profile(series: int) -> Callable[[int], str]:
    """Ids nobody asked for before and nothing was materialised for."""
    return lambda number: profile_id(1_000_000 * (series + 1) + number)
