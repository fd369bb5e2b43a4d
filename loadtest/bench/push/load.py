"""The load client's process (`peers/load.c`) and what it is told: thousands of devices on one core."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from contract.tokens import DeviceClaims, KeyRing
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.peers.programs import compiled
from loadtest.bench.push.dialect import Dialect
from loadtest.bench.push.line_member import LineMember

__all__ = ["PROBES", "Arrivals", "Connected", "LoadProcess", "LoadStatus", "device_tokens", "write_requests"]

PROBES: Final = 64
"""Devices that measure round trips while a fan-out is under way, in turn: a single one's pings would be a flood."""
_ADDRESSES_MAX: Final = 62_500
_WINDOW: Final = 256
"""Connects under way at once: enough that the server never waits for the client."""
_TOKEN_LIFETIME_S: Final = 24 * 3600
_ANSWER_SLACK_S: Final = 10.0
_A = TypeVar("_A")
_SIZE: Final = struct.Struct("<I")


class Connected(msgspec.Struct, frozen=True):
    """How a round of connects went."""

    ready: int
    refused: int
    failed: int
    lost: int
    wall_us: int
    idle_us: int
    """Of these, what the client had nothing to do; it does not sleep meanwhile."""
    error: str


class LoadStatus(msgspec.Struct, frozen=True):
    open: int
    ready: int
    lost: int
    errors: int
    closed_by: int
    error: str


class Arrivals(msgspec.Struct, frozen=True):
    """One broadcast at the devices."""

    received: int
    repeated: int
    bytes: int
    """Of one message."""
    at_ns: int
    """CLOCK_MONOTONIC."""
    arrivals_us: list[int]
    """After `at_ns`, one per device that got it."""
    probes: int
    probe_us_max: int
    probe_us_p50: int
    lost: int
    """Devices whose connections ended since they were connected."""
    error: str
    """The first thing that went wrong since then; empty: nothing."""
    blind_us_max: int
    """Longest time in which the client did not look at its probes: round trips are that much too long at most."""


def device_tokens(ring: KeyRing, devices: int, *, now_s: float, topics: Sequence[str], series: int) -> list[str]:
    """Tokens as the DGS hands them out, every one distinct, also from another series'."""
    expiry_s = int(now_s) + _TOKEN_LIFETIME_S
    return [
        ring.sign(
            DeviceClaims(
                sub=f"p-{number}", dev=f"d-{series}-{number}", exp=expiry_s + number % 3600, topics=tuple(topics)
            )
        )
        for number in range(devices)
    ]


def write_requests(path: Path, requests: Iterable[bytes]) -> None:
    """One request per device, readable by its owner only."""
    path.touch(mode=0o600)
    with path.open("wb") as file:
        for request in requests:
            file.write(_SIZE.pack(len(request)) + request)


class LoadProcess(LineMember):
    """Devices of one subject. Every method raises CouldNotRun when the process ended or does not answer."""

    role: ClassVar[str] = "load"

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        core: int,
        port: int,
        devices: int,
        block: int,
        dialect: Dialect,
        addresses: int | None = None,
    ) -> None:
        """Devices come from `addresses` local addresses in 127.<block>.0.0/16, in turn; None: one each."""
        super().__init__(name, directory, core=core)
        self.devices = devices
        self._server_port = port
        self._block = block
        self._addresses = min(devices if addresses is None else addresses, _ADDRESSES_MAX)
        self._dialect = dialect
        self._path: Path | None = None

    async def prepare(self) -> None:
        self._path = await compiled("load")

    def program(self) -> Sequence[str]:
        assert self._path is not None, "prepared first"
        markers = [part for marker in self._dialect.ready_when for part in (str(marker.times), marker.text)]
        numbers = (self._server_port, self.devices, _WINDOW, self._addresses, self._block, min(PROBES, self.devices))
        return [str(self._path), *map(str, numbers), self._dialect.mode, *markers]

    async def until_ready(self) -> None:
        await self.status()

    async def status(self) -> LoadStatus:
        return self._read(await self.ask("status"), LoadStatus)

    async def connect(self, requests: Path, opening: Path | None, *, within_s: float) -> Connected:
        """Connect every device; returns when all are ready or went wrong, or after `within_s`."""
        line = f"connect {int(within_s * 1000)} {requests} {opening or '-'}"
        return self._read(await self.ask(line, within_s=within_s + _ANSWER_SLACK_S), Connected)

    async def close_all(self) -> None:
        """Cut every connection off."""
        await self.ask("close")

    async def expect(self, marker: str, *, within_s: float, probing: bool) -> None:
        """Count messages with `marker` from now on; `arrivals` tells. Nothing else may be asked before that."""
        assert await self.ask(f"expect {int(within_s * 1000)} {int(probing)} {marker}") == {"armed": True}

    async def arrivals(self, *, within_s: float) -> Arrivals:
        """What came since `expect`, once all devices got it or its time was over."""
        return self._read(await self.answer(within_s=within_s + _ANSWER_SLACK_S), Arrivals)

    def _read(self, said: dict[str, Any], kind: type[_A]) -> _A:
        try:
            return msgspec.convert(said, kind)
        except msgspec.ValidationError as exc:
            raise CouldNotRun(f"{self.name} said something else: {exc}{self.log_end()}") from exc
