"""What the DGS talks about, as values: titles, profiles, devices, and the stage map a device prefetches.

The structs that reach a device are named and shaped like the GraphQL types, so that `byKey` (one JSON object) and the
typed fields are the same values seen twice.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = [
    "Artwork",
    "ArtworkKind",
    "DeviceContext",
    "DeviceKind",
    "EventInfo",
    "Profile",
    "Row",
    "ScreenClass",
    "ShownTitle",
    "StageContent",
    "StageEntry",
    "StageMap",
    "Title",
    "Viewing",
]


class Title(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """A film or series of the catalog, tidied."""

    id: str
    name: str
    synopsis: str | None = None
    year: int | None = None
    maturity: str | None = None
    """Age rating as the catalog gives it, e.g. `PG-13`; None when unknown."""
    genres: tuple[str, ...] = ()
    runtime_minutes: int | None = None
    director: str | None = None
    rating: float | None = None
    """Average vote, 0-10."""
    votes: int = 0


class Viewing(msgspec.Struct, frozen=True):
    """One title of a profile's history and how much it counts (1.0: watched once, to the end)."""

    title_id: str
    weight: float = 1.0


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a map is built for."""

    id: str
    region: str
    """ISO 3166-1 alpha-2: decides the audience (R6)."""
    locale: str = "en"
    history: tuple[Viewing, ...] = ()
    """Newest first."""


class DeviceKind(StrEnum):
    TV = "TV"
    PHONE = "PHONE"
    TABLET = "TABLET"
    WEB = "WEB"


class ScreenClass(StrEnum):
    SMALL = "SMALL"
    MEDIUM = "MEDIUM"
    LARGE = "LARGE"


class ArtworkKind(StrEnum):
    POSTER = "POSTER"
    WIDE = "WIDE"
    SQUARE = "SQUARE"


class DeviceContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a map's artwork depends on."""

    kind: DeviceKind = DeviceKind.TV
    screen: ScreenClass = ScreenClass.MEDIUM
    locale: str | None = None
    """BCP 47, e.g. `de-AT`; None: the profile's."""


class Artwork(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    kind: ArtworkKind
    url: str
    width: int
    height: int


class ShownTitle(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A title as a row shows it."""

    id: str
    name: str
    synopsis: str | None
    year: int | None
    maturity: str | None
    genres: tuple[str, ...]
    runtime_minutes: int | None
    artwork: tuple[Artwork, ...]


class Row(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    heading: str
    titles: tuple[ShownTitle, ...]


class StageEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the device shows once `key` is announced."""

    key: str
    order: int
    starts_at: int | None
    """Due time in ms since the epoch; None for a manual stage, `cancelled` and `default`."""
    headline: str
    rows: tuple[Row, ...]


class StageContent(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a stage map that is the same for every fetch of one schedule revision."""

    stages: tuple[StageEntry, ...]
    """The event's stages in order, then `cancelled`."""
    default: StageEntry

    def by_key(self) -> dict[str, StageEntry]:
        """Every entry by stage key, `default` included: what a device looks a state key up in."""
        found = {entry.key: entry for entry in self.stages}
        found[self.default.key] = self.default
        return found


class EventInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A live event as one profile sees it."""

    id: str
    title: str
    topic: str
    starts_at: int
    ends_at: int | None
    cancelled: bool


class StageMap(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The answer to a prefetch."""

    event: EventInfo
    version: int
    revision: int
    ttl_seconds: int
    server_time: int
    stages: tuple[StageEntry, ...]
    by_key: dict[str, StageEntry]
    default: StageEntry
    refresh_url: str | None = None
    """GraphQL endpoint of the profile's cluster at this moment; None: the one that was asked."""
