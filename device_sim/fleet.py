"""A fleet: many devices on one loop, from prefetch to the judge's logs.

async with Fleet(FleetOptions(devices=500, dgs_url="http://127.0.0.1:8401", event_ids=("tyson-paul",))) as fleet:
    await fleet.prefetch_all()
    await fleet.connect_all(over_s=2.0)
    await fleet.wait_subscribed(timeout_s=10.0)
    ...
    audit = audit_fleet(outbox, fleet.logs(), fleet.recorded)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import msgspec

from contract.errors import BroadcastSystemError, Unavailable
from device_sim.audit import DeviceLog
from device_sim.client import Channel, ClientContext, DeviceClient, Recorder, now_ms
from device_sim.device import Device, DeviceOptions
from device_sim.prefetch import ArtworkMode, Prefetched, Prefetcher, ProfileToken, Recorded
from device_sim.start_shape import StartShape, start_moment_s
from device_sim.topic import Render

__all__ = ["Fleet", "FleetOptions", "Progress"]

Progress = Callable[[int, int], None]
"""Called with (done, all) as work goes on; must be quick."""

_KINDS: Final[Sequence[Mapping[str, object]]] = (
    {"kind": "TV", "screen": "LARGE"},
    {"kind": "PHONE", "screen": "SMALL"},
    {"kind": "TABLET", "screen": "MEDIUM"},
    {"kind": "WEB", "screen": "LARGE"},
)
_STOP_WITHIN_S: Final = 3.0


class FleetOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet is made of. Numbering starts at `first`, so that processes can share a population."""

    devices: int
    dgs_url: str = ""
    """Where devices prefetch; not needed for fleets built with `add`."""
    event_ids: tuple[str, ...] = ()
    push_urls: tuple[str, ...] = ()
    """Connect to these, in turn, instead of where the channel says."""
    first: int = 0
    seed: int = 1
    sources: tuple[str, ...] = ()
    """Local addresses (127.x.y.z) shared out in turn; empty: the system chooses."""
    device: DeviceOptions = DeviceOptions()
    artwork: ArtworkMode = "device"
    prefetch_concurrency: int = 32
    prefetch_window_s: float = 0.0
    """Prefetches are spread over this, each device at a random moment."""
    opening_max: int = 256
    record_arrivals: bool = True
    keep_content: bool = True
    """False keeps fingerprints of map entries alone: a third of the memory of a large fleet."""
    adopt_channel_state: bool = False
    """Show the state the channel names right after prefetch and start from its cursor, instead of from null."""
    token_of: ProfileToken | None = None
    """Signs a profile's prefetches, where the DGS demands it."""


class Fleet:
    """Owns its devices, their connections and the prefetch pool; leaving the context closes all of it."""

    def __init__(
        self,
        options: FleetOptions,
        *,
        on_render: Callable[[DeviceClient, Render], None] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.options = options
        self.clients: list[DeviceClient] = []
        self.prefetcher: Prefetcher | None = None
        self.closing = False
        self._on_render = on_render
        self._recorder = recorder
        self._random = random.Random(options.seed)
        self._context: ClientContext | None = None
        self._channels: dict[tuple[str, ...], tuple[Channel, ...]] = {}

    async def __aenter__(self) -> Self:
        options = self.options
        if options.dgs_url:
            self.prefetcher = await Prefetcher(
                options.dgs_url,
                concurrency=options.prefetch_concurrency,
                artwork=options.artwork,
                keep_content=options.keep_content,
                seed=options.seed + 1,
                token_of=options.token_of,
            ).__aenter__()
        self._context = ClientContext(
            asyncio.get_running_loop(),
            seed=options.seed,
            fetcher=self.prefetcher,
            on_render=self._on_render,
            record_arrivals=options.record_arrivals,
            recorder=self._recorder,
            opening_max=options.opening_max,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing = True
        for client in self.clients:
            client.stop()
        deadline = asyncio.get_running_loop().time() + _STOP_WITHIN_S
        while self.context.stats.open > 0 and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for client in self.clients:
            client.drop()
        await self.context.close()
        if self.prefetcher is not None:
            await self.prefetcher.__aexit__(kind, error, trace)

    @property
    def context(self) -> ClientContext:
        assert self._context is not None, "used outside its context"
        return self._context

    @property
    def recorded(self) -> Mapping[str, Sequence[Recorded]]:
        """Profile -> raw prefetch answers, for the judge."""
        return {} if self.prefetcher is None else self.prefetcher.recorded

    # building
    def add(
        self,
        device_id: str,
        *,
        urls: Sequence[str],
        token: str,
        topics: Sequence[str],
        profile_id: str = "",
        device_context: Mapping[str, object] | None = None,
    ) -> DeviceClient:
        """One device without prefetch, not yet connected. Raises InvalidRequest above 64 topics.

        It connects to its one of `urls`, and goes on to the others when that fails, ends or falls silent.
        """
        client = self._build(
            len(self.clients), device_id, urls, token, profile_id=profile_id, device_context=device_context
        )
        for topic in topics:
            client.follow(topic)
        self.clients.append(client)
        return client

    def replace(self, number: int) -> DeviceClient:
        """A new device in the place of one that left for good: same name, token, topics and maps, never subscribed."""
        left = self.clients[number]
        if left.has_subscribed:
            self.context.stats.subscribed -= 1
        client = self._build(
            number,
            left.device.device_id,
            (),
            left.device.token,
            channels=left.channels,
            profile_id=left.profile_id,
            device_context=left.device_context,
        )
        client.device.artwork = left.device.artwork
        now = now_ms()
        for state in left.device.states:
            client.follow(state.topic)
            if state.stage_map is not None:
                # As if it came just now: the server's time in it is that of when it did.
                held = msgspec.structs.replace(state.stage_map, server_time=now + left.device.clock_offset_ms)
                client.carry_out(client.device.map_fetched(now, state.topic, held, self._random.random()))
        self.clients[number] = client
        return client

    def _build(
        self,
        number: int,
        device_id: str,
        urls: Sequence[str],
        token: str,
        *,
        channels: Sequence[Channel] | None = None,
        profile_id: str,
        device_context: Mapping[str, object] | None,
    ) -> DeviceClient:
        if channels is None:
            key = tuple(urls)
            channels = self._channels.get(key)
        if channels is None:
            channels = self._channels[key] = tuple(Channel.from_url(url) for url in urls)
        sources = self.options.sources
        return DeviceClient(
            self.context,
            channels,
            Device(device_id, self.options.device, token=token),
            number=number,
            source=sources[number % len(sources)] if sources else None,
            profile_id=profile_id,
            device_context=device_context,
        )

    async def prefetch_all(self, progress: Progress | None = None) -> None:
        """Prefetch for profiles p-<first>.. with bounded concurrency. Raises the first failure, cancelling the rest."""
        await self._ask_all(self._prefetch_one, progress)

    async def channel_all(self, progress: Progress | None = None) -> None:
        """Only the channel, no maps: for load devices (`fetches_maps=False`) that measure delivery."""
        await self._ask_all(self._channel_one, progress)

    async def _ask_all(self, ask: Callable[[int], Awaitable[Prefetched]], progress: Progress | None) -> None:
        options = self.options
        moments = sorted(self._random.random() * options.prefetch_window_s for _ in range(options.devices))
        started = asyncio.get_running_loop().time()
        found: list[tuple[Prefetched, int] | None] = [None] * options.devices
        waiting = iter(range(options.devices))
        done = 0

        async def worker() -> None:
            nonlocal done
            for index in waiting:
                await asyncio.sleep(max(0.0, started + moments[index] - asyncio.get_running_loop().time()))
                found[index] = await ask(index), now_ms()
                done += 1
                if progress is not None:
                    progress(done, options.devices)

        try:
            async with asyncio.TaskGroup() as workers:
                for number in range(min(options.prefetch_concurrency, options.devices)):
                    workers.create_task(worker(), name=f"prefetch-{number}")
        except* BroadcastSystemError as failed:
            raise failed.exceptions[0] from failed
        for index, one in enumerate(found):
            assert one is not None
            self._take(index, *one)

    async def _prefetch_one(self, index: int) -> Prefetched:
        number = self.options.first + index
        return await self._pool.prefetch(
            f"p-{number}", f"d-{number}", self.options.event_ids, device=_KINDS[number % len(_KINDS)]
        )

    async def _channel_one(self, index: int) -> Prefetched:
        number = self.options.first + index
        return await self._pool.channel(
            f"p-{number}", f"d-{number}", self.options.event_ids, device=_KINDS[number % len(_KINDS)]
        )

    @property
    def _pool(self) -> Prefetcher:
        assert self.prefetcher is not None, "prefetch needs dgs_url"
        return self.prefetcher

    def _take(self, index: int, prefetched: Prefetched, at_ms: int) -> None:
        """One device that prefetched at `at_ms`: its map's lifetime and the server's clock count from then."""
        number = self.options.first + index
        client = self.add(
            f"d-{number}",
            urls=self.options.push_urls or (prefetched.url,),
            token=prefetched.token,
            topics=(),
            profile_id=f"p-{number}",
            device_context=_KINDS[number % len(_KINDS)],
        )
        device, draw = client.device, self._random.random
        device.artwork_fetched(prefetched.artwork)  # first: what is shown needs no request (R19)
        for topic in prefetched.topics:
            client.follow(topic.topic)
            if topic.topic in prefetched.maps:
                client.carry_out(device.map_fetched(at_ms, topic.topic, prefetched.maps[topic.topic], draw()))
            if self.options.adopt_channel_state and topic.state_key is not None:
                adopted = device.adopt(now_ms(), topic.topic, topic.state_key, topic.last_broadcast_at, draw())
                client.carry_out(adopted)

    # the night
    def start_all(self, *, over_s: float = 0.0, shape: StartShape = "uniform") -> None:
        """Start every device at a random moment of `over_s`."""
        for client in self.clients:
            client.start(delay_ms=int(start_moment_s(shape, self._random.random(), over_s) * 1000))

    async def connect_all(self, *, over_s: float = 0.0, progress: Progress | None = None) -> None:
        """Start every device at a uniformly random moment of `over_s`; returns once all are welcomed.

        Raises Unavailable when some are not, `over_s` + 30 s later.
        """
        self.start_all(over_s=over_s)
        await self._until(
            lambda client: client.device.online, over_s + 30.0, "connected", progress, at_most=lambda: self.online
        )

    async def wait_subscribed(self, *, timeout_s: float, progress: Progress | None = None) -> None:
        """Until every device is online and knows a cursor for every topic. Raises Unavailable."""
        stats = self.context.stats
        await self._until(
            _subscribed, timeout_s, "subscribed", progress, at_most=lambda: min(stats.online, stats.subscribed)
        )

    async def wait_caught_up(
        self, newest: Mapping[str, int], *, timeout_s: float, progress: Progress | None = None
    ) -> None:
        """Until every device is online with a cursor at or above `newest` for its topics. Raises Unavailable."""

        def caught_up(client: DeviceClient) -> bool:
            states = client.device.states
            return client.device.online and all((each.cursor or 0) >= newest.get(each.topic, 0) for each in states)

        await self._until(caught_up, timeout_s, "caught up", progress)

    def take_offline(self, share: float, seconds: float) -> list[DeviceClient]:
        """A random share of the devices loses the network for `seconds`; returns them."""
        chosen = self.sample(share)
        for client in chosen:
            client.offline(seconds)
        return chosen

    def sample(self, share: float) -> list[DeviceClient]:
        """A random share of the devices; `fleet_faults` has what may befall it."""
        assert 0.0 <= share <= 1.0, "a share lies in 0..1"
        return self._random.sample(self.clients, round(share * len(self.clients)))

    def draw(self) -> float:
        """One number in [0, 1), by the fleet's seed."""
        return self._random.random()

    def count(self, condition: Callable[[DeviceClient], bool]) -> int:
        return sum(1 for client in self.clients if condition(client))

    @property
    def online(self) -> int:
        return self.context.stats.online

    def logs(self) -> list[DeviceLog]:
        """What the judge needs of every device, as it stands now."""
        return [
            DeviceLog(
                device_id=client.device.device_id,
                profile_id=client.profile_id,
                cursors={state.topic: state.cursor for state in client.device.states},
                arrivals=client.arrivals or (),
                renders=client.device.renders or (),
                told=client.device.told or (),
            )
            for client in self.clients
        ]

    async def _until(
        self,
        condition: Callable[[DeviceClient], bool],
        timeout_s: float,
        what: str,
        progress: Progress | None,
        *,
        at_most: Callable[[], int] | None = None,
    ) -> None:
        """`at_most`: what is known without looking at them all; nobody is looked at before that is all of them."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            reached = len(self.clients) if at_most is None else at_most()
            if reached >= len(self.clients):
                reached = self.count(condition)
            if progress is not None:
                progress(reached, len(self.clients))
            if reached == len(self.clients):
                return
            if loop.time() >= deadline:
                raise Unavailable(f"{reached} of {len(self.clients)} devices {what} after {timeout_s:.0f} s")
            await asyncio.sleep(0.05 + len(self.clients) / 100_000)  # looking at all of them is work of its own


def _subscribed(client: DeviceClient) -> bool:
    return client.device.subscribed
