"""Clusters as they are declared, in TOML: their URLs, when an event moves to one, and how they scale. Pure.

Anything in the file that is not known is refused: a misspelt bound would otherwise be none. See docs/sharding.md.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Final
from urllib.parse import urlsplit

import msgspec

from contract.durations import parse_duration
from contract.errors import InvalidRequest
from contract.names import check_event_id

__all__ = ["Cluster", "Clusters", "Expected", "ListedEvent", "Part", "parse_clusters", "rendezvous", "single_cluster"]

MAX_BYTES: Final = 1024 * 1024
MAX_CLUSTERS: Final = 100
MAX_EVENTS: Final = 10_000
_MAX_LEAD_MS: Final = 24 * 3_600_000
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_AT: Final = re.compile(r"(?P<why>.*) - at `\$\.?(?P<path>.*)`", re.DOTALL)


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """The DGS processes of a cluster, or its push nodes."""

    urls: tuple[str, ...]
    per_instance: float | None = None
    """Requests a second (prefetch) or devices (push) that one instance serves; None: no capacity is told."""
    min: int = 0
    max: int = 1_000
    lead_time: str = "PT10M"
    """From asking for an instance until it serves."""

    @cached_property
    def lead_ms(self) -> int:
        return parse_duration(self.lead_time)


class Cluster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    name: str
    prefetch: Part
    push: Part
    dedicated: bool = False
    """It takes the audiences of hot events; the one cluster that is not is everybody's home."""
    hot_before: str = "PT1H"
    """An event is hot from this long before its start..."""
    hot_after: str = "PT30M"
    """... until this long after its end."""
    ramp_in: str = "PT30M"
    """Its audience moves in over this time before it is hot..."""
    ramp_out: str = "PT30M"
    """... and out over this time afterwards."""

    @cached_property
    def times_ms(self) -> tuple[int, int, int, int]:
        """`hot_before`, `hot_after`, `ramp_in`, `ramp_out` in ms."""
        before, after, ramp_in, ramp_out = map(
            parse_duration, (self.hot_before, self.hot_after, self.ramp_in, self.ramp_out)
        )
        return before, after, ramp_in, ramp_out


class Expected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The audience of an event at its hottest, as somebody who knows it expects it."""

    devices: float = 0
    """Connected at once."""
    requests_per_s: float = 0
    """Prefetch requests a second."""


class ListedEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """What is known of one event besides its schedule."""

    id: str
    cluster: str | None = None
    """Where it moves when it is hot; the home cluster: it never moves. None: to one of the dedicated ones, by hash."""
    hot_before: str | None = None
    """Instead of the cluster's."""
    hot_after: str | None = None
    devices: float | None = None
    requests_per_s: float | None = None

    @cached_property
    def own_ms(self) -> tuple[int | None, int | None]:
        """`hot_before`, `hot_after` in ms."""
        before, after = self.hot_before, self.hot_after
        return None if before is None else parse_duration(before), None if after is None else parse_duration(after)


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    clusters: list[Cluster]
    expected: Expected = Expected()
    events: list[ListedEvent] = []


class Clusters:
    """All clusters there are; one of them is home."""

    def __init__(
        self, clusters: Sequence[Cluster], *, expected: Expected | None = None, events: Sequence[ListedEvent] = ()
    ) -> None:
        self.by_name: Mapping[str, Cluster] = {cluster.name: cluster for cluster in clusters}
        (self.home,) = (cluster for cluster in clusters if not cluster.dedicated)
        self._expected = expected or Expected()
        self._events = {event.id: event for event in events}
        named = {event.cluster for event in events}
        # A cluster that events name is theirs alone.
        self._shared = [cluster.name for cluster in clusters if cluster.dedicated and cluster.name not in named]

    def dedicated_to(self, event_id: str) -> Cluster | None:
        """Where the event's audience moves while it is hot; None: it stays at home."""
        listed = self._events.get(event_id)
        if listed is not None and listed.cluster is not None:
            cluster = self.by_name[listed.cluster]
            return cluster if cluster.dedicated else None
        return self.by_name[rendezvous(event_id, self._shared)] if self._shared else None

    def times_ms(self, event_id: str, cluster: Cluster) -> tuple[int, int, int, int]:
        """`hot_before`, `hot_after`, `ramp_in`, `ramp_out` of this event in this cluster, in ms."""
        before, after, ramp_in, ramp_out = cluster.times_ms
        listed = self._events.get(event_id)
        if listed is not None:
            own_before, own_after = listed.own_ms
            before = before if own_before is None else own_before
            after = after if own_after is None else own_after
        return before, after, ramp_in, ramp_out

    def expected(self, event_id: str) -> Expected:
        """The audience of this event, or of any that is not listed."""
        listed = self._events.get(event_id)
        if listed is None:
            return self._expected
        usual = self._expected
        return Expected(
            devices=usual.devices if listed.devices is None else listed.devices,
            requests_per_s=usual.requests_per_s if listed.requests_per_s is None else listed.requests_per_s,
        )


def single_cluster(push_urls: Sequence[str], *, prefetch_url: str = "") -> Clusters:
    """No clusters at all: everybody is at home, and nothing is told of capacity. `prefetch_url` "": as they came."""
    return Clusters([Cluster(name="home", prefetch=Part(urls=(prefetch_url,)), push=Part(urls=tuple(push_urls)))])


def parse_clusters(text: str, *, source: str = "clusters") -> Clusters:
    """Raises InvalidRequest naming `source`, the line of what is no TOML, or the field: `clusters[1].push.max`."""
    if len(text) > MAX_BYTES:
        raise _refusal(source, "", f"larger than {MAX_BYTES // 1024} KiB")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise _refusal(source, "", str(exc)) from exc
    except RecursionError as exc:
        raise _refusal(source, "", "nested too deeply") from exc
    try:
        found = msgspec.convert(raw, _File)
    except msgspec.ValidationError as exc:
        at = _AT.fullmatch(str(exc))
        raise _refusal(source, at["path"] if at else "", at["why"] if at else str(exc)) from exc
    for field, why in _faults(found):
        raise _refusal(source, field, why)
    return Clusters(found.clusters, expected=found.expected, events=found.events)


def rendezvous(key: str, names: Sequence[str]) -> str:
    """One of `names` by hash: of all keys only those of a name that goes, or that a new one takes, ever move."""
    if len(names) == 1:
        return names[0]
    return max(
        names,
        key=lambda name: (blake2b(f"{name}\x00{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), name),
    )


def _faults(found: _File) -> list[tuple[str, str]]:
    """(field, what is wrong with it) of values that are well typed."""
    faults: list[tuple[str, str]] = []
    names = [cluster.name for cluster in found.clusters]
    homes = [cluster.name for cluster in found.clusters if not cluster.dedicated]
    if not 1 <= len(names) <= MAX_CLUSTERS or len(found.events) > MAX_EVENTS:
        return [("clusters", f"1 to {MAX_CLUSTERS} clusters, at most {MAX_EVENTS} events")]
    for index, cluster in enumerate(found.clusters):
        at = f"clusters[{index}]"
        if not _NAME.fullmatch(cluster.name):
            faults.append((f"{at}.name", f"{cluster.name[:40]!r} is not 1-32 of a-z 0-9 -"))
        if cluster.name in names[:index]:
            faults.append((f"{at}.name", f"{cluster.name!r} is there twice"))
        for name in ("hot_before", "hot_after", "ramp_in", "ramp_out"):
            faults += _duration_faults(f"{at}.{name}", getattr(cluster, name))
        faults += _part_faults(f"{at}.prefetch", cluster.prefetch, ("http", "https"))
        faults += _part_faults(f"{at}.push", cluster.push, ("ws", "wss"))
    if len(homes) != 1:
        faults.append(("clusters", f"exactly one must not be dedicated, here {', '.join(homes) or 'none'}"))
    faults += _negative("expected", found.expected.devices, found.expected.requests_per_s)
    seen: set[str] = set()
    for index, event in enumerate(found.events):
        at = f"events[{index}]"
        try:
            check_event_id(event.id)
        except InvalidRequest as exc:
            faults.append((f"{at}.id", exc.message))
        if event.id in seen:
            faults.append((f"{at}.id", f"{event.id!r} is there twice"))
        seen.add(event.id)
        if event.cluster is not None and event.cluster not in names:
            faults.append((f"{at}.cluster", f"no cluster {event.cluster[:40]!r}; there are {', '.join(names)}"))
        for name in ("hot_before", "hot_after"):
            if (value := getattr(event, name)) is not None:
                faults += _duration_faults(f"{at}.{name}", value)
        faults += _negative(at, event.devices or 0, event.requests_per_s or 0)
    return faults


def _part_faults(at: str, part: Part, schemes: tuple[str, str]) -> list[tuple[str, str]]:
    faults: list[tuple[str, str]] = []
    if not part.urls:
        faults.append((f"{at}.urls", "at least one URL"))
    for index, url in enumerate(part.urls):
        if not _is_url(url, schemes):
            faults.append((f"{at}.urls[{index}]", f"not a {schemes[0]}:// or {schemes[1]}:// URL"))
    if part.per_instance is not None and not 0 < part.per_instance < float("inf"):
        faults.append((f"{at}.per_instance", "must be above 0"))
    if not 0 <= part.min <= part.max:
        faults.append((f"{at}.max", f"min {part.min} and max {part.max}: 0 <= min <= max"))
    return faults + _duration_faults(f"{at}.lead_time", part.lead_time, most_ms=_MAX_LEAD_MS)


def _is_url(url: str, schemes: tuple[str, str]) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        return False


def _duration_faults(field: str, value: str, *, most_ms: int | None = None) -> list[tuple[str, str]]:
    try:
        found_ms = parse_duration(value)
    except InvalidRequest as exc:
        return [(field, f"{exc.message}; {exc.rule}")]
    if found_ms < 0:
        return [(field, f"{value} is negative")]
    if most_ms is not None and found_ms > most_ms:
        return [(field, f"{value} is more than {most_ms // 3_600_000} hours")]
    return []


def _negative(at: str, devices: float, requests_per_s: float) -> list[tuple[str, str]]:
    given = {"devices": devices, "requests_per_s": requests_per_s}
    return [(f"{at}.{name}", "must be 0 or more") for name, value in given.items() if not 0 <= value < float("inf")]


def _refusal(source: str, field: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{source}: {field + ': ' if field else ''}{why}", field="DGS_CLUSTERS_PATH")
