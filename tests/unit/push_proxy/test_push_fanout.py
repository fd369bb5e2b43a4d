"""Fan-out: slices, order, those who ended, those who take no more, and failures that are one's own."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from websockets.frames import Frame, Opcode

from contract.frames import ErrorFrame, ServerFrame, decode_server_frame
from push_proxy.fanout import FanOut, _Job
from push_proxy.forms import MAX_FORMS, PreparedFrame, v1_form
from push_proxy.peers import Peers
from push_proxy.recovery import Subscription
from tests.support.fake_port import FakePort

ONE, TWO = ErrorFrame(code="one", message=""), ErrorFrame(code="two", message="")


def live(log: list[tuple[int, bytes]], count: int, *, broken: int = -1) -> list[Subscription]:
    return [Subscription(FakePort(number, log, breaks=number == broken), "t", waiting=None) for number in range(count)]


def row(*subscriptions: Subscription) -> Peers:
    peers = Peers()
    for subscription in subscriptions:
        peers.add(subscription)
    return peers


def ignore(count: int, nbytes: int) -> None:
    """Nobody waits."""


@pytest.mark.parametrize("size", [0, 10, 80, 125, 126, 400, 65_000, 66_000])
def test_v1_form_is_what_the_codec_would_send(size: int) -> None:
    """Byte for byte the library's own serialisation, at every length form."""
    frame = ErrorFrame(code="x", message="m" * size)
    made = v1_form(frame)
    payload = made[made.index(b"{") :]
    assert made == Frame(Opcode.TEXT, payload).serialize(mask=False)
    assert decode_server_frame(payload) == frame


def test_a_prepared_frame_is_encoded_once_per_form_and_bounded() -> None:
    """Devices choose GraphQL documents, and with them forms: no more are kept than MAX_FORMS."""
    made = 0

    def form() -> object:
        def one(frame: ServerFrame) -> bytes:
            nonlocal made
            made += 1
            return b"%d" % made

        return one

    frame = PreparedFrame(ONE)
    forms = [form() for _ in range(2 * MAX_FORMS)]
    assert frame.in_form(forms[0]) == frame.in_form(forms[0]) == b"1"  # type: ignore[arg-type]
    for each in forms:
        frame.in_form(each)  # type: ignore[arg-type]
    assert len(frame._bytes) <= MAX_FORMS


async def test_it_yields_keeps_order_and_skips_the_ended() -> None:
    """First slice at once, the rest over turns of the loop; a second broadcast never overtakes the first."""
    log: list[tuple[int, bytes]] = []
    done: list[tuple[int, int]] = []
    fanout = FanOut(slice_size=3)
    to = live(log, 8)
    for frame in (ONE, TWO):
        fanout.broadcast(PreparedFrame(frame), to, lambda count, nbytes: done.append((count, nbytes)))
    assert len(log) == 3
    assert fanout.waiting == 2
    to[7].end()
    await asyncio.sleep(0)
    assert len(log) == 6
    for _ in range(10):
        await asyncio.sleep(0)
    assert done == [(7, 7 * len(v1_form(ONE))), (7, 7 * len(v1_form(TWO)))]
    assert fanout.waiting == 0
    for number in range(7):
        assert [frame for at, frame in log if at == number] == [v1_form(ONE), v1_form(TWO)]


async def test_who_takes_no_more_holds_the_frame_back() -> None:
    """It is not written to, and not counted as written; its neighbours are; once it flows again it is."""
    log: list[tuple[int, bytes]] = []
    done: list[int] = []
    slow = FakePort(9, log, congested=True)
    to = [*live(log, 2), Subscription(slow, "t", waiting=None)]
    fanout = FanOut()
    fanout.broadcast(PreparedFrame(ONE), to, lambda count, nbytes: done.append(count))
    assert [number for number, _ in log] == [0, 1]
    assert (slow.held_back, done) == ([ONE], [2])
    slow.congested = False
    fanout.broadcast(PreparedFrame(TWO), to, lambda count, nbytes: done.append(count))
    assert (slow.held_back, done) == ([ONE], [2, 3])


async def test_one_that_congests_in_the_middle_of_a_fan_out_gets_each_frame_once() -> None:
    """What its socket took is written; what comes later in the same fan-out's queue is held back, in order."""
    log: list[tuple[int, bytes]] = []
    slow = FakePort(9, log)
    to = [*live(log, 3), Subscription(slow, "t", waiting=None)]
    fanout = FanOut(slice_size=2)
    fanout.broadcast(PreparedFrame(ONE), to, ignore)
    fanout.broadcast(PreparedFrame(TWO), to, ignore)
    slow.congested = True
    for _ in range(10):
        await asyncio.sleep(0)
    assert slow.held_back == [ONE, TWO]
    assert [number for number, _ in log] == [0, 1, 2, 0, 1, 2]


async def test_what_a_socket_does_not_take_spills_into_its_port() -> None:
    """Of a frame the kernel took in part the rest goes to the port, and no byte is lost."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        port = FakePort(0)
        port.fd = ours.fileno()
        to = row(Subscription(port, "t", waiting=None))
        fanout, frame = FanOut(), PreparedFrame(ErrorFrame(code="x", message="m" * 3000))
        rounds = 0
        while not port.spilled:
            fanout.to_all(frame, to, v1_form, ignore)
            rounds += 1
            assert rounds < 1000
        theirs.settimeout(1)
        got = b""
        with contextlib.suppress(TimeoutError):
            while len(got) + len(port.spilled[0]) < rounds * len(v1_form(frame.frame)):
                got += theirs.recv(65_536)
        assert got + port.spilled[0] == v1_form(frame.frame) * rounds
        assert port.log == []


async def test_a_socket_that_is_gone_is_not_counted() -> None:
    """Its transport will say so; until then nothing is raised, and nobody else is touched."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.close()
    log: list[tuple[int, bytes]] = []
    done: list[int] = []
    port = FakePort(9)
    port.fd = ours.fileno()
    gone = Subscription(port, "t", waiting=None)
    for to in (row(gone, *live(log, 2)), row(gone)):
        FanOut().to_all(PreparedFrame(ONE), to, v1_form, lambda count, nbytes: done.append(count))
    ours.close()
    assert ([number for number, _ in log], done) == ([0, 1], [2, 0])


@pytest.mark.parametrize("beside", [0, 1], ids=["sockets alone", "beside a port that is asked"])
async def test_a_row_of_sockets_gets_each_frame_once_whoever_leaves_or_comes(beside: int) -> None:
    """Leaving in the middle of a fan-out leaves a hole and moves nobody; who comes then gets the next frame only."""
    pairs = [socket.socketpair() for _ in range(7)]
    log: list[tuple[int, bytes]] = []
    done: list[int] = []
    ports = [FakePort(number) for number in range(7)]
    for port, (ours, _) in zip(ports, pairs, strict=True):
        ours.setblocking(False)
        port.fd = ours.fileno()
    subscriptions = [Subscription(port, "t", waiting=None) for port in ports]
    peers = row(*live(log, beside), *subscriptions[:6])
    fanout = FanOut(slice_size=3)
    fanout.to_all(PreparedFrame(ONE), peers, v1_form, lambda count, nbytes: done.append(count))
    peers.remove(subscriptions[0])  # had it
    peers.remove(subscriptions[4])  # has it not
    peers.add(subscriptions[6])  # comes too late for it
    fanout.to_all(PreparedFrame(TWO), peers, v1_form, lambda count, nbytes: done.append(count))
    for _ in range(10):
        await asyncio.sleep(0)
    assert done == [5 + beside, 5 + beside]
    assert [place for place in range(len(peers.fds)) if peers.at(place) is None] == [], "holes are closed at the end"
    assert [len(log), len(peers)] == [2 * beside, 5 + beside]
    one, two = v1_form(ONE), v1_form(TWO)
    expected = [one, one + two, one + two, one + two, b"", one + two, two]
    got = []
    for ours, theirs in pairs:
        ours.close()
        got.append(theirs.recv(65_536))
        theirs.close()
    assert got == expected


async def test_a_socket_that_takes_no_more_is_asked_from_then_on() -> None:
    """Congested, its port holds back what comes; flowing again, its socket is written to."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        port = FakePort(0)
        port.fd = ours.fileno()
        subscription = Subscription(port, "t", waiting=None)
        peers, fanout = row(subscription), FanOut()
        port.congested = True
        peers.set_fd(subscription, -1)
        fanout.to_all(PreparedFrame(ONE), peers, v1_form, ignore)
        port.congested = False
        peers.set_fd(subscription, port.fd)
        fanout.to_all(PreparedFrame(TWO), peers, v1_form, ignore)
        assert (port.held_back, theirs.recv(65_536)) == ([ONE], v1_form(TWO))


async def test_failure_of_one_is_its_own() -> None:
    """A write that raises costs nobody else the frame."""
    log: list[tuple[int, bytes]] = []
    done: list[int] = []
    FanOut().broadcast(PreparedFrame(ONE), live(log, 5, broken=2), lambda count, nbytes: done.append(count))
    for _ in range(3):
        await asyncio.sleep(0)
    assert [number for number, _ in log] == [0, 1, 3, 4]
    assert done == [4]


@pytest.mark.timeout(10)
async def test_a_hole_with_a_socket_in_it_costs_nobody_a_frame_or_a_second_one() -> None:
    """A row out of step with its sockets is a mistake of ours: its neighbours are written to once all the same."""
    pairs = [socket.socketpair() for _ in range(3)]
    ports = [FakePort(number) for number in range(3)]
    for port, (ours, _) in zip(ports, pairs, strict=True):
        ours.setblocking(False)
        port.fd = ours.fileno()
    full = pairs[1][0]
    with contextlib.suppress(BlockingIOError):
        while full.send(bytes(65_536)):
            pass
    peers = row(*[Subscription(port, "t", waiting=None) for port in ports])
    peers._row[1] = None
    done: list[int] = []
    FanOut().to_all(PreparedFrame(ONE), peers, v1_form, lambda count, nbytes: done.append(count))
    assert len(done) == 1
    for number in (0, 2):
        assert pairs[number][1].recv(65_536) == v1_form(ONE)
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


@pytest.mark.timeout(10)
async def test_a_job_that_fails_where_it_stands_goes_on_behind_it() -> None:
    """No failure keeps the pump at one place for ever."""
    done: list[int] = []
    log: list[tuple[int, bytes]] = []
    job = _Stuck(3, 0, lambda count, nbytes: done.append(count))
    fanout = FanOut()
    fanout._submit(job)
    fanout.broadcast(PreparedFrame(ONE), live(log, 1), ignore)
    assert (job.steps, done, len(log)) == (3, [0], 1)


class _Stuck(_Job):
    steps = 0

    def step(self, until: int) -> None:
        self.steps += 1
        raise RuntimeError(f"nothing done until {until}")


async def test_it_goes_on_after_whoever_waited_for_a_job_failed() -> None:
    """What is done once a job ended may fail; the next broadcast goes out all the same, to everybody."""
    log: list[tuple[int, bytes]] = []
    done: list[int] = []

    def fails(count: int, nbytes: int) -> None:
        raise RuntimeError(f"{count} written, nobody to tell")

    fanout = FanOut(slice_size=2)
    fanout.broadcast(PreparedFrame(ONE), live(log, 2), fails)
    fanout.broadcast(PreparedFrame(TWO), live(log, 3), lambda count, nbytes: done.append(count))
    for _ in range(5):
        await asyncio.sleep(0)
    assert done == [3]
    assert fanout.waiting == 0


async def test_visits_keep_their_place_among_broadcasts() -> None:
    """What is said to everybody by a visit comes after what was submitted before, and in slices, too."""
    log: list[tuple[int, bytes]] = []
    fanout = FanOut(slice_size=2)
    to = live(log, 5)
    fanout.broadcast(PreparedFrame(ONE), to, ignore)

    def visit(port: FakePort) -> bool:
        port.send((PreparedFrame(TWO),))
        return True

    fanout.visit([subscription.sink for subscription in to], visit, ignore)  # type: ignore[arg-type]
    for _ in range(10):
        await asyncio.sleep(0)
    assert [frame for number, frame in log if number == 4] == [v1_form(ONE), v1_form(TWO)]
