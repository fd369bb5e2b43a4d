"""Sockets on an epoll of their own: what protocols rely on of a transport, under both event loops."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from contract.runtime.socket_table import ServedListener, SocketTable, SocketTransport

pytestmark = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="epoll is Linux")
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]
MUCH = bytes(range(256)) * 40_000
"""Ten megabytes: more than any socket takes at once."""


class Recorder(asyncio.Protocol):
    """Keeps all it is told; a test changes what it answers."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.told: list[str] = []
        self.got = bytearray()
        self.lost: Exception | None = None
        self.over = asyncio.Event()
        self.keep_open = False
        self.fails = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, SocketTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.fails:
            raise RuntimeError("a protocol's own mistake")
        self.got += data

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.lost = exc
        self.over.set()


class Served:
    """A table that serves one port, and clients of it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.table = SocketTable(self.loop)
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.address = self.sock.getsockname()
        self.made: list[Recorder] = []
        self.listener: ServedListener = self.table.serve(self.sock, self._recorder)
        self.reports: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.reports.append(context["message"]))

    def _recorder(self, host: str) -> Recorder:
        self.made.append(Recorder(host))
        return self.made[-1]

    async def client(self) -> tuple[socket.socket, Recorder]:
        before = len(self.made)
        sock = socket.socket()
        sock.setblocking(False)
        await self.loop.sock_connect(sock, self.address)
        await eventually(lambda: len(self.made) > before)
        return sock, self.made[-1]

    async def read(self, sock: socket.socket, size: int) -> bytes:
        got = bytearray()
        async with asyncio.timeout(20):
            while len(got) < size:
                part = await self.loop.sock_recv(sock, 1 << 20)
                if not part:
                    break
                got += part
        return bytes(got)


def open_files() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}


async def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - whatever may happen
            await asyncio.sleep(0.005)


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    world = Served()
    try:
        yield world
    finally:
        world.table.close()
        await asyncio.sleep(0.02)


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Served], Awaitable[None]]], None]:
    """Runs a test's body on the loop in question; afterwards no file may be left open."""

    def body(main: Callable[[Served], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with served() as world:
                await main(world)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.sleep(0))  # whatever a loop opens once and for all
        before = open_files()
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(whole())
        assert open_files() == before, "files left open"

    return body


Run = Callable[[Callable[[Served], Awaitable[None]]], None]


def test_bytes_go_both_ways_and_the_end_is_told_once(run: Run) -> None:
    async def main(world: Served) -> None:
        clients = [await world.client() for _ in range(150)]  # more than one turn takes
        for number, (sock, protocol) in enumerate(clients):
            assert protocol.host == "127.0.0.1"
            await world.loop.sock_sendall(sock, b"%d" % number)
        await eventually(lambda: all(protocol.got for _, protocol in clients))
        for number, (sock, protocol) in enumerate(clients):
            assert protocol.got == b"%d" % number
            protocol.transport.write(b"and " + protocol.got)
            assert await world.read(sock, len(b"and %d" % number)) == b"and %d" % number
            sock.close()
        await eventually(lambda: all(protocol.over.is_set() for _, protocol in clients))
        assert all(protocol.told == ["eof", "lost"] and protocol.lost is None for _, protocol in clients)

    run(main)


def test_what_the_kernel_does_not_take_waits_and_is_told(run: Run) -> None:
    async def main(world: Served) -> None:
        sock, protocol = await world.client()
        protocol.transport.write(MUCH)
        assert protocol.told == ["pause"]
        waiting = protocol.transport.get_write_buffer_size()
        assert 0 < waiting < len(MUCH)
        protocol.transport.write(b"end")
        assert protocol.transport.get_write_buffer_size() == waiting + 3
        assert await world.read(sock, len(MUCH) + 3) == MUCH + b"end"
        await eventually(lambda: protocol.told == ["pause", "resume"])
        await world.loop.sock_sendall(sock, b"still here")
        await eventually(lambda: protocol.got == b"still here")
        sock.close()

    run(main)


def test_close_writes_what_waits_and_abort_does_not(run: Run) -> None:
    async def main(world: Served) -> None:
        for ending in ("close", "abort"):
            sock, protocol = await world.client()
            protocol.transport.write(MUCH)
            getattr(protocol.transport, ending)()
            protocol.transport.write(b"too late")
            assert protocol.transport.is_closing()
            assert not protocol.over.is_set(), "told in a turn of its own"
            if ending == "close":
                assert await world.read(sock, len(MUCH) + 1) == MUCH
            await asyncio.wait_for(protocol.over.wait(), 10)
            assert protocol.told[-1] == "lost"
            sock.close()

    run(main)


def test_the_end_of_writing_leaves_reading_open(run: Run) -> None:
    async def main(world: Served) -> None:
        for size in (5, len(MUCH)):
            sock, protocol = await world.client()
            protocol.transport.write(MUCH[:size])
            protocol.transport.write_eof()
            protocol.transport.write(b"too late")
            assert await world.read(sock, size + 1) == MUCH[:size]
            await world.loop.sock_sendall(sock, b"heard")
            await eventually(lambda protocol=protocol: protocol.got == b"heard")  # type: ignore[misc]
            sock.close()
            await asyncio.wait_for(protocol.over.wait(), 10)

    run(main)


def test_a_peer_that_ends_its_half_may_still_be_written_to(run: Run) -> None:
    async def main(world: Served) -> None:
        sock, protocol = await world.client()
        protocol.keep_open = True
        sock.shutdown(socket.SHUT_WR)
        await eventually(lambda: protocol.told == ["eof"])
        protocol.transport.write(MUCH)
        assert await world.read(sock, len(MUCH)) == MUCH
        protocol.transport.close()
        await asyncio.wait_for(protocol.over.wait(), 10)
        sock.close()

    run(main)


def test_a_reset_and_a_failing_protocol_end_their_own_connection_only(run: Run) -> None:
    async def main(world: Served) -> None:
        good, neighbour = await world.client()
        reset, gone = await world.client()
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        reset.close()
        await asyncio.wait_for(gone.over.wait(), 10)
        assert isinstance(gone.lost, ConnectionResetError)
        bad, failing = await world.client()
        failing.fails = True
        await world.loop.sock_sendall(bad, b"x")
        await asyncio.wait_for(failing.over.wait(), 10)
        assert world.reports == ["sockets: protocol failed"]
        assert await world.read(bad, 1) == b""
        bad.close()
        await world.loop.sock_sendall(good, b"fine")
        await eventually(lambda: neighbour.got == b"fine")
        good.close()

    run(main)


def test_a_connection_whose_ends_are_both_over_ends_whatever_its_protocol_says(run: Run) -> None:
    """Kept open for writing, then ended by us: the kernel reports it for ever, which must not keep the loop busy."""

    async def main(world: Served) -> None:
        sock, protocol = await world.client()
        protocol.keep_open = True
        sock.shutdown(socket.SHUT_WR)
        await eventually(lambda: protocol.told == ["eof"])
        protocol.transport.write_eof()
        await asyncio.wait_for(protocol.over.wait(), 10)
        assert protocol.told.count("eof") <= 2
        sock.close()

    run(main)


def test_whoever_cannot_be_served_is_closed_and_the_next_one_served(run: Run) -> None:
    async def main(world: Served) -> None:
        make, fails = world.listener._protocol, [True]

        def broken(host: str) -> Recorder:
            if fails.pop() if fails else False:
                raise RuntimeError("nobody to serve it")
            made = make(host)
            assert isinstance(made, Recorder)
            return made

        world.listener._protocol = broken
        turned_away = socket.create_connection(world.address, timeout=10)
        turned_away.setblocking(False)
        assert await world.loop.sock_recv(turned_away, 1) == b""
        assert world.reports == ["sockets: connection not served"]
        turned_away.close()
        sock, protocol = await world.client()
        await world.loop.sock_sendall(sock, b"fine")
        await eventually(lambda: protocol.got == b"fine")
        sock.close()

    run(main)


@pytest.mark.parametrize("ending", ["", "close", "write_eof"])
def test_much_may_be_written_as_soon_as_a_connection_is_made(run: Run, ending: str) -> None:
    class Talker(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.write(MUCH)
            if ending:
                getattr(self.transport, ending)()

    async def main(world: Served) -> None:
        world.listener._protocol = Talker
        sock = socket.socket()
        sock.setblocking(False)
        await world.loop.sock_connect(sock, world.address)
        assert await world.read(sock, len(MUCH)) == MUCH
        sock.close()

    run(main)


def test_out_of_files_it_asks_again_later_without_spinning(run: Run) -> None:
    async def main(world: Served) -> None:
        waiting = [socket.create_connection(world.address, timeout=10) for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            await asyncio.sleep(0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert world.reports == ["sockets: accept failed"]
        await eventually(lambda: len(world.made) == 3)
        for sock in waiting:
            sock.close()

    run(main)


def test_a_listener_that_closes_leaves_its_connections_and_a_duplicate_to_others(run: Run) -> None:
    async def main(world: Served) -> None:
        sock, protocol = await world.client()
        own = world.sock.dup()
        world.listener.close()
        world.listener.close()
        late = socket.create_connection(world.address, timeout=10)  # the duplicate still listens
        await asyncio.sleep(0.05)
        assert len(world.made) == 1
        accepted, _ = own.accept()
        world.table.take(accepted, world._recorder)
        late.sendall(b"late")
        await eventually(lambda: len(world.made) == 2 and world.made[1].got == b"late")
        own.close()
        await world.loop.sock_sendall(sock, b"on")
        await eventually(lambda: protocol.got == b"on")
        world.table.close()
        world.table.close()
        await eventually(lambda: all(each.over.is_set() for each in world.made))
        late.close()
        sock.close()

    run(main)


def test_options_and_protocols_can_be_changed(run: Run) -> None:
    async def main(world: Served) -> None:
        sock, protocol = await world.client()
        protocol.transport.set_option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1234)
        with socket.socket(fileno=os.dup(protocol.transport.fd)) as same:
            assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1234
            assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1, "inherited of the listener"
        successor = Recorder("")
        protocol.transport.set_protocol(successor)
        assert protocol.transport.get_protocol() is successor
        await world.loop.sock_sendall(sock, b"for you")
        await eventually(lambda: successor.got == b"for you")
        sock.close()
        await asyncio.wait_for(successor.over.wait(), 10)
        assert protocol.told == []

    run(main)


def test_a_paced_table_serves_as_well_and_goes_back(run: Run) -> None:
    async def main(world: Served) -> None:
        sock, protocol = await world.client()
        for pace_s in (0.002, 0.001, 0.0, 0.001):
            world.table.pace(pace_s)
            await world.loop.sock_sendall(sock, b"x")
            await eventually(lambda: protocol.got.endswith(b"x"))
            protocol.got.clear()
            others = [await world.client() for _ in range(70)]  # more than one look takes
            for other, _ in others:
                other.close()
            await eventually(lambda: all(each.over.is_set() for _, each in others))  # noqa: B023 - called at once
        sock.close()
        await eventually(lambda: protocol.over.is_set())

    run(main)


def test_a_paced_table_that_closes_looks_no_more(run: Run) -> None:
    async def main(world: Served) -> None:
        sock, _ = await world.client()
        world.table.pace(0.001)
        await asyncio.sleep(0.01)
        world.table.close()
        world.table.pace(0.002)
        await asyncio.sleep(0.01)
        assert world.reports == []
        sock.close()

    run(main)
