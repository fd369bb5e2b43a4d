"""The DGS and nothing else in a process: `python -m loadtest.bench.prefetch.dgs_child SETUP`.

It is composed as `stagecue dgs` composes it, with settings from the environment, their defaults in production. Its
store alone is another: memory, with the one schedule of SETUP. It says {"port":N}, answers each line on standard input,
and ends with it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from contract.kv.memory import MemoryReplayLog, MemoryScheduleView
from contract.runtime.asgi import listen_on
from contract.runtime.runner import Readiness, run_process, run_services
from contract.runtime.system_clock import SystemClock
from contract.runtime.telemetry import configure_logging
from contract.tokens import KeyRing, new_key_ring
from dgs.adapters.materialised_file import FileMaterialised
from dgs.app import build_dgs
from dgs.settings import DgsSettings
from loadtest.bench.prefetch.dgs_setup import DgsSetup

__all__ = ["main"]


async def _run(setup: DgsSetup, stop: asyncio.Event) -> None:
    clock, readiness = SystemClock(), Readiness()
    view = MemoryScheduleView()
    await view.put(setup.schedule)
    async with AsyncExitStack() as stack:
        sock = stack.enter_context(listen_on("127.0.0.1", 0))
        settings = DgsSettings()

        def open_store(catalog: Callable[[], str]) -> FileMaterialised:
            assert settings.materialised_path is not None
            store = FileMaterialised(settings.materialised_path, clock, catalog=catalog)
            stack.push_async_callback(store.aclose)
            return store

        dgs = build_dgs(
            settings,
            schedule_view=view,
            replay_log=MemoryReplayLog(),
            device_ring=new_key_ring("stagecue.device"),
            profile_ring=KeyRing("stagecue.profile", {setup.secret.kid: setup.secret.key}, setup.secret.kid),
            clock=clock,
            readiness=readiness,
            open_store=open_store if settings.materialised_path is not None else None,
        )
        stack.push_async_callback(dgs.aclose)
        asyncio.get_running_loop().add_reader(0, _told, stop)

        async def say() -> None:
            _print({"port": sock.getsockname()[1]})

        await run_services([*dgs.services, dgs.server(sock)], stop=stop, on_ready=say, on_stopping=readiness.stopping)


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
