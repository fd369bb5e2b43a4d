"""A ranking service that is the limit: `python -m loadtest.bench.overload.ranking_service SLOTS SLOT_MS`.

It speaks what docs/sources.md says, over HTTP/1.1 with keep-alive, and answers every profile with titles of the demo
catalog, which ones does not matter. A profile occupies one of SLOTS for SLOT_MS; whoever comes meanwhile waits in the
order of coming, also if nobody waits for the answer any more. It uses next to no CPU of its own, so that the limit is
its slots. It says {"port":N}, answers `stats` on standard input, and ends with it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from binascii import crc32
from collections import deque
from typing import Any, Final, cast

import msgspec

from contract.runtime.asgi import listen_on
from contract.runtime.runner import run_process
from loadtest.bench.overload.slots import Slots
from loadtest.bench.prefetch.picked import demo_catalog

__all__ = ["RankingProtocol", "Rankings", "main", "serve_rankings"]

_BODY_MAX: Final = 8 << 20


class _Viewing(msgspec.Struct):
    title: str


class _Asked(msgspec.Struct):
    id: str
    history: list[_Viewing] = []


class _Need(msgspec.Struct):
    ranked: int
    because: int
    near: int


class _Ask(msgspec.Struct):
    need: _Need
    profiles: list[_Asked]


class Rankings:
    """What it answers: for each profile a stretch of the catalog that begins somewhere else."""

    def __init__(self) -> None:
        ids = [title.id for title in demo_catalog().titles]
        self._count = len(ids)
        self._ids = ids * 2
        self._decode = msgspec.json.Decoder(_Ask).decode
        self._encode = msgspec.json.Encoder().encode

    def asked(self, body: bytes) -> _Ask:
        """Raises msgspec.DecodeError for a body that is no question."""
        return self._decode(body)

    def answer(self, ask: _Ask) -> bytes:
        need = ask.need
        return self._encode({"recommendations": [self._of(profile, need) for profile in ask.profiles]})

    def _of(self, profile: _Asked, need: _Need) -> dict[str, Any]:
        start = crc32(profile.id.encode()) % self._count
        ids, watched = self._ids, profile.history[: need.because]
        return {
            "profile": profile.id,
            "ranked": ids[start : start + need.ranked],
            "because": [
                {"title": seen.title, "near": ids[start + need.ranked + number * 7 :][: need.near]}
                for number, seen in enumerate(watched)
            ],
        }


class RankingProtocol(asyncio.Protocol):
    """One connection; answers in the order of asking, each when its batch is done."""

    def __init__(self, rankings: Rankings, slots: Slots) -> None:
        self._rankings = rankings
        self._slots = slots
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._due: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (taken := self._take()) is not None:
            self._ask(taken)

    def _take(self) -> bytes | None:
        """The next whole body."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        length = 0
        for line in bytes(self._buffer[:end]).split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if length > _BODY_MAX:
            assert self._transport is not None
            self._transport.abort()
            return None
        whole = end + 4 + length
        if len(self._buffer) < whole:
            return None
        body = bytes(self._buffer[end + 4 : whole])
        del self._buffer[:whole]
        return body

    def _ask(self, body: bytes) -> None:
        now_s = asyncio.get_running_loop().time()
        try:
            ask = self._rankings.asked(body)
        except msgspec.DecodeError as exc:
            self._reply(now_s, _http(400, b"Bad Request", str(exc).encode()))
            return
        done_s = self._slots.enter(len(ask.profiles), now_s)
        self._reply(done_s, _http(200, b"OK", self._rankings.answer(ask)))

    def _reply(self, at_s: float, answer: bytes) -> None:
        self._due.append((at_s, answer))
        if len(self._due) == 1:
            self._arm()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_at(self._due[0][0], self._send)

    def _send(self) -> None:
        _, answer = self._due.popleft()
        if self._transport is not None:
            self._transport.write(answer)
            if self._due:
                self._arm()


def _http(status: int, reason: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, reason, len(body)) + body


async def serve_rankings(slots: Slots, stop: asyncio.Event) -> None:
    """Until `stop`, on a free port of loopback, which it says."""
    loop, rankings = asyncio.get_running_loop(), Rankings()
    with listen_on("127.0.0.1", 0) as sock:
        server = await loop.create_server(lambda: RankingProtocol(rankings, slots), sock=sock)
        loop.add_reader(0, _told, slots, stop)
        _print({"port": sock.getsockname()[1]})
        try:
            await stop.wait()
        finally:
            server.close()


def _told(slots: Slots, stop: asyncio.Event) -> None:
    said = os.read(0, 4096)
    if not said:
        asyncio.get_running_loop().remove_reader(0)
        stop.set()
    for _ in range(said.count(b"\n")):
        _print({"profiles": slots.profiles, "busy_s": slots.busy_s, "longest_wait_s": slots.longest_wait_s})


def _print(said: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(said) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    slots = Slots(int(sys.argv[1]), float(sys.argv[2]) / 1000)
    return run_process(lambda stop: serve_rankings(slots, stop))


if __name__ == "__main__":
    sys.exit(main())
