"""Prefetch over HTTP: the stage map and the broadcast channel from GraphQL, then the map's artwork. aiohttp, bounded.

The raw answers are kept as they came from the socket (`recorded`), so that a judge can compare what a device rendered
with what its profile was sent, without asking the device.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import urljoin

import aiohttp
import msgspec

from contract.errors import BroadcastSystemError, InvalidRequest, Unavailable
from device_sim.client import DeviceClient, now_ms
from device_sim.stage_map import StageMap, stage_map_from_answer

__all__ = ["ArtworkMode", "ChannelTopic", "PrefetchCounts", "Prefetched", "Prefetcher", "Recorded", "graphql_operation"]

ArtworkMode = Literal["device", "edge", "none"]
"""`device`: every device gets every picture from the origin. `edge`: pictures have immutable URLs, so a cache shared
by the fleet (a CDN's edge) asks the origin once for each. `none`: no pictures."""

_TRIES: Final = 4
_RETRY_BASE_S: Final = 0.2
_RETRY_MAX_S: Final = 5.0
_PICTURE_MAX_BYTES: Final = 4 << 20
_RECORDED_PER_DEVICE_MAX: Final = 64

# One scalar carries all entries: the DGS answers it three times faster than the typed fields.
_MAP: Final = (
    "prefetchEvent(eventId: $eventId, profileId: $profileId, device: $device) "
    "{ event { id topic } version revision ttlSeconds serverTime byKey }"
)
_CHANNEL: Final = (
    "broadcastChannel(eventIds: $eventIds, profileId: $profileId, device: $device) "
    "{ url subprotocol token connectWindowMs topics { eventId topic stateKey lastBroadcastAt } }"
)
_FIRST: Final = (
    "query DevicePrefetch($eventId: ID!, $eventIds: [ID!]!, $profileId: ID!, $device: DeviceContext!) "
    f"{{ {_MAP} {_CHANNEL} }}"
)
_ALONE: Final = f"query DeviceChannel($eventIds: [ID!]!, $profileId: ID!, $device: DeviceContext!) {{ {_CHANNEL} }}"
_MORE: Final = f"query DeviceMap($eventId: ID!, $profileId: ID!, $device: DeviceContext) {{ {_MAP} }}"


class ChannelTopic(msgspec.Struct, frozen=True, rename="camel"):
    event_id: str
    topic: str
    state_key: str | None
    last_broadcast_at: int


class _Channel(msgspec.Struct, frozen=True, rename="camel"):
    url: str
    subprotocol: str
    token: str
    connect_window_ms: int
    topics: tuple[ChannelTopic, ...]


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


def graphql_operation(
    event_id: str, profile_id: str, device: Mapping[str, object], *, event_ids: Sequence[str] | None = None
) -> bytes:
    """The POST body of one prefetch; with `event_ids` it also asks for the channel of all of them."""
    variables: dict[str, object] = {"eventId": event_id, "profileId": profile_id, "device": dict(device)}
    if event_ids is not None:
        variables["eventIds"] = list(event_ids)
    return msgspec.json.encode({"query": _MORE if event_ids is None else _FIRST, "variables": variables})


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
    ) -> None:
        self.url = dgs_url.rstrip("/") + "/graphql"
        self.counts = PrefetchCounts()
        self.recorded: dict[str, list[Recorded]] = {}
        """Profile -> its answers, oldest first."""
        self._artwork_mode = artwork
        self._keep_content = keep_content
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._concurrency = concurrency
        self._random = random.Random(seed)
        self._session: aiohttp.ClientSession | None = None
        self._edge: dict[str, asyncio.Future[None]] = {}
        self._event_of_topic: dict[str, str] = {}
        self._refetches: set[asyncio.Task[None]] = set()
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
        first = await self._ask(profile_id, device_id, event_ids[0], device, event_ids=event_ids)
        channel = msgspec.convert(first["broadcastChannel"], _Channel)
        topics = {each.event_id: each.topic for each in channel.topics}
        for event_id, topic in topics.items():
            self._event_of_topic[topic] = event_id
        maps = {topics[event_ids[0]]: self._map(first)}
        for event_id in event_ids[1:]:
            more = await self._ask(profile_id, device_id, event_id, device)
            maps[topics[event_id]] = self._map(more)
        urls = frozenset(url for each in maps.values() for url in each.artwork)
        held = await self._fetch_artwork(urls)
        return Prefetched(channel.url, channel.token, channel.connect_window_ms, channel.topics, maps, held)

    async def channel(
        self, profile_id: str, device_id: str, event_ids: Sequence[str], *, device: Mapping[str, object]
    ) -> Prefetched:
        """The channel alone, no maps; errors as `prefetch`."""
        variables = {"eventIds": list(event_ids), "profileId": profile_id, "device": dict(device)}
        found = await self._operation(msgspec.json.encode({"query": _ALONE, "variables": variables}), device_id)
        channel = msgspec.convert(found[0]["broadcastChannel"], _Channel)
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
                answer = await self._ask(client.profile_id, device.device_id, event_id, client.device_context)
                stage_map = self._map(answer)
                device.artwork_fetched(await self._fetch_artwork(stage_map.artwork - device.artwork))
        except BroadcastSystemError:
            self.counts.failures += 1
            device.map_failed(now_ms(), topic, self._random.random())
            client.carry_out(())
            return
        client.carry_out(device.map_fetched(now_ms(), topic, stage_map, self._random.random()))

    # HTTP
    def _map(self, answer: Mapping[str, Any]) -> StageMap:
        found = stage_map_from_answer(answer["prefetchEvent"], keep_content=self._keep_content)
        # URLs are shared by thousands of devices: one string each.
        return msgspec.structs.replace(found, artwork=frozenset(sys.intern(url) for url in found.artwork))

    async def _ask(
        self,
        profile_id: str,
        device_id: str,
        event_id: str,
        device: Mapping[str, object],
        *,
        event_ids: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        body = graphql_operation(event_id, profile_id, device, event_ids=event_ids)
        found, raw = await self._operation(body, device_id)
        kept = self.recorded.setdefault(profile_id, [])
        if len(kept) < _RECORDED_PER_DEVICE_MAX:
            kept.append(Recorded(now_ms(), device_id, event_id, raw))
        return found

    async def _operation(self, body: bytes, device_id: str) -> tuple[dict[str, Any], bytes]:
        """(data, the raw body) of one GraphQL operation."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", "X-Device-Id": device_id}
        raw = await self._with_retries("POST", self.url, body, headers)
        try:
            answer = msgspec.json.decode(raw)
            errors, found = answer.get("errors"), answer.get("data")
        except (msgspec.DecodeError, AttributeError) as exc:
            raise Unavailable(f"the DGS answered something else than GraphQL: {raw[:80]!r}") from exc
        if errors or not isinstance(found, dict):
            raise InvalidRequest(f"the DGS refused: {str(errors)[:400]}", field="prefetch")
        return found, raw

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
        if not picture:
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

    async def _with_retries(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        """One request; overload and network trouble are retried a few times, jittered, as long as the server asks."""
        assert self._session is not None, "used outside its context"
        self.counts.operations += method == "POST"
        last = ""
        for attempt in range(_TRIES):
            wait_s = min(_RETRY_MAX_S, _RETRY_BASE_S * 2**attempt)
            try:
                async with self._session.request(method, url, data=body, headers=headers) as answer:
                    received = await answer.content.read(_PICTURE_MAX_BYTES)
                    while not answer.content.at_eof():
                        if len(received) >= _PICTURE_MAX_BYTES:
                            raise Unavailable(f"{url[:200]} is larger than {_PICTURE_MAX_BYTES} bytes")
                        received += await answer.content.read(_PICTURE_MAX_BYTES)
                    if answer.status == 200:
                        return received
                    if answer.status not in (408, 429, 500, 502, 503, 504):
                        raise InvalidRequest(
                            f"{url[:200]} answered {answer.status}: {received[:200]!r}", field="prefetch"
                        )
                    last = f"status {answer.status}"
                    retry_after = answer.headers.get("Retry-After", "")
                    if retry_after.isdigit():
                        wait_s = max(wait_s, min(float(retry_after), _RETRY_MAX_S))
            except (aiohttp.ClientError, TimeoutError) as exc:
                last = repr(exc)
            if attempt + 1 < _TRIES:
                self.counts.retries += 1
                await asyncio.sleep(wait_s * (0.5 + self._random.random()))
        self.counts.failures += 1
        raise Unavailable(f"{url[:200]}: {last} after {_TRIES} tries")
