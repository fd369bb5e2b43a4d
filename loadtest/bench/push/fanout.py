"""`stagecue bench fanout`: the server's CPU per delivery beside its peers', and how long it keeps others waiting.

Each round broadcasts once to all devices of every server in turn; CPU is the server process's own, from the broadcast's
publication until its last device has it. The round trips of a probe are measured in further fan-outs of our node alone:
its pings would be counted as deliveries' cost.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from loadtest.bench.histogram import LatencyHistogram
from loadtest.bench.push.arena import OURS, Arena, check_peers, make_room_for, open_arena
from loadtest.bench.push.contender import FanOutRound, OthersMeter
from loadtest.bench.push.cores import choose_cores, kept_on
from loadtest.bench.push.judging import invalid_rounds, ratio_of
from loadtest.bench.report import Reporter
from loadtest.bench.rounds import Ratio
from loadtest.bench.running import run_benchmark

__all__ = ["LIMITS", "FanOutFigures", "FanOutLimits", "FanOutOptions", "measure_fanout", "run_fanout"]

_PROBE_ROUNDS_MIN: Final = 3


class FanOutLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What is promised."""

    ratio_to_floor_max: float = 1.15
    probe_rtt_ms_max: float = 20.0


LIMITS: Final = FanOutLimits()


class FanOutOptions(msgspec.Struct, frozen=True, kw_only=True):
    devices: int = 15_000
    peers: str = "floor,websockets,nchan"
    rounds: int = 15
    addresses: int | None = None
    """Devices come from as many; None: one each."""
    environment: Mapping[str, str] = {}
    """Settings of our node, on top of its defaults."""


class FanOutFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Rounds by server, in the order they were run, ours and each peer's of one index in one round."""

    devices: int
    rounds: Mapping[str, Sequence[FanOutRound]]
    probed: Sequence[FanOutRound]
    others_cores: float
    """Used by what is no part of the benchmark, over the alternating rounds."""
    cores_shared: bool

    @property
    def peers(self) -> list[str]:
        return [name for name in self.rounds if name != OURS]

    @property
    def missed(self) -> int:
        return sum(each.missed for each in (*self.rounds[OURS], *self.probed))

    @property
    def probe_rtt_ms_max(self) -> float:
        return max(each.arrivals.probe_us_max for each in self.probed) / 1000

    def us_per_delivery(self, name: str) -> float:
        return statistics.median(each.us_per_delivery for each in self.rounds[name])

    def ratio(self, peer: str) -> Ratio:
        """Ours to the peer's, round by round."""
        return ratio_of(
            [each.us_per_delivery for each in self.rounds[OURS]], [each.us_per_delivery for each in self.rounds[peer]]
        )

    def latency(self) -> LatencyHistogram:
        """From publication to each device, over all rounds of ours."""
        found = LatencyHistogram()
        for each in self.rounds[OURS]:
            found.record_all_ms(each.arrivals_ms())
        return found

    def shortfalls(self, limits: FanOutLimits = LIMITS) -> list[str]:
        """What the promise is missed by; empty: it holds."""
        found = []
        for peer in self.peers:
            ratio = self.ratio(peer)
            most = limits.ratio_to_floor_max if peer == "floor" else 1.0
            if ratio.median > most:
                found.append(f"a delivery costs {ratio.median:.3f} times {peer}'s, promised <= {most:.2f}")
        if self.missed:
            found.append(f"{self.missed} deliveries missed")
        last = self.probed[-1].arrivals
        if last.lost:
            found.append(f"{last.lost} devices lost their connection ({last.error})")
        if self.probe_rtt_ms_max > limits.probe_rtt_ms_max:
            found.append(
                f"a probe waited {self.probe_rtt_ms_max:.1f} ms during a fan-out, promised <= "
                f"{limits.probe_rtt_ms_max:.0f} ms"
            )
        return found

    def invalid_because(self) -> list[str]:
        """Why the measurement does not count; empty: it does."""
        rounds = [each for name in self.rounds for each in self.rounds[name]]
        found = invalid_rounds(rounds, others_cores=self.others_cores, shared=self.cores_shared)
        if len({each.arrivals.bytes for each in rounds}) > 1:
            found.append("servers sent messages of different sizes")
        blind_ms = max(each.arrivals.blind_us_max for each in self.probed) / 1000
        if blind_ms > LIMITS.probe_rtt_ms_max / 2 and self.probe_rtt_ms_max > LIMITS.probe_rtt_ms_max:
            found.append(f"the probe was not looked at for up to {blind_ms:.1f} ms")
        return found

    def keys(self) -> dict[str, Any]:
        """The benchmark's keys for JSON."""
        latency = self.latency()
        floor = self.ratio("floor") if "floor" in self.rounds else None
        return {
            "devices": self.devices,
            "missed": self.missed,
            "us_per_delivery": round(self.us_per_delivery(OURS), 3),
            "probe_rtt_ms_max": round(self.probe_rtt_ms_max, 3),
            "probe_rtt_ms_p50": round(statistics.median(each.arrivals.probe_us_p50 for each in self.probed) / 1000, 3),
            "probes": sum(each.arrivals.probes for each in self.probed),
            "p50_ms": _rounded(latency.percentile_ms(50)),
            "p99_ms": _rounded(latency.percentile_ms(99)),
            "last_ms": _rounded(latency.percentile_ms(100)),
            "peers": {
                peer: {
                    "us_per_delivery": round(self.us_per_delivery(peer), 3),
                    "ratio": _told(self.ratio(peer)),
                }
                for peer in self.peers
            },
            "ratio_to_floor": None if floor is None else round(floor.median, 4),
            "ratio_q1": None if floor is None else round(floor.q1, 4),
            "ratio_q3": None if floor is None else round(floor.q3, 4),
            "rounds": len(self.rounds[OURS]),
            "payload_bytes": self.rounds[OURS][0].arrivals.bytes,
        }

    def tabulate(self, reporter: Reporter) -> None:
        rows: list[tuple[object, ...]] = []
        for name, rounds in self.rounds.items():
            last_ms = statistics.median(max(each.arrivals_ms()) for each in rounds)
            ratio = None if name == OURS else self.ratio(name)
            ours = ("-", "-") if ratio is None else (f"{ratio.median:.3f}", f"{ratio.q1:.3f} to {ratio.q3:.3f}")
            rows.append((name, self.us_per_delivery(name), *ours, last_ms))
        keys = self.keys()
        reporter.table(
            f"Fan-out: {self.devices} devices, {keys['payload_bytes']} bytes, {keys['rounds']} rounds",
            ("server", "CPU us per delivery", "stagecue / it", "quartiles", "last device, ms"),
            rows,
            caption=(
                f"stagecue's devices: p50 {keys['p50_ms']} ms, p99 {keys['p99_ms']} ms, last {keys['last_ms']} ms; "
                f"missed {self.missed}\nprobe during {len(self.probed)} fan-outs: {keys['probes']} round trips, "
                f"half within {keys['probe_rtt_ms_p50']} ms, at most {keys['probe_rtt_ms_max']} ms"
            ),
        )


async def measure_fanout(options: FanOutOptions, reporter: Reporter) -> FanOutFigures:
    """Run it once. Raises CouldNotRun; nothing is left running."""
    make_room_for(options.devices)
    peers, cores = check_peers(options.peers), choose_cores()
    with kept_on(cores.load):
        async with open_arena(
            peers, devices=options.devices, addresses=options.addresses, cores=cores, environment=options.environment
        ) as arena:
            return await _measure(options, reporter, arena)


async def _measure(options: FanOutOptions, reporter: Reporter, arena: Arena) -> FanOutFigures:
    with reporter.progress("devices connected", options.devices * len(arena.contenders)) as progress:
        for number, contender in enumerate(arena.contenders):
            # What devices that come are replayed.
            await contender.publish_unheard()
            await contender.connect()
            progress((number + 1) * options.devices, options.devices * len(arena.contenders))
    found: dict[str, list[FanOutRound]] = {contender.name: [] for contender in arena.contenders}
    others = OthersMeter()
    with reporter.progress("rounds", options.rounds) as progress:
        for number in range(-1, options.rounds):
            for contender in arena.turn(number):
                measured = await contender.fan_out()
                if number >= 0:  # the first of all warms caches up, the server's and the kernel's
                    found[contender.name].append(measured)
            progress(number + 1, options.rounds)
    others_cores = others.cores()
    probed = []
    probe_rounds = max(_PROBE_ROUNDS_MIN, options.rounds)
    with reporter.progress("fan-outs probed", probe_rounds) as progress:
        for number in range(probe_rounds):
            probed.append(await arena.ours.fan_out(probing=True))
            progress(number + 1, probe_rounds)
    return FanOutFigures(
        devices=options.devices,
        rounds=found,
        probed=probed,
        others_cores=others_cores,
        cores_shared=arena.cores.shared,
    )


def run_fanout(options: FanOutOptions, *, as_json: bool = False) -> int:
    """Measure, print, and return the exit code."""
    return run_benchmark(lambda reporter: measure_fanout(options, reporter), seed=None, as_json=as_json)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _told(ratio: Ratio) -> dict[str, float]:
    return {"median": round(ratio.median, 4), "q1": round(ratio.q1, 4), "q3": round(ratio.q3, 4)}
