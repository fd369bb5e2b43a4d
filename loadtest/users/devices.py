"""The four kinds of users, as locust's. Their classes are made per crowd (`user_class`); an import patches with gevent.

A user waits for the beginning, takes a number, and is there whenever its crowd's curve says so. Everything it does by
chance comes from a generator seeded with the plan's seed, its crowd and its number.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import Any, ClassVar, Final, cast

import gevent
import msgspec
from locust import User, constant, task

from contract.errors import InvalidRequest
from device_sim.device import Device, DeviceOptions
from device_sim.return_window import return_delay_ms
from device_sim.stage_map import StageMap
from loadtest.users.asker import Asker
from loadtest.users.asking import (
    KINDS,
    Channel,
    HttpRequest,
    NotAnAnswer,
    channel_ask,
    channel_of,
    first_ask,
    home_ask,
    map_ask,
    map_of,
)
from loadtest.users.device_session import DeviceSession
from loadtest.users.operating import OperatorLife
from loadtest.users.pacing import refresh_after_s, stays, think_s
from loadtest.users.plan import Crowd, Kind
from loadtest.users.retrying import RetryBudget
from loadtest.users.world import World, wall_ms

__all__ = ["BrowsingDevice", "ConnectedDevice", "NaiveDevice", "Operator", "PlannedUser", "user_class"]

_LOG: Final = logging.getLogger("loadtest.users")
_AGAIN_WINDOW_MS: Final = 10_000
_AGAIN_CAP_MS: Final = 120_000
"""A device that got no answer asks again within a window that grows (R21); compressed like think times."""
_NAIVE_ASKS_MAX: Final = 8
"""Of one naive device at a time; beyond that it would not ask faster, only hold more connections."""


class _Leave(BaseException):
    """The curve says that this user goes now."""


class PlannedUser(User):
    """A user of a crowd. Subclasses live in `live`, which is ended from outside."""

    abstract = True
    wait_time = constant(0)
    crowd: ClassVar[Crowd]
    world: ClassVar[World]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.number = 0
        self.chance = random.Random(0)
        self.profile_id = ""
        self.device_id = ""
        self.kind: Mapping[str, str] = KINDS[0]

    @task
    def be_there(self) -> None:
        """Come and go as the curve says; never returns."""
        world, crowd = self.world, self.crowd
        world.began.wait()
        self._become(world.take_number(crowd))
        for stay in stays(crowd, self.number, self.chance.random()):
            world.sleep_until(stay.from_s)
            world.present[crowd.name] += 1
            try:
                seconds = None if stay.until_s is None else max(0.0, stay.until_s - world.now_s())
                with gevent.Timeout(seconds, _Leave()):
                    self.live()
            except _Leave:
                pass
            except Exception:
                # An error of ours, not of the system: the run says that it does not count.
                _LOG.exception("user %s of %s", self.number, crowd.name)
                world.book.count(crowd.name, "crashed")
            finally:
                world.present[crowd.name] -= 1
        while True:
            gevent.sleep(3600)

    def live(self) -> None:
        """Be a user; ended by an exception."""
        raise NotImplementedError

    def _become(self, number: int) -> None:
        self.number = number
        self.chance = random.Random(f"{self.world.plan.seed}/{self.crowd.name}/{number}")
        profile = self.world.plan.first_profile(self.crowd.name) + number
        self.profile_id, self.device_id = f"p-{profile}", f"d-{profile}"
        self.kind = KINDS[profile % len(KINDS)]

    # shared by devices
    def asker(self, *, budget: RetryBudget | None = None) -> Asker:
        world = self.world
        headers = world.headers_of(self.crowd, self.device_id)
        return Asker(world, self.crowd, world.plan.dgs_url, headers=headers, chance=self.chance, budget=budget)

    def connect_in_ms(self, channel: Channel) -> int:
        within_s = self.crowd.connect_within_s
        window_ms = channel.connect_window_ms if within_s is None else within_s * 1000
        return int(self.chance.random() * window_ms)

    def again_after_s(self, failures: int) -> float:
        """Before an ask that failed is made anew: uniform over a window that grows."""
        delay_ms = return_delay_ms(_AGAIN_WINDOW_MS, failures, self.chance.random(), cap_ms=_AGAIN_CAP_MS)
        return delay_ms / 1000 / self.world.plan.time_compression


class BrowsingDevice(PlannedUser):
    """Opens screens at natural intervals: the home row, and event pages shown from the map held or asked for; and
    refreshes the maps it holds. When it wants a screen does not depend on how fast it got the last one."""

    abstract = True

    def live(self) -> None:
        world, asker = self.world, self.asker()
        maps: dict[str, StageMap] = {}
        refresh_at: dict[str, float] = {}
        failures = 0
        screen_at_s = world.now_s()
        try:
            while True:
                event_id, due_s = "", screen_at_s
                for each, at_s in refresh_at.items():
                    if at_s < due_s:
                        event_id, due_s = each, at_s
                asker.rest(due_s - world.now_s())
                world.sleep_until(due_s)
                if not event_id:
                    self._screen(asker, due_s, maps, refresh_at)
                    screen_at_s = due_s + self._think_s()
                elif self._fetch(asker, "refresh", event_id, due_s, maps, refresh_at):
                    failures = 0
                else:
                    failures += 1
                    refresh_at[event_id] = world.now_s() + self.again_after_s(failures)
        finally:
            asker.close()

    def _screen(self, asker: Asker, due_s: float, maps: dict[str, StageMap], refresh_at: dict[str, float]) -> None:
        world = self.world
        if self.chance.random() < self.crowd.home_share:
            asker.ask("home", home_ask(self.profile_id, self.kind), due_s=due_s)
            return
        event_id = self.chance.choice(world.plan.event_ids)
        if event_id in maps:
            world.book.count(self.crowd.name, "cache_hits")
        else:
            self._fetch(asker, "map", event_id, due_s, maps, refresh_at)

    def _fetch(
        self,
        asker: Asker,
        request: str,
        event_id: str,
        due_s: float,
        maps: dict[str, StageMap],
        refresh_at: dict[str, float],
    ) -> bool:
        held = maps.get(event_id)
        asked = map_ask(event_id, self.profile_id, self.kind, held=held)
        heard = asker.ask(request, asked, due_s=due_s)
        if heard is None:
            return False
        try:
            found = map_of(heard, held, server_time_ms=wall_ms())
        except NotAnAnswer as exc:
            self.world.book.reason(f"{self.crowd.name}/{request}", str(exc))
            return False
        maps[event_id] = found
        compression = self.world.plan.time_compression
        pause_s = refresh_after_s(self.crowd, found.ttl_s, self.chance.random(), compression=compression)
        refresh_at[event_id] = self.world.now_s() + pause_s
        return True

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
            channel, maps = self._prefetch(asker)
        finally:
            asker.close()
        refetcher = self.asker(budget=asker.budget)
        device = Device(self.device_id, self._options(), token=channel.token)
        event_of = {each.topic: each.event_id for each in channel.topics}
        session = DeviceSession(
            self.world,
            self.crowd,
            device,
            number=self.number,
            urls=self.world.plan.push_urls or (channel.url,),
            chance=self.chance,
            fetch=lambda topic: self._refetch(refetcher, device, topic, event_of[topic]),
        )
        try:
            for each in channel.topics:
                session.carry_out(device.follow(wall_ms(), each.topic))
                found = maps.get(each.event_id)
                if found is not None:
                    fetched = device.map_fetched(wall_ms(), each.topic, self._compressed(found), self.chance.random())
                    session.carry_out(fetched)
            session.run(delay_ms=self.connect_in_ms(channel))
        finally:
            session.leave()
            refetcher.close()

    def _options(self) -> DeviceOptions:
        return DeviceOptions(ttl_spread=self.crowd.ttl_spread)

    def _prefetch(self, asker: Asker) -> tuple[Channel, dict[str, StageMap]]:
        """Channel and maps; asked for until there is an answer."""
        world, failures = self.world, 0
        due_s = world.now_s()
        while True:
            asked = first_ask(world.plan.event_ids, self.profile_id, self.kind)
            heard = asker.ask("first", asked, due_s=due_s)
            try:
                if heard is not None:
                    maps = {world.plan.event_ids[0]: map_of(heard, None, server_time_ms=wall_ms())}
                    channel = channel_of(heard)
                    break
            except NotAnAnswer as exc:
                world.book.reason(f"{self.crowd.name}/first", str(exc))
            failures += 1
            due_s = world.now_s() + self.again_after_s(failures)
            world.sleep_until(due_s)
        for event_id in world.plan.event_ids[1:]:
            found = self._ask_map(asker, "map", event_id, None, 0)
            if found is not None:
                maps[event_id] = found
        if self.crowd.artwork:
            for found in maps.values():
                self._artwork(asker, found)
        return channel, maps

    def _refetch(self, asker: Asker, device: Device, topic: str, event_id: str) -> StageMap | None:
        state = device.topics.get(topic)
        held = None if state is None else state.stage_map
        told = 0 if state is None else max(0, state.version)
        found = self._ask_map(asker, "refresh", event_id, held, told)
        asker.rest(60.0)
        return None if found is None else self._compressed(found)

    def _ask_map(
        self, asker: Asker, request: str, event_id: str, held: StageMap | None, told_version: int
    ) -> StageMap | None:
        asked = map_ask(event_id, self.profile_id, self.kind, held=held, told_version=told_version)
        heard = asker.ask(request, asked, due_s=self.world.now_s())
        if heard is None:
            return None
        try:
            return map_of(heard, held, server_time_ms=wall_ms())
        except NotAnAnswer as exc:
            self.world.book.reason(f"{self.crowd.name}/{request}", str(exc))
            return None

    def _artwork(self, asker: Asker, found: StageMap) -> None:
        """Every picture, one after the other, as a device's radio would."""
        for url in sorted(found.artwork):
            asker.send("artwork", HttpRequest("GET", _path_of(url), b"", {}), due_s=self.world.now_s())

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
            channel = self._channel(asker)
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
                self.world.book.count(self.crowd.name, "asks_skipped")
                return
            due_s = self.world.now_s()
            session.spawn(lambda: ask(topic, due_s))

        session = DeviceSession(
            self.world,
            self.crowd,
            device,
            number=self.number,
            urls=self.world.plan.push_urls or (channel.url,),
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

    def _channel(self, asker: Asker) -> Channel:
        world, failures = self.world, 0
        due_s = world.now_s()
        while True:
            heard = asker.ask("channel", channel_ask(world.plan.event_ids, self.profile_id, self.kind), due_s=due_s)
            try:
                if heard is not None:
                    return channel_of(heard)
            except NotAnAnswer as exc:
                world.book.reason(f"{self.crowd.name}/channel", str(exc))
            failures += 1
            due_s = world.now_s() + self.again_after_s(failures)
            world.sleep_until(due_s)


class Operator(PlannedUser):
    """Creates events of its own, moves, cues and cancels them, at a low rate; touches nobody else's."""

    abstract = True

    def live(self) -> None:
        world, plan = self.world, self.world.plan
        headers = {"Authorization": f"Bearer {plan.operator_token}"}
        asker = Asker(world, self.crowd, plan.producer_url, headers={}, chance=self.chance)
        name = f"load-{world.began_at_ms}-{self.crowd.name}-{self.number}"
        life = OperatorLife(name, headers=headers)
        due_s = world.now_s()
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


def _path_of(url: str) -> str:
    """The target of a picture's URL: the DGS serves them itself."""
    if "://" not in url:
        return url if url.startswith("/") else f"/{url}"
    _, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if not host:
        raise InvalidRequest(url[:80], field="artwork.url", rule="an address")
    return f"{slash}{path}" or "/"
