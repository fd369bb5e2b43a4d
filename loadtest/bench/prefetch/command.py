"""`stagecue bench prefetch`: answers per second and core of the DGS beside its peers', the same answers for all.

Each round asks every server in turn, once for each profile, over 64 connections as fast as it answers. CPU is the
server process's own. Sampled answers of every round are compared among all servers.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from device_sim.client import now_ms
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.peers.http_load import Slots
from loadtest.bench.prefetch.arena import (
    COLD,
    CONNECTIONS,
    OURS,
    SAMPLES,
    WITHOUT_TOKENS,
    Arena,
    Asked,
    check_peers,
    fresh_profile,
    open_arena,
)
from loadtest.bench.prefetch.judge import NotAlike, compare
from loadtest.bench.prefetch.night import profile_id, schedule_of
from loadtest.bench.prefetch.picked import pick_for_all
from loadtest.bench.push.contender import OthersMeter
from loadtest.bench.push.cores import choose_cores, kept_on
from loadtest.bench.push.judging import invalid_rounds, ratio_of
from loadtest.bench.report import Reporter
from loadtest.bench.rounds import Ratio
from loadtest.bench.running import run_benchmark

__all__ = ["LIMITS", "PrefetchFigures", "PrefetchLimits", "PrefetchOptions", "measure_prefetch", "run_prefetch"]

_COLD_PROFILES_MAX: Final = 10_000
_WARM_S: Final = 2.0


class PrefetchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What is promised."""

    rps_per_core_min: float = 16_000.0
    ratio_to_mercurius_min: float = 1.4
    p99_ms_max: float = 10.0
    cold_rps_per_core_min: float = 2_000.0
    refused_share_max: float = 0.001
    """Of requests that come no faster than they are answered."""


LIMITS: Final = PrefetchLimits()


class PrefetchOptions(msgspec.Struct, frozen=True, kw_only=True):
    profiles: int = 50_000
    peers: str = "mercurius,strawberry"
    rounds: int = 5
    form: str | None = None
    """How our DGS is asked; None: by the operation's hash if it knows that, else with the whole document."""


class PrefetchFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Rounds by server, in the order they were run, those of one index in one round."""

    profiles: int
    rounds: Mapping[str, Sequence[Asked]]
    does: Mapping[str, str]
    forms: Mapping[str, str]
    compared: int
    """Answers every server gave alike, over all rounds."""
    distinct_answers: Mapping[str, int]
    others_cores: float
    cores_shared: bool

    @property
    def peers(self) -> list[str]:
        return [name for name in self.rounds if name not in (OURS, WITHOUT_TOKENS, COLD)]

    def rps_per_core(self, name: str) -> float:
        return statistics.median(each.rps_per_core for each in self.rounds[name])

    def refused_share(self, name: str) -> float:
        """Of all requests of all rounds."""
        rounds = self.rounds[name]
        return sum(each.refused for each in rounds) / sum(each.run.sent for each in rounds)

    def p99_ms(self, name: str) -> float:
        """Over all rounds."""
        found = Slots()
        for each in self.rounds[name]:
            found = found.merged(each.run.good())
        return found.percentile_ms(99) or 0.0

    def ratio(self, peer: str) -> Ratio:
        """Ours to the peer's, round by round."""
        return ratio_of(
            [each.rps_per_core for each in self.rounds[OURS]], [each.rps_per_core for each in self.rounds[peer]]
        )

    def shortfalls(self, limits: PrefetchLimits = LIMITS) -> list[str]:
        """What the promise is missed by; empty: it holds."""
        found = []
        for name, what, least in (
            (OURS, "requests/s per core", limits.rps_per_core_min),
            (COLD, "requests/s per core of cold profiles", limits.cold_rps_per_core_min),
        ):
            if self.rps_per_core(name) < least:
                found.append(f"{self.rps_per_core(name):,.0f} {what}, promised >= {least:,.0f}")
        if "mercurius" in self.rounds and self.ratio("mercurius").median < limits.ratio_to_mercurius_min:
            ratio = self.ratio("mercurius").median
            found.append(f"{ratio:.2f} times mercurius, promised >= {limits.ratio_to_mercurius_min:.1f}")
        if self.p99_ms(OURS) > limits.p99_ms_max:
            found.append(
                f"p99 {self.p99_ms(OURS):.1f} ms at {CONNECTIONS} connections, promised <= {limits.p99_ms_max:.0f}"
            )
        most = limits.refused_share_max
        found.extend(
            f"{name} refused {self.refused_share(name):.2%} of the requests, promised <= {most:.1%}"
            for name in (OURS, WITHOUT_TOKENS, COLD)
            if self.refused_share(name) > most
        )
        return found

    def invalid_because(self) -> list[str]:
        """Why the measurement does not count; empty: it does."""
        rounds = [each for name in self.rounds for each in self.rounds[name]]
        found = invalid_rounds(rounds, others_cores=self.others_cores, shared=self.cores_shared)
        if self.compared < min(SAMPLES, self.profiles):
            found.append(f"only {self.compared} answers could be compared among all servers")
        return found

    def keys(self) -> dict[str, Any]:
        """The benchmark's keys for JSON."""
        ours = self.rounds[OURS]
        return {
            "profiles": self.profiles,
            "rps_per_core": round(self.rps_per_core(OURS)),
            "rps": round(statistics.median(each.rps for each in ours)),
            "p99_ms": round(self.p99_ms(OURS), 3),
            "bytes": round(statistics.median(each.bytes for each in ours)),
            "cold_rps_per_core": round(self.rps_per_core(COLD)),
            "rps_per_core_without_tokens": round(self.rps_per_core(WITHOUT_TOKENS)),
            "distinct_answers": dict(self.distinct_answers),
            "peers": {
                peer: {
                    "rps_per_core": round(self.rps_per_core(peer)),
                    "p99_ms": round(self.p99_ms(peer), 3),
                    "ratio": _told(self.ratio(peer)),
                    "does": self.does[peer],
                }
                for peer in self.peers
            },
            "refused_share": round(self.refused_share(OURS), 6),
            "answers_compared": self.compared,
            "asked_by": self.forms[OURS],
            "connections": CONNECTIONS,
            "rounds": len(ours),
        }

    def tabulate(self, reporter: Reporter) -> None:
        rows: list[tuple[object, ...]] = []
        for name, rounds in self.rounds.items():
            peer = name in self.peers
            ratio = self.ratio(name) if peer else None
            quartiles = ("-", "-") if ratio is None else (f"{ratio.median:.2f}", f"{ratio.q1:.2f} to {ratio.q3:.2f}")
            shown = name if peer or name == OURS else f"{OURS}, {name}"
            per_core = f"{self.rps_per_core(name):,.0f}"
            rows.append(
                (
                    shown,
                    per_core,
                    *quartiles,
                    self.p99_ms(name),
                    f"{statistics.median(each.bytes for each in rounds):.0f}",
                )
            )
        reporter.table(
            f"Prefetch: {self.profiles} profiles, {CONNECTIONS} connections, {len(self.rounds[OURS])} rounds",
            ("server", "requests/s per core", "stagecue / it", "quartiles", "p99, ms", "bytes"),
            rows,
            caption="\n".join(
                [
                    *(f"{name}: {does}" for name, does in self.does.items() if name in self.peers or name == OURS),
                    f"asked by: {', '.join(f'{name} {form}' for name, form in self.forms.items())}",
                    f"{self.compared} answers compared among all, alike but for serverTime and ttlSeconds",
                    "distinct answers: " + ", ".join(f"{key} {count}" for key, count in self.distinct_answers.items()),
                ]
            ),
        )


async def measure_prefetch(options: PrefetchOptions, reporter: Reporter) -> PrefetchFigures:
    """Run it once. Raises CouldNotRun; nothing is left running."""
    peers, cores = check_peers(options.peers), choose_cores()
    schedule = schedule_of(now_ms())
    with reporter.progress("picks of every profile", options.profiles) as progress:
        picked = await asyncio.to_thread(pick_for_all, schedule, options.profiles, progress)
    with kept_on(cores.load):
        async with open_arena(peers, schedule=schedule, picked=picked, cores=cores, form=options.form) as arena:
            return await _measure(options, reporter, arena)


async def _measure(options: PrefetchOptions, reporter: Reporter, arena: Arena) -> PrefetchFigures:
    found: dict[str, list[Asked]] = {name: [] for name in arena.contenders}
    compared = 0
    with reporter.progress("warm-up", len(found)) as progress:
        for number, contender in enumerate(arena.contenders.values()):
            await contender.ask(profile_id, options.profiles, within_s=_WARM_S)
            progress(number + 1, len(found))
        # The one that ranks for itself is asked by the same profiles once: it must choose what was materialised.
        compared += _compare(arena, tuple(arena.contenders))
    others = OthersMeter()
    with reporter.progress("rounds", options.rounds) as progress:
        for number in range(options.rounds):
            for contender in arena.turn(number):
                cold = contender.name == COLD
                profiles = min(options.profiles, _COLD_PROFILES_MAX) if cold else options.profiles
                found[contender.name].append(
                    await contender.ask(fresh_profile(number) if cold else profile_id, profiles)
                )
            compared += _compare(arena, [name for name in arena.contenders if name != COLD])
            progress(number + 1, options.rounds)
    subjects = [contender.subject for contender in arena.contenders.values()]
    return PrefetchFigures(
        profiles=options.profiles,
        rounds=found,
        does={subject.name: subject.does for subject in subjects},
        forms={subject.name: subject.form.name for subject in subjects},
        compared=compared,
        distinct_answers=arena.picked.distinct_answers(),
        others_cores=others.cores(),
        cores_shared=arena.cores.shared,
    )


def _compare(arena: Arena, names: Sequence[str]) -> int:
    try:
        return compare({name: arena.contenders[name].answers for name in names})
    except NotAlike as exc:
        raise CouldNotRun(f"servers do not answer alike, so nothing is compared: {exc}") from exc


def run_prefetch(options: PrefetchOptions, *, as_json: bool = False) -> int:
    """Measure, print, and return the exit code."""
    return run_benchmark(lambda reporter: measure_prefetch(options, reporter), seed=None, as_json=as_json)


def _told(ratio: Ratio) -> dict[str, float]:
    return {"median": round(ratio.median, 4), "q1": round(ratio.q1, 4), "q3": round(ratio.q3, 4)}
