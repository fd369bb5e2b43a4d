"""The HTTP load client's process (`http_load.c`), what it is told and what it says."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import numpy as np

from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.peers.programs import compiled
from loadtest.bench.push.line_member import LineMember

__all__ = [
    "MARKED",
    "RECORD",
    "WAITED",
    "HttpLoad",
    "LoadRun",
    "Slots",
    "TagTally",
    "read_samples",
    "write_requests",
    "write_schedule",
]

RECORD: Final = np.dtype([("due_us", "<u4"), ("latency_us", "<u4"), ("status", "<u2"), ("tag", "u1"), ("flags", "u1")])
"""One request of a run, in the order in which they were due; flags: WAITED, MARKED."""
WAITED: Final = 1
MARKED: Final = 2
_REQUEST: Final = struct.Struct("<IB")
_SAMPLE: Final = struct.Struct("<II")
_SUB: Final = 128
_ANSWER_SLACK_S: Final = 15.0


class Slots(msgspec.Struct, frozen=True):
    """A histogram as `http_load.c` counts: whole microseconds below 128, then 128 slots to each power of two."""

    counts: Mapping[int, int] = {}

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Slots:
        return cls(dict(pairs))

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def merged(self, other: Slots) -> Slots:
        """Both together."""
        found = dict(self.counts)
        for slot, count in other.counts.items():
            found[slot] = found.get(slot, 0) + count
        return Slots(found)

    def percentile_ms(self, percent: float) -> float | None:
        """The end of the slot it lies in: never less than the truth, at most 0.8 % more. None of nothing."""
        rank = max(1, math.ceil(self.count * percent / 100))
        for slot in sorted(self.counts):
            rank -= self.counts[slot]
            if rank <= 0:
                return _end_us(slot) / 1000
        return None


class TagTally(msgspec.Struct, frozen=True):
    """Requests of one tag."""

    statuses: Mapping[int, int]
    """0: no answer, or none in time."""
    marked: int
    """2xx answers with the marked text: not what was asked for."""
    good: Slots
    """Latencies of other 2xx."""
    other: Slots

    @property
    def total(self) -> int:
        return sum(self.statuses.values())

    @property
    def good_count(self) -> int:
        return self.good.count


class LoadRun(msgspec.Struct, frozen=True):
    """One run of a load process."""

    wall_s: float
    idle_s: float
    sent: int
    answered: int
    failed: int
    waited: int
    """Arrivals that found every connection of their tag taken."""
    waiting_max: int
    late: Slots
    """How late requests were sent for which a connection was free: the client's own lateness."""
    bytes: int
    body_bytes: int
    connects: int
    tags: Mapping[int, TagTally]
    error: str
    """The first thing that was no good answer; empty: nothing."""

    @property
    def load_cores(self) -> float:
        """What the client was busy of its core; its CPU time says nothing, since it never sleeps."""
        return 1 - self.idle_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def good_count(self) -> int:
        return sum(tally.good_count for tally in self.tags.values())

    def good(self) -> Slots:
        """Latencies of all good answers."""
        found = Slots()
        for tally in self.tags.values():
            found = found.merged(tally.good)
        return found


class HttpLoad(LineMember):
    """Raises CouldNotRun from every method when the process ended or does not answer."""

    role: ClassVar[str] = "load"

    def __init__(self, name: str, directory: Path, *, core: int, port: int, spin: bool = True) -> None:
        """`spin`: it never sleeps while it works, so that waking it costs the server nothing."""
        super().__init__(name, directory, core=core)
        self._server_port = port
        self._spin = spin
        self._path: Path | None = None

    async def prepare(self) -> None:
        self._path = await compiled("http_load")

    def program(self) -> Sequence[str]:
        assert self._path is not None, "prepared first"
        return [str(self._path), str(self._server_port), "spin" if self._spin else "sleep"]

    async def until_ready(self) -> None:
        await self.ask("close")

    async def load(self, requests: Path) -> int:
        """Read a file of `write_requests`; returns how many there are."""
        return int((await self.ask(f"load {requests}"))["requests"])

    async def closed(
        self,
        *,
        connections: int,
        at_least: int = 0,
        within_s: float,
        timeout_s: float = 10.0,
        samples: tuple[int, Path] | None = None,
        records: Path | None = None,
    ) -> LoadRun:
        """Every request of the file once, each connection's next one once its last is answered.

        Ends after `within_s` if `at_least` requests were taken. `samples`: answers to so many first requests, whole.
        """
        keep, path = samples or (0, "-")
        line = f"closed {connections} {at_least} {_ms(within_s)} {_ms(timeout_s)} {keep} {path} {records or '-'}"
        # With so many to be taken its end is not foreseen: what bounds it is each request's own time.
        longest_s = within_s + timeout_s * (1 + math.ceil(at_least / connections))
        return _run(await self.ask(line, within_s=longest_s + _ANSWER_SLACK_S))

    async def open(
        self,
        schedule: Path,
        *,
        pools: Sequence[int],
        lasts_s: float,
        timeout_s: float = 10.0,
        samples: tuple[int, Path] | None = None,
        records: Path | None = None,
    ) -> LoadRun:
        """Requests at the times of `write_schedule`, over `pools[tag]` connections of each tag."""
        keep, path = samples or (0, "-")
        many = ",".join(map(str, pools))
        line = f"open {many} {schedule} {_ms(timeout_s)} {keep} {path} {records or '-'}"
        return _run(await self.ask(line, within_s=lasts_s + timeout_s + _ANSWER_SLACK_S))

    async def mark(self, text: str) -> None:
        """Count good answers that contain `text` apart from now on."""
        await self.ask(f"mark {text}")

    async def close_all(self) -> None:
        """Cut every connection off."""
        await self.ask("close")


def write_requests(path: Path, requests: Iterable[tuple[int, bytes]]) -> None:
    """(tag, request) of each, readable by its owner only: they carry tokens."""
    path.touch(mode=0o600)
    with path.open("wb") as file:
        for tag, request in requests:
            file.write(_REQUEST.pack(len(request), tag) + request)


def write_schedule(
    path: Path, at_us: Sequence[int] | np.ndarray[Any, Any], which: Sequence[int] | np.ndarray[Any, Any]
) -> None:
    """When each request of the file is due, in order of time; microseconds from the start."""
    pairs = np.empty((len(at_us), 2), dtype="<u4")
    pairs[:, 0] = at_us
    pairs[:, 1] = which
    path.write_bytes(pairs.tobytes())


def read_samples(path: Path) -> Iterator[tuple[int, bytes]]:
    """(request, answer with its head) of a file of samples, in the order they came. Raises CouldNotRun if cut off."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        try:
            request, size = _SAMPLE.unpack_from(content, at)
        except struct.error:
            raise CouldNotRun(f"{path} is cut off") from None
        at += _SAMPLE.size
        if at + size > len(content):
            raise CouldNotRun(f"{path} is cut off")
        yield request, content[at : at + size]
        at += size


class _TagSaid(msgspec.Struct):
    tag: int
    statuses: dict[int, int]
    marked: int
    good: list[tuple[int, int]]
    other: list[tuple[int, int]]


class _RunSaid(msgspec.Struct):
    wall_us: int
    idle_us: int
    sent: int
    answered: int
    failed: int
    waited: int
    waiting_max: int
    late: list[tuple[int, int]]
    bytes: int
    body_bytes: int
    connects: int
    tags: list[_TagSaid]
    error: str


def _run(said: Mapping[str, Any]) -> LoadRun:
    try:
        found = msgspec.convert(said, _RunSaid, strict=False)
    except msgspec.ValidationError as exc:
        raise CouldNotRun(f"the load client said something else: {exc}") from exc
    return LoadRun(
        wall_s=found.wall_us / 1e6,
        idle_s=found.idle_us / 1e6,
        sent=found.sent,
        answered=found.answered,
        failed=found.failed,
        waited=found.waited,
        waiting_max=found.waiting_max,
        late=Slots.of(found.late),
        bytes=found.bytes,
        body_bytes=found.body_bytes,
        connects=found.connects,
        tags={
            each.tag: TagTally(each.statuses, each.marked, Slots.of(each.good), Slots.of(each.other))
            for each in found.tags
        },
        error=found.error,
    )


def _end_us(slot: int) -> int:
    if slot < _SUB:
        return slot
    shift = slot // _SUB - 1
    return ((_SUB + slot % _SUB + 1) << shift) - 1


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
