"""MaterialisedStore in this process's memory: tests, and the store benchmarks measure without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from contract.clock import Clock
from dgs.picks import Picks

__all__ = ["MemoryMaterialised"]


class MemoryMaterialised:
    """Whole `Picks` in a dictionary; the oldest written go first beyond `max_entries`."""

    def __init__(self, clock: Clock, *, catalog: Callable[[], str], max_entries: int = 1_000_000) -> None:
        """`catalog` tells the digest of the catalog in use."""
        self._clock = clock
        self._catalog = catalog
        self._max_entries = max_entries
        self._kept: dict[tuple[str, int, str], tuple[Picks, int]] = {}
        self._jobs: dict[str, tuple[set[int], int]] = {}

    def read_now(self, topic: str, version: int, profile_id: str) -> Picks | None:
        """One profile's, at once."""
        found = self._kept.get((topic, version, profile_id))
        if found is None:
            return None
        picks, until_ms = found
        if picks.layout.catalog != self._catalog() or self._clock.now_ms() >= until_ms:
            return None
        return picks

    async def read(self, topic: str, version: int, profiles: Sequence[str]) -> Mapping[str, Picks]:
        found = ((profile_id, self.read_now(topic, version, profile_id)) for profile_id in profiles)
        return {profile_id: picks for profile_id, picks in found if picks is not None}

    async def write(self, topic: str, version: int, picks: Mapping[str, Picks], *, keep_s: int) -> None:
        until_ms = self._clock.now_ms() + keep_s * 1000
        for profile_id, each in picks.items():
            key = topic, version, profile_id
            self._kept.pop(key, None)
            self._kept[key] = each._replace(source="materialised"), until_ms
        while len(self._kept) > self._max_entries:
            del self._kept[next(iter(self._kept))]

    async def progress(self, job: str) -> frozenset[int]:
        chunks, until_ms = self._jobs.get(job, (set(), 0))
        return frozenset(chunks) if self._clock.now_ms() < until_ms else frozenset()

    async def done(self, job: str, chunk: int, *, keep_s: int) -> None:
        chunks = {*await self.progress(job), chunk}
        self._jobs[job] = chunks, self._clock.now_ms() + keep_s * 1000

    async def forget(self, job: str) -> None:
        """None of its chunks is done; what they wrote stays."""
        self._jobs.pop(job, None)

    async def aclose(self) -> None:
        """Nothing to close."""
