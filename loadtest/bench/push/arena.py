"""All servers under test side by side, each with its own devices, on the benchmark's two cores."""

from __future__ import annotations

import math
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from device_sim.client import now_ms
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.peers.floor import FloorPeer
from loadtest.bench.peers.nchan import NchanPeer
from loadtest.bench.peers.websockets_peer import WebsocketsPeer
from loadtest.bench.push.chain import Chain
from loadtest.bench.push.contender import Contender
from loadtest.bench.push.cores import Cores
from loadtest.bench.push.defaults import live_ack, production
from loadtest.bench.push.dialect import EVENTS, GRAPHQL, STREAM
from loadtest.bench.push.load import LoadProcess
from loadtest.bench.push.node import PushNodeSubject
from loadtest.bench.push.rings import new_rings
from loadtest.bench.push.subject import Subject
from loadtest.open_files import raise_file_limit

__all__ = ["OURS", "PEERS", "VARIANTS", "Arena", "check_peers", "make_room_for", "open_arena", "open_variant"]

OURS: Final = "stagecue"
PEERS: Final = ("floor", "websockets", "nchan")
VARIANTS: Final = ("eddsa", "graphql", "sse")
"""Our node again, its devices with tokens of another kind, or speaking another protocol."""
_DIALECTS: Final = {"graphql": GRAPHQL, "sse": EVENTS}
_OTHER_FILES: Final = 200
"""Files a process needs besides its sockets, generously."""
_FIRST_BLOCK: Final = 41
"""127.41.y.z and on: no service listens there."""


class Arena:
    """`contenders[0]` is ours."""

    def __init__(self, contenders: Sequence[Contender], cores: Cores) -> None:
        self.contenders = tuple(contenders)
        self.cores = cores

    @property
    def ours(self) -> Contender:
        return self.contenders[0]

    def turn(self, number: int) -> Sequence[Contender]:
        """The order of a round: each begins with another, so that no server always comes after the same one."""
        start = number % len(self.contenders)
        return self.contenders[start:] + self.contenders[:start]


def check_peers(named: str) -> tuple[str, ...]:
    """The peers of a comma-separated option, each once. Raises CouldNotRun for one nobody knows."""
    peers = tuple(dict.fromkeys(part.strip() for part in named.split(",") if part.strip()))
    for peer in peers:
        if peer not in PEERS:
            raise CouldNotRun(f"--peers: {peer} is none of {', '.join(PEERS)}")
    return peers


def make_room_for(devices: int) -> None:
    """Have every process started from now on open as many files as it may. Raises CouldNotRun when that is too few."""
    most = min(raise_file_limit() - _OTHER_FILES, production().max_connections)
    if not 1 <= devices <= most:
        raise CouldNotRun(f"--devices: 1 to {most}, which one process may hold here")


@asynccontextmanager
async def open_arena(
    peers: Sequence[str],
    *,
    devices: int,
    addresses: int | None,
    cores: Cores,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Arena]:
    """Start our node, the peers and the devices' processes; nobody is connected yet. Raises CouldNotRun."""
    async with AsyncExitStack() as stack:
        room = _Room(stack, cores, devices, addresses, environment)
        yield Arena([await room.enter(name) for name in (OURS, *peers)], cores)


@asynccontextmanager
async def open_variant(
    variant: str,
    *,
    devices: int,
    addresses: int | None,
    cores: Cores,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Contender]:
    """A fresh node of ours for one of VARIANTS alone. Raises CouldNotRun."""
    async with AsyncExitStack() as stack:
        yield await _Room(stack, cores, devices, addresses, environment).enter(variant)


class _Room:
    """Where servers under test are started; the stack ends them."""

    def __init__(
        self,
        stack: AsyncExitStack,
        cores: Cores,
        devices: int,
        addresses: int | None,
        environment: Mapping[str, str] | None,
    ) -> None:
        self._stack = stack
        self._cores = cores
        self._devices = devices
        self._addresses = addresses
        self._environment = environment
        self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stagecue-bench-")))
        self._rings = new_rings()
        self._block = _FIRST_BLOCK

    async def enter(self, name: str) -> Contender:
        """Start it and its devices' process, and see what memory it has before anybody connects."""
        # A chain each: a node that did not get all of its own would rightly look for what is missing.
        chain = Chain(now_ms, ack=live_ack(), guarded=True)
        subject = self._subject(name, chain)
        self._stack.push_async_callback(subject.stop)
        await subject.start()
        load = LoadProcess(
            f"load-{name}", self._directory, core=self._cores.load, port=subject.port, devices=self._devices,
            block=self._block, dialect=subject.dialect, addresses=self._addresses,
        )  # fmt: skip
        self._block += 1
        self._stack.push_async_callback(load.stop)
        await load.start()
        contender = Contender(
            subject,
            load,
            chain=chain,
            directory=self._directory,
            connects_per_s=production().handshakes_per_s if name not in PEERS else math.inf,
        )
        await contender.take_baseline()
        return contender

    def _subject(self, name: str, chain: Chain) -> Subject:
        directory, core, rings = self._directory, self._cores.server, self._rings
        if name == "floor":
            return FloorPeer(directory, core=core)
        if name == "nchan":
            return NchanPeer(directory, core=core)
        if name == "websockets":
            return WebsocketsPeer(directory, core=core, rings=rings)
        if name == "eddsa":
            rings = rings.with_eddsa()
        return PushNodeSubject(
            directory, core=core, rings=rings, chain=chain, name=name, environment=self._environment,
            dialect=_DIALECTS.get(name, STREAM), token_ring=rings.eddsa_ring() if name == "eddsa" else None,
        )  # fmt: skip
