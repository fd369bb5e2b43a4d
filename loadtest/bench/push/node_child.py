"""A push node and nothing else in a process: `python -m loadtest.bench.push.node_child RINGS [PORT]`.

It is composed as `stagecue push` composes it, with settings from the environment, their defaults in production. Its
store alone is another: memory, written as each delivery arrives over the node link, since there is no router to write
Redis before. RINGS is a file of the device and the link ring. Devices connect to PORT, which other nodes may share, or
else a free port; the ready line says where it listens.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from contract.kv.memory import MemoryReplayLog, MemoryScheduleView
from contract.node_link import Deliver, LinkMessage, MessageChannel
from contract.runtime.asgi import listen_on
from contract.runtime.link_handshake import NodeIdentity
from contract.runtime.runner import Readiness, run_process, run_services
from contract.runtime.system_clock import SystemClock
from contract.runtime.telemetry import configure_logging
from contract.runtime.ws_channel import serve_links
from loadtest.bench.push.rings import NodeReady, NodeRings
from push_proxy.app import build_push_node
from push_proxy.settings import PushSettings

__all__ = ["main"]

_HOST = "127.0.0.1"


class _RecordingChannel:
    """A node link whose deliveries are in the store before the node sees them, as a router would have put them."""

    def __init__(self, channel: MessageChannel, log: MemoryReplayLog, view: MemoryScheduleView) -> None:
        self._channel = channel
        self._log = log
        self._view = view

    async def send(self, message: LinkMessage) -> None:
        await self._channel.send(message)

    async def receive(self) -> LinkMessage:
        message = await self._channel.receive()
        if isinstance(message, Deliver):
            for broadcast in message.broadcasts:
                await self._log.append(broadcast)
            for schedule in message.schedules:
                await self._view.put(schedule)
        return message

    def close(self) -> None:
        self._channel.close()


async def _run(rings: NodeRings, port: int, stop: asyncio.Event) -> None:
    clock, readiness, settings = SystemClock(), Readiness(), PushSettings()
    log, view = MemoryReplayLog(), MemoryScheduleView()
    async with AsyncExitStack() as stack:
        sock = stack.enter_context(listen_on(_HOST, port, backlog=settings.backlog, shared=port != 0))
        node = build_push_node(
            settings,
            replay_log=log,
            schedule_view=view,
            device_ring=rings.device_ring(),
            clock=clock,
            readiness=readiness,
            sock=sock,
        )
        link = await stack.enter_async_context(
            serve_links(
                _HOST,
                0,
                ring=rings.link_ring(),
                identity=NodeIdentity(node.node_id, node.incarnation),
                on_link=lambda channel, router_id: node.attach_router(_RecordingChannel(channel, log, view)),
            )
        )
        asyncio.get_running_loop().add_reader(0, _end_of_input, stop)

        async def say() -> None:
            _print(NodeReady(sock.getsockname()[1], link, node.node_id, node.incarnation))

        await run_services([node.service], stop=stop, on_ready=say, on_stopping=readiness.stopping)


def _end_of_input(stop: asyncio.Event) -> None:
    if not os.read(0, 4096):
        asyncio.get_running_loop().remove_reader(0)
        stop.set()


def _print(said: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    rings = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=NodeRings)
    configure_logging(level="INFO", form="json", service="push")
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    return run_process(lambda stop: _run(rings, port, stop))


if __name__ == "__main__":
    sys.exit(main())
