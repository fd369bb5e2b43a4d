"""Whatever a node sends over a stream of events and wherever the stream is cut, EventSource's id is a device's cursor.

The node's side is the real one without its sockets (TopicState, Subscription, sse_form, EventStream), the browser's the
parser of the HTML standard, and the judge a device that keeps its own cursor by R18.
"""

from __future__ import annotations

from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.broadcast import Broadcast
from contract.errors import InvalidRequest
from contract.frames import (
    BroadcastFrame,
    ContinuityFrame,
    GoawayFrame,
    ServerFrame,
    WelcomeFrame,
    broadcast_frame,
    decode_server_frame,
)
from contract.replay_log import LogSnapshot
from device_sim.topic import TopicState as DeviceTopic
from push_proxy.recovery import Answer, Phase, Subscription, Waiting
from push_proxy.sse import (
    HEARTBEAT,
    MIN_RETRY_MS,
    EventStream,
    read_events_request,
    refusal_events,
    retry_ms,
    sse_form,
)
from push_proxy.topic_state import TopicState
from tests.support.event_source import EventSourceParser, StreamEvent
from tests.support.fake_port import FakePort

T = "event:fight"
WELCOME = WelcomeFrame("n1", 1, 3600.0, 30.0, 10_000, 60_000)
NOBODY = FakePort()


class Night:
    """A log, a node that may lose sight of it, one EventSource, and the device that judges."""

    def __init__(self, *, forgets: bool, start: int | None) -> None:
        self.log: list[Broadcast] = []
        self.published: list[Broadcast] = []
        self.floor = 0
        self.node = TopicState(T)
        self.now_s = 0.0
        self.browser = EventSourceParser(forgets=forgets)
        self.device = DeviceTopic(T, cursor=start)
        self.address_cursor = start
        """What the page wrote into the address; it stays there."""
        self.conn = 0
        self.owed = b""
        self.stream = EventStream(None, 0.5)
        self.subscription: Subscription | None = None
        self.seen: set[int] = set()
        self.told: list[tuple[int, int]] = []
        self.baseline: int | None = start
        self.sent_while_null = False

    # The node.

    def publish(self, *, live: bool) -> None:
        prev = self.log[-1].timestamp if self.log else self.floor
        entry = Broadcast(topic=T, state_key=f"s{prev + 10}", timestamp=prev + 10, prev=prev, event_id="fight")
        self.log.append(entry)
        self.published.append(entry)
        if live:
            self.deliver(entry)

    def deliver(self, entry: Broadcast) -> None:
        for broadcast in self.node.accept(entry, self.now_s).send:
            if self.subscription is not None and self.subscription.flow(broadcast.timestamp):
                self.write(broadcast_frame(broadcast))

    def deliver_late(self, back: int) -> None:
        """A router that comes with an old one, or with one that was lost."""
        if self.log:
            self.deliver(self.log[max(0, len(self.log) - 1 - back)])

    def read(self) -> None:
        snapshot = LogSnapshot(T, self.floor, tuple(self.log))
        number = self.node.begin_read()
        missing = self.node.absorb(snapshot, read=number, started_at_s=self.now_s)
        for broadcast in missing:
            if (
                self.subscription is not None
                and self.subscription.phase is Phase.LIVE
                and self.subscription.flow(broadcast.timestamp)
            ):
                self.write(broadcast_frame(broadcast))
        self.answer()

    def release(self) -> None:
        self.now_s += 1
        for broadcast in self.node.release_overdue(self.now_s):
            if self.subscription is not None and self.subscription.flow(broadcast.timestamp):
                self.write(broadcast_frame(broadcast))
        self.answer()

    def trim(self) -> None:
        if len(self.log) > 1:
            self.floor = self.log[0].timestamp
            del self.log[0]

    def trouble(self) -> None:
        """The store is away, the verdict pending; one broadcast is lost, the next flows with its hole; all is found."""
        self.node.doubt()
        self.release()
        self.publish(live=False)
        self.publish(live=True)
        self.release()
        self.read()

    def restart(self) -> None:
        """Another node on the same log; the stream is cut."""
        self.cut(0)
        self.node = TopicState(T)

    # The stream.

    def write(self, frame: ServerFrame) -> None:
        self.owed += self.stream.tailor(sse_form(frame))

    def connect(self) -> None:
        assert self.subscription is None
        self.browser.new_stream()
        self.conn += 1
        query = f"topic={T}" if self.address_cursor is None else f"topic={T}&cursor={self.address_cursor}"
        request = read_events_request(query, Headers(self.browser.last_event_id))
        self.device.asked(self.conn)
        self.stream = EventStream(request.cursor, 0.5)
        waiting = Waiting(request.cursor, self.now_s + 0.5, self.node.reads_begun)
        self.subscription = Subscription(NOBODY, T, waiting=waiting)
        self.write(WELCOME)
        self.answer()

    def answer(self) -> None:
        if self.subscription is None:
            return
        found: Answer | None = self.subscription.answer(self.node, self.now_s)
        if found is None:
            return
        if found.verdict is not None:
            self.write(ContinuityFrame(T, found.verdict, self.node.state_key, self.node.latest))
        for broadcast in found.replay:
            self.write(broadcast_frame(broadcast, replayed=True))

    def receive(self, size: int) -> None:
        """The browser gets so many of the bytes on their way."""
        chunk, self.owed = self.owed[:size], self.owed[size:]
        before = self.browser.last_event_id
        for event in self.browser.feed(chunk):
            self.page_hears(event)
            assert int(before or -1) <= int(event.last_event_id or -1), "never back"
            before = event.last_event_id

    def page_hears(self, event: StreamEvent) -> None:
        frame = decode_server_frame(event.data)
        null_before = self.device.cursor is None
        if isinstance(frame, BroadcastFrame):
            self.seen.add(frame.timestamp)
            if self.baseline is None:
                self.baseline = frame.timestamp
                self.sent_while_null = True
            _, hole, _ = self.device.broadcast(frame)
            if hole is not None:
                self.told.append((hole.above, hole.upto))
        elif isinstance(frame, ContinuityFrame):
            if self.baseline is None and frame.verdict != "pending":
                self.baseline = frame.latest
            gap, _ = self.device.continuity(self.conn, frame)
            if gap is not None:
                self.told.append((gap.above, gap.upto))
        cursor = self.device.cursor
        moved_to = int(event.last_event_id) if event.last_event_id else None
        if self.sent_while_null:  # the device may leap with the verdict, the id waits for what lies between
            assert cursor is not None
            assert moved_to is not None
            assert moved_to <= cursor
            self.sent_while_null = moved_to < cursor or null_before or isinstance(frame, BroadcastFrame)
        else:
            assert moved_to == cursor, f"after {event}"

    def cut(self, size: int) -> None:
        if self.subscription is not None:
            self.receive(size)
            self.device.connection_lost(self.conn)
            self.subscription.end()
            self.subscription = None
            self.owed = b""

    def refused(self) -> None:
        """Full: an EventSource that comes now is sent away, and must not forget where it stood."""
        self.cut(10**6)
        self.browser.new_stream()
        cursor = read_events_request(f"topic={T}", Headers(self.browser.last_event_id)).cursor
        before = self.browser.last_event_id
        self.browser.feed(refusal_events(GoawayFrame("full", 5, 10), cursor))
        assert self.browser.last_event_id == before
        assert self.browser.retry_ms == MIN_RETRY_MS

    def heal(self) -> None:
        """All is well again: after this nothing may be missing that the device was not told of."""
        if self.subscription is None:
            self.connect()
        self.release()
        self.read()
        self.receive(len(self.owed))
        assert self.baseline is not None
        for entry in self.published:
            at = entry.timestamp
            known = at <= self.baseline or at in self.seen or any(above < at <= upto for above, upto in self.told)
            assert known, f"{at} was lost in silence"
        assert (self.device.cursor or 0) >= (self.log[-1].timestamp if self.log else 0)


class Headers:
    def __init__(self, last_event_id: str) -> None:
        self._found = [last_event_id] if last_event_id else []

    def get_all(self, key: str, /) -> list[str]:
        return self._found if key == "Last-Event-ID" else []


_PLAIN = ("live", "lost", "read", "release", "trim", "restart", "connect", "doubt", "refused", "trouble")
STEPS = st.lists(
    st.tuples(st.sampled_from((*_PLAIN, "connect", "trouble", "late", "receive", "cut")), st.integers(0, 600)),
    min_size=1,
    max_size=30,
)


@given(steps=STEPS, forgets=st.booleans(), start=st.sampled_from([None, 0, 20, 50]))
def test_the_id_is_the_devices_cursor(steps: list[tuple[str, int]], *, forgets: bool, start: int | None) -> None:
    """Broadcasts live, late, lost, replayed; verdicts of every kind; cuts at any byte; nodes that restart or refuse."""
    night = Night(forgets=forgets, start=start)
    for step, size in steps:
        if step in ("live", "lost"):
            night.publish(live=step == "live")
        elif step == "late":
            night.deliver_late(size % 6)
        elif step in ("receive", "cut"):
            getattr(night, step)(size)
        elif step == "doubt":
            night.node.doubt()
        elif step != "connect" or night.subscription is None:
            getattr(night, step)()
    night.heal()


@given(st.lists(st.integers(1, 10_000), max_size=50), st.one_of(st.none(), st.integers(0, 10_000)))
def test_ids_only_rise(timestamps: list[int], cursor: int | None) -> None:
    """Broadcasts in any order at all: every one is told, an id is given to those above all before."""
    stream, browser = EventStream(cursor, 0.5), EventSourceParser()
    highest = -1 if cursor is None else cursor
    for timestamp in timestamps:
        (event,) = browser.feed(stream.tailor(sse_form(BroadcastFrame(T, "s", timestamp, 0))) + HEARTBEAT)
        assert event.frame["timestamp"] == timestamp
        highest = max(highest, timestamp)
        assert int(event.last_event_id or -1) == highest or (cursor is not None and event.last_event_id == "")
    assert stream.cursor == (None if highest < 0 else highest)


@given(state_key=st.text(min_size=1), topic=st.text(), timestamp=st.integers(1, 10**13))
def test_any_text_survives(state_key: str, topic: str, timestamp: int) -> None:
    """Line ends and separators of every kind inside a frame do not break the event."""
    frame = BroadcastFrame(topic, state_key, timestamp, 0)
    (event,) = EventSourceParser().feed(sse_form(frame))
    assert decode_server_frame(event.data) == frame
    assert event.last_event_id == str(timestamp)


@given(draw=st.floats(0, 1, exclude_max=True), window_ms=st.integers(0, 10**7))
def test_retry_lies_in_the_window(draw: float, window_ms: int) -> None:
    assert MIN_RETRY_MS <= retry_ms(draw, window_ms) <= max(MIN_RETRY_MS, window_ms)


@given(query=st.text(max_size=300), header=st.text(max_size=100))
def test_any_request_is_judged(query: str, header: str) -> None:
    """A request is read or refused as the client's fault, never an accident; what is read is within bounds."""
    refused: InvalidRequest | None = None
    try:
        request = read_events_request(query, Headers(header))
    except InvalidRequest as exc:
        refused = exc
    if refused is None:
        assert 0 < len(request.topic) <= 128
        assert request.cursor is None or 0 <= request.cursor < 10**16
    else:
        assert refused.field
        assert refused.rule


def test_frames_are_structs_with_names() -> None:
    """Every frame of the node has a form: none is forgotten when one is added."""
    for kind in ServerFrame.__args__:
        assert issubclass(kind, msgspec.Struct)
        assert kind.__struct_config__.tag
    with pytest.raises(AttributeError):
        sse_form(cast("ServerFrame", object()))
