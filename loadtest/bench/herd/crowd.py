"""All fleets as one: what is asked of each, added up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from loadtest.bench.fleet_commands import FleetSnapshot, PrefetchAnswer
from loadtest.bench.fleet_process import FleetProcess
from loadtest.bench.fleet_reach import BroadcastReach, merged_reach
from loadtest.bench.outcome import CouldNotRun

__all__ = ["Crowd", "CrowdReach", "CrowdSnapshot", "Prefetched"]

_T = TypeVar("_T")
_NEARLY: Final = 0.95
"""Of a fleet's devices subscribed: the next one begins."""


class CrowdSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All fleets' snapshots together."""

    connected: int
    subscribed: int
    broadcasts: int
    handshakes: int
    refused: int
    failed: int
    given_up: int
    protocol_violations: int
    cpu_s: float

    @classmethod
    def of(cls, parts: Iterable[FleetSnapshot]) -> CrowdSnapshot:
        found = list(parts)
        return cls(**{name: sum(getattr(part, name) for part in found) for name in cls.__struct_fields__})


class CrowdReach(msgspec.Struct, frozen=True, kw_only=True):
    broadcasts: Mapping[int, BroadcastReach]
    """By timestamp."""
    devices: Mapping[int, int]
    """Of the fleets that met the broadcast at all, by timestamp: nobody of the others got it."""
    unsubscribed: int


class Prefetched(msgspec.Struct, frozen=True, kw_only=True):
    profiles: int
    distinct_maps: int
    """Added up over fleets, whose profiles differ."""
    operations: int
    retries: int


class Crowd:
    """Fleets that were started. Methods raise CouldNotRun when one of them does not answer."""

    def __init__(self, fleets: Sequence[FleetProcess]) -> None:
        self._fleets = fleets
        self.last: CrowdSnapshot | None = None
        """The newest snapshot, for who only watches."""

    @property
    def devices(self) -> int:
        return sum(fleet.plan.devices for fleet in self._fleets)

    async def snapshot(self) -> CrowdSnapshot:
        found = self.last = CrowdSnapshot.of(await self._each(lambda fleet: fleet.snapshot()))
        return found

    async def prefetch(self, tell: Callable[[int, int], None], *, timeout_s: float) -> Prefetched:
        """All fleets side by side, each with few requests under way."""
        done = dict.fromkeys(range(len(self._fleets)), 0)
        profiles = sum(fleet.plan.prefetch.profiles for fleet in self._fleets if fleet.plan.prefetch is not None)

        async def one(number: int, fleet: FleetProcess) -> PrefetchAnswer:
            def progress(so_far: int, _: int) -> None:
                done[number] = so_far
                tell(sum(done.values()), profiles)

            return await fleet.prefetch(timeout_s=timeout_s, progress=progress)

        found = await _together([one(number, fleet) for number, fleet in enumerate(self._fleets)])
        return Prefetched(
            profiles=sum(each.profiles for each in found),
            distinct_maps=sum(each.distinct_maps for each in found),
            operations=sum(each.operations for each in found),
            retries=sum(each.retries for each in found),
        )

    async def begin(self, number: int) -> None:
        """Have the devices of one fleet connect."""
        await self._fleets[number].connect()

    async def through(self, numbers: Iterable[int]) -> set[int]:
        """Those of the fleets nearly all of whose devices are subscribed."""
        asked = list(numbers)
        found = await _together([self._fleets[number].snapshot() for number in asked])
        return {number for number, each in zip(asked, found, strict=True) if each.subscribed >= _NEARLY * each.devices}

    async def churn(self, share: float, *, over_s: float, away_s: float) -> tuple[int, int]:
        """Half of the share leaves and returns, the other half is replaced by newcomers: (returning, new)."""
        returning = await self._each(lambda fleet: fleet.churn(share=share / 2, over_s=over_s, away_s=away_s))
        new = await self._each(lambda fleet: fleet.churn(share=share / 2, over_s=over_s, away_s=None))
        return sum(returning), sum(new)

    async def reach(self, origins: Mapping[tuple[str, int], float]) -> CrowdReach:
        """`origins`: (topic, timestamp) -> when it was due, wall-clock milliseconds."""
        answers = await self._each(lambda fleet: fleet.reach(origins))
        if any(answer.unknown for answer in answers):
            raise CouldNotRun("more broadcasts than a fleet remembers")
        devices: dict[int, int] = {}
        for fleet, answer in zip(self._fleets, answers, strict=True):
            for each in answer.broadcasts:
                devices[each.timestamp] = devices.get(each.timestamp, 0) + fleet.plan.devices
        merged = await asyncio.to_thread(merged_reach, [answer.broadcasts for answer in answers])
        return CrowdReach(
            broadcasts={each.timestamp: each for each in merged},
            devices=devices,
            unsubscribed=sum(answer.unsubscribed for answer in answers),
        )

    async def _each(self, ask: Callable[[FleetProcess], Awaitable[_T]]) -> list[_T]:
        return await _together([ask(fleet) for fleet in self._fleets])


async def _together(asked: Sequence[Awaitable[_T]]) -> list[_T]:
    """All answers, in order; raises the first CouldNotRun only once nobody is asked any more."""
    found = await asyncio.gather(*asked, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return [each for each in found if not isinstance(each, BaseException)]
