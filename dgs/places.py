"""Where profiles are, remembered: every request asks, and a profile rarely moves. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from dgs.ports import Place, PlacedProfiles, ProfileSource

__all__ = ["places_of"]


def places_of(profiles: ProfileSource, *, entries: int) -> Callable[[str], Place]:
    """Profile id -> its place, some 300 bytes each; raises as the source does, and remembers no refusals."""
    if isinstance(profiles, PlacedProfiles):
        return lru_cache(maxsize=entries)(profiles.place)

    def place(profile_id: str) -> Place:
        profile = profiles.profile(profile_id)
        return Place(profile.region, profile.locale)

    return lru_cache(maxsize=entries)(place)
