"""More push nodes than the cluster's own: real, with real links, several in a process, since others are measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final

from loadtest.bench.cluster.scene import Scene
from loadtest.cluster.member import Member
from loadtest.cluster.ports import BLOCK, PortBlocks, reserve_ports

__all__ = ["MoreNodes", "PushHost"]

_PER_PROCESS: Final = 16


class PushHost(Member):
    """Several push nodes in one process: `python -m stagecue.apart.push_host`."""

    role: ClassVar[str] = "push-host"
    captures_output: ClassVar[bool] = True
    ready_within_s: ClassVar[float] = 60.0

    def __init__(self, name: str, directory: Path, *, data_dir: Path, port_base: int, nodes: int) -> None:
        super().__init__(name, directory)
        self.data_dir = data_dir
        self.port_bases = [port_base + number * BLOCK for number in range(nodes)]

    @property
    def stream_urls(self) -> list[str]:
        return [f"ws://127.0.0.1:{base + 2}/v1/stream" for base in self.port_bases]

    def command(self) -> Sequence[str]:
        bases = ",".join(str(base) for base in self.port_bases)
        return [sys.executable, "-m", "stagecue.apart.push_host", "--data-dir", str(self.data_dir), "--bases", bases]

    async def until_ready(self) -> None:
        if not await self.first_line():
            await self.wait()  # its end is what is reported


class MoreNodes:
    """`async with MoreNodes(scene, 12) as stream_urls`: that many more nodes inside, gone afterwards."""

    def __init__(self, scene: Scene, nodes: int) -> None:
        self._scene = scene
        self._nodes = nodes
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> list[str]:
        """Raises CouldNotRun."""
        try:
            return await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> list[str]:
        scene = self._scene
        ports: PortBlocks = self._stack.enter_context(reserve_ports(self._nodes))
        urls: list[str] = []
        for first in range(0, self._nodes, _PER_PROCESS):
            name = f"push-host-{next(scene.numbers)}"
            host = PushHost(
                name,
                scene.directory / name,
                data_dir=scene.cluster.data_dir,
                port_base=ports[first],
                nodes=min(_PER_PROCESS, self._nodes - first),
            )
            host.environment = scene.cluster.service_environment(scene.cluster.nodes[0])
            # Each node names itself after its port.
            host.environment["PUSH_NODE_ID"] = ""
            await self._stack.enter_async_context(host)
            urls += host.stream_urls
        return urls
