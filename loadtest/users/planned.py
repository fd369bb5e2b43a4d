"""What all kinds of users share: a number, chance of its own, and coming and going as the crowd's curve says. gevent.

A user waits for the beginning, takes a number, and is there whenever its crowd's curve says so. Everything it does by
chance comes from a generator seeded with the plan's seed, its crowd and its number.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar

import gevent
from locust import User, constant, task

from device_sim.return_window import return_delay_ms
from loadtest.users.asker import Asker
from loadtest.users.asking import KINDS, Ask, Channel, Heard, NotAnAnswer, channel_of
from loadtest.users.pacing import stays
from loadtest.users.plan import Crowd, is_push_url
from loadtest.users.retrying import RetryBudget
from loadtest.users.world import World

__all__ = ["PlannedUser"]

_T = TypeVar("_T")

_LOG: Final = logging.getLogger("loadtest.users")
_AGAIN_WINDOW_MS: Final = 10_000
_AGAIN_CAP_MS: Final = 120_000
"""A device that got no answer asks again within a window that grows (R21); compressed like think times."""


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
        self.came_s = 0.0
        """When it was to come: what it asks first was due then, even if this process was late."""

    @task
    def be_there(self) -> None:
        """Come and go as the curve says; never returns."""
        world, crowd = self.world, self.crowd
        world.began.wait()
        there_s = world.now_s()
        self._become(world.take_number(crowd))
        for stay in stays(crowd, self.number, self.chance.random()):
            self.came_s = max(there_s, stay.from_s)
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
        headers = world.headers_of(self.crowd, self.profile_id, self.device_id)
        return Asker(world, self.crowd, world.plan.dgs_url, headers=headers, chance=self.chance, budget=budget)

    def connect_in_ms(self, channel: Channel) -> int:
        within_s = self.crowd.connect_within_s
        window_ms = channel.connect_window_ms if within_s is None else within_s * 1000
        return int(self.chance.random() * window_ms)

    def again_after_s(self, failures: int) -> float:
        """Before an ask that failed is made anew: uniform over a window that grows."""
        delay_ms = return_delay_ms(_AGAIN_WINDOW_MS, failures, self.chance.random(), cap_ms=_AGAIN_CAP_MS)
        return delay_ms / 1000 / self.world.plan.time_compression

    def until_answered(self, asker: Asker, request: str, asked: Ask, read: Callable[[Heard], _T]) -> _T:
        """What `read` makes of an answer (it raises NotAnAnswer for none); asked anew for as long as it takes."""
        world, failures = self.world, 0
        due_s = self.came_s
        while True:
            heard = asker.ask(request, asked, due_s=due_s)
            try:
                if heard is not None:
                    return read(heard)
            except NotAnAnswer as exc:
                world.book.reason(f"{self.crowd.name}/{request}", str(exc))
            failures += 1
            asker.rest(math.inf)
            due_s = world.now_s() + self.again_after_s(failures)
            world.sleep_until(due_s)

    def push_urls(self, heard: Heard) -> tuple[Channel, Sequence[str]]:
        """The channel of an answer, and where to connect. Raises NotAnAnswer, also for where nobody may go."""
        channel = channel_of(heard)
        if self.world.plan.push_urls:
            return channel, self.world.plan.push_urls
        if not is_push_url(channel.url):
            raise NotAnAnswer("channel without an address")
        if not self.world.may_go(self.crowd, channel.url):
            raise NotAnAnswer("channel outside this machine")
        return channel, (channel.url,)
