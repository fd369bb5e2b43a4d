"""For any interleaving of log reads, live frames, subscribe moments and cursors: what a device is sent is the log.

Method: Hypothesis plays a chain of broadcasts against one TopicState through appends, deliveries (late, repeated, out
of order, lost), reads, comparisons, time and subscribers; frames are what the node would write.
"""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from contract.broadcast import Broadcast
from contract.replay_log import TopicLog
from push_proxy.recovery import Phase, Subscription, Waiting
from push_proxy.topic_state import TopicState
from tests.support.fake_port import FakePort

TOPIC = "event:x"
_STEPS = st.one_of(
    st.tuples(st.just("append"), st.just(0)),
    st.tuples(st.just("deliver"), st.integers(0, 11)),
    st.tuples(st.just("read"), st.just(0)),
    st.tuples(st.just("compare"), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([10, 300, 600, 4000])),
    st.tuples(st.just("trim"), st.integers(1, 3)),
    st.tuples(st.just("subscribe"), st.one_of(st.none(), st.integers(0, 13))),
)


class Device:
    """What design section 5 demands of a device, in a few lines: cursor rule and what it was told it missed."""

    def __init__(self, world: World, cursor: int | None) -> None:
        self.asked = cursor
        self.cursor = cursor
        self.verdicts: list[str] = []
        self.frames: list[int] = []
        self.shown: list[int] = []
        self.told_from: list[tuple[int, int]] = []
        self.subscription = Subscription(
            FakePort(), TOPIC, waiting=Waiting(cursor, world.now_s + 0.5, world.state.reads_begun)
        )

    def broadcast(self, entry: Broadcast) -> None:
        self.frames.append(entry.timestamp)
        if self.cursor is not None and entry.timestamp <= self.cursor:
            return
        if self.cursor is not None and entry.prev > self.cursor:
            self.told_from.append((self.cursor, entry.prev))
        self.cursor = entry.timestamp
        self.shown.append(entry.timestamp)

    def continuity(self, verdict: str, latest: int) -> None:
        self.verdicts.append(verdict)
        if verdict in ("pending", "ahead") or (self.cursor is not None and latest <= self.cursor):
            return
        if verdict == "gap" or self.cursor is None:
            if self.cursor is not None:
                self.told_from.append((self.cursor, latest))
            self.cursor = latest
            self.shown.append(latest)


class World:
    def __init__(self, chain: list[Broadcast]) -> None:
        self.chain = chain
        self.log = TopicLog(TOPIC)
        self.state = TopicState(TOPIC)
        self.now_s = 0.0
        self.appended = 0
        self.devices: list[Device] = []

    def spread(self, broadcasts: tuple[Broadcast, ...], least: Phase) -> None:
        for entry in broadcasts:
            for device in self.devices:
                if device.subscription.phase >= least and device.subscription.flow(entry.timestamp):
                    device.broadcast(entry)

    def settle(self) -> None:
        for device in self.devices:
            answer = device.subscription.answer(self.state, self.now_s)
            if answer is None:
                continue
            if answer.verdict is not None:
                device.continuity(answer.verdict, self.state.latest)
            replayed = [entry.timestamp for entry in answer.replay]
            assert replayed == sorted(replayed), "a replay is in order"
            assert device.asked is None or all(timestamp > device.asked for timestamp in replayed)
            for entry in answer.replay:
                device.broadcast(entry)

    def read(self) -> None:
        number = self.state.begin_read()
        news = self.state.absorb(self.log.snapshot(), read=number, started_at_s=self.now_s)
        self.spread(news, Phase.LIVE)

    def step(self, kind: str, argument: int | None) -> None:
        if kind == "append" and self.appended < len(self.chain):
            self.log.append(self.chain[self.appended])
            self.appended += 1
        elif kind == "deliver" and argument is not None and argument < self.appended:
            self.spread(self.state.accept(self.chain[argument], self.now_s).send, Phase.PENDING)
        elif kind == "read":
            self.read()
        elif kind == "compare":
            if self.state.confirm(self.log.tail, asked_at_s=self.now_s):
                self.read()
        elif kind == "wait":
            assert argument is not None
            self.now_s += argument / 1000
            self.spread(self.state.release_overdue(self.now_s), Phase.PENDING)
        elif kind == "trim" and argument is not None:
            self.log.trim(keep=argument, before=0)
        elif kind == "subscribe":
            self.devices.append(Device(self, argument if argument is None else self.cursor_at(argument)))
        self.settle()

    def cursor_at(self, index: int) -> int:
        return 0 if index == 0 else index * 10 - 5 if index == 13 else index * 10

    def finish(self) -> None:
        """Everything heals: all is appended and delivered, the log is compared until nothing changes."""
        while self.appended < len(self.chain):
            self.step("append", 0)
        self.step("wait", 600)
        for _ in range(3):
            self.step("read", 0)
            self.step("compare", 0)


def _chain(size: int) -> list[Broadcast]:
    return [
        Broadcast(topic=TOPIC, state_key=f"s{n}", timestamp=(n + 1) * 10, prev=n * 10, event_id="x")
        for n in range(size)
    ]


@given(st.integers(1, 12), st.lists(_STEPS, max_size=40))
@example(2, [("read", 0), ("append", 0), ("append", 0), ("trim", 1), ("subscribe", 0)])
@settings(max_examples=400, deadline=None)
def test_sent_is_the_log_above_the_cursor(size: int, steps: list[tuple[str, int | None]]) -> None:
    """Each at most once; replays in order; nothing above the cursor left out unless told as a gap."""
    world = World(_chain(size))
    for kind, argument in steps:
        before = world.state.latest
        world.step(kind, argument)
        assert world.state.latest >= before, "latest never falls"
        for device in world.devices:
            assert len(set(device.frames)) == len(device.frames), "each broadcast once"
    world.finish()
    newest = world.chain[-1].timestamp
    for device in world.devices:
        assert device.verdicts, "every device was answered"
        assert device.verdicts[-1] != "pending"
        if device.verdicts == ["complete"] and device.asked is not None:
            expected = [entry.timestamp for entry in world.chain if entry.timestamp > device.asked]
            # A late one the node never knew is passed on to everybody (R13); devices above it do not apply it.
            sent = sorted(timestamp for timestamp in device.frames if timestamp > device.asked)
            # What the log lost before this node ever saw it is told by the chain of the next one (R8).
            told = {at for at in expected if any(low < at <= high for low, high in device.told_from)}
            assert set(sent) <= set(expected), "nothing but the log's suffix above the cursor"
            assert set(expected) - set(sent) <= told, "and nothing of it left out in silence"
        if device.asked is None or device.asked <= newest:
            assert device.cursor == newest, "ends in the newest state"


@given(st.integers(1, 12), st.lists(_STEPS, max_size=40))
@settings(max_examples=400, deadline=None)
def test_guarantee_of_section_five(size: int, steps: list[tuple[str, int | None]]) -> None:
    """Never an older state after a newer one; every broadcast not applied is one it was told of."""
    world = World(_chain(size))
    for kind, argument in steps:
        world.step(kind, argument)
    world.finish()
    for device in world.devices:
        assert device.shown == sorted(device.shown)
        first = device.asked if device.asked is not None else (device.shown[0] if device.shown else 0)
        for entry in world.chain:
            timestamp = entry.timestamp
            if timestamp <= first or timestamp in device.shown or timestamp > (device.cursor or 0):
                continue
            assert any(low < timestamp <= high for low, high in device.told_from), f"{timestamp} was lost in silence"


@given(st.integers(1, 12), st.integers(0, 12), st.permutations(range(12)), st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_one_answer_merges_replay_and_live(size: int, split: int, order: list[int], cursor: int) -> None:
    """Live frames in any order between subscribe and read: one ordered, deduplicated replay answers."""
    world = World(_chain(size))
    for entry in world.chain[:split]:
        world.log.append(entry)
    device = Device(world, cursor * 10)
    world.devices.append(device)
    for index in order:
        if index < size:
            world.state.accept(world.chain[index], 0.0)
    for entry in world.chain[split:]:
        world.log.append(entry)
    world.read()
    world.settle()
    if cursor * 10 > world.log.tail:
        assert device.verdicts == ["ahead"]
        return
    assert device.verdicts == ["complete"]
    assert device.frames == [entry.timestamp for entry in world.chain if entry.timestamp > cursor * 10]
