"""The floor: `floor.c` as a subject. It checks nothing and knows no topic; no server can be cheaper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from contract.broadcast import Broadcast
from contract.tokens import KeyRing
from device_sim.wire import TEXT
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.peers.frames import server_frame
from loadtest.bench.peers.programs import compiled
from loadtest.bench.push.dialect import Dialect, bare
from loadtest.bench.push.line_member import LineMember

__all__ = ["FloorPeer"]


class FloorPeer(LineMember):
    role: ClassVar[str] = "floor"
    does: ClassVar[str] = "accept, one fixed answer; nothing checked, nothing replayed"

    def __init__(self, directory: Path, *, core: int) -> None:
        super().__init__("floor", directory, core=core)
        self._path: Path | None = None
        self._port = 0

    @property
    def port(self) -> int:
        return self._port

    @property
    def dialect(self) -> Dialect:
        return bare("/")

    @property
    def token_ring(self) -> KeyRing | None:
        return None

    async def prepare(self) -> None:
        self._path = await compiled("floor")

    def program(self) -> Sequence[str]:
        assert self._path is not None, "prepared first"
        return [str(self._path)]

    def ready(self, said: Mapping[str, Any]) -> None:
        self._port = int(said["port"])

    async def publish(self, broadcast: Broadcast, payload: bytes) -> None:
        found = await self.ask(f"send {server_frame(TEXT, payload).hex()}")
        if found["blocked"]:
            raise CouldNotRun(f"floor: {found['blocked']} sockets took no more")
