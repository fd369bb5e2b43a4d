"""Plain strawberry on uvicorn as a subject; what runs in its process is `strawberry_child`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from loadtest.bench.prefetch.asking import DOCUMENT, Form
from loadtest.bench.prefetch.peer_night import PeerNight
from loadtest.bench.push.line_member import LineMember

__all__ = ["StrawberryPeer"]


class StrawberryPeer(LineMember):
    role: ClassVar[str] = "strawberry"
    does: ClassVar[str] = "HS256 verified, whole document (parsed and validated once), objects from memory"
    takes_tokens: ClassVar[bool] = True

    def __init__(self, directory: Path, *, core: int, night: PeerNight) -> None:
        super().__init__("strawberry", directory, core=core)
        self._night = night
        self._port = 0

    @property
    def port(self) -> int:
        return self._port

    @property
    def form(self) -> Form:
        return DOCUMENT

    def program(self) -> Sequence[str]:
        return [sys.executable, "-m", "loadtest.bench.peers.strawberry_child", str(self._night.path)]

    def ready(self, said: Mapping[str, Any]) -> None:
        self._port = int(said["port"])
