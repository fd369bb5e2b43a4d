"""`stagecue bench connect`: the server's CPU per connect and its memory per device, beside its peers'.

Each round connects all devices of every server in turn, with tokens no server saw before, broadcasts once, and cuts
them off. CPU is the server process's own, from the first connect until every device is ready; memory its resident pages
above what it had when ready, before the first connection ever, with all devices at rest.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from loadtest.bench.push.arena import (
    OURS,
    VARIANTS,
    Arena,
    check_peers,
    make_room_for,
    open_arena,
    open_variant,
)
from loadtest.bench.push.contender import ConnectRound, Contender, OthersMeter
from loadtest.bench.push.cores import Cores, choose_cores, kept_on
from loadtest.bench.push.judging import invalid_rounds, ratio_of
from loadtest.bench.report import Reporter
from loadtest.bench.running import run_benchmark

__all__ = ["LIMITS", "ConnectFigures", "ConnectLimits", "ConnectOptions", "measure_connect", "run_connect"]

_VARIANT_ROUNDS: Final = 3
RECONNECTS: Final = 3
"""Rounds after the first, after which memory is looked at again."""


class ConnectLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What is promised."""

    us_per_connect_max: float = 75.0
    bytes_per_device_max: float = 2_500.0
    growth_share_max: float = 0.05
    growth_bytes_max: float = 2 << 20
    """Memory after reconnects above that before, the larger of both: an allocator holds on to megabytes, and after each
    round to others."""


LIMITS: Final = ConnectLimits()


class ConnectOptions(msgspec.Struct, frozen=True, kw_only=True):
    devices: int = 15_000
    peers: str = "floor,websockets,nchan"
    rounds: int = 9
    addresses: int | None = None
    """Devices come from as many; None: one each."""
    variants: bool = True
    """Measure our node's other protocols and tokens, too."""
    environment: Mapping[str, str] = {}
    """Settings of our node, on top of its defaults."""


class ConnectSide(msgspec.Struct, frozen=True, kw_only=True):
    """One server's rounds, and its memory per device after each."""

    name: str
    does: str
    rounds: Sequence[ConnectRound]
    bytes_per_device: Sequence[float]

    @property
    def us_per_connect(self) -> float:
        return statistics.median(each.us_per_connect for each in self.rounds)

    @property
    def bytes_at_first(self) -> float:
        return self.bytes_per_device[0]

    @property
    def bytes_after(self) -> float:
        """After broadcasts and RECONNECTS rounds more, or as many as there were."""
        return self.bytes_per_device[min(RECONNECTS, len(self.bytes_per_device) - 1)]


class ConnectFigures(msgspec.Struct, frozen=True, kw_only=True):
    devices: int
    sides: Sequence[ConnectSide]
    """Ours first."""
    variants: Mapping[str, ConnectSide] = {}
    """Ours in other protocols, or with other tokens: a process of its own each."""
    others_cores: float
    """Used by what is no part of the benchmark, over the alternating rounds."""
    cores_shared: bool

    @property
    def ours(self) -> ConnectSide:
        return self.sides[0]

    def shortfalls(self, limits: ConnectLimits = LIMITS) -> list[str]:
        """What the promise is missed by; empty: it holds."""
        ours, found = self.ours, []
        if ours.us_per_connect > limits.us_per_connect_max:
            found.append(
                f"a connect costs {ours.us_per_connect:.1f} us of CPU, promised <= {limits.us_per_connect_max:.0f}"
            )
        most = limits.bytes_per_device_max
        for when, bytes_each in (("", ours.bytes_at_first), (" after reconnects", ours.bytes_after)):
            if bytes_each > most:
                found.append(f"a device at rest takes {bytes_each:.0f} bytes{when}, promised <= {most:.0f}")
        grown = (ours.bytes_after - ours.bytes_at_first) * self.devices
        if grown > max(limits.growth_bytes_max, limits.growth_share_max * ours.bytes_at_first * self.devices):
            found.append(f"memory grew with reconnects, from {ours.bytes_at_first:.0f} to {ours.bytes_after:.0f} bytes")
        return found

    def invalid_because(self) -> list[str]:
        """Why the measurement does not count; empty: it does."""
        sides = (*self.sides, *self.variants.values())
        return invalid_rounds(
            [each for side in sides for each in side.rounds], others_cores=self.others_cores, shared=self.cores_shared
        )

    def keys(self) -> dict[str, Any]:
        """The benchmark's keys for JSON."""
        ours = self.ours
        return {
            "devices": self.devices,
            "us_per_connect": round(ours.us_per_connect, 2),
            "bytes_per_device": round(ours.bytes_at_first),
            "bytes_per_device_after": round(ours.bytes_after),
            "bytes_per_device_last": round(ours.bytes_per_device[-1]),
            "connects_per_s": round(self._connects_per_s(ours)),
            "peers": {
                side.name: {
                    "us_per_connect": round(side.us_per_connect, 2),
                    "bytes_per_device": round(side.bytes_at_first),
                    "ratio": round(self._ratio(side), 4),
                    "does": side.does,
                }
                for side in self.sides[1:]
            },
            "rounds": len(ours.rounds),
            **self._variant_keys(),
        }

    def _variant_keys(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, side in self.variants.items():
            found[f"{name}_us_per_connect"] = round(side.us_per_connect, 2)
            if name != "eddsa":  # a token's kind leaves nothing behind
                found[f"{name}_bytes_per_device"] = round(side.bytes_at_first)
        return found

    def tabulate(self, reporter: Reporter) -> None:
        rows: list[tuple[object, ...]] = []
        for side in self.sides:
            ratio = "-" if side is self.ours else f"{self._ratio(side):.2f}"
            sizes = (f"{side.bytes_at_first:.0f}", f"{side.bytes_after:.0f}")
            rows.append((side.name, side.us_per_connect, ratio, *sizes))
        for name, side in self.variants.items():
            sizes = (f"{side.bytes_at_first:.0f}", f"{side.bytes_after:.0f}")
            rows.append((f"{OURS}, {name}", side.us_per_connect, "-", *sizes))
        reporter.table(
            f"Connect: {self.devices} devices, {len(self.ours.rounds)} rounds",
            ("server", "CPU us per connect", "stagecue / it", "bytes per device", "after reconnects"),
            rows,
            caption="\n".join(
                [
                    *(f"{side.name}: {side.does}" for side in self.sides),
                    f"stagecue took {self._connects_per_s(self.ours):.0f} connects a second on its core",
                ]
            ),
        )

    def _ratio(self, side: ConnectSide) -> float:
        ours = [each.us_per_connect for each in self.ours.rounds]
        return ratio_of(ours, [each.us_per_connect for each in side.rounds]).median

    def _connects_per_s(self, side: ConnectSide) -> float:
        return self.devices / statistics.median(each.wall_s for each in side.rounds)


async def measure_connect(options: ConnectOptions, reporter: Reporter) -> ConnectFigures:
    """Run it once. Raises CouldNotRun; nothing is left running."""
    make_room_for(options.devices)
    peers, cores = check_peers(options.peers), choose_cores()
    with kept_on(cores.load):
        async with open_arena(
            peers, devices=options.devices, addresses=options.addresses, cores=cores, environment=options.environment
        ) as arena:
            others = OthersMeter()
            sides = await _measure_sides(options, reporter, arena)
            others_cores = others.cores()
        variants = await _measure_variants(options, reporter, cores) if options.variants else {}
    return ConnectFigures(
        devices=options.devices,
        sides=sides,
        variants=variants,
        others_cores=others_cores,
        cores_shared=cores.shared,
    )


async def _measure_sides(options: ConnectOptions, reporter: Reporter, arena: Arena) -> list[ConnectSide]:
    rounds: dict[str, list[ConnectRound]] = {contender.name: [] for contender in arena.contenders}
    sizes: dict[str, list[float]] = {contender.name: [] for contender in arena.contenders}
    for contender in arena.contenders:
        await contender.publish_unheard()
    with reporter.progress("rounds", options.rounds) as progress:
        for number in range(options.rounds):
            for contender in arena.turn(number):
                measured, bytes_each = await _round(contender)
                rounds[contender.name].append(measured)
                sizes[contender.name].append(bytes_each)
            progress(number + 1, options.rounds)
    return [_side(contender, rounds[contender.name], sizes[contender.name]) for contender in arena.contenders]


async def _measure_variants(options: ConnectOptions, reporter: Reporter, cores: Cores) -> dict[str, ConnectSide]:
    found = {}
    with reporter.progress("other protocols and tokens", len(VARIANTS)) as progress:
        for number, name in enumerate(VARIANTS):
            async with open_variant(
                name, devices=options.devices, addresses=options.addresses, cores=cores, environment=options.environment
            ) as contender:
                await contender.publish_unheard()
                measured = [await _round(contender) for _ in range(min(_VARIANT_ROUNDS, options.rounds))]
                found[name] = _side(contender, [each for each, _ in measured], [size for _, size in measured])
            progress(number + 1, len(VARIANTS))
    return found


def _side(contender: Contender, rounds: Sequence[ConnectRound], sizes: Sequence[float]) -> ConnectSide:
    return ConnectSide(name=contender.name, does=contender.subject.does, rounds=rounds, bytes_per_device=sizes)


async def _round(contender: Contender) -> tuple[ConnectRound, float]:
    measured = await contender.connect()
    bytes_each = await contender.bytes_per_device()
    await contender.fan_out()
    await contender.disconnect()
    return measured, bytes_each


def run_connect(options: ConnectOptions, *, as_json: bool = False) -> int:
    """Measure, print, and return the exit code."""
    return run_benchmark(lambda reporter: measure_connect(options, reporter), seed=None, as_json=as_json)
