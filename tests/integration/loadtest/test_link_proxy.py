"""The proxy that misbehaves on purpose must misbehave exactly as told, and lose no byte otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from loadtest.cluster.link_proxy import LinkProxy


@asynccontextmanager
async def echo_behind_proxy() -> AsyncIterator[LinkProxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(4096):
            writer.write(chunk)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, LinkProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


class Ends(AsyncExitStack):
    """Opens connections through a proxy, and closes them at the end."""

    async def open(self, proxy: LinkProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        self.push_async_callback(self._close, writer)
        return reader, writer

    @staticmethod
    async def _close(writer: asyncio.StreamWriter) -> None:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def silent(reader: asyncio.StreamReader, for_s: float = 0.1) -> bool:
    """Whether nothing, not even an end, arrives in that time."""
    try:
        async with asyncio.timeout(for_s):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


async def test_passes_everything_in_order_on_several_connections() -> None:
    """Without a fault the proxy is not there, megabytes and many connections included."""
    async with echo_behind_proxy() as proxy, Ends() as ends:

        async def one(number: int) -> None:
            reader, writer = await ends.open(proxy)
            sent = bytes([number]) * 500_000
            writer.write(sent)
            assert await asyncio.wait_for(reader.readexactly(len(sent)), 5) == sent
            writer.close()

        await asyncio.gather(*(one(number) for number in range(5)))
        assert proxy.accepted == 5


async def test_a_black_hole_holds_everything_back_and_loses_nothing() -> None:
    """Bytes, closes and new connections go nowhere while it lasts; afterwards the bytes arrive, in order."""
    async with echo_behind_proxy() as proxy, Ends() as ends:
        reader, writer = await ends.open(proxy)
        proxy.drop()
        writer.write(b"one")
        other_reader, other_writer = await ends.open(proxy)
        other_writer.write(b"new")
        assert await silent(reader)
        assert await silent(other_reader)
        writer.write(b"two")
        proxy.resume()
        assert await asyncio.wait_for(reader.readexactly(6), 2) == b"onetwo"
        assert await asyncio.wait_for(other_reader.readexactly(3), 2) == b"new"


async def test_half_a_link_is_silent_in_one_direction_only() -> None:
    """What the client sends arrives, and the echo does not; then the other way round."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        while chunk := await reader.read(4096):
            seen.append(chunk)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, LinkProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy, Ends() as ends:
        proxy.half("to_client")
        reader, writer = await ends.open(proxy)
        writer.write(b"here")
        assert await silent(reader)
        assert seen == [b"here"]
        proxy.half("to_target")
        assert await asyncio.wait_for(reader.readexactly(5), 2) == b"hello"
        writer.write(b"lost?")
        assert await silent(reader)
        assert seen == [b"here"]
        writer.close()


async def test_a_delay_is_added_to_every_message_and_costs_no_throughput() -> None:
    """Each way waits once; a hundred messages in a row take one delay each way, not a hundred."""
    async with echo_behind_proxy() as proxy, Ends() as ends:
        proxy.delay(60)
        reader, writer = await ends.open(proxy)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for number in range(100):
            writer.write(bytes([number]))
            await asyncio.sleep(0.001)
        assert await asyncio.wait_for(reader.readexactly(100), 2) == bytes(range(100))
        assert 0.12 <= loop.time() - began_s < 1.0


async def test_a_cut_ends_a_connection_in_the_middle_of_a_message() -> None:
    """Half of the message arrives, then the end; a new connection passes."""
    async with echo_behind_proxy() as proxy, Ends() as ends:
        reader, writer = await ends.open(proxy)
        writer.write(b"x")
        assert await asyncio.wait_for(reader.readexactly(1), 2) == b"x"
        cut = asyncio.create_task(proxy.cut())
        await asyncio.sleep(0)
        writer.write(b"0123456789")
        got = b""
        with suppress(ConnectionError):
            got = await asyncio.wait_for(reader.read(), 2)
        assert len(got) < 10
        assert await asyncio.wait_for(cut, 2) == 1
        assert proxy.connections == 0
        reader, writer = await ends.open(proxy)
        writer.write(b"y")
        assert await asyncio.wait_for(reader.readexactly(1), 2) == b"y"


async def test_the_end_of_one_side_reaches_the_other() -> None:
    """A close passes like everything else, and nothing is left open when the proxy stops."""
    async with echo_behind_proxy() as proxy, Ends() as ends:
        reader, writer = await ends.open(proxy)
        writer.close()
        async with asyncio.timeout(2):
            while proxy.connections:  # noqa: ASYNC110 - the proxy has no event for it
                await asyncio.sleep(0.01)
        reader, writer = await ends.open(proxy)
        writer.write(b"z")
        await reader.readexactly(1)
        await proxy.stop()
        assert await asyncio.wait_for(reader.read(), 2) == b""
        assert proxy.connections == 0
