"""The contract of MessageChannel, held by the in-process pair and by the WebSocket between processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from contract.broadcast import Broadcast
from contract.errors import MalformedFrame, NodeUnreachable, Unauthorized
from contract.node_link import (
    Deliver,
    DeliverAck,
    Hello,
    HelloAccepted,
    InterestAck,
    InterestDelta,
    LinkMessage,
    LinkPing,
    LinkPong,
    MessageChannel,
    ReachReport,
)
from contract.reach import ReachCount
from contract.runtime.channel import channel_pair
from contract.runtime.link_handshake import NodeIdentity
from contract.runtime.ws_channel import WebSocketChannel, connect_link, serve_links
from contract.schedule import PlannedStage, TopicSchedule
from contract.tokens import KeyRing, new_key_ring

NODE = NodeIdentity("node-1", "incarnation-1")
RING = new_key_ring("stagecue.link")
Pair = tuple[MessageChannel, MessageChannel]

EVERY_MESSAGE: tuple[LinkMessage, ...] = (
    Hello("node-1", "i1", ("event:a", "event:ä@eu")),
    HelloAccepted("router-1"),
    InterestDelta(7, added=("event:b",), removed=("event:a",)),
    InterestAck(7),
    Deliver(
        1,
        (Broadcast(topic="event:a", state_key="live", timestamp=5, prev=0, event_id="a"),),
        (
            TopicSchedule(
                topic="event:a",
                event_id="a",
                title="Ä",
                revision=2,
                version=1,
                starts_at=9,
                stages=(PlannedStage(key="live", order=1, due_at=9),),
            ),
        ),
    ),
    DeliverAck(1, written=3),
    ReachReport((ReachCount(node_id="n", incarnation="i", topic="event:a", timestamp=5, written=2),)),
    LinkPing(),
    LinkPong(),
)


@pytest.fixture(params=["memory", "websocket"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    if request.param == "memory":
        one, two = channel_pair(bound=8)
        yield one, two
        one.close()
        return
    arrived: asyncio.Queue[WebSocketChannel] = asyncio.Queue()
    async with serve_links(
        "127.0.0.1", 0, ring=RING, identity=NODE, on_link=lambda channel, _: arrived.put_nowait(channel)
    ) as address:
        router_end = await connect_link(address, ring=RING, router_id="router-1", expected=NODE)
        node_end = await arrived.get()
        yield router_end, node_end
        router_end.close()
        await router_end.wait_closed()


class TestBothChannels:
    async def test_every_message_arrives_unchanged_and_in_order(self, pair: Pair) -> None:
        for here, there in (pair, pair[::-1]):
            for message in EVERY_MESSAGE[:8]:
                await here.send(message)
            assert [await there.receive() for _ in range(8)] == list(EVERY_MESSAGE[:8])
            await here.send(EVERY_MESSAGE[8])
            assert await there.receive() == EVERY_MESSAGE[8]

    async def test_more_than_the_bound_waits_and_nothing_is_lost(self, pair: Pair) -> None:
        """A sender far ahead of its reader is held back, not dropped, and order stays."""
        here, there = pair
        big = "event:" + "x" * 20_000
        count = 600

        async def send_all() -> None:
            for seq in range(count):
                await here.send(InterestDelta(seq, added=(big,)))

        sending = asyncio.create_task(send_all())
        await asyncio.sleep(0.2)
        assert not sending.done(), "nothing held the sender back"
        got = []
        for _ in range(count):
            message = await there.receive()
            assert isinstance(message, InterestDelta)
            got.append(message.seq)
        await sending
        assert got == list(range(count))

    async def test_what_was_sent_before_closing_is_still_received(self, pair: Pair) -> None:
        here, there = pair
        for seq in range(3):
            await here.send(InterestAck(seq))
        here.close()
        assert [await there.receive() for _ in range(3)] == [InterestAck(seq) for seq in range(3)]
        with pytest.raises(NodeUnreachable):
            await there.receive()

    async def test_a_waiting_receiver_learns_that_either_side_closed(self, pair: Pair) -> None:
        _here, there = pair
        waiting = [asyncio.create_task(end.receive()) for end in pair]
        await asyncio.sleep(0.01)
        there.close()
        for task in waiting:
            with pytest.raises(NodeUnreachable):
                await task

    async def test_nothing_can_be_sent_once_closed(self, pair: Pair) -> None:
        here, there = pair
        here.close()
        here.close()
        with pytest.raises(NodeUnreachable):
            await here.send(LinkPing())
        with pytest.raises(NodeUnreachable):
            await there.receive()
        with pytest.raises(NodeUnreachable):
            await there.send(LinkPing())

    async def test_a_blocked_sender_is_freed_by_closing(self, pair: Pair) -> None:
        here, _there = pair

        async def send_for_ever() -> None:
            while True:
                await here.send(InterestDelta(1, added=("event:" + "x" * 50_000,)))

        sending = asyncio.create_task(send_for_ever())
        await asyncio.sleep(0.2)
        here.close()
        with pytest.raises(NodeUnreachable):
            async with asyncio.timeout(5):
                await sending

    async def test_cancelling_a_receive_loses_nothing(self, pair: Pair) -> None:
        """Cancelled at every moment around an arrival, the message is there for the next receive."""
        here, there = pair
        for seq in range(50):
            receiving = asyncio.create_task(there.receive())
            await asyncio.sleep(0)
            await here.send(InterestAck(seq))
            for _ in range(seq % 5):
                await asyncio.sleep(0)
            receiving.cancel()
            try:
                got = await receiving
            except asyncio.CancelledError:
                got = await there.receive()
            assert got == InterestAck(seq)


class TestMemoryChannel:
    async def test_cancelling_a_blocked_send_wakes_the_next_sender(self) -> None:
        """Two senders wait for room; the first gives up just as room is made: the second gets it."""
        here, there = channel_pair(bound=1)
        await here.send(InterestAck(0))
        first = asyncio.create_task(here.send(InterestAck(1)))
        second = asyncio.create_task(here.send(InterestAck(2)))
        await asyncio.sleep(0)
        assert await there.receive() == InterestAck(0)
        first.cancel()
        async with asyncio.timeout(1):
            assert await there.receive() == InterestAck(2)
            await second
        assert first.cancelled() or await asyncio.gather(first, return_exceptions=True)


async def _refused(call: Callable[[], Awaitable[object]], *errors: type[Exception]) -> Exception:
    async with asyncio.timeout(5):
        with pytest.raises(errors) as caught:
            await call()
    return caught.value


class TestHandshake:
    """Only holders of the link key, in the expected identity, get a channel: each wrong party is turned away."""

    @pytest.fixture
    async def links(self) -> AsyncIterator[tuple[str, list[str]]]:
        accepted: list[str] = []
        async with serve_links(
            "127.0.0.1",
            0,
            ring=RING,
            identity=NODE,
            on_link=lambda _, router_id: accepted.append(router_id),
            max_links=2,
            handshake_timeout_s=0.3,
        ) as address:
            yield address, accepted

    async def test_both_ends_learn_who_is_there(self, links: tuple[str, list[str]]) -> None:
        address, accepted = links
        channel = await connect_link(address, ring=RING, router_id="router-7", expected=NODE)
        await asyncio.sleep(0.02)
        assert accepted == ["router-7"]
        channel.close()
        await channel.wait_closed()

    async def test_keys_rotate_without_an_outage(self, links: tuple[str, list[str]]) -> None:
        """A router that signs with another key of the same ring is known, as long as the node holds that key too."""
        old, new = b"o" * 32, b"n" * 32
        node_ring = KeyRing("stagecue.link", {"old": old, "new": new}, "old")
        router_ring = KeyRing("stagecue.link", {"old": old, "new": new}, "new")
        async with serve_links("127.0.0.1", 0, ring=node_ring, identity=NODE, on_link=lambda *_: None) as address:
            channel = await connect_link(address, ring=router_ring, router_id="r", expected=NODE)
            channel.close()
            await channel.wait_closed()

    @pytest.mark.parametrize("kid", ["k1", "another"], ids=["same key id", "unknown key id"])
    async def test_a_router_with_another_key_is_refused(self, links: tuple[str, list[str]], kid: str) -> None:
        address, accepted = links
        ring = new_key_ring("stagecue.link", kid)
        await _refused(lambda: connect_link(address, ring=ring, router_id="r", expected=NODE), NodeUnreachable)
        assert accepted == []

    async def test_a_key_of_another_audience_is_refused(self, links: tuple[str, list[str]]) -> None:
        """The same secret in the device ring proves nothing on a link."""
        secret = b"s" * 32
        node_ring = KeyRing("stagecue.link", {"k": secret}, "k")
        device_ring = KeyRing("stagecue.device", {"k": secret}, "k")
        async with serve_links("127.0.0.1", 0, ring=node_ring, identity=NODE, on_link=lambda *_: None) as address:
            await _refused(
                lambda: connect_link(address, ring=device_ring, router_id="r", expected=NODE), NodeUnreachable
            )

    @pytest.mark.parametrize("expected", [NodeIdentity("node-2", "incarnation-1"), NodeIdentity("node-1", "older")])
    async def test_another_node_or_incarnation_is_refused_by_the_router(
        self, links: tuple[str, list[str]], expected: NodeIdentity
    ) -> None:
        address, accepted = links
        await _refused(lambda: connect_link(address, ring=RING, router_id="r", expected=expected), Unauthorized)
        assert accepted == []

    async def test_a_node_without_the_key_is_refused_by_the_router(self) -> None:
        """An impostor that skips the check of the router's proof still cannot make its own."""
        from websockets.asyncio.server import ServerConnection, serve

        async def impostor(socket: ServerConnection) -> None:
            await socket.send(
                '{"h":"challenge","protocol":1,"node_id":"node-1","incarnation":"incarnation-1","nonce":"%s"}'
                % ("A" * 43 + "=")
            )
            await socket.recv()
            await socket.send('{"h":"welcome","kid":"k1","proof":"%s"}' % ("A" * 43 + "="))
            await socket.wait_closed()

        async with serve(impostor, "127.0.0.1", 0) as server:
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            error = await _refused(lambda: connect_link(address, ring=RING, router_id="r", expected=NODE), Unauthorized)
            assert "does not hold our link key" in str(error)

    async def test_another_protocol_version_is_named(self) -> None:
        from websockets.asyncio.server import ServerConnection, serve

        async def newer(socket: ServerConnection) -> None:
            await socket.send('{"h":"challenge","protocol":2,"node_id":"node-1","incarnation":"i","nonce":"AA=="}')
            await socket.wait_closed()

        async with serve(newer, "127.0.0.1", 0) as server:
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            error = await _refused(
                lambda: connect_link(address, ring=RING, router_id="r", expected=NODE), MalformedFrame
            )
            assert "protocol 2" in str(error)

    async def test_silence_and_rubbish_are_cut_off(self, links: tuple[str, list[str]]) -> None:
        address, accepted = links
        async with connect(f"ws://{address}/", proxy=None) as silent, connect(f"ws://{address}/", proxy=None) as rude:
            await silent.recv()
            await rude.recv()
            await rude.send("rubbish")
            for socket in (silent, rude):
                async with asyncio.timeout(3):
                    with pytest.raises(ConnectionClosed):
                        await socket.recv()
        assert accepted == []

    async def test_more_links_than_allowed_are_refused(self, links: tuple[str, list[str]]) -> None:
        address, _accepted = links
        held = [await connect_link(address, ring=RING, router_id=f"r{n}", expected=NODE) for n in range(2)]
        await _refused(lambda: connect_link(address, ring=RING, router_id="r3", expected=NODE), NodeUnreachable)
        for channel in held:
            channel.close()
            await channel.wait_closed()

    async def test_nobody_there(self) -> None:
        await _refused(lambda: connect_link("127.0.0.1:1", ring=RING, router_id="r", expected=NODE), NodeUnreachable)

    async def test_a_message_that_is_none_closes_the_link(self, links: tuple[str, list[str]]) -> None:
        address, _ = links
        channel = await connect_link(address, ring=RING, router_id="r", expected=NODE)
        arrived: asyncio.Queue[WebSocketChannel] = asyncio.Queue()
        async with serve_links(
            "127.0.0.1", 0, ring=RING, identity=NODE, on_link=lambda c, _: arrived.put_nowait(c)
        ) as second:
            router_end = await connect_link(second, ring=RING, router_id="r", expected=NODE)
            node_end = await arrived.get()
            await router_end.send_bytes(b'{"t":"unheard of"}')
            with pytest.raises(NodeUnreachable):
                await node_end.receive()
            with pytest.raises(NodeUnreachable):
                await router_end.receive()
        channel.close()
        await channel.wait_closed()
