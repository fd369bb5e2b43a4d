"""The faults: what is done to whom, what must be seen before the next step, and what recovery may take.

Each is a coroutine over a `Scene`, the cluster as faults see it. `scene.step(name, bound_s)` marks the instant of one;
`scene.until_...` waits until the cluster itself says that a successor is in charge; `scene.hold()` then lets everything
run, so that the step before can be judged. Bounds of `promised` faults are the project's promise; those of the others
are what this benchmark holds them to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from loadtest.bench.outcome import CouldNotRun

__all__ = ["FAULTS", "PING_S", "PONG_DEADLINE_S", "Fault", "Scene", "fault_named"]

PING_S: Final = 3.0
PONG_DEADLINE_S: Final = 2.0
"""Of the nodes in this benchmark: the frozen node's bound is made of them."""

_PRODUCER_S: Final = 3.0
_ROUTER_S: Final = 8.0
_NODE_S: Final = 3.0
_FROZEN_NODE_S: Final = PING_S + PONG_DEADLINE_S + 2.0
_STORE_S: Final = 5.0
_KAFKA_S: Final = 10.0
_OWN_S: Final = 3.0
_HOUR_MS: Final = 3_600_000


class Scene(Protocol):
    """What an injection may do and ask. Every wait is bounded and raises CouldNotRun naming what did not happen."""

    def step(self, name: str, *, bound_s: float | None = None) -> None:
        """This happens now; what is due from here to the next step is judged against `bound_s`."""
        ...

    async def hold(self, seconds: float | None = None) -> None:
        """Let the night go on, by default long enough to judge a step that has taken effect."""
        ...

    async def leader(self) -> str: ...
    async def busiest_router(self) -> str:
        """The router that has the most partitions."""
        ...

    def a_node(self) -> str:
        """The node faults happen to."""
        ...

    def everything_of_ours(self) -> list[str]:
        """Names of all services, in the order of a rolling restart."""
        ...

    async def kill(self, name: str) -> None:
        """`kill -9`, and wait for the end."""
        ...

    async def start(self, name: str) -> None:
        """Start again on the same ports and data; returns when it is ready."""
        ...

    async def stop(self, name: str) -> None:
        """SIGTERM: drain, and end. Raises CouldNotRun when it did not end cleanly."""
        ...

    def freeze(self, name: str) -> None: ...
    def thaw(self, name: str) -> None: ...
    async def until_leader_is_not(self, name: str) -> None: ...
    async def until_routers_without(self, name: str) -> None:
        """The other routers have all partitions."""
        ...

    async def until_devices_left(self, name: str) -> None:
        """The other nodes have all devices."""
        ...

    async def until_settled(self) -> None:
        """One leader, all partitions taken, every node linked to every router, none behind, all devices back."""
        ...

    async def lose_redis(self, *, seconds: float | None) -> None:
        """Take the last `seconds` from a dead Redis; None: everything."""
        ...

    async def take_lease_away(self) -> None:
        """From outside, in SQL: the lease ends now, its holder does not know."""
        ...

    def rival_leaders_seen(self) -> int:
        """How often so far a producer was refused a dispatch because another one had taken the lease."""
        ...

    def note(self, line: str) -> None: ...
    def step_clocks(self, by_ms: int) -> None:
        """The wall clock of all our services is `by_ms` off from now on."""
        ...

    def link_pass(self) -> None:
        """The link to `a_node` is whole again."""
        ...

    def link_drop(self) -> None:
        """Break every link to `a_node` now; new ones come about."""
        ...

    def link_delay(self, seconds: float) -> None: ...
    def link_half(self) -> None:
        """What routers send to `a_node` vanishes; what it sends arrives."""
        ...


class Fault(msgspec.Struct, frozen=True):
    name: str
    what: str
    """One line, for the table."""
    inject: Callable[[Scene], Awaitable[None]]
    lasts_s: float
    """The schedule is made this long, from the fault on."""
    promised: bool = True
    """Whether the bound is the project's promise; else it is this benchmark's own."""


async def _nothing(scene: Scene) -> None:
    scene.step("nothing", bound_s=_OWN_S)
    await scene.hold(5.0)


async def _kill_leader(scene: Scene) -> None:
    leader = await scene.leader()
    scene.step("killed", bound_s=_PRODUCER_S)
    await scene.kill(leader)
    await scene.until_leader_is_not(leader)
    await scene.hold()
    await scene.start(leader)
    scene.step("back", bound_s=_PRODUCER_S)
    await scene.hold()


async def _freeze_leader(scene: Scene) -> None:
    leader = await scene.leader()
    scene.step("frozen", bound_s=_PRODUCER_S)
    scene.freeze(leader)
    await scene.until_leader_is_not(leader)
    await scene.hold()
    scene.step("continued", bound_s=_PRODUCER_S)
    scene.thaw(leader)
    await scene.hold()


async def _kill_router(scene: Scene) -> None:
    router = await scene.busiest_router()
    scene.step("killed", bound_s=_ROUTER_S)
    await scene.kill(router)
    await scene.until_routers_without(router)
    await scene.hold()
    scene.step("started again", bound_s=_ROUTER_S)
    await scene.start(router)
    await scene.until_settled()
    await scene.hold()


async def _freeze_router(scene: Scene) -> None:
    router = await scene.busiest_router()
    scene.step("frozen", bound_s=_ROUTER_S)
    scene.freeze(router)
    await scene.until_routers_without(router)
    await scene.hold()
    scene.step("continued", bound_s=_ROUTER_S)
    scene.thaw(router)
    await scene.until_settled()
    await scene.hold()


async def _kill_node(scene: Scene) -> None:
    node = scene.a_node()
    scene.step("killed", bound_s=_NODE_S)
    await scene.kill(node)
    await scene.until_devices_left(node)
    await scene.hold()
    scene.step("started again", bound_s=_NODE_S)
    await scene.start(node)
    await scene.until_settled()
    await scene.hold()


async def _freeze_node(scene: Scene) -> None:
    node = scene.a_node()
    scene.step("frozen", bound_s=_FROZEN_NODE_S)
    scene.freeze(node)
    await scene.until_devices_left(node)
    await scene.hold()
    scene.step("continued", bound_s=_NODE_S)
    scene.thaw(node)
    await scene.until_settled()
    await scene.hold()


def _kill_redis(lost_s: float | None, *, keeps_all: bool = False) -> Callable[[Scene], Awaitable[None]]:
    async def inject(scene: Scene) -> None:
        scene.step("killed")
        await scene.kill("redis")
        if not keeps_all:
            await scene.lose_redis(seconds=lost_s)
        await scene.hold(2.0)
        await scene.start("redis")
        scene.step("back", bound_s=_STORE_S)
        await scene.until_settled()
        await scene.hold()

    return inject


async def _kill_kafka(scene: Scene) -> None:
    scene.step("killed")
    await scene.kill("kafka")
    await scene.hold(1.0)
    await scene.start("kafka")
    scene.step("back", bound_s=_KAFKA_S)
    await scene.until_settled()
    await scene.hold()


async def _kill_postgres(scene: Scene) -> None:
    scene.step("killed")
    await scene.kill("postgres")
    await scene.hold(1.0)
    await scene.start("postgres")
    scene.step("back", bound_s=_STORE_S)
    await scene.until_settled()
    await scene.hold()


async def _drop_link(scene: Scene) -> None:
    scene.step("dropping", bound_s=_OWN_S)
    for _ in range(5):
        scene.link_drop()
        await scene.hold(0.7)
    await scene.until_settled()
    await scene.hold()


async def _delay_link(scene: Scene) -> None:
    scene.step("delayed", bound_s=_OWN_S)
    scene.link_delay(0.4)
    await scene.hold(5.0)
    scene.step("healed", bound_s=_OWN_S)
    scene.link_pass()
    await scene.until_settled()
    await scene.hold()


async def _halve_link(scene: Scene) -> None:
    scene.step("cut")
    scene.link_half()
    await scene.hold(5.0)
    scene.step("healed", bound_s=_ROUTER_S)
    scene.link_pass()
    await scene.until_settled()
    await scene.hold()


async def _two_leaders(scene: Scene) -> None:
    """The lease is taken away behind its holder's back, time and again: until it looks, two believe they lead."""
    before = scene.rival_leaders_seen()
    scene.step("lease taken away", bound_s=_PRODUCER_S + 6.0)
    for _ in range(6):
        leader = await scene.leader()
        scene.freeze(leader)  # so that it wakes up in the belief of before
        await scene.take_lease_away()
        await scene.until_leader_is_not(leader)
        scene.thaw(leader)
        await scene.hold(0.6)
    scene.step("left alone", bound_s=_PRODUCER_S)
    await scene.until_settled()
    await scene.hold()
    refused = scene.rival_leaders_seen() - before
    scene.note(f"{refused} transactions of a producer that led no more, and did not know, were refused")
    if not refused:
        raise CouldNotRun("no producer ever acted in the belief that it led while another did")


async def _rolling_restart(scene: Scene) -> None:
    scene.step("restarting")
    for name in scene.everything_of_ours():
        await scene.stop(name)
        await scene.start(name)
        await scene.hold(0.5)
    scene.step("all restarted", bound_s=_ROUTER_S)
    await scene.until_settled()
    await scene.hold()


def _step_clock(by_ms: int) -> Callable[[Scene], Awaitable[None]]:
    async def inject(scene: Scene) -> None:
        scene.step("stepped", bound_s=_OWN_S)
        scene.step_clocks(by_ms)
        await scene.hold(5.0)
        scene.step("set right", bound_s=_OWN_S)
        scene.step_clocks(0)
        await scene.hold(4.0)

    return inject


FAULTS: Final = (
    Fault("nothing", "nothing: what the rest is to be compared with", _nothing, 10, promised=False),
    Fault("producer-killed", "`kill -9` of the leading producer", _kill_leader, 20),
    Fault("producer-frozen", "the leading producer frozen, continued once another leads", _freeze_leader, 20),
    Fault("two-leaders", "two producers who both believe they lead", _two_leaders, 30, promised=False),
    Fault("router-killed", "`kill -9` of a router", _kill_router, 40),
    Fault("router-frozen", "a router frozen, continued once the other has its partitions", _freeze_router, 40),
    Fault("node-killed", "`kill -9` of a push node", _kill_node, 25),
    Fault("node-frozen", "a push node frozen, continued once its devices are elsewhere", _freeze_node, 30),
    Fault("redis-killed", "`kill -9` of Redis, back with its data", _kill_redis(None, keeps_all=True), 25),
    Fault("redis-rewound", "`kill -9` of Redis, back without its last second", _kill_redis(1.0), 25),
    Fault("redis-emptied", "`kill -9` of Redis, back empty", _kill_redis(None), 25),
    Fault("kafka-killed", "`kill -9` of the Kafka broker", _kill_kafka, 35),
    Fault("postgres-killed", "`kill -9` of PostgreSQL", _kill_postgres, 25),
    Fault("link-dropped", "a node's links break, five times", _drop_link, 20, promised=False),
    Fault("link-delayed", "a node's links slow by 0.4 s each way", _delay_link, 25, promised=False),
    Fault("link-halved", "a node's links cut in half: it hears nothing, and is heard", _halve_link, 30, promised=False),
    Fault("rolling-restart", "every service of ours restarted, one by one", _rolling_restart, 90, promised=False),
    Fault("clock-back", "the services' wall clock an hour back, and right again", _step_clock(-_HOUR_MS), 20, False),
    Fault("clock-forward", "the services' wall clock an hour ahead, and right again", _step_clock(_HOUR_MS), 20, False),
)


def fault_named(name: str) -> Fault:
    """Raises KeyError for none."""
    return {fault.name: fault for fault in FAULTS}[name]
