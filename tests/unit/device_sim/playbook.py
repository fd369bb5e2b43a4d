"""A playbook: events into a device, actions out, read as a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contract.frames import BroadcastFrame, ContinuityFrame, ScheduleFrame, WelcomeFrame
from device_sim.actions import Action, OpenSocket, Send
from device_sim.device import NEVER, Device, DeviceOptions
from device_sim.stage_map import StageMap, stage_map_from_answer

TOPIC = "event:fight"
T0 = 1_000_000
"""The device's clock at the start; the server's is OFFSET ahead."""
OFFSET = 5_000


def entry(key: str, text: str = "") -> dict[str, Any]:
    return {"key": key, "order": 0, "startsAt": None, "headline": f"{key} {text}", "rows": []}


def stage_map(
    *keys: str,
    version: int = 1,
    revision: int = 1,
    ttl_s: int = 3600,
    times: dict[str, int] | None = None,
    text: str = "",
) -> StageMap:
    by_key = {key: {**entry(key, text), "startsAt": (times or {}).get(key)} for key in (*keys, "default")}
    return stage_map_from_answer(
        {
            "event": {"id": "fight"},
            "version": version,
            "revision": revision,
            "ttlSeconds": ttl_s,
            "serverTime": T0 + OFFSET,
            "byKey": by_key,
        }
    )


def broadcast(timestamp: int, key: str = "live", *, prev: int = 0, **more: Any) -> BroadcastFrame:
    return BroadcastFrame(topic=TOPIC, state_key=key, timestamp=timestamp, prev=prev, **more)


def continuity(verdict: Any, latest: int, key: str | None = None) -> ContinuityFrame:
    return ContinuityFrame(topic=TOPIC, verdict=verdict, state_key=key, latest=latest)


def schedule(revision: int, *, version: int = 1, **times: int | None) -> ScheduleFrame:
    return ScheduleFrame(topic=TOPIC, revision=revision, version=version, times=times)


def welcome(**more: Any) -> WelcomeFrame:
    terms = {"lifetime_s": 3600.0, "ping_s": 30.0, "reconnect_window_ms": 1_000, "refetch_window_ms": 10_000}
    return WelcomeFrame(node="n", server_time=more.pop("server_time", T0 + OFFSET), **{**terms, **more})


class Playbook:
    """Drives one device; `now` only moves when told."""

    def __init__(self, *, cursor: int | None = None, state_key: str | None = None, **options: Any) -> None:
        self.device = Device("d-1", DeviceOptions(**options), token="t")
        self.now = T0
        self.draw = 0.5
        self.conn = 0
        self.device.follow(self.now, TOPIC, cursor=cursor, state_key=state_key)

    def start(self) -> Playbook:
        """Connect and be welcomed."""
        (opening,) = self.device.start(self.now)
        assert isinstance(opening, OpenSocket)
        self.conn = opening.conn
        self.device.opened(self.now, self.conn)
        return self.get(welcome(server_time=self.now + OFFSET)) and self

    def get(self, frame: Any, *, conn: int | None = None) -> Playbook:
        self.actions = self.device.received(self.now, conn or self.conn, frame, self.draw)
        return self

    def frames(self, *frames: Any) -> Playbook:
        for frame in frames:
            self.get(frame)
        return self

    def lose(self, code: int = 1006, *, conn: int | None = None) -> Sequence[Action]:
        self.actions = self.device.disconnected(self.now, conn or self.conn, code, self.draw)
        return self.actions

    def at(self, now: int) -> Sequence[Action]:
        """Let time pass as a shell does: ticking at every wake-up up to `now`."""
        done: list[Action] = []
        while self.device.wake_at_ms <= now and self.device.wake_at_ms != NEVER:
            self.now = max(self.now, self.device.wake_at_ms)
            done += self.device.tick(self.now, self.draw)
        self.now = now
        done += self.device.tick(now, self.draw)
        self.actions = done
        return done

    def reconnect(self) -> Playbook:
        """Wait for the planned return and be welcomed again."""
        assert self.device.reconnect_at_ms is not None
        openings = [a for a in self.at(self.device.reconnect_at_ms) if isinstance(a, OpenSocket)]
        self.conn = openings[0].conn
        self.subscribed = [a.frame for a in self.device.opened(self.now, self.conn) if isinstance(a, Send)]
        return self.get(welcome(server_time=self.now + OFFSET))

    @property
    def cursor(self) -> int | None:
        return self.device.topics[TOPIC].cursor

    @property
    def screen(self) -> list[tuple[str, int | None, str]]:
        return [(r.state_key, r.timestamp, r.cause) for r in self.device.renders or ()]

    @property
    def told(self) -> list[tuple[str, int, int]]:
        return [(t.kind, t.above, t.upto) for t in self.device.told or ()]

    def sent(self, kind: type) -> list[Any]:
        return [a.frame for a in self.actions if isinstance(a, Send) and isinstance(a.frame, kind)]
