"""All servers under test side by side, each with its own devices, on the benchmark's two cores."""

from __future__ import annotations

import math
import resource
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from contract.frames import AckRequest
from device_sim.client import now_ms
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.peers.floor import FloorPeer
from loadtest.bench.peers.nchan import NchanPeer
from loadtest.bench.peers.websockets_peer import WebsocketsPeer
from loadtest.bench.push.chain import Chain
from loadtest.bench.push.contender import Contender
from loadtest.bench.push.cores import Cores
from loadtest.bench.push.load import LoadProcess
from loadtest.bench.push.node import PushNodeSubject
from loadtest.bench.push.rings import new_rings
from loadtest.bench.push.subject import Subject
from push_proxy.settings import PushSettings

__all__ = ["OURS", "PEERS", "Arena", "check_devices", "check_peers", "open_arena"]

OURS: Final = "stagecue"
PEERS: Final = ("floor", "websockets", "nchan")
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


def check_devices(devices: int) -> None:
    """Raises CouldNotRun when one process cannot hold them."""
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(files_max - _OTHER_FILES, PushSettings().max_connections)
    if not 1 <= devices <= most:
        raise CouldNotRun(f"--devices: 1 to {most}, which one process may hold here")


@asynccontextmanager
async def open_arena(
    peers: Sequence[str], *, devices: int, cores: Cores, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Arena]:
    """Start our node, the peers and the devices' processes; nobody is connected yet. Raises CouldNotRun."""
    defaults = PushSettings()
    ack = AckRequest(defaults.ack_one_in, defaults.ack_within_ms) if defaults.ack_one_in else None
    rings = new_rings()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stagecue-bench-")))
        # A chain each: a node that did not get all of its own would rightly look for what is missing.
        chains = [Chain(now_ms, ack=ack) for _ in range(1 + len(peers))]
        ours = PushNodeSubject(directory, core=cores.server, rings=rings, chain=chains[0], environment=environment)
        subjects: list[Subject] = [ours, *(_peer(name, directory, cores, ours) for name in peers)]
        contenders = []
        for number, (subject, chain) in enumerate(zip(subjects, chains, strict=True)):
            stack.push_async_callback(subject.stop)
            await subject.start()
            load = LoadProcess(
                f"load-{subject.name}", directory, core=cores.load, port=subject.port, devices=devices,
                block=_FIRST_BLOCK + number, ready_when=subject.ready_when,
            )  # fmt: skip
            stack.push_async_callback(load.stop)
            await load.start()
            contenders.append(
                Contender(
                    subject,
                    load,
                    chain=chain,
                    ring=rings.device_ring(),
                    directory=directory,
                    connects_per_s=defaults.handshakes_per_s if subject is ours else math.inf,
                )
            )
        for contender in contenders:
            await contender.take_baseline()
        yield Arena(contenders, cores)


def _peer(name: str, directory: Path, cores: Cores, ours: PushNodeSubject) -> Subject:
    if name == "floor":
        return FloorPeer(directory, core=cores.server)
    if name == "nchan":
        return NchanPeer(directory, core=cores.server)
    return WebsocketsPeer(directory, core=cores.server, rings=ours.rings)
