"""The end of a listener under load: nobody who connected is reset, with and without others on the port."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from contract.runtime import listening
from contract.runtime.asgi import listen_on

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]


@asynccontextmanager
async def crowd(port: int, clients: int = 8) -> AsyncIterator[Counter[str]]:
    """Threads that connect, ask and leave, over and over; what became of each connection is counted."""
    became: Counter[str] = Counter()
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                    connection.sendall(b"x")
                    became["answered" if connection.recv(1) == b"x" else "hung up on"] += 1
            except OSError as exc:
                became[type(exc).__name__] += 1

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield became
    finally:
        over.set()
        for thread in threads:
            await asyncio.to_thread(thread.join, 15)


def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], main: Callable[[], object]) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())  # type: ignore[arg-type]


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_closing_one_of_two_listeners_resets_nobody(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the kernel does not hand waiting connections over: five times, each with a queue that filled up."""
    monkeypatch.setattr(listening, "_kernel_migrates", lambda: False)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        staying = listen_on("127.0.0.1", 0, shared=True)
        port = staying.getsockname()[1]
        stays = await loop.create_server(Echo, sock=staying)
        async with crowd(port) as became:
            for _ in range(5):
                sock = listen_on("127.0.0.1", port, shared=True)
                server = await loop.create_server(Echo, sock=sock)
                await asyncio.sleep(0.05)
                time.sleep(0.03)  # noqa: ASYNC251 - the loop is busy: connections queue
                await listening.close_listener(server, sock, listening.to_the_loop(Echo), grace_s=0.1)
        stays.close()
        assert set(became) == {"answered"}, became
        assert became["answered"] > 50

    run(loop_factory, main)


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_whoever_waits_at_the_only_listener_is_served_and_the_next_is_refused_at_once(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """A port of one's own is not filtered: a refusal sends a device elsewhere faster than silence."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        sock = listen_on("127.0.0.1", 0)
        port = sock.getsockname()[1]
        server = await loop.create_server(Echo, sock=sock)
        waiting = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(20)]
        assert await listening.close_listener(server, sock, listening.to_the_loop(Echo)) == 20, (
            "none was accepted before: the loop was busy"
        )
        for connection in waiting:
            connection.sendall(b"x")
        for connection in waiting:
            assert await asyncio.to_thread(connection.recv, 1) == b"x"
            connection.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=10)

    run(loop_factory, main)


def test_a_request_for_a_connection_is_ignored_not_refused_while_a_shared_listener_ends() -> None:
    """And an established connection goes on through the filter it inherits."""
    with listen_on("127.0.0.1", 0, shared=True) as sock:
        address = sock.getsockname()
        assert listening.is_shared(sock)
        with socket.create_connection(address, timeout=10) as before:
            assert listening.refuse_new_connections(sock)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.3)
            accepted, _ = sock.accept()
            with accepted:
                accepted.setblocking(True)
                before.sendall(b"x")
                assert accepted.recv(1) == b"x"
    with listen_on("127.0.0.1", 0) as sock:
        assert not listening.is_shared(sock)


def test_a_cancelled_close_closes() -> None:
    """An abort must not leave the port taken."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        sock = listen_on("127.0.0.1", 0, shared=True)
        port = sock.getsockname()[1]
        server = await loop.create_server(Echo, sock=sock)
        closing = asyncio.create_task(listening.close_listener(server, sock, listening.to_the_loop(Echo), grace_s=60))
        await asyncio.sleep(0.05)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await asyncio.sleep(0.05)
        listen_on("127.0.0.1", port).close()  # unshared: only possible when nobody has it

    run(asyncio.new_event_loop, main)
