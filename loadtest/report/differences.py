"""What two runs differ in: whether they may be compared at all, and by how much their promises moved. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from loadtest.report.record import Bar, RunRecord
from loadtest.report.scales import amount, amount_with_unit
from loadtest.report.verdicts import WORDS, promise, reservations, standing

__all__ = [
    "BarDifference",
    "Difference",
    "Turn",
    "bar_differences",
    "devices_of",
    "environment_differences",
    "incomparable_because",
    "short_commit",
]

Turn = Literal["better", "worse", "same", "other", "unknown"]
"""`other`: it moved, and nothing says which way is better. `unknown`: one of the runs has no such number."""
_SAME: Final = 1e-9
_MACHINE: Final = {"cores": "cores", "memory_bytes": "memory", "kernel": "kernel", "processor": "processor"}


class BarDifference(NamedTuple):
    """One promise in both runs; a side is None where the run has no such bar."""

    name: str
    unit: str
    a: Bar | None
    b: Bar | None
    turn: Turn
    told: str
    """`+3.1 ms (+12 %)`; empty when there is nothing to subtract."""


class Difference(NamedTuple):
    """One line of what both ran on and with."""

    label: str
    a: str
    b: str

    @property
    def differs(self) -> bool:
        return self.a != self.b


def devices_of(record: RunRecord) -> int | None:
    """How many devices took part, as the record says it, or its envelope, or the most that any stage was for."""
    told = record.devices if record.devices is not None else record.envelope.get("devices")
    if isinstance(told, int):
        return told
    return max((each.devices for each in record.reach), default=None)


def incomparable_because(a: RunRecord, b: RunRecord) -> list[str]:
    """Why the numbers of these runs must not be held against each other; empty: they may."""
    found: list[str] = []
    if a.scenario != b.scenario:
        found.append(f"two scenarios: A is {a.scenario}, B is {b.scenario}")
    for name, record in (("A", a), ("B", b)):
        verdict = standing(record)
        if verdict in ("invalid", "partial"):
            why = "; ".join(reservations(record)) or WORDS[verdict].means
            found.append(f"{name} is {WORDS[verdict].word.lower()}: {why}")
    counts = devices_of(a), devices_of(b)
    if counts[0] != counts[1]:
        told = ["an unknown number" if count is None else f"{count:,}" for count in counts]
        found.append(f"devices: {told[0]} in A, {told[1]} in B")
    machines = [_mapping(record.envelope.get("machine")) for record in (a, b)]
    if not all(machines):
        found.append("machine: not told by " + " and ".join(n for n, m in zip("AB", machines, strict=True) if not m))
        return found
    for key in sorted({*machines[0], *machines[1]}):
        one, other = (_shown(key, machine.get(key)) for machine in machines)
        if one != other:
            found.append(f"machine: {_MACHINE.get(key, key)} {one} in A, {other} in B")
    return found


def bar_differences(a: RunRecord, b: RunRecord) -> list[BarDifference]:
    """Every promise of either, in A's order, then what only B has."""
    of_a, of_b = {bar.name: bar for bar in a.bars}, {bar.name: bar for bar in b.bars}
    return [_bar_difference(name, of_a.get(name), of_b.get(name)) for name in {**of_a, **of_b}]


def environment_differences(a: RunRecord, b: RunRecord) -> dict[str, list[Difference]]:
    """Heading -> lines; those of `Run` always, of the others only lines of which either knows something."""
    found: dict[str, list[Difference]] = {"Run": _run(a, b)}
    for heading, key in (("Machine", "machine"), ("Versions", "versions")):
        one, other = _mapping(a.envelope.get(key)), _mapping(b.envelope.get(key))
        found[heading] = [
            Difference(name.removesuffix("_bytes"), _shown(name, one.get(name)), _shown(name, other.get(name)))
            for name in {**one, **other}
        ]
    for heading in {**a.facts, **b.facts}:
        of_a, of_b = ({fact.label: fact.value for fact in run.facts.get(heading, ())} for run in (a, b))
        found[heading] = [Difference(name, of_a.get(name, "-"), of_b.get(name, "-")) for name in {**of_a, **of_b}]
    return {heading: lines for heading, lines in found.items() if lines}


def _run(a: RunRecord, b: RunRecord) -> list[Difference]:
    devices = [Difference("devices", *("-" if n is None else f"{n:,}" for n in (devices_of(a), devices_of(b))))]
    return [
        Difference("scenario", a.scenario, b.scenario),
        *devices,
        *(
            Difference(key.removesuffix("_s"), _shown(key, a.envelope.get(key)), _shown(key, b.envelope.get(key)))
            for key in ("seed", "commit", "started_at", "wall_s")
        ),
    ]


def _bar_difference(name: str, a: Bar | None, b: Bar | None) -> BarDifference:
    unit = (b or a).unit if b or a else ""  # type: ignore[union-attr]
    if a is None or b is None or a.measured is None or b.measured is None or a.unit != b.unit:
        return BarDifference(name, unit, a, b, "unknown", "")
    moved = b.measured - a.measured
    if abs(moved) <= _SAME * max(abs(a.measured), abs(b.measured), 1.0):
        return BarDifference(name, unit, a, b, "same", "none")
    sign = "+" if moved > 0 else "\u2212"
    told = f"{sign}{amount_with_unit(abs(moved), unit)}"
    if a.measured:
        told += f" ({sign}{amount(abs(moved / a.measured) * 100)} %)"
    return BarDifference(name, unit, a, b, _turn(a, b, moved), told)


def _turn(a: Bar, b: Bar, moved: float) -> Turn:
    limit = promise(b) or promise(a)
    if limit is None:
        return "other"
    if limit.direction == "exactly":
        assert a.measured is not None
        assert b.measured is not None
        nearer = abs(b.measured - limit.limit) - abs(a.measured - limit.limit)
        return "better" if nearer < 0 else "worse" if nearer > 0 else "other"
    return "better" if (moved < 0) == (limit.direction == "at most") else "worse"


def short_commit(commit: Any) -> str:
    """Ten characters of it, and whether files differed; empty for what is none."""
    if not isinstance(commit, str) or not commit:
        return ""
    return commit[:10] + (" with changes" if commit.endswith("-dirty") else "")


def _mapping(found: Any) -> Mapping[str, Any]:
    return {str(key): value for key, value in found.items()} if isinstance(found, Mapping) else {}


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key.endswith("_bytes") and isinstance(value, int | float):
        return amount(float(value), "bytes")
    if key == "commit":
        return short_commit(value)
    if key == "wall_s" and isinstance(value, int | float):
        return f"{value:.1f} s"
    return str(value)
