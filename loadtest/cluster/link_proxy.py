"""A TCP proxy that can be told to misbehave: what stands between two ends when a network, not a process, fails.

    async with LinkProxy("127.0.0.1", 8403) as proxy:
        ...                     # connect to proxy.address
        proxy.drop()            # a black hole both ways: nothing arrives, nothing is refused
        proxy.resume()          # what was held arrives, in order, as after TCP's retransmissions
        await proxy.cut()       # every connection ends in the middle of its next message

TCP loses no byte in the middle of a stream, so a black hole here holds back and never discards. It holds back the end
of a connection too: one side may close while the other goes on believing in it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final, Literal

__all__ = ["Direction", "LinkProxy"]

Direction = Literal["to_target", "to_client"]

_CHUNK: Final = 65_536
_MAX_CHUNKS: Final = 256
"""Chunks held of one direction of one connection; beyond them the sender's socket fills, as it would on a network."""
_CONNECT_S: Final = 5.0


class LinkProxy:
    """Forwards every connection made to `address` to the target; each fault holds for all of them, until `resume`.

    Runs in the caller's event loop. Faults may be set from any task of that loop at any time.
    """

    def __init__(self, target_host: str, target_port: int, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._target = (target_host, target_port)
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._gates: dict[Direction, asyncio.Event] = {"to_target": asyncio.Event(), "to_client": asyncio.Event()}
        self._delay_s = 0.0
        self._connections: dict[_Connection, asyncio.Task[None]] = {}
        self.accepted = 0
        """Connections made to the proxy so far."""
        self.resume()

    # Life.

    async def start(self) -> None:
        """Listen. Raises OSError if the address cannot be bound."""
        self._server = await asyncio.start_server(self._accept, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and abort every connection; idempotent."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None
        tasks = list(self._connections.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> LinkProxy:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    @property
    def host(self) -> str:
        return self._host

    @property
    def port(self) -> int:
        """The port listened on, the one picked if none was given; valid after `start`."""
        return self._port

    @property
    def address(self) -> str:
        """`host:port`, what is to be connected to instead of the target."""
        return f"{self._host}:{self._port}"

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._connections)

    # Faults.

    def resume(self) -> None:
        """No fault any more (mode *pass*): what was held back arrives, in order."""
        self._delay_s = 0.0
        for gate in self._gates.values():
            gate.set()

    def drop(self) -> None:
        """Nothing arrives on either side, new connections included (mode *drop*)."""
        for gate in self._gates.values():
            gate.clear()

    def half(self, silent: Direction = "to_target") -> None:
        """Nothing arrives in the `silent` direction, the other one works (mode *half*)."""
        for direction, gate in self._gates.items():
            if direction == silent:
                gate.clear()
            else:
                gate.set()

    def delay(self, delay_ms: float) -> None:
        """Everything arrives `delay_ms` late, both ways, in order and at full throughput (mode *delay*)."""
        assert delay_ms >= 0
        self.resume()
        self._delay_s = delay_ms / 1000

    async def cut(self) -> int:
        """End every open connection after half of its next chunk (mode *cut*); returns how many there were.

        Waits until all of them are gone: a link has heartbeats, so that something always flows. New ones pass.
        """
        doomed = list(self._connections.items())
        for connection, _ in doomed:
            connection.cut_next = True
        if doomed:
            await asyncio.wait([task for _, task in doomed])
        return len(doomed)

    def reset(self) -> int:
        """End every open connection at once, with whatever is held of it; returns how many there were."""
        doomed = list(self._connections.values())
        for task in doomed:
            task.cancel()
        return len(doomed)

    # What a connection asks.

    @property
    def delay_s(self) -> float:
        return self._delay_s

    def gate(self, direction: Direction) -> asyncio.Event:
        """Set while bytes may arrive in this direction."""
        return self._gates[direction]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection(self, reader, writer)
        task = asyncio.get_running_loop().create_task(
            connection.run(*self._target), name=f"link-proxy-{self._port}-{self.accepted}"
        )
        self._connections[connection] = task
        task.add_done_callback(lambda _: self._connections.pop(connection, None))


class _Cut(Exception):
    """This connection is to end in the middle of a message."""


class _Connection:
    def __init__(self, proxy: LinkProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self.cut_next = False

    async def run(self, target_host: str, target_port: int) -> None:
        onward: asyncio.StreamWriter | None = None
        try:
            await self._proxy.gate("to_target").wait()  # a black hole answers no SYN
            async with asyncio.timeout(_CONNECT_S):
                back, onward = await asyncio.open_connection(target_host, target_port)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward("to_target", self._reader, onward), name="link-proxy-to-target")
                group.create_task(self._forward("to_client", back, self._writer), name="link-proxy-to-client")
        except* (OSError, TimeoutError, _Cut):
            pass  # either side is gone, or was never there: so is the other
        finally:
            for writer in (self._writer, onward):
                if writer is not None:
                    writer.transport.abort()

    async def _forward(self, direction: Direction, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        """Read ahead of what may arrive, so that a delay costs no throughput; ends both ways with an error."""
        line = _Line()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(source, line), name=f"link-proxy-read-{direction}")
            group.create_task(self._write(direction, line, to), name=f"link-proxy-write-{direction}")

    async def _read(self, source: asyncio.StreamReader, line: _Line) -> None:
        loop = asyncio.get_running_loop()
        while True:
            chunk = b""
            with suppress(ConnectionError):  # a reset ends the stream like any other end
                chunk = await source.read(_CHUNK)
            await line.put(loop.time() + self._proxy.delay_s, chunk)
            if not chunk:
                return

    async def _write(self, direction: Direction, line: _Line, to: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s, chunk = await line.get()
            if (early_s := due_s - loop.time()) > 0:
                await asyncio.sleep(early_s)
            await self._proxy.gate(direction).wait()
            if self.cut_next and chunk:
                to.write(chunk[: len(chunk) // 2])
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await to.drain()
                raise _Cut
            if not chunk:
                raise _Cut  # a link that one side closed is over for both
            to.write(chunk)
            await to.drain()


class _Line:
    """Chunks on their way in one direction, bounded, each with the moment at which it may arrive."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._changed = asyncio.Condition()

    async def put(self, due_s: float, chunk: bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._chunks) < _MAX_CHUNKS)
            self._chunks.append((due_s, chunk))
            self._changed.notify_all()

    async def get(self) -> tuple[float, bytes]:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._chunks))
            taken = self._chunks.popleft()
            self._changed.notify_all()
            return taken
