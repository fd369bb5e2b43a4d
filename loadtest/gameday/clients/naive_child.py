"""Naive devices: `python -m loadtest.gameday.clients.naive_child PLAN`. Ends with its input.

They hold a stream without a map. At each broadcast they ask the DGS, at once; a connection that breaks or is refused is
opened again, at once; an answer that does not come is asked for again, at once. What a million of them do to a system
is what the devices of this project are made not to do.

Commands: `connect SECONDS` at random moments of that, `stand`, `break` all connections, `finish`.
"""

from __future__ import annotations

import base64
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from contract.frames import SUBPROTOCOL, SubscribeFrame, encode_frame
from device_sim import wire
from loadtest.bench.fleet_plan import source_addresses
from loadtest.gameday.clients.asking import Ask, map_request
from loadtest.gameday.clients.commands import read_plan, serve
from loadtest.gameday.clients.net import Net, Wire
from loadtest.gameday.clients.records import Rows, Step

__all__ = ["NaivePlan", "NaiveStand", "main"]

ASKS_MAX: Final = 50
"""Requests for one broadcast; then the device gives up on it."""
_NOTHING: Final = b"\x00\x00\x00\x00"


class NaivePlan(msgspec.Struct, frozen=True, kw_only=True):
    devices: int
    push: tuple[str, int]
    tokens: str
    """File with a device token per line."""
    rows: str
    """File of `records`, written at the end."""
    topic: str
    event_id: str
    dgs: tuple[str, int] | None = None
    """None: nobody asks."""
    ask_timeout_s: float = 5.0
    addresses: int = 200
    block: int = 71
    seed: int = 1


class NaiveStand(msgspec.Struct, frozen=True, kw_only=True):
    """Counts but for `connected` only rise."""

    connected: int
    attempts: int
    refused: int
    broadcasts: int
    asked: int
    answered: int
    waiting: int
    """Devices that want an answer they do not have."""
    given_up: int
    cpu_s: float


class _Crowd:
    def __init__(self, plan: NaivePlan, net: Net) -> None:
        self.plan = plan
        self.net = net
        self.rows = Rows()
        self.sources = source_addresses(min(plan.devices, plan.addresses), block=plan.block)
        self.subscribe = wire.masked_frame(wire.TEXT, encode_frame(SubscribeFrame(topics={plan.topic: None})), _NOTHING)
        self.connected = self.attempts = self.refused = self.broadcasts = 0
        self.asked = self.answered = self.waiting = self.given_up = 0
        tokens = Path(plan.tokens).read_text().split()
        self.devices = [_Device(self, number, tokens[number]) for number in range(plan.devices)]

    def obey(self, words: list[str]) -> object:
        match words:
            case ["connect", over_s]:
                chance, now_s = random.Random(self.plan.seed), time.monotonic()
                for device in self.devices:
                    self.net.at(now_s + chance.random() * float(over_s), device.open)
            case ["break"]:
                for device in self.devices:
                    device.drop()
            case ["stand"]:
                return self.stand()
            case ["finish"]:
                self.rows.save(Path(self.plan.rows))
                return {"lag_p99_ms": self.net.lag_p99_ms, **_built(self.stand())}
            case _:
                raise AssertionError(f"no such command: {words}")
        return {}

    def stand(self) -> NaiveStand:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return NaiveStand(
            connected=self.connected, attempts=self.attempts, refused=self.refused, broadcasts=self.broadcasts,
            asked=self.asked, answered=self.answered, waiting=self.waiting, given_up=self.given_up,
            cpu_s=used.ru_utime + used.ru_stime,
        )  # fmt: skip


class _Device:
    __slots__ = ("_asks", "_number", "_stream", "_token", "_wanting", "crowd", "seen")

    def __init__(self, crowd: _Crowd, number: int, token: str) -> None:
        self.crowd = crowd
        self._number = number
        self._token = token
        self._stream: _Stream | None = None
        self._wanting = False
        self._asks = 0
        self.seen = 0

    @property
    def source(self) -> str:
        return self.crowd.sources[self._number % len(self.crowd.sources)]

    def open(self) -> None:
        crowd = self.crowd
        crowd.attempts += 1
        crowd.rows.add(Step.OPENING, self._number)
        self._stream = _Stream(crowd.net, crowd.plan.push, self.source, self, self._token)

    def drop(self) -> None:
        stream = self._stream
        if stream is not None and not stream.closed:
            stream.close(reset=True)
            self.lost(stream)

    # from its stream
    def upgraded(self, stream: _Stream) -> None:
        stream.send(self.crowd.subscribe)

    def welcomed(self) -> None:
        self.crowd.connected += 1
        self.crowd.rows.add(Step.WELCOMED, self._number)

    def lost(self, stream: _Stream) -> None:
        crowd = self.crowd
        if stream.welcomed:
            crowd.connected -= 1
            crowd.rows.add(Step.BROKEN, self._number)
        else:
            crowd.refused += 1
            crowd.rows.add(Step.REFUSED, self._number, stream.status)
        crowd.net.soon(self.open)

    def broadcast(self) -> None:
        crowd = self.crowd
        crowd.broadcasts += 1
        self.seen += 1
        crowd.rows.add(Step.BROADCAST, self._number, self.seen)
        if crowd.plan.dgs is None:
            return
        crowd.waiting += not self._wanting
        self._wanting, self._asks = True, 0
        crowd.rows.add(Step.WANTED, self._number, self.seen)
        self._ask()

    # its question
    def _ask(self) -> None:
        crowd = self.crowd
        assert crowd.plan.dgs is not None
        self._asks += 1
        crowd.asked += 1
        crowd.rows.add(Step.ASKED, self._number, self.seen)
        host = "{}:{}".format(*crowd.plan.dgs)
        request = map_request(host, crowd.plan.event_id, f"p-{self._number}")
        about = self.seen
        Ask(
            crowd.net, crowd.plan.dgs, self.source, request, crowd.plan.ask_timeout_s,
            lambda status, after_s, body: self._told(about, status),
        )  # fmt: skip

    def _told(self, about: int, status: int) -> None:
        crowd = self.crowd
        if about != self.seen or not self._wanting:
            return  # another stage is on: what was asked for the one before is of no use
        if status == 200:
            self._wanting = False
            crowd.waiting -= 1
            crowd.answered += 1
            crowd.rows.add(Step.ANSWERED, self._number, self.seen)
            return
        crowd.rows.add(Step.DENIED, self._number, status)
        if self._asks >= ASKS_MAX:
            self._wanting = False
            crowd.waiting -= 1
            crowd.given_up += 1
            crowd.rows.add(Step.GIVEN_UP, self._number, self.seen)
        else:
            crowd.net.soon(self._ask)


class _Stream(Wire):
    """One WebSocket of a naive device."""

    __slots__ = ("_device", "_head", "_key", "_parser", "_token", "status", "welcomed")

    def __init__(self, net: Net, address: tuple[str, int], source: str, device: _Device, token: str) -> None:
        self._device = device
        self._token = token
        self._key = base64.b64encode(random.randbytes(16))
        self._head = b""
        self._parser: wire.FrameParser | None = None
        self.status = 0
        self.welcomed = False
        super().__init__(net, address, source)

    def opened(self) -> None:
        host = "{}:{}".format(*self._device.crowd.plan.push)
        self.send(wire.handshake_request(host, "/v1/stream", subprotocol=SUBPROTOCOL, token=self._token, key=self._key))

    def received(self, data: bytes) -> None:
        try:
            if self._parser is None:
                data = self._upgrade(data)
            if self._parser is not None and data:
                self._frames(data)
        except wire.HandshakeRefused as refused:
            self.status = refused.status
            self._over()
        except wire.ProtocolViolation:
            self._over()

    def ended(self) -> None:
        self._device.lost(self)

    def _upgrade(self, data: bytes) -> bytes:
        head, found, rest = (self._head + data).partition(b"\r\n\r\n")
        if not found:
            self._head = head
            return b""
        self._head = b""
        wire.parse_handshake_response(head, self._key, SUBPROTOCOL)
        self._parser = wire.FrameParser()
        self._device.upgraded(self)
        return rest

    def _frames(self, data: bytes) -> None:
        assert self._parser is not None
        for opcode, payload in self._parser.feed(data):
            if opcode == wire.TEXT:
                if b'"type":"broadcast"' in payload:
                    if b'"replayed":true' not in payload:
                        self._device.broadcast()
                elif b'"type":"welcome"' in payload:
                    self.welcomed = True
                    self._device.welcomed()
            elif opcode == wire.PING:
                self.send(wire.masked_frame(wire.PONG, payload, _NOTHING))
            elif opcode == wire.CLOSE:
                self._over()
                return

    def _over(self) -> None:
        if not self.closed:
            self.close(reset=True)
            self._device.lost(self)


def _built(found: msgspec.Struct) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(found)
    return built


def main() -> int:
    plan, net = read_plan(NaivePlan), Net()
    return serve(net, _Crowd(plan, net).obey, ready={"devices": plan.devices})


if __name__ == "__main__":
    sys.exit(main())
