"""The DGS and nothing else in a process: `python -m loadtest.bench.prefetch.dgs_child SETUP`.

It is composed as `stagecue dgs` composes it, with settings from the environment, their defaults in production. Its
store alone is another: memory, with the one schedule of SETUP. It says {"port":N}, answers each line on standard input,
and ends with it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

from contract.kv.memory import MemoryReplayLog, MemoryScheduleView
from contract.runtime.asgi import listen_on
from contract.runtime.runner import Readiness, run_process, run_services
from contract.runtime.system_clock import SystemClock
from contract.runtime.telemetry import configure_logging
from contract.tokens import KeyRing, new_key_ring
from dgs.app import build_dgs
from dgs.http.asgi_bridge import AsgiBridge
from dgs.http.limits import ServerLimits
from dgs.http.server import DgsServer
from dgs.settings import DgsSettings
from loadtest.bench.prefetch.dgs_setup import DgsSetup

__all__ = ["main"]

_LONGER_S: Final = 2.0
"""As in stagecue.prefetch_part."""


async def _run(setup: DgsSetup, stop: asyncio.Event) -> None:
    clock, readiness = SystemClock(), Readiness()
    view = MemoryScheduleView()
    await view.put(setup.schedule)
    async with AsyncExitStack() as stack:
        sock = stack.enter_context(listen_on("127.0.0.1", 0))
        settings = DgsSettings()
        app = build_dgs(
            settings,
            schedule_view=view,
            replay_log=MemoryReplayLog(),
            device_ring=new_key_ring("stagecue.device"),
            profile_ring=KeyRing("stagecue.profile", {setup.secret.kid: setup.secret.key}, setup.secret.kid),
            clock=clock,
            readiness=readiness,
        )
        asyncio.get_running_loop().add_reader(0, _told, stop)

        async def say() -> None:
            _print({"port": sock.getsockname()[1]})

        server = DgsServer(
            sock,
            endpoint=AsgiBridge(app, deadline_s=settings.request_timeout_s + _LONGER_S),
            limits=ServerLimits.of(settings),
            clock=clock,
            readiness=readiness,
        )
        await run_services([server], stop=stop, on_ready=say, on_stopping=readiness.stopping)


def _told(stop: asyncio.Event) -> None:
    said = os.read(0, 4096)
    if not said:
        asyncio.get_running_loop().remove_reader(0)
        stop.set()
    for _ in range(said.count(b"\n")):
        _print({})


def _print(said: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    setup = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=DgsSetup)
    configure_logging(level="INFO", form="json", service="dgs")
    return run_process(lambda stop: _run(setup, stop))


if __name__ == "__main__":
    sys.exit(main())
