"""Goal: the naive clients' own network code tells the truth about answers, refusals, silence and closed doors."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from loadtest.gameday.clients.asking import TIMED_OUT, Ask, map_request
from loadtest.gameday.clients.net import Net, Wire

WITHIN_S = 5.0


@contextmanager
def server(serve: Callable[[socket.socket], object]) -> Iterator[tuple[str, int]]:
    """One connection, handed to `serve` in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer, suppress(ConnectionError):
                serve(peer)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(WITHIN_S)
            assert not thread.is_alive()


def asked(address: tuple[str, int], timeout_s: float = WITHIN_S) -> tuple[int, float, bytes]:
    net, told = Net(), []
    try:
        request = map_request("host", "night", "p-1", {"X-More": "yes"})
        Ask(net, address, "127.90.0.1", request, timeout_s, lambda *each: told.append(each))
        until_s = time.monotonic() + 2 * WITHIN_S
        while not told and time.monotonic() < until_s:
            net.turn()
        net.turn()
    finally:
        net.close()
    assert len(told) == 1
    found: tuple[int, float, bytes] = told[0]
    return found


def test_an_answer_in_pieces_is_read_whole_and_the_request_is_what_was_asked() -> None:
    heard = []

    def serve(peer: socket.socket) -> None:
        heard.append(peer.recv(65_536))
        for piece in (b"HTTP/1.1 200 OK\r\nConte", b"nt-Length: 5\r\n\r\nhe", b"llo"):
            peer.sendall(piece)
            time.sleep(0.01)

    with server(serve) as address:
        assert asked(address) == (200, 0.0, b"hello")
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert b"X-More: yes" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert b'"profileId":"p-1"' in body


def test_a_refusal_says_when_to_come_back() -> None:
    refusal = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 6\r\nContent-Length: 0\r\n\r\n"

    def serve(peer: socket.socket) -> None:
        peer.recv(65_536)
        peer.sendall(refusal)

    with server(serve) as address:
        assert asked(address) == (503, 6.0, b"")


def test_silence_ends_with_the_time_and_a_hang_up_at_once() -> None:
    with server(lambda peer: (peer.recv(65_536), peer.recv(65_536))) as address:
        assert asked(address, timeout_s=0.05)[0] == TIMED_OUT
    with server(lambda peer: peer.recv(65_536)) as address:
        assert asked(address)[0] == TIMED_OUT


def test_a_closed_door_is_told_from_the_loop_and_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    assert asked(address)[0] == TIMED_OUT


def test_who_fails_for_ever_does_not_keep_others_from_their_turn() -> None:
    net, seen = Net(), []

    class Door(Wire):
        def opened(self) -> None: ...
        def received(self, data: bytes) -> None: ...
        def ended(self) -> None:
            seen.append("refused")
            net.soon(knock)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()

    def knock() -> None:
        Door(net, address, None)

    knock()
    net.at(time.monotonic() + 0.02, net.stop)
    net.run()
    net.close()
    assert len(seen) > 1


@pytest.mark.parametrize("reset", [True, False])
def test_a_closed_wire_says_nothing_more(reset: bool) -> None:
    net, ends = Net(), []

    class Quiet(Wire):
        def opened(self) -> None:
            self.close(reset=reset)
            self.close(reset=reset)
            self.send(b"nobody")

        def received(self, data: bytes) -> None:
            ends.append(data)

        def ended(self) -> None:
            ends.append(b"")

    with server(lambda peer: peer.recv(10)) as address:
        wire = Quiet(net, address, None)
        until_s = time.monotonic() + WITHIN_S
        while not wire.closed and time.monotonic() < until_s:
            net.turn()
        net.turn()
    net.close()
    assert wire.closed
    assert ends == []


def test_late_timers_are_remembered_in_bounded_room() -> None:
    net = Net()
    try:
        began_s = time.monotonic()
        for _ in range(64):
            net.at(began_s - 0.25, lambda: None)
        net.turn()
        assert net.lag.count == 4
        assert 250 <= net.lag_p99_ms < 10_000
    finally:
        net.close()
