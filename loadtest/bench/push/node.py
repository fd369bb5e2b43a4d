"""Our push node as a subject: its process, linked to a feed."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from contract.broadcast import Broadcast
from contract.errors import NodeUnreachable
from contract.runtime.link_handshake import NodeIdentity
from contract.tokens import KeyRing
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.push.chain import Chain
from loadtest.bench.push.dialect import STREAM, Dialect
from loadtest.bench.push.feed import NodeFeed
from loadtest.bench.push.line_member import LineMember
from loadtest.bench.push.rings import NodeReady, NodeRings

__all__ = ["PushNodeSubject"]

_SETTINGS_PREFIX: Final = "PUSH_"
_OF_THE_INTERNET: Final = {"PUSH_EXEMPT_NETWORKS": ""}
"""Devices' loopback addresses stand for those of homes: limited per address, as homes are, and not as proxies."""


class PushNodeSubject(LineMember):
    """Production defaults: settings of the caller's environment do not reach it, only what is given here."""

    role: ClassVar[str] = "push"
    does: ClassVar[str] = "upgrade, token verified, 2 topics, continuity, 1 replayed"

    def __init__(
        self,
        directory: Path,
        *,
        core: int,
        rings: NodeRings,
        chain: Chain,
        name: str = "stagecue",
        environment: Mapping[str, str] | None = None,
        shared_port: int = 0,
        dialect: Dialect = STREAM,
        token_ring: KeyRing | None = None,
    ) -> None:
        """`shared_port`: where other nodes listen for devices as well; 0: a port of its own.

        `token_ring`: signs devices' tokens; None: the node's own.
        """
        super().__init__(name, directory, core=core, environment={**_OF_THE_INTERNET, **(environment or {})})
        self.rings = rings
        self._chain = chain
        self._shared_port = shared_port
        self._dialect = dialect
        self._token_ring = token_ring or rings.device_ring()
        self._said: NodeReady | None = None
        self.feed: NodeFeed | None = None

    @property
    def port(self) -> int:
        assert self._said is not None, "not started"
        return self._said.port

    @property
    def dialect(self) -> Dialect:
        return self._dialect

    @property
    def token_ring(self) -> KeyRing | None:
        return self._token_ring

    def program(self) -> Sequence[str]:
        inherited = [name for name in os.environ if name.startswith(_SETTINGS_PREFIX)]
        unset = [part for name in inherited if name not in self.environment for part in ("-u", name)]
        return [
            "env",
            *unset,
            sys.executable,
            "-m",
            "loadtest.bench.push.node_child",
            str(self._rings_path),
            str(self._shared_port),
        ]

    async def prepare(self) -> None:
        self._rings_path.touch(mode=0o600)
        self._rings_path.write_bytes(msgspec.json.encode(self.rings))

    def ready(self, said: Mapping[str, Any]) -> None:
        self._said = msgspec.convert(said, NodeReady)

    async def start(self, *, within_s: float | None = None) -> None:
        """Started, linked, and told what happened before."""
        await super().start(within_s=within_s)
        said = self._said
        assert said is not None
        try:
            node = NodeIdentity(said.node_id, said.incarnation)
            self.feed = await NodeFeed.open(said.link, ring=self.rings.link_ring(), node=node)
            await (await self.feed.deliver(self._chain.history, self._chain.schedules))
        except NodeUnreachable as exc:
            await self.stop()
            raise CouldNotRun(f"{self.name}: {exc}{self.log_end()}") from exc
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> int | None:
        feed, self.feed = self.feed, None
        if feed is not None:
            await feed.close()
        return await super().stop()

    async def publish(self, broadcast: Broadcast, payload: bytes) -> None:
        assert self.feed is not None
        try:
            await self.feed.deliver((broadcast,))
        except NodeUnreachable as exc:
            raise CouldNotRun(f"{self.name}: {exc}{self.log_end()}") from exc

    @property
    def _rings_path(self) -> Path:
        return self.directory / f"{self.name}.rings.json"
