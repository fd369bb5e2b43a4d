"""What the DGS needs of the world besides the schedule view and the replay log (see contract.kv)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from contract.schedule import TopicSchedule
from dgs.model import Profile
from dgs.picks import Missing, Picks, Wanted
from dgs.sources.catalog import Catalog
from dgs.stage_map import Recommendations

__all__ = [
    "BatchRecommendations",
    "CatalogSource",
    "ListedProfiles",
    "MaterialisedStore",
    "Need",
    "Newest",
    "NewestReader",
    "PicksSource",
    "Place",
    "PlacedProfiles",
    "ProfileSource",
    "RecommendationSource",
    "ScheduleReader",
]


class ProfileSource(Protocol):
    """Profiles and their viewing histories."""

    def profile(self, profile_id: str) -> Profile:
        """Raises InvalidRequest for a malformed id, NotFound for one the source does not have."""
        ...


class Place(NamedTuple):
    """Where a profile is: decides its audience and its language."""

    region: str
    locale: str


@runtime_checkable
class PlacedProfiles(Protocol):
    """A source that can say where a profile is without its history: asked by every request."""

    def place(self, profile_id: str) -> Place:
        """The same as the profile's; raises as `profile` does."""
        ...


class ListedProfiles(ProfileSource, Protocol):
    """Profiles that can be gone through, for the batch job."""

    def ids(self) -> Iterator[str]: ...


class RecommendationSource(Protocol):
    """What a profile would like to see, computed here and now."""

    def recommend(self, profile: Profile, k: int, *, because: int, per_because: int) -> Recommendations:
        """`k` titles for the profile, and up to `because` watched titles with `per_because` neighbours each."""
        ...


class Need(NamedTuple):
    """How much of each `recommend` is asked for; see RecommendationSource."""

    k: int
    because: int
    per_because: int


class BatchRecommendations(Protocol):
    """What a plug-in writes: recommendations for several profiles at once, from wherever they are."""

    name: str

    async def recommend(
        self, profiles: Sequence[Profile], need: Need, deadline_s: float
    ) -> Sequence[Recommendations | Missing]:
        """One for each, in order, within `deadline_s` seconds; raises Unavailable if there are none for anybody."""
        ...


class CatalogSource(Protocol):
    """Where the catalog comes from."""

    def load(self) -> Catalog:
        """Blocking. Raises InvalidRequest naming what cannot be used."""
        ...

    def stamp(self) -> str:
        """Another one when `load` would give something else; blocking, and cheap enough for every few seconds."""
        ...


class ScheduleReader(Protocol):
    """Schedules in memory, a second old at most while the store answers."""

    def topics_of(self, event_id: str) -> tuple[TopicSchedule, ...] | None:
        """Schedules of an event's topics; empty: there is no such event; None: not known here yet, `ensure` it."""
        ...

    async def ensure(self, event_id: str, *, version: int = 0) -> tuple[TopicSchedule, ...]:
        """The same, read through to the store if unknown or older than `version`. Raises StoreUnavailable."""
        ...

    def schedule(self, topic: str) -> TopicSchedule | None:
        """One topic's, if either of the above has given it before: what a `Wanted` is about."""
        ...

    async def events(self) -> tuple[str, ...]:
        """Ids of every event but shadows, sorted, as fresh as the schedules. Raises StoreUnavailable."""
        ...


class Newest(Protocol):
    """A topic's newest broadcast; both from one log entry."""

    @property
    def state_key(self) -> str | None:
        """None before the first."""
        ...

    @property
    def timestamp(self) -> int:
        """ms; 0 before the first."""
        ...


class NewestReader(Protocol):
    """Newest broadcasts, half a second old at most."""

    async def latest(self, topic: str) -> Newest:
        """An older entry than the newest was the newest. Raises StoreUnavailable."""
        ...


class PicksSource(Protocol):
    """Picks by whatever way is configured: memory, materialised, ranking service, catalog; never an error for long."""

    def at_once(self, wanted: Wanted) -> Picks | None:
        """What memory has; None: ask `find`."""
        ...

    async def find(self, wanted: Sequence[Wanted], deadline_s: float) -> Mapping[Wanted, Picks | Missing]:
        """For all of them, in one go where the source can; `Missing` where the profile itself is unknown."""
        ...


class MaterialisedStore(Protocol):
    """Picks written by the batch job: one entry per topic and profile, kept for a time."""

    async def read(self, topic: str, version: int, profiles: Sequence[str]) -> Mapping[str, Picks]:
        """Those there are; entries of another version or catalog are none. Raises StoreUnavailable."""
        ...

    async def write(self, topic: str, version: int, picks: Mapping[str, Picks], *, keep_s: int) -> None: ...

    async def progress(self, job: str) -> frozenset[int]:
        """Chunks of a job that are done."""
        ...

    async def done(self, job: str, chunk: int, *, keep_s: int) -> None: ...
