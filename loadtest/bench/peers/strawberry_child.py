"""Stage maps by a plain strawberry schema on uvicorn: `python -m loadtest.bench.peers.strawberry_child NIGHT`.

What one would write with that package: typed classes, its own ASGI application, PyJWT for the tokens, caches for parsed
and validated documents. No metrics, no limits, no shedding. NIGHT is a file of `prefetch/peer_night.py`. It says
{"port":N} and ends with its input.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import Any, Final, NewType

import jwt
import msgspec
import numpy as np
import strawberry
from starlette.applications import Starlette
from starlette.routing import Route
from strawberry.asgi import GraphQL
from strawberry.extensions import ParserCache, ValidationCache
from strawberry.schema.config import StrawberryConfig

from contract.runtime.asgi import AsgiService, listen_on
from contract.runtime.runner import run_process, run_services

__all__ = ["main"]

_LEEWAY_S: Final = 5
Timestamp = NewType("Timestamp", int)


@strawberry.input
class DeviceContext:
    kind: str
    screen: str | None = None
    locale: str | None = None


@strawberry.type
class Title:
    id: strawberry.ID
    name: str


@strawberry.type
class Row:
    heading: str
    titles: list[Title]


@strawberry.type
class StageEntry:
    key: str
    starts_at: Timestamp | None
    headline: str
    rows: list[Row]


@strawberry.type
class LiveEvent:
    id: strawberry.ID
    title: str
    topic: str


@strawberry.type
class StageMap:
    event: LiveEvent
    version: int
    revision: int
    ttl_seconds: int
    server_time: Timestamp
    stages: list[StageEntry]


class _Night:
    """What it serves, from memory."""

    def __init__(self, path: Path) -> None:
        self.said: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        self._cells = np.fromfile(path.parent / self.said["cells"], dtype="<u4").reshape(-1, self.said["width"])
        self._which = np.fromfile(path.parent / self.said["which"], dtype="u1")
        self._titles = [Title(id=strawberry.ID(id), name=name) for id, name in self.said["titles"]]
        self._numbers = {f"{self.said['prefix']}{number}": number for number in range(self.said["profiles"])}
        self.event = LiveEvent(**self.said["event"])
        self._key = b64decode(self.said["secret"])

    def check(self, request: Any, profile: str) -> None:
        """Raises what becomes a GraphQL error unless the token is for that profile."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        audience = self.said["audience"]
        claims = jwt.decode(token, self._key, algorithms=["HS256"], audience=audience, leeway=_LEEWAY_S)
        if claims["sub"] != profile:
            raise PermissionError("the token is for another profile")

    def stages(self, profile: str) -> list[StageEntry]:
        number = self._numbers[profile]
        cells = iter(self._cells[number].tolist())
        titles = self._titles
        return [
            StageEntry(
                key=stage["key"],
                starts_at=stage["startsAt"],
                headline=stage["headline"],
                rows=[
                    Row(
                        heading=self.said["because"] + titles[next(cells)].name if row["because"] else row["heading"],
                        titles=[titles[next(cells)] for _ in range(row["titles"])],
                    )
                    for row in stage["rows"]
                ],
            )
            for stage in self.said["layouts"][self._which[number]]
        ]


def _schema(night: _Night) -> strawberry.Schema:
    said = night.said
    low, high = said["ttl_s"]

    def prefetch_event(
        info: strawberry.Info, event_id: strawberry.ID, profile_id: strawberry.ID, device: DeviceContext | None = None
    ) -> StageMap:
        night.check(info.context["request"], profile_id)
        if event_id != night.event.id:
            raise LookupError("no such event")
        return StageMap(
            event=night.event,
            version=said["version"],
            revision=said["revision"],
            ttl_seconds=random.randrange(low, high),
            server_time=Timestamp(time.time_ns() // 1_000_000),
            stages=night.stages(profile_id),
        )

    query = strawberry.type(type("Query", (), {"prefetch_event": strawberry.field(resolver=prefetch_event)}))
    scalars: dict[object, Any] = {Timestamp: strawberry.scalar(name="Timestamp", serialize=int, parse_value=int)}
    return strawberry.Schema(
        query=query, config=StrawberryConfig(scalar_map=scalars), extensions=[ParserCache, ValidationCache]
    )


async def _run(path: Path, stop: asyncio.Event) -> None:
    app = Starlette(routes=[Route("/graphql", GraphQL[Any, Any](_schema(_Night(path)), graphql_ide=None))])
    with listen_on("127.0.0.1", 0) as sock:
        asyncio.get_running_loop().add_reader(0, _end_of_input, stop)

        async def say() -> None:
            sys.stdout.buffer.write(msgspec.json.encode({"port": sock.getsockname()[1]}) + b"\n")
            sys.stdout.buffer.flush()

        await run_services([AsgiService("strawberry", app, sock)], stop=stop, on_ready=say)


def _end_of_input(stop: asyncio.Event) -> None:
    if not os.read(0, 4096):
        asyncio.get_running_loop().remove_reader(0)
        stop.set()


def main() -> int:
    return run_process(lambda stop: _run(Path(sys.argv[1]), stop))


if __name__ == "__main__":
    sys.exit(main())
