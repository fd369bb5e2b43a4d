"""Prefetch over HTTP: the stage map and the broadcast channel from GraphQL, then the map's artwork. aiohttp, bounded.

Operations go by their hash (`documentId`), maps alone by GET with the tag of the map held, so that one that did not
change costs a 304. A DGS that does not know the hash gets the whole document once and knows it then; one that knows no
hashes gets documents from then on.

A map is refreshed where its answer said (`refreshUrl`), else at the URL given here; nowhere else, so an operation's
redirect is a refusal. After a refresh that failed where it was told to go, the next one asks at the URL given here.

The raw answers are kept as they came from the socket (`recorded`), so that a judge can compare what a device rendered
with what its profile was sent, without asking the device.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self
from urllib.parse import urlencode, urljoin

import aiohttp
import msgspec

from contract.device_operations import CHANNEL, FIRST, MAP, document_hash
from contract.errors import BroadcastSystemError, InvalidRequest, Unavailable
from device_sim.client import DeviceClient, now_ms
from device_sim.dgs_answers import ChannelTopic, Refused, channel_of, data_of, is_unknown_hash, max_age_s
from device_sim.stage_map import StageMap, stage_map_from_answer

__all__ = [
    "ArtworkMode",
    "ChannelTopic",
    "PrefetchCounts",
    "Prefetched",
    "Prefetcher",
    "ProfileToken",
    "Recorded",
    "Refused",
]

ArtworkMode = Literal["device", "edge", "none"]
"""`device`: every device gets every picture from the origin. `edge`: pictures have immutable URLs, so a cache shared
by the fleet (a CDN's edge) asks the origin once for each. `none`: no pictures."""

_TRIES: Final = 4
_RETRY_BASE_S: Final = 0.2
_RETRY_MAX_S: Final = 5.0
_PICTURE_MAX_BYTES: Final = 4 << 20
_RECORDED_PER_DEVICE_MAX: Final = 64
_UNMODIFIED: Final = 304
_NO_HASHES: Final = (400, 405)
"""What a DGS says that wants a document, or one by POST."""


class Prefetched(msgspec.Struct, frozen=True):
    """What a device needs before it connects."""

    url: str
    token: str
    connect_window_ms: int
    topics: tuple[ChannelTopic, ...]
    maps: Mapping[str, StageMap]
    """Topic -> map."""
    artwork: frozenset[str]
    """URLs now in the device's cache."""


class Recorded(msgspec.Struct, frozen=True):
    """One answer as it came from the socket."""

    at_ms: int
    device_id: str
    event_id: str
    body: bytes


class PrefetchCounts(msgspec.Struct):
    """What this prefetcher asked of the origin; only rises."""

    operations: int = 0
    artwork: int = 0
    artwork_from_edge: int = 0
    retries: int = 0
    failures: int = 0
    unmodified: int = 0
    """Maps that had not changed: a head without a body."""
    whole_documents: int = 0
    """Operations sent as text, since their hash was not known."""
    moved: int = 0
    """Refreshes that went to another URL than the first request."""


class Heard(NamedTuple):
    """An HTTP answer that needs no other try."""

    status: int
    body: bytes
    at_ms: int
    """When it had come, by this host's clock."""
    etag: str = ""
    max_age_s: int | None = None


class _Came(NamedTuple):
    """A map, and the answer it came with."""

    stage_map: StageMap
    heard: Heard

    def as_of(self, now_ms: int) -> StageMap:
        """With the server's time as it is by now: pictures take their time."""
        server_time = self.stage_map.server_time + now_ms - self.heard.at_ms
        return msgspec.structs.replace(self.stage_map, server_time=server_time)


ProfileToken = Callable[[str], str]
"""Profile id -> its token."""


class Prefetcher:
    """One connection pool for a fleet. Use as an async context manager; every request is cancel-safe and bounded."""

    def __init__(
        self,
        dgs_url: str,
        *,
        concurrency: int = 32,
        artwork: ArtworkMode = "device",
        timeout_s: float = 10.0,
        keep_content: bool = True,
        seed: int | None = None,
        token_of: ProfileToken | None = None,
        records: bool = True,
    ) -> None:
        """`token_of`: what a profile's requests are signed with; None: nothing. `records`: keep answers for a judge."""
        self.url = dgs_url.rstrip("/") + "/graphql"
        self.counts = PrefetchCounts()
        self.recorded: dict[str, list[Recorded]] = {}
        """Profile -> its answers, oldest first."""
        self._artwork_mode = artwork
        self._keep_content = keep_content
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._concurrency = concurrency
        self._random = random.Random(seed)
        self._token_of = token_of
        self._records = records
        self._session: aiohttp.ClientSession | None = None
        self._by_hash = True
        self._edge: dict[str, asyncio.Future[None]] = {}
        self._event_of_topic: dict[str, str] = {}
        self._refetches: set[asyncio.Task[None]] = set()
        self._astray: set[tuple[str, str]] = set()
        """(device, topic) whose last refresh failed where it was told to go."""
        self._refetch_slots = asyncio.Semaphore(concurrency)

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=30)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._refetches:
            task.cancel()
        await asyncio.gather(*self._refetches, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def prefetch(
        self, profile_id: str, device_id: str, event_ids: Sequence[str], *, device: Mapping[str, object]
    ) -> Prefetched:
        """Channel and maps of these events for one device, artwork included.

        Raises InvalidRequest for what the DGS refuses, Unavailable once the bounded retries are spent.
        """
        assert event_ids, "a device follows at least one event"
        variables = {"eventId": event_ids[0], "eventIds": list(event_ids), "profileId": profile_id}
        heard = await self._operation(FIRST, variables | {"device": dict(device)}, self._headers(profile_id, device_id))
        first = data_of(heard.body)
        self._record(profile_id, device_id, event_ids[0], heard.body)
        channel = channel_of(first)
        topics = {each.event_id: each.topic for each in channel.topics}
        if not topics.keys() >= set(event_ids):
            raise InvalidRequest("the channel has no topic for an event", field="broadcastChannel.topics")
        for event_id, topic in topics.items():
            self._event_of_topic[topic] = event_id
        came = {topics[event_ids[0]]: self._map(first, heard)}
        for event_id in event_ids[1:]:
            one = came[topics[event_id]] = await self._ask_map(profile_id, device_id, event_id, device)
            self._record(profile_id, device_id, event_id, one.heard.body)
        held = await self._fetch_artwork(frozenset(url for each in came.values() for url in each.stage_map.artwork))
        now = now_ms()
        maps = {topic: each.as_of(now) for topic, each in came.items()}
        return Prefetched(channel.url, channel.token, channel.connect_window_ms, channel.topics, maps, held)

    async def channel(
        self, profile_id: str, device_id: str, event_ids: Sequence[str], *, device: Mapping[str, object]
    ) -> Prefetched:
        """The channel alone, no maps; errors as `prefetch`."""
        variables = {"eventIds": list(event_ids), "profileId": profile_id, "device": dict(device)}
        heard = await self._operation(CHANNEL, variables, self._headers(profile_id, device_id))
        found = data_of(heard.body)
        channel = channel_of(found)
        return Prefetched(channel.url, channel.token, channel.connect_window_ms, channel.topics, {}, frozenset())

    # MapFetcher
    def request(self, client: DeviceClient, topic: str) -> None:
        """Refetch one map for a device whose random moment has come; answers through `client.device`."""
        task = asyncio.get_running_loop().create_task(
            self._refetch(client, topic), name=f"refetch-{client.device.device_id}"
        )
        self._refetches.add(task)
        task.add_done_callback(self._refetches.discard)

    async def _refetch(self, client: DeviceClient, topic: str) -> None:
        device = client.device
        try:
            async with self._refetch_slots:
                event_id = self._event_of_topic.get(topic)
                if event_id is None:
                    raise InvalidRequest(f"no event known for {topic!r}", field="topic")
                state = device.topics.get(topic)
                held = state.stage_map if state is not None else None
                told_url = (
                    held.refresh_url if held is not None and (device.device_id, topic) not in self._astray else ""
                )
                if told_url:
                    # Until it answers: a failure leads back.
                    self._astray.add((device.device_id, topic))
                came = await self._ask_map(
                    client.profile_id,
                    device.device_id,
                    event_id,
                    client.device_context,
                    held=held,
                    told_version=state.version if state is not None else 0,
                    clock_offset_ms=device.clock_offset_ms,
                    url=told_url,
                )
                self._astray.discard((device.device_id, topic))
                # Pictures held for an earlier map leave the cache, but for those that this one shows.
                again = came.stage_map.artwork & device.artwork
                device.artwork_fetched(again | await self._fetch_artwork(came.stage_map.artwork - again))
        except BroadcastSystemError:
            self.counts.failures += 1
            device.map_failed(now_ms(), topic, self._random.random())
            client.carry_out(())
            return
        if came.heard.status != _UNMODIFIED:
            self._record(client.profile_id, device.device_id, event_id, came.heard.body)
        now = now_ms()
        client.carry_out(device.map_fetched(now, topic, came.as_of(now), self._random.random()))

    # HTTP
    def _map(self, answer: Mapping[str, Any], heard: Heard, *, etag: str = "") -> _Came:
        found = stage_map_from_answer(answer.get("prefetchEvent") or {}, keep_content=self._keep_content)
        # URLs are shared by thousands of devices: one string each.
        urls = frozenset(sys.intern(url) for url in found.artwork)
        return _Came(msgspec.structs.replace(found, artwork=urls, etag=etag), heard)

    async def _ask_map(
        self,
        profile_id: str,
        device_id: str,
        event_id: str,
        device: Mapping[str, object],
        *,
        held: StageMap | None = None,
        told_version: int = 0,
        clock_offset_ms: int = 0,
        url: str = "",
    ) -> _Came:
        """The map; the one `held` with a new lifetime where the DGS says that nothing changed. `url` "": the own."""
        variables = {"eventId": event_id, "profileId": profile_id, "device": dict(device)}
        headers = self._headers(profile_id, device_id)
        if held is not None and held.etag:
            headers["If-None-Match"] = held.etag
        if told_version:
            headers["X-Stagecue-Version"] = str(told_version)
        self.counts.moved += bool(url) and url != self.url
        heard = await self._operation(MAP, variables, headers, get=True, url=url or self.url)
        if heard.status == _UNMODIFIED:
            if held is None:
                raise Unavailable("the DGS says nothing changed to who holds nothing")
            self.counts.unmodified += 1
            ttl_s = held.ttl_s if heard.max_age_s is None else heard.max_age_s
            server_time = heard.at_ms + clock_offset_ms
            return _Came(msgspec.structs.replace(held, ttl_s=ttl_s, server_time=server_time), heard)
        return self._map(data_of(heard.body), heard, etag=heard.etag)

    def _record(self, profile_id: str, device_id: str, event_id: str, body: bytes) -> None:
        if not self._records:
            return
        kept = self.recorded.setdefault(profile_id, [])
        if len(kept) < _RECORDED_PER_DEVICE_MAX:
            kept.append(Recorded(now_ms(), device_id, event_id, body))

    def _headers(self, profile_id: str, device_id: str) -> dict[str, str]:
        headers = {"Accept": "application/json", "X-Device-Id": device_id}
        if self._token_of is not None:
            headers["Authorization"] = f"Bearer {self._token_of(profile_id)}"
        return headers

    async def _operation(
        self,
        document: str,
        variables: Mapping[str, object],
        headers: Mapping[str, str],
        *,
        get: bool = False,
        url: str = "",
    ) -> Heard:
        """One operation by its hash; with the whole document where the DGS does not know that."""
        digest = document_hash(document)
        url = url or self.url
        if self._by_hash:
            heard = await self._ask_by_hash(url, digest, variables, headers, get=get)
            if heard.status not in _NO_HASHES and not is_unknown_hash(heard.body):
                return heard
        self.counts.whole_documents += 1
        persisted = {"persistedQuery": {"version": 1, "sha256Hash": digest}}
        whole = {"query": document, "variables": variables, "extensions": persisted}
        answer = await self._post(url, whole, headers)
        if self._by_hash and heard.status in _NO_HASHES:
            self._by_hash = False  # it answers documents alone: a second request each time would be one too many
        return answer

    async def _ask_by_hash(
        self, url: str, digest: str, variables: Mapping[str, object], headers: Mapping[str, str], *, get: bool
    ) -> Heard:
        name = f"sha256:{digest}"
        if get:
            query = urlencode({"documentId": name, "variables": msgspec.json.encode(variables)})
            self.counts.operations += 1
            mark = "&" if "?" in url else "?"
            return await self._with_retries("GET", f"{url}{mark}{query}", None, headers, also=_NO_HASHES, stay=True)
        return await self._post(url, {"documentId": name, "variables": variables}, headers, also=_NO_HASHES)

    async def _post(
        self, url: str, body: Mapping[str, object], headers: Mapping[str, str], *, also: Container[int] = ()
    ) -> Heard:
        self.counts.operations += 1
        typed = {**headers, "Content-Type": "application/json"}
        return await self._with_retries("POST", url, msgspec.json.encode(body), typed, also=also, stay=True)

    async def _fetch_artwork(self, urls: frozenset[str]) -> frozenset[str]:
        """Fetch pictures, each once, and return the URLs now held."""
        if self._artwork_mode == "none":
            return frozenset()
        fetch = self._picture if self._artwork_mode == "device" else self._picture_through_edge
        # One after the other: a device's radio, and a bound without a queue. Devices run side by side.
        for url in sorted(urls):
            await fetch(url)
        return urls

    async def _picture(self, url: str) -> None:
        self.counts.artwork += 1
        picture = await self._with_retries("GET", urljoin(self.url, url), None, {})
        if not picture.body:
            raise Unavailable(f"empty picture {url[:200]}")

    async def _picture_through_edge(self, url: str) -> None:
        found = self._edge.get(url)
        if found is not None:
            self.counts.artwork_from_edge += 1
            await asyncio.shield(found)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._edge[url] = future
        try:
            await self._picture(url)
        except BaseException as exc:
            del self._edge[url]
            future.set_exception(exc if isinstance(exc, Exception) else Unavailable("the fetch was cancelled"))
            future.exception()  # waiters raise it; without any it is known here already
            raise
        future.set_result(None)

    async def _with_retries(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        also: Container[int] = (),
        stay: bool = False,
    ) -> Heard:
        """One request; overload and network trouble are retried a few times, jittered, as long as the server asks.

        200, 304 and what `also` names are answers; any other status is a refusal, and with `stay` a redirect, too.
        """
        assert self._session is not None, "used outside its context"
        last = ""
        for attempt in range(_TRIES):
            wait_s = min(_RETRY_MAX_S, _RETRY_BASE_S * 2**attempt)
            try:
                async with self._session.request(
                    method, url, data=body, headers=headers, allow_redirects=not stay
                ) as answer:
                    received = await answer.content.read(_PICTURE_MAX_BYTES)
                    while not answer.content.at_eof():
                        if len(received) >= _PICTURE_MAX_BYTES:
                            raise Unavailable(f"{url[:200]} is larger than {_PICTURE_MAX_BYTES} bytes")
                        received += await answer.content.read(_PICTURE_MAX_BYTES)
                    if answer.status in (200, _UNMODIFIED) or answer.status in also:
                        etag = answer.headers.get("ETag", "")
                        return Heard(answer.status, received, now_ms(), etag, max_age_s(answer.headers))
                    if answer.status not in (408, 429, 500, 502, 503, 504):
                        raise Refused(f"{url[:200]} answered {answer.status}", received)
                    last = f"status {answer.status}"
                    retry_after = answer.headers.get("Retry-After", "")
                    if retry_after.isdigit():
                        wait_s = max(wait_s, min(float(retry_after), _RETRY_MAX_S))
            except (aiohttp.ClientError, TimeoutError) as exc:
                last = str(exc) or type(exc).__name__
            if attempt + 1 < _TRIES:
                self.counts.retries += 1
                await asyncio.sleep(wait_s * (0.5 + self._random.random()))
        self.counts.failures += 1
        raise Unavailable(f"{url[:200]}: {last} after {_TRIES} tries")
