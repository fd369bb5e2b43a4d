"""Ranking services for tests: the one in examples/, and one that answers whatever a test tells it to."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
from aiohttp import web

__all__ = ["EXAMPLES", "Script", "Speaking", "example_module", "right", "serving", "speaking", "until"]

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "dgs_source"
Script = Callable[[dict[str, Any]], Awaitable[web.StreamResponse | dict[str, Any]]]


def example_module(path: str) -> ModuleType:
    """A file of examples/dgs_source as a module, without installing it."""
    name = f"example_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Its URL, on a free port, while the context lasts."""
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/rank"
    finally:
        await runner.cleanup()


class Speaking:
    """What was asked, and what is answered: set `script`."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.traceparents: list[str | None] = []
        self.under_way = 0
        self.most_under_way = 0
        self.script: Script = right

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked = msgspec.json.decode(await request.read())
        self.asked.append(asked)
        self.traceparents.append(request.headers.get("traceparent"))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            answer = await self.script(asked)
        finally:
            self.under_way -= 1
        return answer if isinstance(answer, web.StreamResponse) else web.json_response(answer)


async def right(asked: dict[str, Any]) -> dict[str, Any]:
    """Title `t0` for everybody, and one whose id is the profile's."""
    return {
        "recommendations": [
            {"profile": profile["id"], "ranked": [f"of-{profile['id']}", "t0"]} for profile in asked["profiles"]
        ]
    }


@asynccontextmanager
async def speaking() -> AsyncIterator[Speaking]:
    service = Speaking()
    app = web.Application()
    app.router.add_post("/rank", service.handle)
    async with serving(app) as service.url:
        yield service
        # Handlers that a test left asleep end with the runner.
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Until it holds, a few seconds at most."""
    for _ in range(5_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to hold")
