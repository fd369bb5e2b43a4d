"""What a job of materialising is: the same event, catalog and profiles are the same job, in the same chunks. Pure."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from contract.schedule import TopicSchedule
from dgs.stage_map import stage_keys

__all__ = ["CHUNK_PROFILES", "JobPlan"]

CHUNK_PROFILES: Final = 500
"""What a killed worker loses at most, a fifth of a second of one core; and what is in memory at once."""


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that the picks depend on, so that whoever plans the same may go on where another was killed."""

    schedules: tuple[TopicSchedule, ...]
    """Of one event."""
    catalog: str
    """Digest."""
    sources: str
    """Who chooses, and of which profiles: anything that names both."""
    per_row: int
    profiles: int
    profiles_digest: str
    """Of the list of profiles, in its order."""
    chunk_profiles: int = CHUNK_PROFILES

    @property
    def id(self) -> str:
        """Equal for equal jobs. A moved time makes no other job, another version or stage does."""
        facts = (
            [(each.topic, each.version, each.regions, stage_keys(each)) for each in self.schedules],
            self.catalog,
            self.sources,
            self.per_row,
            self.profiles,
            self.profiles_digest,
            self.chunk_profiles,
        )
        return blake2b(msgspec.msgpack.encode(facts), digest_size=12, person=b"materialise").hexdigest()

    @property
    def chunks(self) -> int:
        return -(-self.profiles // self.chunk_profiles)

    def span(self, chunk: int) -> tuple[int, int]:
        """Places in the list, from and up to."""
        assert 0 <= chunk < self.chunks
        start = chunk * self.chunk_profiles
        return start, min(start + self.chunk_profiles, self.profiles)

    def left(self, done: frozenset[int]) -> tuple[int, ...]:
        """Chunks to do when those are done; numbers that are no chunks of this job mean nothing."""
        return tuple(chunk for chunk in range(self.chunks) if chunk not in done)

    def profiles_of(self, chunks: tuple[int, ...]) -> int:
        return sum(stop - start for start, stop in map(self.span, chunks))
