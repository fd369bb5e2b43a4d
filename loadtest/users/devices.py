"""The four kinds of users, as locust's; a class for each crowd (`user_class`). An import patches with gevent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import msgspec

from device_sim.device import Device, DeviceOptions
from device_sim.stage_map import StageMap
from loadtest.users.asker import Asker
from loadtest.users.asking import (
    Channel,
    Heard,
    HttpRequest,
    channel_ask,
    first_ask,
    home_ask,
    map_ask,
    map_of,
    target_of,
)
from loadtest.users.device_session import DeviceSession
from loadtest.users.maps import Maps
from loadtest.users.operating import OperatorLife
from loadtest.users.pacing import refresh_after_s, think_s
from loadtest.users.plan import Crowd, Kind
from loadtest.users.planned import PlannedUser
from loadtest.users.retrying import RetryBudget
from loadtest.users.world import World, wall_ms

__all__ = ["BrowsingDevice", "ConnectedDevice", "NaiveDevice", "Operator", "PlannedUser", "user_class"]

_OVERDUE_SCREENS_MAX: Final = 10_000
"""Of one user: far more than anybody would have opened meanwhile."""
_NAIVE_ASKS_MAX: Final = 8
"""Of one naive device at a time; beyond that it would not ask faster, only hold more connections."""


class BrowsingDevice(PlannedUser):
    """Opens screens at natural intervals: the home row, and event pages shown from the map held or asked for; and
    refreshes the maps it holds. When it wants a screen does not depend on how fast it got the last one."""

    abstract = True

    def live(self) -> None:
        world, asker = self.world, self.asker()
        asks = Maps(world, self.crowd, asker, profile_id=self.profile_id, kind=self.kind)
        maps: dict[str, StageMap] = {}
        refresh_at: dict[str, float] = {}
        failures = 0
        screen_at_s = self.came_s
        try:
            while True:
                event_id, due_s = "", screen_at_s
                for each, at_s in refresh_at.items():
                    if at_s < due_s:
                        event_id, due_s = each, at_s
                asker.rest(due_s - world.now_s())
                world.sleep_until(due_s)
                if not event_id:
                    screen_at_s += self._think_s()
                    self._screen(asker, asks, due_s, maps, refresh_at)
                    continue
                del refresh_at[event_id]
                if self._fetch(asks, "refresh", event_id, due_s, maps, refresh_at):
                    failures = 0
                else:
                    failures += 1
                    refresh_at[event_id] = world.now_s() + self.again_after_s(failures)
        finally:
            self._count_overdue(screen_at_s, maps, refresh_at)
            asker.close()

    def _screen(
        self, asker: Asker, asks: Maps, due_s: float, maps: dict[str, StageMap], refresh_at: dict[str, float]
    ) -> None:
        world, event_id = self.world, self._next_screen()
        if not event_id:
            asker.ask("home", home_ask(self.profile_id, self.kind), due_s=due_s)
        elif event_id in maps:
            world.book.count(self.crowd.name, "cache_hits")
        else:
            self._fetch(asks, "map", event_id, due_s, maps, refresh_at)

    def _next_screen(self) -> str:
        """An event's id for its page, empty for the home row."""
        return "" if self.chance.random() < self.crowd.home_share else self.chance.choice(self.world.plan.event_ids)

    def _fetch(
        self,
        asks: Maps,
        request: str,
        event_id: str,
        due_s: float,
        maps: dict[str, StageMap],
        refresh_at: dict[str, float],
    ) -> bool:
        found = asks.ask(request, event_id, held=maps.get(event_id), due_s=due_s)
        if found is None:
            return False
        maps[event_id] = found
        compression = self.world.plan.time_compression
        pause_s = refresh_after_s(self.crowd, found.ttl_s, self.chance.random(), compression=compression)
        refresh_at[event_id] = self.world.now_s() + pause_s
        return True

    def _count_overdue(self, screen_at_s: float, maps: Mapping[str, StageMap], refresh_at: Mapping[str, float]) -> None:
        """What was due before the end, and had not begun because this user still waited for something else.

        Without it a server that stops answering for good would be seen by one ask of each user, however long it lasts.
        """
        world, crowd = self.world, self.crowd
        ended_s = world.ended_s()
        for due_s in refresh_at.values():
            if due_s < ended_s:
                world.overdue(crowd, "refresh", due_s)
        for _ in range(_OVERDUE_SCREENS_MAX):
            if screen_at_s >= ended_s:
                return
            event_id = self._next_screen()
            if event_id not in maps and not world.overdue(crowd, "map" if event_id else "home", screen_at_s):
                return
            screen_at_s += self._think_s()
        world.book.count(crowd.name, "overdue_uncounted")

    def _think_s(self) -> float:
        compression = self.world.plan.time_compression
        return think_s(self.crowd, self.chance.gauss(0.0, 1.0), compression=compression)


class ConnectedDevice(PlannedUser):
    """Prefetches, connects within the channel's window, follows broadcasts by its map, refreshes it; never asks at a
    broadcast (R19)."""

    abstract = True

    def live(self) -> None:
        asker = self.asker()
        try:
            channel, urls, maps = self._prefetch(asker)
        finally:
            asker.close()
        device = Device(self.device_id, self._options(), token=channel.token)
        session = DeviceSession(
            self.world,
            self.crowd,
            device,
            number=self.number,
            urls=urls,
            chance=self.chance,
            fetch=self._refetcher(device, channel, asker.budget),
        )
        try:
            for each in channel.topics:
                session.carry_out(device.follow(wall_ms(), each.topic))
                found = maps.get(each.event_id)
                if found is None:
                    device.map_failed(wall_ms(), each.topic, self.chance.random())
                    continue
                fetched = device.map_fetched(wall_ms(), each.topic, self._compressed(found), self.chance.random())
                session.carry_out(fetched)
            session.run(delay_ms=self.connect_in_ms(channel))
        finally:
            session.leave()

    def _options(self) -> DeviceOptions:
        return DeviceOptions(ttl_spread=self.crowd.ttl_spread)

    def _maps(self, asker: Asker) -> Maps:
        return Maps(self.world, self.crowd, asker, profile_id=self.profile_id, kind=self.kind)

    def _prefetch(self, asker: Asker) -> tuple[Channel, Sequence[str], dict[str, StageMap]]:
        """Channel, where to connect, and maps; asked for until there is an answer."""
        event_ids = self.world.plan.event_ids

        def read(heard: Heard) -> tuple[Channel, Sequence[str], dict[str, StageMap]]:
            return *self.push_urls(heard), {event_ids[0]: map_of(heard, None, server_time_ms=wall_ms())}

        channel, urls, maps = self.until_answered(
            asker, "first", first_ask(event_ids, self.profile_id, self.kind), read
        )
        asks = self._maps(asker)
        for event_id in event_ids[1:]:
            found = asks.ask("map", event_id, held=None, due_s=self.world.now_s())
            if found is not None:
                maps[event_id] = found
        if self.crowd.artwork:
            for found in maps.values():
                self._artwork(asker, found)
        return channel, urls, maps

    def _refetcher(self, device: Device, channel: Channel, budget: RetryBudget) -> Callable[[str], StageMap | None]:
        """Asks for the map of a topic; of several topics side by side, each over a connection of its own."""
        event_of = {each.topic: each.event_id for each in channel.topics}
        askers = {topic: self.asker(budget=budget) for topic in event_of}
        maps = {topic: self._maps(asker) for topic, asker in askers.items()}

        def refetch(topic: str) -> StageMap | None:
            state = device.topics.get(topic)
            held = None if state is None else state.stage_map
            told = 0 if state is None else max(0, state.version)
            due_s = self.world.now_s()
            try:
                found = maps[topic].ask("refresh", event_of[topic], held=held, due_s=due_s, told_version=told)
            finally:
                askers[topic].close()
            return None if found is None else self._compressed(found)

        return refetch

    def _artwork(self, asker: Asker, found: StageMap) -> None:
        """Every picture, one after the other, as a device's radio would; from where its URL says."""
        for url in sorted(found.artwork):
            origin, target = target_of(url)
            if not origin or self.world.may_go(self.crowd, url):
                asker.send("artwork", HttpRequest("GET", target, b"", {}), due_s=self.world.now_s(), origin=origin)

    def _compressed(self, found: StageMap) -> StageMap:
        """The map with its lifetime compressed as the run's time is."""
        ttl_s = max(1, round(found.ttl_s / self.world.plan.time_compression))
        return msgspec.structs.replace(found, ttl_s=ttl_s)


class NaiveDevice(PlannedUser):
    """Connects without a map, and asks the DGS at each broadcast at once: what a herd is made of."""

    abstract = True

    def live(self) -> None:
        asker = self.asker()
        try:
            asked = channel_ask(self.world.plan.event_ids, self.profile_id, self.kind)
            channel, urls = self.until_answered(asker, "channel", asked, self.push_urls)
        finally:
            asker.close()
        device = Device(self.device_id, DeviceOptions(fetches_maps=False, keeps_renders=False), token=channel.token)
        event_of = {each.topic: each.event_id for each in channel.topics}
        asking = [0]

        def ask(topic: str, due_s: float) -> None:
            each = self.asker(budget=asker.budget)
            asking[0] += 1
            try:
                each.ask("naive", map_ask(event_of[topic], self.profile_id, self.kind), due_s=due_s)
            finally:
                asking[0] -= 1
                each.close()

        def applied(topic: str) -> None:
            if asking[0] >= _NAIVE_ASKS_MAX:
                of = f"{self.crowd.name}/naive"
                self.world.book.count(of, "asks")
                self.world.book.count(of, "gave_up")
                self.world.book.reason(of, f"{_NAIVE_ASKS_MAX} asks of the same device under way already")
                return
            due_s = self.world.now_s()
            session.spawn(lambda: ask(topic, due_s))

        session = DeviceSession(
            self.world,
            self.crowd,
            device,
            number=self.number,
            urls=urls,
            chance=self.chance,
            fetch=None,
            on_applied=applied,
        )
        try:
            for each in channel.topics:
                session.carry_out(device.follow(wall_ms(), each.topic))
            session.run(delay_ms=self.connect_in_ms(channel))
        finally:
            session.leave()


class Operator(PlannedUser):
    """Creates events of its own, moves, cues and cancels them, at a low rate; touches nobody else's."""

    abstract = True

    def live(self) -> None:
        world, plan = self.world, self.world.plan
        headers = {"Authorization": f"Bearer {plan.operator_token}"}
        asker = Asker(world, self.crowd, plan.producer_url, headers={}, chance=self.chance)
        name = f"load-{world.began_at_ms}-{self.crowd.name}-{self.number}"
        life = OperatorLife(name, headers=headers)
        due_s = self.came_s
        try:
            while True:
                due_s += self.chance.expovariate(plan.time_compression / self.crowd.act_every_s)
                asker.rest(due_s - world.now_s())
                world.sleep_until(due_s)
                act = life.next_act(wall_ms(), self.chance.random())
                life.done(act, asker.send(act.name, act.request, due_s=due_s) is not None)
        finally:
            asker.close()


_CLASSES: Final[Mapping[Kind, type[PlannedUser]]] = {
    "browse": BrowsingDevice,
    "connect": ConnectedDevice,
    "naive": NaiveDevice,
    "operate": Operator,
}


def user_class(world: World, crowd: Crowd) -> type[PlannedUser]:
    """Locust's class for a crowd: its name says both, its number is fixed."""
    base = _CLASSES[crowd.kind]
    name = f"{base.__name__}_{crowd.name.replace('-', '_')}"
    attributes = {"abstract": False, "crowd": crowd, "world": world, "fixed_count": crowd.users}
    return cast("type[PlannedUser]", type(name, (base,), attributes))
