"""What users ask of the DGS, as HTTP requests, and what its answers say. Pure; persisted operations by their hash.

The three operations of devices are known to every DGS; the home row is not, and is made known by its first user
(docs/persisted-operations.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import urlencode, urlsplit

import msgspec

from contract.device_operations import CHANNEL, FIRST, MAP, document_hash
from contract.errors import InvalidRequest
from device_sim.dgs_answers import ChannelTopic
from device_sim.stage_map import StageMap, stage_map_from_answer

__all__ = [
    "HOME",
    "KINDS",
    "Ask",
    "Channel",
    "Heard",
    "HttpRequest",
    "NotAnAnswer",
    "answered",
    "channel_ask",
    "channel_of",
    "first_ask",
    "home_ask",
    "is_unknown_hash",
    "map_ask",
    "map_of",
    "origin_of",
    "request_of",
    "target_of",
]

HOME: Final = (
    "query DeviceHome($profileId: ID!, $device: DeviceContext) "
    "{ prefetchHome(profileId: $profileId, device: $device) "
    "{ event { id topic } version revision ttlSeconds serverTime byKey } }"
)
"""Upcoming events for the home screen, as maps."""
KINDS: Final[tuple[Mapping[str, str], ...]] = ({"kind": "TV"}, {"kind": "PHONE"}, {"kind": "WEB"}, {"kind": "TABLET"})
"""`DeviceContext` of users, in turn."""
_MAX_AGE: Final = re.compile(r"max-age=(\d{1,9})")
_REFUSAL_MAX_BYTES: Final = 4_096
_NOT_PERSISTED: Final = ("PERSISTED_QUERY_NOT_FOUND", "PERSISTED_QUERY_NOT_SUPPORTED")


class NotAnAnswer(Exception):
    """Status 200 and yet no answer; `str()` is short and of low cardinality."""


class HttpRequest(msgspec.Struct, frozen=True):
    method: Literal["GET", "POST"]
    target: str
    body: bytes
    headers: Mapping[str, str]


class Heard(msgspec.Struct, frozen=True):
    """An HTTP answer, whatever its status."""

    status: int
    body: bytes
    etag: str = ""
    cache_control: str = ""
    retry_after_s: float | None = None


class Ask(msgspec.Struct, frozen=True):
    """One operation with its variables."""

    document: str
    variables: Mapping[str, object]
    by_get: bool = False
    etag: str = ""
    """Of the map held: the answer may be that it did not change."""
    told_version: int = 0
    """Content version a schedule named: no older answer will do."""


class Channel(msgspec.Struct, frozen=True, rename="camel"):
    """`broadcastChannel`."""

    url: str
    token: str
    connect_window_ms: int
    topics: tuple[ChannelTopic, ...]


def home_ask(profile_id: str, device: Mapping[str, str]) -> Ask:
    return Ask(HOME, {"profileId": profile_id, "device": device})


def map_ask(
    event_id: str, profile_id: str, device: Mapping[str, str], *, held: StageMap | None = None, told_version: int = 0
) -> Ask:
    """A map alone, by GET: with the tag of the one held, if any."""
    variables = {"eventId": event_id, "profileId": profile_id, "device": device}
    return Ask(MAP, variables, by_get=True, etag="" if held is None else held.etag, told_version=told_version)


def first_ask(event_ids: tuple[str, ...], profile_id: str, device: Mapping[str, str]) -> Ask:
    """The first event's map and the channel of all: what a device needs before it connects."""
    variables = {"eventId": event_ids[0], "eventIds": event_ids, "profileId": profile_id, "device": device}
    return Ask(FIRST, variables)


def channel_ask(event_ids: tuple[str, ...], profile_id: str, device: Mapping[str, str]) -> Ask:
    return Ask(CHANNEL, {"eventIds": event_ids, "profileId": profile_id, "device": device})


def request_of(ask: Ask, path: str, headers: Mapping[str, str], *, whole: bool = False) -> HttpRequest:
    """The request, by hash; `whole`: with the document and its hash, for a DGS that does not know it yet.

    `path` may have a query of its own.
    """
    digest = document_hash(ask.document)
    sent = {"Accept": "application/json", **headers}
    if ask.etag:
        sent["If-None-Match"] = ask.etag
    if ask.told_version:
        sent["X-Stagecue-Version"] = str(ask.told_version)
    if ask.by_get and not whole:
        query = {"documentId": f"sha256:{digest}", "variables": msgspec.json.encode(ask.variables)}
        return HttpRequest("GET", f"{path}{'&' if '?' in path else '?'}{urlencode(query)}", b"", sent)
    sent["Content-Type"] = "application/json"
    if whole:
        persisted = {"persistedQuery": {"version": 1, "sha256Hash": digest}}
        content = {"query": ask.document, "variables": ask.variables, "extensions": persisted}
    else:
        content = {"documentId": f"sha256:{digest}", "variables": ask.variables}
    return HttpRequest("POST", path, msgspec.json.encode(content), sent)


def is_unknown_hash(heard: Heard) -> bool:
    """Whether the DGS does not know the operation's hash (yet)."""
    if heard.status != 200 or len(heard.body) > _REFUSAL_MAX_BYTES or b"PERSISTED_QUERY_NOT_" not in heard.body:
        return False
    try:
        errors = msgspec.json.decode(heard.body)["errors"]
        return any(each["extensions"]["code"] in _NOT_PERSISTED for each in errors)
    except (msgspec.DecodeError, LookupError, TypeError):
        return False


def origin_of(url: str) -> str:
    """`scheme://host:port` of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def target_of(url: str) -> tuple[str, str]:
    """Origin of a URL, empty for one without, and what is asked for there."""
    parts = urlsplit(url)
    path = parts.path if parts.path.startswith("/") else f"/{parts.path}"
    return (origin_of(url) if parts.netloc else ""), path + (f"?{parts.query}" if parts.query else "")


def map_of(heard: Heard, held: StageMap | None, *, server_time_ms: int) -> StageMap:
    """The map of an answer to `map_ask` or `first_ask`; the one held with a new lifetime where nothing changed.

    Raises NotAnAnswer.
    """
    if heard.status == 304:
        if held is None:
            raise NotAnAnswer("unmodified, and nothing held")
        found = _MAX_AGE.search(heard.cache_control)
        ttl_s = held.ttl_s if found is None else int(found[1])
        return msgspec.structs.replace(held, ttl_s=ttl_s, server_time=server_time_ms)
    try:
        read = stage_map_from_answer(answered(heard)["prefetchEvent"], keep_content=False)
    except (LookupError, TypeError, InvalidRequest) as exc:
        raise NotAnAnswer("no stage map") from exc
    return msgspec.structs.replace(read, etag=heard.etag)


def channel_of(heard: Heard) -> Channel:
    """The channel of an answer to `first_ask` or `channel_ask`. Raises NotAnAnswer."""
    try:
        return msgspec.convert(answered(heard)["broadcastChannel"], Channel)
    except (LookupError, TypeError, msgspec.ValidationError) as exc:
        raise NotAnAnswer("no broadcast channel") from exc


def answered(heard: Heard) -> dict[str, Any]:
    """The answer's `data`. Raises NotAnAnswer for errors in it, and for what is no GraphQL."""
    try:
        answer = msgspec.json.decode(heard.body)
        errors, found = answer.get("errors"), answer.get("data")
    except (msgspec.DecodeError, AttributeError) as exc:
        raise NotAnAnswer("no GraphQL") from exc
    if errors:
        raise NotAnAnswer(f"graphql {_code(errors)}")
    if not isinstance(found, dict):
        raise NotAnAnswer("no data")
    return found


def _code(errors: object) -> str:
    try:
        return str(errors[0]["extensions"]["code"])[:40]  # type: ignore[index]
    except (LookupError, TypeError):
        return "error"
