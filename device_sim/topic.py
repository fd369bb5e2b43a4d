"""One followed topic on a device: cursor, state, schedule and map, and how frames change them (R18-R20). Pure.

Nothing here knows sockets or timers. Transitions say what became of a frame; `render` says what is on the screen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from contract.frames import BroadcastFrame, ContinuityFrame, Held, ScheduleFrame
from contract.names import CANCELLED, DEFAULT_STATE
from device_sim.stage_map import StageMap

__all__ = ["Render", "RenderCause", "Told", "TopicState"]

RenderCause = Literal["live", "replayed", "continuity", "provisional", "default", "refreshed"]
"""Why the screen changed: `default` = the default row, for want of a map entry or before the first broadcast;
`refreshed` = a new map arrived and shows something else for the same state, or its times end a provisional one."""


class Render(msgspec.Struct, frozen=True, gc=False):
    """One change of the screen: what an auditor compares with the prefetched map."""

    at_ms: int
    topic: str
    state_key: str
    timestamp: int | None
    """Cursor of the state shown; None for a provisional one."""
    cause: RenderCause
    fingerprint: str
    """Of the entry shown; empty when the device holds no map."""


class Told(msgspec.Struct, frozen=True, gc=False):
    """Broadcasts in `above < timestamp <= upto` which the device knows it may have missed."""

    kind: Literal["gap", "hole"]
    topic: str
    above: int
    upto: int


class TopicState:
    """State of one topic. `cursor` is None until the first continuity or broadcast, and never moves back."""

    __slots__ = (
        "_null_conns",
        "ask_again_at",
        "cursor",
        "fetching",
        "map_failures",
        "provisional_key",
        "refetch_at",
        "refusals",
        "replay_conn",
        "replay_until",
        "revision",
        "shown_fingerprint",
        "shown_key",
        "stage_map",
        "state_key",
        "times",
        "topic",
        "version",
    )

    def __init__(self, topic: str, *, cursor: int | None = None, state_key: str | None = None) -> None:
        self.topic = topic
        self.cursor = cursor
        self.state_key = state_key
        """What the cursor's broadcast announced; None before the first."""
        self.stage_map: StageMap | None = None
        self.times: Mapping[str, int | None] | None = None
        """Shared by all who were told the same: never changed in place."""
        self.revision = -1
        """Of `times`; the higher one wins (R5)."""
        self.version = -1
        """Newest content version heard of."""
        self.provisional_key: str | None = None
        self.replay_until = 0
        """`latest` of the continuity whose replay is under way, 0 when none is."""
        self.replay_conn = 0
        self.refetch_at: int | None = None
        self.ask_again_at: int | None = None
        """When to subscribe again after a refusal: a node may learn of a topic later than its devices do."""
        self.refusals = 0
        self.fetching = False
        self.map_failures = 0
        """Fetches in a row that failed, or brought less than is known to exist."""
        self.shown_key: str | None = None
        self.shown_fingerprint = ""
        self._null_conns: tuple[int, ...] = ()

    # subscribing
    def asked(self, conn: int) -> int | None:
        """Note a subscribe on `conn` and return the cursor to send."""
        self.ask_again_at = None
        if self.cursor is None:
            self._null_conns = (*self._null_conns[-3:], conn)
        return self.cursor

    def held(self) -> Held | None:
        """The map held, for coverage; None without one."""
        return None if self.stage_map is None else Held(self.stage_map.version, max(self.revision, 0))

    # frames
    def broadcast(self, frame: BroadcastFrame) -> tuple[bool, Told | None, RenderCause | None]:
        """(applied, hole to report, cause to render under now). A repeat is (False, None, None)."""
        cursor = self.cursor
        if cursor is not None and frame.timestamp <= cursor:
            return False, None, None
        hole = None
        if cursor is not None and frame.prev > cursor:
            hole = Told("hole", self.topic, cursor, frame.prev)
        self.cursor = frame.timestamp
        self.state_key = frame.state_key
        return True, hole, self._settled("replayed" if frame.replayed else "live")

    def next_live(self, frame: BroadcastFrame) -> bool | None:
        """The commonest broadcast by a short way: the next of the chain, live, no replay under way; applied and shown.

        Returns whether the map misses its key; None: it is another kind, and nothing was done. What `broadcast` and
        `show` do, in one.
        """
        if frame.prev != self.cursor or frame.replayed or self.replay_until:
            return None
        key = self.state_key = self.shown_key = frame.state_key
        self.cursor = frame.timestamp
        self.provisional_key = None
        stage_map = self.stage_map
        if stage_map is None:
            self.shown_fingerprint = ""
            return key != DEFAULT_STATE
        entry, missing = stage_map.lookup(key)
        self.shown_fingerprint = entry.fingerprint
        return missing

    def continuity(self, conn: int, frame: ContinuityFrame) -> tuple[Told | None, RenderCause | None]:
        """(gap told, cause to render under now)."""
        self.refusals = 0
        if frame.verdict == "pending":
            return None, None
        asked_null = conn in self._null_conns
        if asked_null:
            at = self._null_conns.index(conn)  # one answer for each question
            self._null_conns = self._null_conns[:at] + self._null_conns[at + 1 :]
        cursor = self.cursor
        if frame.verdict == "ahead" or (cursor is not None and frame.latest <= cursor):
            return None, self._end_provisional(frame)
        if frame.verdict == "gap" or asked_null or cursor is None:
            told = None
            if frame.verdict == "gap" and cursor is not None:
                told = Told("gap", self.topic, cursor, frame.latest)
            self.cursor = frame.latest
            self.state_key = frame.state_key
            return told, self._settled("continuity")
        # Complete, and newer than we are: all of it follows, and is shown once, at its end.
        self.replay_until = max(self.replay_until, frame.latest)
        self.replay_conn = conn
        return None, None

    def _end_provisional(self, frame: ContinuityFrame) -> RenderCause | None:
        if self.state_key is None and frame.latest == self.cursor:
            self.state_key = frame.state_key
        if self.provisional_key is None or self.cursor is None:
            return None
        self.provisional_key = None
        return "continuity"

    def _settled(self, cause: RenderCause) -> RenderCause | None:
        assert self.cursor is not None
        if self.cursor < self.replay_until:
            return None
        self.replay_until = 0
        self.provisional_key = None
        return cause

    def schedule(self, revision: int, version: int, times: Mapping[str, int | None]) -> bool:
        """Take a schedule if its revision is higher; returns whether the map held is now outdated (R5)."""
        if revision <= self.revision:
            return False
        self.revision = revision
        self.version = max(self.version, version)
        self.times = times
        return self.stage_map is not None and self.stage_map.version < self.version

    def schedule_frame(self, frame: ScheduleFrame) -> bool:
        return self.schedule(frame.revision, frame.version, frame.times)

    def connection_lost(self, conn: int) -> bool:
        """Whether a replay was cut short: what was applied of it has not been rendered yet."""
        self._null_conns = tuple(other for other in self._null_conns if other != conn)
        if not self.replay_until or self.replay_conn != conn:
            return False
        self.replay_until = 0
        return True

    # offline (R20)
    def due_by(self, server_now_ms: int) -> str | None:
        """The newest stage the schedule calls true now and no broadcast has overtaken; None if there is none."""
        if self.times is None or self.state_key == CANCELLED:
            return None
        newest: str | None = None
        newest_at = self.cursor or 0
        for key, at in self.times.items():
            # Stages due at the same instant: the later one in the event's order is the one true.
            if at is not None and at <= server_now_ms and (at > newest_at or (newest is not None and at == newest_at)):
                newest, newest_at = key, at
        return newest

    def next_due(self, server_now_ms: int) -> int | None:
        """Server time of the next stage to switch to while offline."""
        if self.times is None or self.state_key == CANCELLED:
            return None
        due: int | None = None
        for at in self.times.values():
            if at is not None and at > server_now_ms and (due is None or at < due):
                due = at
        return due

    # the screen
    def show(self, cause: RenderCause) -> tuple[RenderCause, int | None, bool]:
        """Put the state on the screen (`shown_key`, `shown_fingerprint`): (why, by which cursor, whether the map misses
        its key)."""
        provisional = cause == "provisional"
        key = self.provisional_key if provisional else self.state_key
        fingerprint, missing = "", key is not None and key != DEFAULT_STATE
        if self.stage_map is not None:
            entry, missing = self.stage_map.lookup(key)
            fingerprint = entry.fingerprint
        if missing or key is None:
            cause = "default"
        self.shown_key = key or DEFAULT_STATE
        self.shown_fingerprint = fingerprint
        return cause, None if provisional else self.cursor, missing

    def shows_other_content(self) -> bool:
        """Whether the map now held shows something else for what is on the screen; or for a stored state, for the first
        time."""
        if self.stage_map is None or self.shown_key is None:
            return self.stage_map is not None and self.cursor is not None and self.state_key is not None
        return self.stage_map.lookup(self.shown_key)[0].fingerprint != self.shown_fingerprint
