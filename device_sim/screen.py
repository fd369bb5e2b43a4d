"""What a device holds and shows: its topics with their maps, the screen's log, stages switched offline. Pure.

The half of a device that would be there without a network; `Device` adds connections, frames and acks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from device_sim.actions import Action, Show
from device_sim.connection import NEVER, Connection, ConnectionOptions
from device_sim.return_window import return_delay_ms
from device_sim.topic import Render, RenderCause, Told, TopicState

__all__ = ["DeviceOptions", "Screen"]

_REFETCH_CAP_MS: Final = 600_000


class DeviceOptions(ConnectionOptions, frozen=True, kw_only=True):
    """What a device assumes before a server told it, and what it keeps; one object shared by a fleet."""

    refetch_window_ms: int = 60_000
    ttl_spread: float = 0.5
    """A map's TTL is drawn from [1 - spread, 1] of the server's: a narrow spread makes echo herds."""
    render_log_max: int = 256
    told_max: int = 256
    keeps_renders: bool = True
    tells_renders: bool = True
    """False for load devices whose screens nobody watches: no `Show` is made; what is shown is known all the same."""
    fetches_maps: bool = True
    """False for load devices that follow topics without maps."""


class Screen:
    """What one device holds and shows; times are its own clock's, milliseconds."""

    __slots__ = (
        "_topics",
        "artwork",
        "clock_offset_ms",
        "connection",
        "options",
        "refetch_window_ms",
        "renders",
        "renders_dropped",
        "told",
        "told_dropped",
        "wake_at_ms",
    )

    def __init__(self, options: DeviceOptions) -> None:
        self.options = options
        self._topics: TopicState | dict[str, TopicState] | None = None
        """Mostly one, which is kept without a dictionary."""
        self.connection = Connection(options)
        self.refetch_window_ms = options.refetch_window_ms
        self.clock_offset_ms = 0
        """Server's clock minus ours."""
        self.renders: list[Render] | None = None
        """The newest `render_log_max` changes of the screen, oldest first."""
        self.renders_dropped = 0
        self.told: list[Told] | None = None
        """Gaps and holes: what this device knows it may have missed."""
        self.told_dropped = 0
        self.artwork: frozenset[str] = frozenset()
        """URLs of pictures held: fetched with the maps, never at a broadcast (R19)."""
        self.wake_at_ms = NEVER

    # what a shell or a person may ask
    @property
    def topics(self) -> Mapping[str, TopicState]:
        """What it follows; to be read only."""
        return {state.topic: state for state in self.states}

    @property
    def states(self) -> Collection[TopicState]:
        """Of every topic it follows, in the order they were followed."""
        topics = self._topics
        if isinstance(topics, TopicState):
            return (topics,)
        return () if topics is None else topics.values()

    @property
    def subscribed(self) -> bool:
        """Whether it is online and knows a cursor for every topic."""
        if self.connection.live is None:
            return False
        topics = self._topics
        if isinstance(topics, TopicState):
            return topics.cursor is not None
        return topics is None or all(state.cursor is not None for state in topics.values())

    @property
    def online(self) -> bool:
        """Whether a welcomed connection is open."""
        return self.connection.live is not None

    @property
    def failures(self) -> int:
        """Openings in a row that did not end in a welcome."""
        return self.connection.failures

    @property
    def ended_by(self) -> int | None:
        """Close code after which it does not come back."""
        return self.connection.ended_by

    @property
    def reconnect_at_ms(self) -> int | None:
        """When the next socket opens, if one is planned."""
        return self.connection.open_at_ms

    def awaits(self, conn: int) -> bool:
        """Whether `conn` is being opened or in use."""
        return self.connection.awaits(conn)

    # what a fetch brought, beside a map
    def map_failed(self, now_ms: int, topic: str, draw: float) -> None:
        """A fetch failed: another one within a window that grows per failure. The map held stays."""
        state = self._state(topic)
        if state is None:
            return
        state.fetching = False
        state.map_failures += 1
        state.refetch_at = now_ms + self._refetch_delay_ms(state.map_failures, draw)
        self._want(state.refetch_at)

    def artwork_fetched(self, urls: frozenset[str]) -> None:
        """Put pictures into the cache; those of no map held any more leave it."""
        used = frozenset(url for state in self.states if state.stage_map for url in state.stage_map.artwork)
        self.artwork = (self.artwork & used) | urls

    def artwork_missing(self, topic: str) -> int:
        """Pictures of the topic's map that showing it would have to ask for."""
        state = self._state(topic)
        return 0 if state is None or state.stage_map is None else len(state.stage_map.artwork - self.artwork)

    # for `Device`
    def _state(self, topic: str) -> TopicState | None:
        topics = self._topics
        if isinstance(topics, TopicState):
            return topics if topics.topic == topic else None
        return None if topics is None else topics.get(topic)

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
        cause, timestamp, missing = state.show(cause)
        if missing and refetch_missing:
            self._plan_refetch(now_ms, state, draw)
        options = self.options
        if not options.keeps_renders and not options.tells_renders:
            return
        assert state.shown_key is not None
        render = Render(now_ms, state.topic, state.shown_key, timestamp, cause, state.shown_fingerprint)
        if options.keeps_renders:
            if self.renders is None:
                self.renders = []
            elif len(self.renders) >= options.render_log_max:
                del self.renders[0]
                self.renders_dropped += 1
            self.renders.append(render)
        if options.tells_renders:
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
        return state.due_by(now_ms + self.clock_offset_ms) if not self.online else None

    def _switch_offline(self, now_ms: int, state: TopicState, draw: float, actions: list[Action]) -> None:
        """Switch by server-corrected clock, offline only (R20), and wake up for the next stage."""
        if self._show_due_offline(now_ms, state, draw, actions):
            self._want_next_stage(now_ms, state)

    def _show_due_offline(self, now_ms: int, state: TopicState, draw: float, actions: list[Action]) -> bool:
        """Show the stage the clock calls for; returns whether the clock is what counts."""
        if state.times is None or self.online or state.replay_until:
            return False
        key = state.due_by(now_ms + self.clock_offset_ms)
        if key is not None and key != state.shown_key:
            state.provisional_key = key
            self._render(now_ms, state, "provisional", draw, actions)
        elif key is None and state.provisional_key is not None:
            state.provisional_key = None  # a newer schedule no longer calls for it
            self._render(now_ms, state, "refreshed", draw, actions)
        return True

    def _want_next_stage(self, now_ms: int, state: TopicState) -> None:
        due = state.next_due(now_ms + self.clock_offset_ms)
        if due is not None:
            self._want(due - self.clock_offset_ms)

    def _plan_refetch(self, now_ms: int, state: TopicState, draw: float) -> None:
        """A random moment of the refetch window, never now (R19); an earlier plan stands."""
        if not self.options.fetches_maps or state.fetching:
            return
        at = now_ms + 1 + int(draw * self.refetch_window_ms)
        if state.refetch_at is None or at < state.refetch_at:
            state.refetch_at = at
            self._want(at)

    def _plan_refetch_of_lagging(self, now_ms: int, state: TopicState, draw: float, fruitless: int) -> None:
        """The origin answered with less than is known to exist, after `fruitless` fetches in a row that helped no more.

        All devices of an event are told of the same version, so that the window grows, as it does per failure.
        """
        state.map_failures = fruitless + 1
        if not self.options.fetches_maps:
            return
        at = now_ms + 1 + self._refetch_delay_ms(fruitless, draw)
        if state.refetch_at is None or at < state.refetch_at:
            state.refetch_at = at
            self._want(at)

    def _refetch_delay_ms(self, failures: int, draw: float) -> int:
        cap_ms = max(self.options.window_cap_ms, _REFETCH_CAP_MS)
        return return_delay_ms(self.refetch_window_ms, failures, draw, cap_ms=cap_ms)

    def _want(self, at_ms: int) -> None:
        self.wake_at_ms = min(self.wake_at_ms, at_ms)

    def _note_told(self, told: Told) -> None:
        self.told = self.told or []
        if len(self.told) >= self.options.told_max:
            del self.told[0]
            self.told_dropped += 1
        self.told.append(told)
