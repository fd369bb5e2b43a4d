"""A device's stage map: stage key -> what to show, as prefetched; and the fingerprint of an entry. Pure."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from contract.errors import InvalidRequest
from contract.names import DEFAULT_STATE

__all__ = ["MAX_ARTWORK_PER_MAP", "MapEntry", "StageMap", "artwork_urls", "entry_fingerprint", "stage_map_from_answer"]

MAX_ARTWORK_PER_MAP = 512
"""URLs a device takes from one map; more would be a broken answer, not a screen."""


class MapEntry(msgspec.Struct, frozen=True, gc=False):
    """What to show for one stage key: canonical JSON of the DGS's entry and its fingerprint."""

    fingerprint: str
    content: bytes
    """Canonical JSON, or empty where a fleet keeps fingerprints alone."""


class StageMap(msgspec.Struct, frozen=True):
    """One prefetched stage map. Its expiry governs refreshing only: an expired map is still applied (R19)."""

    event_id: str
    version: int
    revision: int
    ttl_s: int
    server_time: int
    entries: Mapping[str, MapEntry]
    default: MapEntry
    times: Mapping[str, int | None]
    artwork: frozenset[str] = frozenset()
    """URLs the map refers to."""
    etag: str = ""
    """The tag it came with, which asks whether it changed; empty: none."""
    refresh_url: str = ""
    """Where the DGS said it is refreshed; empty: where it was asked for."""

    def lookup(self, state_key: str | None) -> tuple[MapEntry, bool]:
        """The entry to show for a state key and whether the key was missing (then it is the default row)."""
        if state_key is None or state_key == DEFAULT_STATE:
            return self.default, False
        entry = self.entries.get(state_key)
        return (self.default, True) if entry is None else (entry, False)


def entry_fingerprint(canonical: bytes) -> str:
    """16 hex digits naming an entry's content."""
    return hashlib.blake2b(canonical, digest_size=8).hexdigest()


def stage_map_from_answer(answer: Mapping[str, Any], *, keep_content: bool = True) -> StageMap:
    """The device's map from a GraphQL `StageMap` object with its scalars, `byKey` and `event { id }`.

    `byKey` alone carries every entry, `default` among them; the typed fields would say the same again.
    Raises InvalidRequest naming the missing or mistyped field.
    """
    try:
        by_key = answer["byKey"]
        return StageMap(
            event_id=str(answer["event"]["id"]),
            version=int(answer["version"]),
            revision=int(answer["revision"]),
            ttl_s=int(answer["ttlSeconds"]),
            server_time=int(answer["serverTime"]),
            entries={key: _entry(value, keep_content) for key, value in by_key.items() if key != DEFAULT_STATE},
            default=_entry(by_key[DEFAULT_STATE], keep_content),
            times={key: _moment(value.get("startsAt")) for key, value in by_key.items() if key != DEFAULT_STATE},
            artwork=frozenset(artwork_urls(answer)),
            refresh_url=_refresh_url(answer),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise InvalidRequest(f"not a stage map: {exc!r}", field="stageMap", rule="see the GraphQL schema") from exc


def _refresh_url(answer: Mapping[str, Any]) -> str:
    """HTTP alone, whatever is said; one string for all devices of a cluster."""
    said = answer.get("refreshUrl")
    return sys.intern(said) if isinstance(said, str) and said.startswith(("http://", "https://")) else ""


def artwork_urls(answer: Mapping[str, Any]) -> Iterator[str]:
    """Artwork URLs of a `StageMap` object, each once, at most MAX_ARTWORK_PER_MAP."""
    seen: set[str] = set()
    for entry in answer["byKey"].values():
        for row in entry.get("rows") or ():
            for title in row.get("titles") or ():
                for picture in title.get("artwork") or ():
                    url = picture.get("url")
                    if url and url not in seen and len(seen) < MAX_ARTWORK_PER_MAP:
                        seen.add(url)
                        yield url


def _moment(value: Any) -> int | None:
    if value is not None and type(value) is not int:
        raise TypeError(f"a moment is an integer, not {value!r:.40}")
    return value


def _entry(value: Any, keep_content: bool) -> MapEntry:
    if not isinstance(value, Mapping):
        raise TypeError(f"an entry is an object, not {type(value).__name__}")
    canonical = msgspec.json.encode(value, order="sorted")
    return MapEntry(entry_fingerprint(canonical), canonical if keep_content else b"")
