"""A device, pure: frames and the clock in, actions out (R18-R21). Shared by the fleet, load tests and simulations.

Every input takes `now_ms` (the device's own wall clock) and, where chance decides, one `draw` in [0, 1). Every input
returns the actions to carry out now, in order. Between inputs the shell calls `tick` at `wake_at_ms`.

    start -> OpenSocket(conn)
    opened(conn)        the handshake succeeded   -> subscribe
    received(conn, ...) one frame                 -> renders, acks later, hole reports
    disconnected(conn)  closed, refused, broken   -> a return planned within its window
    tick                whatever is due: sockets, acks, refetches, offline stages
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

from contract.close_codes import CloseCode
from contract.errors import InvalidRequest
from contract.frames import (
    MAX_TOPICS_PER_CONNECTION,
    NODE_FULL,
    UNKNOWN_TOPIC,
    AckFrame,
    AckRequest,
    BroadcastFrame,
    ContinuityFrame,
    ErrorFrame,
    GoawayFrame,
    Held,
    HoleFrame,
    ScheduleFrame,
    ServerFrame,
    StaleFrame,
    SubscribeFrame,
    TokenFrame,
    UnsubscribeFrame,
    WelcomeFrame,
    WindowFrame,
)
from device_sim.actions import Action, CloseSocket, FetchMap, GiveUp, OpenSocket, Send
from device_sim.connection import NEVER
from device_sim.return_window import MIN_WINDOW_MS, return_delay_ms
from device_sim.screen import DeviceOptions, Screen
from device_sim.stage_map import StageMap
from device_sim.topic import RenderCause, TopicState

__all__ = ["NEVER", "Device", "DeviceOptions"]

_NOTHING: Final[Sequence[Action]] = ()
_MAX_PENDING_ACKS: Final = 64
_MAX_ERRORS: Final = 16
_LIFETIME_MIN_MS: Final = 1_000
"""Of a map, whatever its TTL says: one of nothing would be fetched again and again."""


class Device(Screen):
    """One device following topics; owns its cursors, maps and render log. Not thread-safe, never blocks."""

    __slots__ = ("_acks", "device_id", "errors", "token")

    def __init__(self, device_id: str, options: DeviceOptions, *, token: str = "") -> None:
        super().__init__(options)
        self.device_id = device_id
        self.token = token
        """Renewed in-band by the node; the shell presents it on the next handshake."""
        self.errors: list[ErrorFrame] | None = None
        self._acks: list[tuple[int, str, int]] | None = None

    # following
    def follow(
        self, now_ms: int, topic: str, *, cursor: int | None = None, state_key: str | None = None
    ) -> Sequence[Action]:
        """Follow a topic: from a stored `cursor` with the state it announced, both or neither; None = never subscribed.

        Raises InvalidRequest above MAX_TOPICS_PER_CONNECTION. Following a topic again changes nothing.
        """
        if self._state(topic) is not None:
            return _NOTHING
        count = len(self.states)
        if count >= MAX_TOPICS_PER_CONNECTION:
            raise InvalidRequest(f"{count} topics already", field="topic", rule=f"at most {MAX_TOPICS_PER_CONNECTION}")
        state = TopicState(topic, cursor=cursor, state_key=state_key)
        self._topics = {**self.topics, topic: state} if count else state
        return [self._subscribe(conn, [state]) for conn in self.connection.subscribed_conns()] or _NOTHING

    def adopt(self, now_ms: int, topic: str, state_key: str, timestamp: int, draw: float) -> Sequence[Action]:
        """Show the state the channel names and start from its cursor; only for a topic still at cursor null."""
        state = self._state(topic)
        if state is None or state.cursor is not None:
            return _NOTHING
        state.cursor, state.state_key, state.provisional_key = timestamp, state_key, None
        actions: list[Action] = []
        self._render(now_ms, state, "continuity", draw, actions)
        return actions

    def unfollow(self, topic: str) -> Sequence[Action]:
        """Forget a topic; following another audience of its event starts at cursor null (R6)."""
        if self._state(topic) is None:
            return _NOTHING
        self._topics = {state.topic: state for state in self.states if state.topic != topic}
        return [Send(conn, UnsubscribeFrame([topic])) for conn in self.connection.subscribed_conns()] or _NOTHING

    def start(self, now_ms: int, *, delay_ms: int = 0) -> Sequence[Action]:
        """Open the first socket, after `delay_ms` (a moment in the channel's connect window)."""
        self.connection.start(now_ms, delay_ms=delay_ms)
        return self.tick(now_ms, 0.0)

    def stop(self) -> Sequence[Action]:
        """Leave for good, as a person closing the app."""
        self.wake_at_ms = NEVER
        left = self.connection.stop()
        for conn in left:
            for state in self.states:
                state.connection_lost(conn)
        return [CloseSocket(conn, CloseCode.NORMAL) for conn in left]

    # maps (R19)
    def map_fetched(self, now_ms: int, topic: str, stage_map: StageMap, draw: float) -> Sequence[Action]:
        """Put a map into the cache; re-renders if what is on the screen changed. Unknown topics are ignored.

        Nodes are told of a newer one by subscribing again: an operator who added a stage waits for it (R7).
        """
        state = self._state(topic)
        if state is None:
            return _NOTHING
        if not self.online:
            self.clock_offset_ms = stage_map.server_time - now_ms
        fruitless, state.fetching, state.map_failures = state.map_failures, False, 0
        if state.stage_map is not None and stage_map.version < state.stage_map.version:
            self._plan_refetch_of_lagging(now_ms, state, draw, fruitless)  # what is held is newer
            return _NOTHING
        newer = state.stage_map is None or stage_map.version > state.stage_map.version
        state.stage_map = stage_map
        outdated = state.schedule(stage_map.revision, stage_map.version, stage_map.times)
        outdated = outdated or stage_map.version < state.version
        jitter = 1.0 - self.options.ttl_spread * draw
        state.refetch_at = now_ms + max(_LIFETIME_MIN_MS, int(stage_map.ttl_s * 1000 * jitter))
        self._want(state.refetch_at)
        if outdated:
            self._plan_refetch_of_lagging(now_ms, state, draw, fruitless)
        actions: list[Action] = []
        self._switch_offline(now_ms, state, draw, actions)
        if state.shows_other_content():
            cause: RenderCause = "provisional" if state.provisional_key else "refreshed"
            self._render(now_ms, state, cause, draw, actions, refetch_missing=False)
        if newer and state.ask_again_at is None:
            actions += [self._subscribe(conn, [state]) for conn in self.connection.subscribed_conns()]
        return actions

    # connection
    def opened(self, now_ms: int, conn: int) -> Sequence[Action]:
        """The handshake of `conn` succeeded: subscribe with cursors and the maps held."""
        if not self.connection.opened(now_ms, conn):
            return [CloseSocket(conn, CloseCode.NORMAL)]
        states = self.states
        return [self._subscribe(conn, states)] if states else _NOTHING

    def heard(self, now_ms: int) -> None:
        """A ping or anything else arrived: the connection lives."""
        self.connection.heard_ms = now_ms

    def received(self, now_ms: int, conn: int, frame: ServerFrame, draw: float) -> Sequence[Action]:
        """One frame of a node. Frames of two overlapping sockets feed the same cursors."""
        self.connection.heard_ms = now_ms
        if type(frame) is BroadcastFrame:
            options = self.options
            if not options.tells_renders and not options.keeps_renders:
                return self._broadcast_unwatched(now_ms, conn, frame, draw)
            return self._broadcast(now_ms, conn, frame, draw)
        if type(frame) is ContinuityFrame:
            return self._continuity(now_ms, conn, frame, draw)
        if type(frame) is ScheduleFrame:
            return self._schedule(now_ms, frame, draw)
        if type(frame) is WelcomeFrame:
            return self._welcome(now_ms, conn, frame, draw)
        if type(frame) is WindowFrame:
            self.connection.window_ms = frame.reconnect_window_ms
            self.refetch_window_ms = frame.refetch_window_ms
        elif type(frame) is TokenFrame:
            self.token = frame.token
        elif type(frame) is GoawayFrame:
            self.connection.goaway(now_ms, conn, frame, draw)
            self._want(self.connection.wake_at_ms)
        elif type(frame) is StaleFrame:
            self.connection.stale(now_ms, conn, draw)
            self._want(self.connection.wake_at_ms)
        elif type(frame) is ErrorFrame:
            self._note_error(frame)
            self._plan_ask_again(now_ms, conn, frame, draw)
        return _NOTHING

    def disconnected(
        self, now_ms: int, conn: int, code: int, draw: float, *, retry_after_ms: int = 0
    ) -> Sequence[Action]:
        """`conn` closed with `code`, was refused, or could not be opened (1006). Plans the return (R21)."""
        lost = self.connection.lost(now_ms, conn, code, draw, retry_after_ms=retry_after_ms)
        if lost is None:
            return _NOTHING
        actions: list[Action] = []
        for state in self.states:
            cut_short = state.connection_lost(conn)
            if lost.which == "live" or cut_short:
                self._show_offline(now_ms, state, cut_short, draw, actions)
        if lost.gave_up:
            actions.append(GiveUp(code))
        self._want(self.connection.wake_at_ms)
        return actions

    def network(self, now_ms: int, *, up: bool, draw: float) -> Sequence[Action]:
        """The operating system says the network went or came. A return counts as the first try, within the window."""
        actions: list[Action] = []
        for conn in self.connection.network(now_ms, up=up, draw=draw):
            actions.append(CloseSocket(conn, CloseCode.GOING_AWAY))
            actions.extend(self.disconnected(now_ms, conn, 1006, draw))
        if up:
            for state in self.states:
                if state.refetch_at is not None and state.refetch_at <= now_ms:
                    state.refetch_at = None  # many come back at this moment, and their maps' time is up, too
                    self._plan_refetch(now_ms, state, draw)
        self._want(self.connection.wake_at_ms)
        return actions or _NOTHING

    def tick(self, now_ms: int, draw: float) -> Sequence[Action]:
        """Do what is due and set `wake_at_ms`; harmless when nothing is."""
        if self.connection.live is not None:
            wake = self._next_wake(now_ms)
            if wake > now_ms:  # mostly: something was heard since this wake-up was planned
                self.wake_at_ms = wake
                return _NOTHING
        actions: list[Action] = []
        conn = self.connection.tick(now_ms)
        if conn is not None:
            actions.append(OpenSocket(conn))
        if self._acks is not None:
            self._send_due_acks(now_ms, actions)
        for state in self.states:
            if state.refetch_at is not None and state.refetch_at <= now_ms and self.connection.network_up:
                state.refetch_at = None
                if self.options.fetches_maps and not state.fetching:
                    state.fetching = True
                    actions.append(FetchMap(state.topic))
            if state.ask_again_at is not None and state.ask_again_at <= now_ms:
                state.ask_again_at = None
                if self.connection.live is not None:
                    actions.append(self._subscribe(self.connection.live, [state]))
            self._show_due_offline(now_ms, state, draw, actions)
        for conn in self.connection.dead(now_ms):
            actions.append(CloseSocket(conn, CloseCode.GOING_AWAY))
            actions.extend(self.disconnected(now_ms, conn, 1006, draw))
        self.wake_at_ms = self._next_wake(now_ms)
        return actions or _NOTHING

    # frames, one by one
    def _welcome(self, now_ms: int, conn: int, frame: WelcomeFrame, draw: float) -> Sequence[Action]:
        ours, old = self.connection.welcomed(conn, frame)
        if not ours:
            return _NOTHING
        self.clock_offset_ms = frame.server_time - now_ms
        self.refetch_window_ms = frame.refetch_window_ms
        self._want(self.connection.wake_at_ms)
        if old is None:
            return _NOTHING
        # Make before break: the old node is left only now (R17). What it has not replayed yet comes from the new one.
        actions: list[Action] = [CloseSocket(old, CloseCode.NORMAL)]
        for state in self.states:
            if state.connection_lost(old):
                self._show_offline(now_ms, state, True, draw, actions)
        return actions

    def _broadcast(self, now_ms: int, conn: int, frame: BroadcastFrame, draw: float) -> Sequence[Action]:
        state = self._state(frame.topic)
        if state is None:
            return _NOTHING
        cursor = state.cursor
        applied, hole, cause = state.broadcast(frame)
        if not applied:
            return _NOTHING
        actions: list[Action] = []
        if cause is not None:
            self._render(now_ms, state, cause, draw, actions)
        if hole is not None:
            assert cursor is not None
            self._note_told(hole)
            actions.append(Send(conn, HoleFrame(frame.topic, cursor, frame.prev, frame.timestamp)))
        if frame.ack is not None:
            self._draw_ack(now_ms, frame.topic, frame.timestamp, frame.ack, draw)
        return actions

    def _broadcast_unwatched(self, now_ms: int, conn: int, frame: BroadcastFrame, draw: float) -> Sequence[Action]:
        """As `_broadcast`, where no render is to be made of it: the way of a million devices at once."""
        state = self._state(frame.topic)
        if state is None:
            return _NOTHING
        missing = state.next_live(frame)
        if missing is None:
            return self._broadcast(now_ms, conn, frame, draw)
        if missing and self.options.fetches_maps:
            self._plan_refetch(now_ms, state, draw)
        if frame.ack is not None:
            self._draw_ack(now_ms, frame.topic, frame.timestamp, frame.ack, draw)
        return _NOTHING

    def _continuity(self, now_ms: int, conn: int, frame: ContinuityFrame, draw: float) -> Sequence[Action]:
        state = self._state(frame.topic)
        if state is None or (state.cursor is not None and not self.awaits(conn)):
            return _NOTHING  # one it left replays no more, and its successor says the same of its own log
        told, cause = state.continuity(conn, frame)
        if told is not None:
            self._note_told(told)
        if cause is None:
            return _NOTHING
        actions: list[Action] = []
        self._render(now_ms, state, cause, draw, actions)
        return actions

    def _schedule(self, now_ms: int, frame: ScheduleFrame, draw: float) -> Sequence[Action]:
        state = self._state(frame.topic)
        if state is not None and state.schedule_frame(frame):
            self._plan_refetch(now_ms, state, draw)
        return _NOTHING

    def _note_error(self, frame: ErrorFrame) -> None:
        self.errors = self.errors or []
        if len(self.errors) >= _MAX_ERRORS:
            del self.errors[0]
        self.errors.append(frame)

    # plans
    def _plan_ask_again(self, now_ms: int, conn: int, frame: ErrorFrame, draw: float) -> None:
        """A topic unknown now may be known in a moment: the store a node reads may lag or be under rebuild. A node with
        too many topics may have lost some, or end first.

        Paced like a return (R21): uniform over the reconnect window, which grows per refusal.
        """
        state = self._state(frame.topic or "")
        if frame.code not in (UNKNOWN_TOPIC, NODE_FULL) or state is None or not self.awaits(conn):
            return
        state.refusals += 1
        window = max(self.connection.window_ms, MIN_WINDOW_MS)
        delay = return_delay_ms(window, state.refusals, draw, cap_ms=self.options.window_cap_ms)
        state.ask_again_at = now_ms + 1 + delay
        self._want(state.ask_again_at)

    def _draw_ack(self, now_ms: int, topic: str, timestamp: int, ask: AckRequest, draw: float) -> None:
        """One draw decides both whether to ack and when: the winners' share of [0, 1) is stretched over the time."""
        if draw * ask.one_in >= 1.0:
            return
        acks = self._acks = self._acks or []
        if len(acks) < _MAX_PENDING_ACKS:
            due = now_ms + int(draw * ask.one_in * ask.within_ms)
            acks.append((due, topic, timestamp))
            self._want(due)

    def _send_due_acks(self, now_ms: int, actions: list[Action]) -> None:
        assert self._acks is not None
        due = [ack for ack in self._acks if ack[0] <= now_ms]
        self._acks = [ack for ack in self._acks if ack[0] > now_ms] or None
        live = self.connection.live
        if live is not None:
            actions.extend(Send(live, AckFrame(topic, timestamp)) for _, topic, timestamp in due)

    def _next_wake(self, now_ms: int) -> int:
        wake = self.connection.wake_at_ms
        if self._acks is not None:
            wake = min(wake, min(self._acks)[0])
        for state in self.states:
            if state.refetch_at is not None and self.connection.network_up:
                wake = min(wake, state.refetch_at)
            if state.ask_again_at is not None:
                wake = min(wake, state.ask_again_at)
            if state.times is not None and not self.online:
                due = state.next_due(now_ms + self.clock_offset_ms)
                if due is not None:
                    wake = min(wake, due - self.clock_offset_ms)
        return wake

    def _subscribe(self, conn: int, states: Collection[TopicState]) -> Send:
        if len(states) == 1:
            (state,) = states
            if state.cursor is None:
                state.asked(conn)
                holding = state.held()
                version, revision = (-1, -1) if holding is None else (holding.version, holding.revision)
                return Send(conn, _first_subscribe(state.topic, version, revision))
        topics: dict[str, int | None] = {}
        held = {}
        for state in states:
            topics[state.topic] = state.asked(conn)
            holding = state.held()
            if holding is not None:
                held[state.topic] = holding
        return Send(conn, SubscribeFrame(topics, held))


@lru_cache(maxsize=256)
def _first_subscribe(topic: str, version: int, revision: int) -> SubscribeFrame:
    """What newcomers with one topic say, all who hold the same map (-1: none): one object, which a shell may encode
    once."""
    return SubscribeFrame({topic: None}, {} if version < 0 else {topic: Held(version, revision)})
