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

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from contract.close_codes import CloseCode, may_reconnect
from contract.errors import InvalidRequest
from contract.frames import (
    MAX_TOPICS_PER_CONNECTION,
    UNKNOWN_TOPIC,
    AckFrame,
    AckRequest,
    BroadcastFrame,
    ContinuityFrame,
    ErrorFrame,
    GoawayFrame,
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
from device_sim.actions import Action, CloseSocket, FetchMap, GiveUp, OpenSocket, Send, Show
from device_sim.backoff import MIN_WINDOW_MS, return_delay_ms
from device_sim.stage_map import StageMap
from device_sim.topic import Render, RenderCause, Told, TopicState

__all__ = ["NEVER", "Device", "DeviceOptions"]

NEVER: Final = 1 << 62
"""`wake_at_ms` of a device with nothing to wait for."""
_NOTHING: Final[Sequence[Action]] = ()
_MAX_PENDING_ACKS: Final = 64
_MAX_ERRORS: Final = 16


class DeviceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a device assumes before a server told it; one object shared by a fleet."""

    reconnect_window_ms: int = 5_000
    refetch_window_ms: int = 60_000
    window_cap_ms: int = 120_000
    """Growing windows end here (R21)."""
    ttl_spread: float = 0.5
    """A map's TTL is drawn from [1 - spread, 1] of the server's: a narrow spread makes echo herds."""
    welcome_within_ms: int = 15_000
    """A socket that is not welcomed by then counts as failed."""
    silence_pings: float = 1.25
    silence_slack_ms: int = 1_000
    """A connection silent for this many ping intervals and this long on top is broken: a node pings every interval, and
    waits about a third of it for the answer, so it would have given up on us by then as well."""
    render_log_max: int = 256
    told_max: int = 256
    keeps_renders: bool = True
    fetches_maps: bool = True
    """False for load devices that follow topics without maps."""


class Device:
    """One device following topics; owns its cursors, maps and render log. Not thread-safe, never blocks."""

    __slots__ = (
        "_acks",
        "_conn_count",
        "_goaway",
        "_heard_ms",
        "_live",
        "_network_up",
        "_next",
        "_next_until",
        "_open_at",
        "_opened",
        "_silence_ms",
        "artwork",
        "clock_offset_ms",
        "device_id",
        "ended_by",
        "errors",
        "failures",
        "options",
        "reconnect_window_ms",
        "refetch_window_ms",
        "renders",
        "renders_dropped",
        "token",
        "told",
        "told_dropped",
        "topics",
        "wake_at_ms",
    )

    def __init__(self, device_id: str, options: DeviceOptions, *, token: str = "") -> None:
        self.device_id = device_id
        self.options = options
        self.token = token
        """Renewed in-band by the node; the shell presents it on the next handshake."""
        self.topics: dict[str, TopicState] = {}
        self.reconnect_window_ms = options.reconnect_window_ms
        self.refetch_window_ms = options.refetch_window_ms
        self.clock_offset_ms = 0
        """Server's clock minus ours."""
        self.renders: list[Render] | None = None
        """The newest `render_log_max` changes of the screen, oldest first."""
        self.renders_dropped = 0
        self.told: list[Told] | None = None
        """Gaps and holes: what this device knows it may have missed."""
        self.told_dropped = 0
        self.errors: list[ErrorFrame] | None = None
        self.artwork: frozenset[str] = frozenset()
        """URLs of pictures held: fetched with the maps, never at a broadcast (R19)."""
        self.failures = 0
        self.ended_by: int | None = None
        self.wake_at_ms = NEVER
        self._conn_count = 0
        self._live: int | None = None
        self._next: int | None = None
        self._next_until = 0
        self._opened = 0
        """The newest socket that has sent its subscribe."""
        self._open_at: int | None = None
        self._goaway: tuple[int, int] | None = None  # (not before, window), for the return it announced
        self._network_up = True
        self._heard_ms = 0
        self._silence_ms = 0
        self._acks: list[tuple[int, str, int]] | None = None

    # what a shell or a person may ask
    @property
    def online(self) -> bool:
        """Whether a welcomed connection is open."""
        return self._live is not None

    @property
    def reconnect_at_ms(self) -> int | None:
        """When the next socket opens, if one is planned."""
        return self._open_at

    def awaits(self, conn: int) -> bool:
        """Whether `conn` is being opened or in use."""
        return conn in (self._next, self._live)

    # following
    def follow(
        self, now_ms: int, topic: str, *, cursor: int | None = None, state_key: str | None = None
    ) -> Sequence[Action]:
        """Follow a topic: from a stored `cursor` with the state it announced, both or neither; None = never subscribed.

        Raises InvalidRequest above MAX_TOPICS_PER_CONNECTION. Following a topic again changes nothing.
        """
        if topic in self.topics:
            return _NOTHING
        if len(self.topics) >= MAX_TOPICS_PER_CONNECTION:
            raise InvalidRequest(
                f"{len(self.topics)} topics already", field="topic", rule=f"at most {MAX_TOPICS_PER_CONNECTION}"
            )
        state = self.topics[topic] = TopicState(topic, cursor=cursor, state_key=state_key)
        return [self._subscribe(conn, [state]) for conn in self._subscribed()] or _NOTHING

    def adopt(self, now_ms: int, topic: str, state_key: str, timestamp: int, draw: float) -> Sequence[Action]:
        """Show the state the channel names and start from its cursor; only for a topic still at cursor null."""
        state = self.topics.get(topic)
        if state is None or state.cursor is not None:
            return _NOTHING
        state.cursor, state.state_key, state.provisional_key = timestamp, state_key, None
        actions: list[Action] = []
        self._render(now_ms, state, "continuity", draw, actions)
        return actions

    def unfollow(self, topic: str) -> Sequence[Action]:
        """Forget a topic; following another audience of its event starts at cursor null (R6)."""
        if self.topics.pop(topic, None) is None:
            return _NOTHING
        return [Send(conn, UnsubscribeFrame([topic])) for conn in self._subscribed()] or _NOTHING

    def start(self, now_ms: int, *, delay_ms: int = 0) -> Sequence[Action]:
        """Open the first socket, after `delay_ms` (a moment in the channel's connect window)."""
        assert self._live is None, "started once"
        assert self._next is None, "started once"
        self.ended_by = None
        self._open_at = now_ms + delay_ms
        return self.tick(now_ms, 0.0)

    def stop(self) -> Sequence[Action]:
        """Leave for good, as a person closing the app."""
        conns = [conn for conn in (self._live, self._next) if conn is not None]
        self._live = self._next = self._open_at = None
        self.ended_by = int(CloseCode.NORMAL)
        self.wake_at_ms = NEVER
        return [CloseSocket(conn, CloseCode.NORMAL) for conn in conns]

    # maps (R19)
    def map_fetched(self, now_ms: int, topic: str, stage_map: StageMap, draw: float) -> Sequence[Action]:
        """Put a map into the cache; re-renders if what is on the screen changed. Unknown topics are ignored."""
        state = self.topics.get(topic)
        if state is None:
            return _NOTHING
        if not self.online:
            self.clock_offset_ms = stage_map.server_time - now_ms
        state.fetching, state.map_failures = False, 0
        state.stage_map = stage_map
        outdated = state.schedule(stage_map.revision, stage_map.version, dict(stage_map.times))
        outdated = outdated or stage_map.version < state.version
        jitter = 1.0 - self.options.ttl_spread * draw
        state.refetch_at = now_ms + int(stage_map.ttl_s * 1000 * jitter)
        self._want(state.refetch_at)
        if outdated:
            self._plan_refetch(now_ms, state, draw)
        actions: list[Action] = []
        if state.shows_other_content():
            cause: RenderCause = "provisional" if state.provisional_key else "refreshed"
            self._render(now_ms, state, cause, draw, actions, refetch_missing=False)
        self._switch_offline(now_ms, state, draw, actions)
        return actions

    def artwork_fetched(self, urls: frozenset[str]) -> None:
        """Put pictures into the cache; those of no map held any more leave it."""
        used = frozenset(url for state in self.topics.values() if state.stage_map for url in state.stage_map.artwork)
        self.artwork = (self.artwork & used) | urls

    def artwork_missing(self, topic: str) -> int:
        """Pictures of the topic's map that showing it would have to ask for."""
        state = self.topics.get(topic)
        return 0 if state is None or state.stage_map is None else len(state.stage_map.artwork - self.artwork)

    def map_failed(self, now_ms: int, topic: str, draw: float) -> None:
        """A fetch failed: another one within a window that grows per failure. The map held stays."""
        state = self.topics.get(topic)
        if state is None:
            return
        state.fetching = False
        state.map_failures += 1
        delay = return_delay_ms(
            self.refetch_window_ms, state.map_failures, draw, cap_ms=max(self.options.window_cap_ms, 600_000)
        )
        state.refetch_at = now_ms + delay
        self._want(state.refetch_at)

    # connection
    def opened(self, now_ms: int, conn: int) -> Sequence[Action]:
        """The handshake of `conn` succeeded: subscribe with cursors and the maps held."""
        if conn != self._next:
            return [CloseSocket(conn, CloseCode.NORMAL)]
        self._heard_ms = now_ms
        self._opened = conn
        if not self.topics:
            return _NOTHING
        return [self._subscribe(conn, self.topics.values())]

    def heard(self, now_ms: int) -> None:
        """A ping or anything else arrived: the connection lives."""
        self._heard_ms = now_ms

    def received(self, now_ms: int, conn: int, frame: ServerFrame, draw: float) -> Sequence[Action]:
        """One frame of a node. Frames of two overlapping sockets feed the same cursors."""
        self._heard_ms = now_ms
        if type(frame) is BroadcastFrame:
            return self._broadcast(now_ms, conn, frame, draw)
        if type(frame) is ContinuityFrame:
            return self._continuity(now_ms, conn, frame, draw)
        if type(frame) is ScheduleFrame:
            return self._schedule(now_ms, frame, draw)
        if type(frame) is WelcomeFrame:
            return self._welcome(now_ms, conn, frame)
        if type(frame) is WindowFrame:
            self.reconnect_window_ms = frame.reconnect_window_ms
            self.refetch_window_ms = frame.refetch_window_ms
        elif type(frame) is TokenFrame:
            self.token = frame.token
        elif type(frame) is GoawayFrame:
            self._goaway = (now_ms + frame.reconnect_after_ms, frame.window_ms)
            if conn == self._live and self._next is None:
                self._plan_open(now_ms, draw)
        elif type(frame) is StaleFrame:
            if conn == self._live and self._next is None and self._open_at is None:
                self._plan_open(now_ms, draw)
        elif type(frame) is ErrorFrame:
            self._note_error(frame)
            self._plan_ask_again(now_ms, conn, frame, draw)
        return _NOTHING

    def disconnected(
        self, now_ms: int, conn: int, code: int, draw: float, *, retry_after_ms: int = 0
    ) -> Sequence[Action]:
        """`conn` closed with `code`, was refused, or could not be opened (1006). Plans the return (R21)."""
        if conn != self._live and conn != self._next:
            return _NOTHING
        was_live = conn == self._live
        if was_live:
            self._live = None
        else:
            self._next = None
            self.failures += 1
        actions: list[Action] = []
        for state in self.topics.values():
            cut_short = state.connection_lost(conn)
            if was_live or cut_short:
                self._show_offline(now_ms, state, cut_short, draw, actions)
        if not may_reconnect(code):
            self._open_at = None
            if self.ended_by is None:
                self.ended_by = code
                actions.append(GiveUp(code))
        elif self._next is None and self.ended_by is None and not (was_live and self._open_at is not None):
            if retry_after_ms and self._goaway is None:
                self._goaway = (now_ms + retry_after_ms, self.reconnect_window_ms)
            self._plan_open(now_ms, draw)
        return actions

    def network(self, now_ms: int, *, up: bool, draw: float) -> Sequence[Action]:
        """The operating system says the network went or came. A return counts as the first try, within the window."""
        if up == self._network_up:
            return _NOTHING
        self._network_up = up
        actions: list[Action] = []
        if not up:
            self._open_at = None
            for conn in (self._live, self._next):
                if conn is not None:
                    actions.append(CloseSocket(conn, CloseCode.GOING_AWAY))
                    actions.extend(self.disconnected(now_ms, conn, 1006, draw))
        elif self._live is None and self._next is None and self.ended_by is None:
            self.failures = 0
            self._plan_open(now_ms, draw)
        return actions

    def tick(self, now_ms: int, draw: float) -> Sequence[Action]:
        """Do what is due and set `wake_at_ms`; harmless when nothing is."""
        actions: list[Action] = []
        if self._open_at is not None and self._open_at <= now_ms:
            self._open_at = None
            self._conn_count += 1
            self._next = self._conn_count
            self._next_until = now_ms + self.options.welcome_within_ms
            actions.append(OpenSocket(self._next))
        if self._acks is not None:
            self._send_due_acks(now_ms, actions)
        for state in self.topics.values():
            if state.refetch_at is not None and state.refetch_at <= now_ms:
                state.refetch_at = None
                if self.options.fetches_maps and not state.fetching:
                    state.fetching = True
                    actions.append(FetchMap(state.topic))
            if state.ask_again_at is not None and state.ask_again_at <= now_ms:
                state.ask_again_at = None
                if self._live is not None:
                    actions.append(self._subscribe(self._live, [state]))
            self._switch_offline(now_ms, state, draw, actions)
        for conn in self._dead(now_ms):
            actions.append(CloseSocket(conn, CloseCode.GOING_AWAY))
            actions.extend(self.disconnected(now_ms, conn, 1006, draw))
        self.wake_at_ms = self._next_wake(now_ms)
        return actions or _NOTHING

    def _dead(self, now_ms: int) -> list[int]:
        """Connections silent too long, or never welcomed."""
        dead = []
        if self._live is not None and self._silence_ms and now_ms - self._heard_ms >= self._silence_ms:
            dead.append(self._live)
        if self._next is not None and now_ms >= self._next_until:
            dead.append(self._next)
        return dead

    # frames, one by one
    def _welcome(self, now_ms: int, conn: int, frame: WelcomeFrame) -> Sequence[Action]:
        if conn != self._next:
            return _NOTHING
        old, self._live, self._next = self._live, conn, None
        self.failures = 0
        self._goaway = None
        self._open_at = None
        self.clock_offset_ms = frame.server_time - now_ms
        self.reconnect_window_ms = frame.reconnect_window_ms
        self.refetch_window_ms = frame.refetch_window_ms
        self._silence_ms = 0
        if frame.ping_s > 0:
            self._silence_ms = int(frame.ping_s * 1000 * self.options.silence_pings) + self.options.silence_slack_ms
        if self._silence_ms:
            self._want(now_ms + self._silence_ms)
        # Make before break: the old node is left only now (R17).
        return _NOTHING if old is None else [CloseSocket(old, CloseCode.NORMAL)]

    def _broadcast(self, now_ms: int, conn: int, frame: BroadcastFrame, draw: float) -> Sequence[Action]:
        state = self.topics.get(frame.topic)
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

    def _continuity(self, now_ms: int, conn: int, frame: ContinuityFrame, draw: float) -> Sequence[Action]:
        state = self.topics.get(frame.topic)
        if state is None:
            return _NOTHING
        told, cause = state.continuity(conn, frame)
        if told is not None:
            self._note_told(told)
        if cause is None:
            return _NOTHING
        actions: list[Action] = []
        self._render(now_ms, state, cause, draw, actions)
        return actions

    def _schedule(self, now_ms: int, frame: ScheduleFrame, draw: float) -> Sequence[Action]:
        state = self.topics.get(frame.topic)
        if state is not None and state.schedule_frame(frame):
            self._plan_refetch(now_ms, state, draw)
        return _NOTHING

    def _note_error(self, frame: ErrorFrame) -> None:
        self.errors = self.errors or []
        if len(self.errors) >= _MAX_ERRORS:
            del self.errors[0]
        self.errors.append(frame)

    # the screen
    def _render(
        self,
        now_ms: int,
        state: TopicState,
        cause: RenderCause,
        draw: float,
        actions: list[Action],
        *,
        refetch_missing: bool = True,
    ) -> None:
        render, missing = state.render(now_ms, cause)
        if missing and refetch_missing:
            self._plan_refetch(now_ms, state, draw)
        if self.options.keeps_renders:
            if self.renders is None:
                self.renders = []
            elif len(self.renders) >= self.options.render_log_max:
                del self.renders[0]
                self.renders_dropped += 1
            self.renders.append(render)
        actions.append(Show(render))

    def _show_offline(
        self, now_ms: int, state: TopicState, cut_short: bool, draw: float, actions: list[Action]
    ) -> None:
        """After a loss: the stage the clock calls for, else what a replay cut short had brought."""
        if cut_short and self._clock_stage(now_ms, state) is None:
            state.provisional_key = None
            self._render(now_ms, state, "replayed", draw, actions)
        self._switch_offline(now_ms, state, draw, actions)

    def _clock_stage(self, now_ms: int, state: TopicState) -> str | None:
        return state.due_by(now_ms + self.clock_offset_ms) if self._live is None else None

    def _switch_offline(self, now_ms: int, state: TopicState, draw: float, actions: list[Action]) -> None:
        """Switch by server-corrected clock, offline only (R20)."""
        if self._live is not None or state.times is None or state.replay_until:
            return
        key = self._clock_stage(now_ms, state)
        if key is not None and key != state.shown_key:
            state.provisional_key = key
            self._render(now_ms, state, "provisional", draw, actions)
        self._want_next_stage(now_ms, state)

    def _want_next_stage(self, now_ms: int, state: TopicState) -> None:
        due = state.next_due(now_ms + self.clock_offset_ms)
        if due is not None:
            self._want(due - self.clock_offset_ms)

    # plans
    def _plan_open(self, now_ms: int, draw: float) -> None:
        if not self._network_up:
            return
        not_before, window_ms = self._goaway or (now_ms, self.reconnect_window_ms)
        delay = return_delay_ms(window_ms, self.failures, draw, cap_ms=self.options.window_cap_ms)
        self._open_at = max(now_ms, not_before) + delay
        self._want(self._open_at)

    def _plan_refetch(self, now_ms: int, state: TopicState, draw: float) -> None:
        """A random moment of the refetch window, never now (R19); an earlier plan stands."""
        if not self.options.fetches_maps or state.fetching:
            return
        at = now_ms + 1 + int(draw * self.refetch_window_ms)
        if state.refetch_at is None or at < state.refetch_at:
            state.refetch_at = at
            self._want(at)

    def _plan_ask_again(self, now_ms: int, conn: int, frame: ErrorFrame, draw: float) -> None:
        """A topic unknown now may be known in a moment: the store a node reads may lag or be under rebuild.

        Paced like a return (R21): uniform over the reconnect window, which grows per refusal.
        """
        state = self.topics.get(frame.topic or "")
        if frame.code != UNKNOWN_TOPIC or state is None or not self.awaits(conn):
            return
        state.refusals += 1
        window = max(self.reconnect_window_ms, MIN_WINDOW_MS)
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
        if self._live is not None:
            actions.extend(Send(self._live, AckFrame(topic, timestamp)) for _, topic, timestamp in due)

    def _want(self, at_ms: int) -> None:
        self.wake_at_ms = min(self.wake_at_ms, at_ms)

    def _next_wake(self, now_ms: int) -> int:
        wake = NEVER if self._open_at is None else self._open_at
        if self._acks is not None:
            wake = min(wake, min(self._acks)[0])
        if self._live is not None and self._silence_ms:
            wake = min(wake, self._heard_ms + self._silence_ms)
        if self._next is not None:
            wake = min(wake, self._next_until)
        for state in self.topics.values():
            if state.refetch_at is not None:
                wake = min(wake, state.refetch_at)
            if state.ask_again_at is not None:
                wake = min(wake, state.ask_again_at)
            if self._live is None:
                due = state.next_due(now_ms + self.clock_offset_ms)
                if due is not None:
                    wake = min(wake, due - self.clock_offset_ms)
        return wake

    def _note_told(self, told: Told) -> None:
        self.told = self.told or []
        if len(self.told) >= self.options.told_max:
            del self.told[0]
            self.told_dropped += 1
        self.told.append(told)

    def _subscribed(self) -> list[int]:
        """Sockets whose subscribe went out: the live one, and one that still waits for its welcome."""
        waiting = self._next if self._next == self._opened else None
        return [conn for conn in (self._live, waiting) if conn is not None]

    def _subscribe(self, conn: int, states: Iterable[TopicState]) -> Send:
        topics: dict[str, int | None] = {}
        held = {}
        for state in states:
            topics[state.topic] = state.asked(conn)
            holding = state.held()
            if holding is not None:
                held[state.topic] = holding
        return Send(conn, SubscribeFrame(topics, held))
