"""What the DGS needs of the world besides the schedule view and the replay log (see contract.kv)."""

from __future__ import annotations

from typing import Protocol

from dgs.model import Profile
from dgs.stage_map import Recommendations

__all__ = ["ProfileSource", "RecommendationSource"]


class ProfileSource(Protocol):
    """Profiles and their viewing histories."""

    def profile(self, profile_id: str) -> Profile:
        """Raises InvalidRequest for a malformed id, NotFound for one the source does not have."""
        ...


class RecommendationSource(Protocol):
    """What a profile would like to see."""

    def recommend(self, profile: Profile, k: int, *, because: int, per_because: int) -> Recommendations:
        """`k` titles for the profile, and up to `because` watched titles with `per_because` neighbours each."""
        ...
