"""The `websockets` package as a subject; what runs in its process is `websockets_child`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from contract.broadcast import Broadcast
from contract.tokens import KeyRing
from loadtest.bench.push.chain import TOPICS
from loadtest.bench.push.dialect import STREAM, Dialect, Marker
from loadtest.bench.push.line_member import LineMember
from loadtest.bench.push.rings import NodeRings

__all__ = ["WebsocketsPeer"]


class WebsocketsPeer(LineMember):
    role: ClassVar[str] = "websockets"
    does: ClassVar[str] = "upgrade, token verified, subscribe parsed, continuity, 1 replayed"

    def __init__(self, directory: Path, *, core: int, rings: NodeRings) -> None:
        super().__init__("websockets", directory, core=core)
        self._rings = rings
        self._port = 0

    @property
    def port(self) -> int:
        return self._port

    @property
    def dialect(self) -> Dialect:
        markers = (Marker(len(TOPICS), '"verdict":"complete"'), Marker(1, '"type":"broadcast"'))
        return STREAM._replace(ready_when=markers)

    @property
    def token_ring(self) -> KeyRing | None:
        return self._rings.device_ring()

    def program(self) -> Sequence[str]:
        return [sys.executable, "-m", "loadtest.bench.peers.websockets_child", str(self._rings_path)]

    async def prepare(self) -> None:
        self._rings_path.touch(mode=0o600)
        self._rings_path.write_bytes(msgspec.json.encode(self._rings))

    def ready(self, said: Mapping[str, Any]) -> None:
        self._port = int(said["port"])

    async def publish(self, broadcast: Broadcast, payload: bytes) -> None:
        await self.ask(f"send {payload.decode()}")

    @property
    def _rings_path(self) -> Path:
        return self.directory / f"{self.name}.rings.json"
