"""An ASGI application as a runner Service: uvicorn inside our loop, without its signal handlers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import uvicorn

__all__ = ["AsgiService", "listen_on"]


def listen_on(host: str, port: int, *, backlog: int = 4096, shared: bool = False) -> socket.socket:
    """A bound, listening TCP socket; port 0 picks a free one. Raises OSError naming the address.

    `shared`: other processes of the same user may listen there, too, each with a queue of its own (SO_REUSEPORT).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((host, port))
        sock.listen(backlog)
    except OSError as exc:
        sock.close()
        raise OSError(exc.errno, f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    sock.setblocking(False)
    return sock


class AsgiService:
    """Serves `app` on `sock` until stopped, then lets requests in progress finish within `drain_s`."""

    def __init__(self, name: str, app: Any, sock: socket.socket, *, drain_s: float = 5.0) -> None:
        self.name = name
        self._app = app
        self._sock = sock
        self._drain_s = drain_s

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        server = _make_server(self._app, self._drain_s)
        serving = asyncio.create_task(server.serve(sockets=[self._sock]), name=f"{self.name}.uvicorn")
        try:
            while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn offers a flag, not an event
                await asyncio.sleep(0.005)
            ready.set()
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
        finally:
            server.should_exit = True
            await serving


def _make_server(app: Any, drain_s: float) -> uvicorn.Server:
    import uvicorn

    class Embedded(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # the runner owns the signals

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(drain_s)),
        server_header=False,
        date_header=False,
    )
    return Embedded(config)
