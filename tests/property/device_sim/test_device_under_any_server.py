"""Goal: whatever nodes and networks do, the guarantee of the design holds on the device.

A model of nodes that speak stagecue.v1 correctly but may lag, lose, repeat, answer `pending`, raise their floor, die;
of connections that are ordered, may be cut with frames in flight, and may overlap. After it is healed, everything is
checked against the log.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from contract.frames import (
    AckRequest,
    BroadcastFrame,
    ContinuityFrame,
    ScheduleFrame,
    StaleFrame,
    SubscribeFrame,
    WelcomeFrame,
)
from device_sim.actions import CloseSocket, OpenSocket, Send, Show
from device_sim.device import NEVER, Device, DeviceOptions
from device_sim.stage_map import MapEntry, StageMap
from device_sim.topic import TopicState

TOPIC = "event:fight"
KEYS = ("upcoming", "live", "ended", "default")


@dataclass
class Connection:
    """Server side: what the node will have sent, in order; its `knows` is how much of the log its node has."""

    number: int
    knows: int
    queue: deque = field(default_factory=deque)
    subscribed: bool = False
    owed: int | None = None  # cursor of a subscribe answered `pending`
    owes: bool = False


class World:
    def __init__(self, *, null_start: bool) -> None:
        self.log: list[BroadcastFrame] = []
        self.floor = 0
        self.now = 1_000_000
        self.device = Device("d", DeviceOptions(reconnect_window_ms=100, fetches_maps=False))
        self.device.follow(self.now, TOPIC, cursor=None if null_start else 0)
        self.connections: dict[int, Connection] = {}
        self.left: deque[Connection] = deque(maxlen=4)
        """Those the device closed: what was on its way still comes."""
        self.received: set[int] = set()
        self.skipped: set[int] = set()
        self.cursors: list[int] = []
        self.shown: list[Show] = []
        self.baseline: int | None = None if null_start else 0
        self.applied: set[int] = set()
        self.node_knows = 0
        self.do(self.device.start(self.now))

    # the device's shell
    def do(self, actions) -> None:
        for action in actions:
            if isinstance(action, OpenSocket):
                connection = self.connections[action.conn] = Connection(action.conn, self.node_knows)
                welcome = WelcomeFrame("n", self.now, 3600.0, 0.0, 100, 100)
                connection.queue.append(welcome)
                self.do(self.device.opened(self.now, action.conn))
            elif isinstance(action, Send) and isinstance(action.frame, SubscribeFrame):
                self.subscribe(self.connections[action.conn], action.frame.topics[TOPIC], pending=self.pending_next)
            elif isinstance(action, CloseSocket):
                closed = self.connections.pop(action.conn, None)
                if closed is not None:
                    self.left.append(closed)
            elif isinstance(action, Show):
                self.shown.append(action)
        cursor = self.device.topics[TOPIC].cursor
        if cursor is not None:
            self.cursors.append(cursor)

    pending_next = False

    # nodes
    def subscribe(self, connection: Connection, cursor: int | None, *, pending: bool) -> None:
        connection.subscribed = True
        if pending:
            connection.owed, connection.owes = cursor, True
            connection.queue.append(ContinuityFrame(TOPIC, "pending", None, 0))
        else:
            self.answer(connection, cursor)

    def answer(self, connection: Connection, cursor: int | None) -> None:
        known = self.log[: connection.knows]
        latest, key = (known[-1].timestamp, known[-1].state_key) if known else (0, None)
        verdict = "complete"
        if cursor is not None and cursor > latest:
            verdict = "ahead"
        elif cursor is not None and cursor < self.floor:
            verdict = "gap"
        connection.queue.append(ContinuityFrame(TOPIC, verdict, key, latest))
        if verdict == "complete" and cursor is not None:
            for entry in known:
                if entry.timestamp > cursor:
                    connection.queue.append(replayed(entry))

    def dispatch(self, key: str, reaches: bool) -> None:
        prev = self.log[-1].timestamp if self.log else 0
        self.log.append(BroadcastFrame(TOPIC, key, max(self.now, prev + 1), prev))
        self.now += 10
        if reaches:
            self.spread()

    def spread(self) -> None:
        """Every node learns all there is, and sends it on in order."""
        for connection in self.connections.values():
            for entry in self.log[connection.knows :]:
                if connection.subscribed:
                    connection.queue.append(entry)
            connection.knows = len(self.log)
        self.node_knows = len(self.log)

    def deliver(self, connection: Connection, count: int) -> None:
        for _ in range(min(count, len(connection.queue))):
            frame = connection.queue.popleft()
            if isinstance(frame, BroadcastFrame):
                self.received.add(frame.timestamp)
                self.skipped.update(frame.skipped)
            before = self.device.topics[TOPIC].cursor
            if isinstance(frame, ContinuityFrame) and before is None and frame.verdict not in ("pending", "ahead"):
                self.baseline = frame.latest if self.baseline is None else self.baseline
            if isinstance(frame, BroadcastFrame) and before is None and self.baseline is None:
                self.baseline = frame.prev
            self.now += 1
            self.do(self.device.received(self.now, connection.number, frame, 0.3))
            after = self.device.topics[TOPIC].cursor
            if after is not None and after != before:
                self.applied.add(after)

    def lose(self, connection: Connection) -> None:
        """A slow path drops a broadcast: the rest still carries the chain."""
        for index, frame in enumerate(connection.queue):
            if isinstance(frame, BroadcastFrame) and not frame.replayed:
                del connection.queue[index]
                return

    def coalesce(self, connection: Connection) -> None:
        """Two live broadcasts waiting side by side become the later one, which lists the other."""
        queue = list(connection.queue)
        for index in range(len(queue) - 1):
            a, b = queue[index], queue[index + 1]
            if isinstance(a, BroadcastFrame) and isinstance(b, BroadcastFrame) and not (a.replayed or b.replayed):
                listed = (*a.skipped, a.timestamp, *b.skipped)
                queue[index : index + 2] = [BroadcastFrame(TOPIC, b.state_key, b.timestamp, b.prev, skipped=listed)]
                connection.queue = deque(queue)
                return

    def cut(self, connection: Connection) -> None:
        self.connections.pop(connection.number, None)
        self.do(self.device.disconnected(self.now, connection.number, 1006, 0.3))

    def wait(self) -> None:
        """Let the device do what it waits for next."""
        if self.device.wake_at_ms != NEVER:
            self.now = max(self.now, self.device.wake_at_ms)
        self.do(self.device.tick(self.now, 0.3))

    def heal(self) -> None:
        self.pending_next = False
        self.spread()
        for connection in list(self.connections.values()):
            self.cut(connection)
        for _ in range(20):
            self.wait()
            for connection in list(self.connections.values()):
                self.deliver(connection, len(connection.queue))
            if self.device.online and not any(c.queue for c in self.connections.values()):
                break

    # the guarantee
    def check(self) -> None:
        assert self.cursors == sorted(self.cursors), "the cursor moved back"
        stamps = [show.render.timestamp for show in self.shown if show.render.timestamp is not None]
        assert stamps == sorted(stamps), "an older state was shown after a newer one"
        assert self.device.online
        if not self.log:
            return
        newest = self.log[-1]
        assert self.device.topics[TOPIC].cursor == newest.timestamp
        assert (self.shown[-1].render.state_key, self.shown[-1].render.timestamp) == (
            newest.state_key,
            newest.timestamp,
        )
        assert self.device.topics[TOPIC].provisional_key is None
        told = self.device.told or ()
        for entry in self.log:
            stamp = entry.timestamp
            known = (
                stamp <= (self.baseline or 0)
                or stamp in self.applied | self.received | self.skipped
                or any(each.above < stamp <= each.upto for each in told)
            )
            assert known, f"{stamp} was neither applied nor told"


def replayed(entry: BroadcastFrame) -> BroadcastFrame:
    return BroadcastFrame(TOPIC, entry.state_key, entry.timestamp, entry.prev, replayed=True)


OPS = st.one_of(
    st.tuples(st.sampled_from(["dispatch", "dispatch", "sent"]), st.sampled_from(KEYS), st.booleans()),
    st.tuples(st.just("deliver"), st.integers(0, 1), st.sampled_from([1, 2, 100])),
    st.tuples(st.sampled_from(["cut", "return", "second"]), st.integers(0, 1), st.booleans()),
    st.tuples(st.sampled_from(["spread", "wait", "schedule", "late"]), st.just(0), st.booleans()),
    st.tuples(st.sampled_from(["lose", "coalesce", "repeat", "verdict"]), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("floor"), st.integers(0, 5), st.booleans()),
)


def step(world: World, name: str, which, flag) -> None:
    connections = list(world.connections.values())
    connection = connections[which % len(connections)] if connections and isinstance(which, int) else None
    if name == "dispatch":
        world.dispatch(which, flag)
    elif name == "sent":
        world.dispatch(which, True)
        for each in connections:
            world.deliver(each, 100)
    elif name == "spread":
        world.spread()
    elif name == "wait":
        world.pending_next = flag
        world.wait()
    elif name == "late":
        if world.left:
            world.deliver(world.left.popleft(), 100)
    elif name == "floor" and world.log:
        world.floor = max(world.floor, world.log[min(which, len(world.log) - 1)].prev)
    elif connection is None:
        return
    elif name == "deliver":
        world.deliver(connection, flag)
    elif name == "cut":
        world.cut(connection)
        world.pending_next = flag
    elif name == "return":
        world.cut(connection)
        world.pending_next = flag
        world.wait()
    elif name == "second":
        connection.queue.append(StaleFrame())
        world.deliver(connection, 100)
        world.pending_next = flag
        world.wait()
    elif name == "schedule":
        times = {"upcoming": world.now - 50, "live": world.now + 60, "ended": world.now + 400}
        connection.queue.append(ScheduleFrame(TOPIC, len(world.log) + 1, 1, times))
    elif name == "lose":
        world.lose(connection)
    elif name == "coalesce":
        world.coalesce(connection)
    elif name == "repeat" and connection.queue and isinstance(connection.queue[0], BroadcastFrame):
        connection.queue.appendleft(connection.queue[0])
    elif name == "verdict" and connection.owes:
        connection.owes = False
        world.answer(connection, connection.owed)


@settings(max_examples=800, deadline=None)
@given(st.booleans(), st.lists(OPS, max_size=60))
def test_the_guarantee_holds_whatever_happens(null_start: bool, ops) -> None:
    world = World(null_start=null_start)
    world.deliver(world.connections[1], 100)
    for name, which, flag in ops:
        step(world, name, which, flag)
        assert len(world.device.topics) == 1
    world.heal()
    world.check()


STAMPS = st.integers(1, 6)
FRAMES = st.one_of(
    st.builds(
        lambda key, stamp, below, replayed, ack: BroadcastFrame(
            TOPIC, key, stamp, max(0, stamp - below), replayed=replayed, ack=AckRequest(1, 50) if ack else None
        ),
        st.sampled_from(KEYS), STAMPS, st.integers(1, 3), st.booleans(), st.booleans(),
    ),
    st.builds(
        lambda verdict, latest: ContinuityFrame(TOPIC, verdict, "live", latest),
        st.sampled_from(["complete", "gap", "ahead", "pending"]), STAMPS,
    ),
    st.builds(lambda revision, at: ScheduleFrame(TOPIC, revision, revision, {"live": at}), STAMPS, st.integers(0, 400)),
)  # fmt: skip
INPUTS = st.lists(st.one_of(FRAMES, st.sampled_from(["next", "next", "next", "cut", "wait"])), max_size=30)
MAP = StageMap(
    event_id="fight", version=1, revision=1, ttl_s=60, server_time=0, times={"live": 100},
    entries={"live": MapEntry("shows-live", b"")}, default=MapEntry("shows-default", b""),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.booleans(), INPUTS)
def test_an_unwatched_device_does_what_a_watched_one_does(holds_map: bool, null_start: bool, inputs) -> None:
    """The short way of load devices, whose renders nobody wants, ends in the same state after every input."""
    watched, unwatched = (
        Device("d", DeviceOptions(reconnect_window_ms=100, keeps_renders=seen, tells_renders=seen))
        for seen in (True, False)
    )
    now = 1_000
    for device in (watched, unwatched):
        device.follow(now, TOPIC, cursor=None if null_start else 0)
        if holds_map:
            device.map_fetched(now, TOPIC, MAP, 0.5)
        device.start(now)
    for each in (None, *inputs):
        now += 7
        did = []
        if each == "next":
            (state,) = watched.states
            each = BroadcastFrame(TOPIC, KEYS[now % 4], (state.cursor or 0) + 1, state.cursor or 0)
        for device in (watched, unwatched):
            conn = device.connection.live or device.connection.next or 0
            if each is None:
                actions = [*device.opened(now, conn), *device.received(now, conn, welcome(now), 0.3)]
            elif each == "cut":
                actions = [*device.disconnected(now, conn, 1006, 0.3)]
            elif each == "wait":
                actions = [*device.tick(max(now, min(device.wake_at_ms, now + 10_000)), 0.3)]
                conn = device.connection.next
                if conn is not None:
                    actions += [*device.opened(now, conn), *device.received(now, conn, welcome(now), 0.3)]
            else:
                actions = [*device.received(now, conn, each, 0.3)]
            did.append([action for action in actions if not isinstance(action, Show)])
        assert did[0] == did[1]
        assert seen_of(watched) == seen_of(unwatched)
    assert unwatched.renders is None


def welcome(now: int) -> WelcomeFrame:
    return WelcomeFrame("n", now, 3600.0, 0.0, 100, 100)


def seen_of(device: Device) -> list[object]:
    found: list[object] = [device.wake_at_ms, device.told, device.online, device.clock_offset_ms]
    for state in device.states:
        found += [getattr(state, name) for name in TopicState.__slots__]
    return found
