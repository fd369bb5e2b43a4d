"""A stream server on the `websockets` package and uvloop: `python -m loadtest.bench.peers.websockets_child RINGS`.

What one would write with that package: tokens verified in `process_request`, one subscribe answered with continuity
and the last broadcast, live ones through `broadcast()`. Compression is off (it would cost 64 KB a connection), and so
are the package's keepalive pings: both in its favour. No limits, no metrics, no accounting of slow consumers.
`send PAYLOAD` on standard input broadcasts; it answers {"sent":N} and ends with its input.
"""

from __future__ import annotations

import asyncio
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import Final

import msgspec
import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from contract.errors import BroadcastSystemError
from contract.frames import SUBPROTOCOL, ContinuityFrame, SubscribeFrame, decode_client_frame, encode_frame
from loadtest.bench.push.rings import NodeRings

__all__ = ["main"]

_LINE_MAX: Final = 65_536


class _Server:
    def __init__(self, rings: NodeRings) -> None:
        self._ring = rings.device_ring()
        self._subscribed: set[ServerConnection] = set()
        self._last = '{"type":"broadcast"}'

    def authenticate(self, connection: ServerConnection, request: Request) -> Response | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            self._ring.verify_device(token, now_s=time.time())
        except BroadcastSystemError as exc:
            return connection.respond(HTTPStatus.UNAUTHORIZED, str(exc))
        return None

    async def handle(self, connection: ServerConnection) -> None:
        try:
            frame = decode_client_frame(await connection.recv())
            if not isinstance(frame, SubscribeFrame):
                return
            for topic in frame.topics:
                await connection.send(encode_frame(ContinuityFrame(topic, "complete", "live", 0)), text=True)
            await connection.send(self._last)
            self._subscribed.add(connection)
            await connection.wait_closed()
        except (ConnectionClosed, BroadcastSystemError):
            return
        finally:
            self._subscribed.discard(connection)

    def send(self, payload: str) -> int:
        self._last = payload
        broadcast(self._subscribed, payload)
        return len(self._subscribed)


async def _run(rings: NodeRings) -> None:
    server = _Server(rings)
    reader = asyncio.StreamReader(limit=_LINE_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with serve(
        server.handle,
        "127.0.0.1",
        0,
        process_request=server.authenticate,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        ping_interval=None,
        server_header=None,
        backlog=4096,
    ) as listening:
        _say({"port": next(iter(listening.sockets)).getsockname()[1]})
        while line := await reader.readline():
            _say({"sent": server.send(line.decode().removeprefix("send ").rstrip("\n"))})


def _say(said: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    rings = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=NodeRings)
    uvloop.run(_run(rings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
