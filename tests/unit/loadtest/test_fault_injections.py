"""Goal: each fault does what its line says, leaves nothing behind, and lets a frozen part go on only when it may."""

from __future__ import annotations

import pytest

from loadtest.bench.faults.injections import FAULTS, Fault, fault_named


class RecordedScene:
    """A Scene that writes down what is asked of it."""

    def __init__(self) -> None:
        self.done: list[tuple[str, ...]] = []
        self.bounds: dict[str, float | None] = {}
        self._leaders = ["producer-0", "producer-1"]

    def step(self, name: str, *, bound_s: float | None = None) -> None:
        self.bounds[name] = bound_s
        self.done.append(("step", name))

    async def hold(self, seconds: float | None = None) -> None:
        self.done.append(("hold",))

    async def leader(self) -> str:
        return self._leaders[0]

    async def busiest_router(self) -> str:
        return "router-1"

    def a_node(self) -> str:
        return "push-0"

    def everything_of_ours(self) -> list[str]:
        return ["producer-0", "router-0", "push-0", "dgs-0"]

    async def kill(self, name: str) -> None:
        self.done.append(("kill", name))

    async def start(self, name: str) -> None:
        self.done.append(("start", name))

    async def stop(self, name: str) -> None:
        self.done.append(("stop", name))

    def freeze(self, name: str) -> None:
        self.done.append(("freeze", name))

    def thaw(self, name: str) -> None:
        self.done.append(("thaw", name))

    async def until_leader_is_not(self, name: str) -> None:
        self._leaders.reverse()
        self.done.append(("successor of", name))

    async def until_routers_without(self, name: str) -> None:
        self.done.append(("successor of", name))

    async def until_devices_left(self, name: str) -> None:
        self.done.append(("successor of", name))

    async def until_settled(self) -> None:
        self.done.append(("settled",))

    async def lose_redis(self, *, seconds: float | None) -> None:
        self.done.append(("lose", "everything" if seconds is None else f"{seconds} s"))

    async def take_lease_away(self) -> None:
        self.done.append(("take lease",))

    def rival_leaders_seen(self) -> int:
        return sum(done == ("take lease",) for done in self.done)

    def note(self, line: str) -> None:
        self.done.append(("note", line))

    def step_clocks(self, by_ms: int) -> None:
        self.done.append(("clock", str(by_ms)))

    def link_pass(self) -> None:
        self.done.append(("link", "pass"))

    def link_drop(self) -> None:
        self.done.append(("link", "drop"))

    def link_delay(self, seconds: float) -> None:
        self.done.append(("link", "delay"))

    def link_half(self) -> None:
        self.done.append(("link", "half"))


async def done_by(name: str) -> RecordedScene:
    scene = RecordedScene()
    await fault_named(name).inject(scene)
    return scene


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.name)
def fault(request: pytest.FixtureRequest) -> Fault:
    found = request.param
    assert isinstance(found, Fault)
    return found


async def test_every_fault_marks_its_instant_before_it_does_harm(fault: Fault) -> None:
    scene = RecordedScene()
    await fault.inject(scene)
    harm = [index for index, done in enumerate(scene.done) if done[0] in ("kill", "freeze", "stop", "clock", "link")]
    assert scene.done[0][0] == "step"
    assert bool(harm) == (fault.name != "nothing")
    assert not harm or min(harm) > 0
    assert any(bound is not None for bound in scene.bounds.values())


async def test_every_fault_ends_with_everything_running_and_time_to_see_it(fault: Fault) -> None:
    scene = RecordedScene()
    await fault.inject(scene)
    for broke, mended in (("kill", "start"), ("stop", "start"), ("freeze", "thaw")):
        for index, done in enumerate(scene.done):
            if done[0] == broke:
                assert (mended, done[1]) in scene.done[index:], f"{done[1]} stays {broke}ed"
    clocks = [done[1] for done in scene.done if done[0] == "clock"]
    assert clocks[-1:] in ([], ["0"])
    links = [done[1] for done in scene.done if done[0] == "link"]
    assert not links or links[-1] in ("pass", "drop")
    assert ("hold",) in scene.done[-3:]


async def test_a_frozen_part_goes_on_only_after_its_successor_is_in_charge(fault: Fault) -> None:
    scene = RecordedScene()
    await fault.inject(scene)
    for index, done in enumerate(scene.done):
        if done[0] == "freeze":
            thawed = scene.done.index(("thaw", done[1]), index)
            assert ("successor of", done[1]) in scene.done[index:thawed]


async def test_redis_comes_back_in_three_ways() -> None:
    lost = [
        [done[1] for done in (await done_by(name)).done if done[0] == "lose"]
        for name in ("redis-killed", "redis-rewound", "redis-emptied")
    ]
    assert lost == [[], ["1.0 s"], ["everything"]]


async def test_bounds_are_the_promised_ones() -> None:
    promised = {
        "producer-killed": 3.0, "producer-frozen": 3.0, "router-killed": 8.0, "router-frozen": 8.0, "node-killed": 3.0,
        "node-frozen": 7.0, "redis-killed": 5.0, "redis-rewound": 5.0, "redis-emptied": 5.0, "kafka-killed": 10.0,
        "postgres-killed": 5.0,
    }  # fmt: skip
    assert {fault.name for fault in FAULTS if fault.promised} == set(promised)
    for name, bound_s in promised.items():
        bounds = (await done_by(name)).bounds
        first, *later = bounds.values()
        assert bound_s == (later[0] if first is None else first), name


async def test_a_rolling_restart_leaves_out_nobody_of_ours() -> None:
    scene = await done_by("rolling-restart")
    ours = scene.everything_of_ours()
    assert [done[1] for done in scene.done if done[0] == "stop"] == ours
    assert [done[1] for done in scene.done if done[0] == "start"] == ours


def test_names_are_distinct_and_unknown_ones_refused() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    with pytest.raises(KeyError):
        fault_named("earthquake")
