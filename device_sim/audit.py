"""The judge: joins the producer's outbox with devices' logs and says who got what, when, and whether it was right.

Pure, and independent of the device: it shares no code with it, trusts only what sockets received (arrivals, recorded
answers) and what the screen's log claims, and works out for itself what should have been shown.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from contract.frames import BroadcastFrame, ContinuityFrame
from contract.names import DEFAULT_STATE

__all__ = [
    "Answer",
    "BroadcastAudit",
    "DeviceLog",
    "FleetAudit",
    "OutboxBroadcast",
    "audit_fleet",
    "distinct_map_share",
    "outbox_from_json",
    "percentile",
]


class OutboxBroadcast(msgspec.Struct, frozen=True, kw_only=True):
    """One broadcast as the producer's outbox has it."""

    topic: str
    state_key: str
    timestamp: int
    prev: int
    due_at: int | None = None
    dispatched_at: int | None = None


class _Arrival(Protocol):
    @property
    def at_ms(self) -> float: ...
    @property
    def frame(self) -> BroadcastFrame | ContinuityFrame: ...


class _Render(Protocol):
    @property
    def at_ms(self) -> int: ...
    @property
    def topic(self) -> str: ...
    @property
    def state_key(self) -> str: ...
    @property
    def timestamp(self) -> int | None: ...
    @property
    def fingerprint(self) -> str: ...


class _Told(Protocol):
    @property
    def topic(self) -> str: ...
    @property
    def above(self) -> int: ...
    @property
    def upto(self) -> int: ...


class Answer(Protocol):
    """One recorded prefetch answer, raw."""

    @property
    def at_ms(self) -> int: ...
    @property
    def device_id(self) -> str: ...
    @property
    def body(self) -> bytes: ...


class DeviceLog(msgspec.Struct, frozen=True, kw_only=True):
    """What one device's socket received and what its screen showed."""

    device_id: str
    profile_id: str
    cursors: Mapping[str, int | None]
    """Topic followed -> cursor at the end."""
    arrivals: Sequence[_Arrival]
    renders: Sequence[_Render] = ()
    told: Sequence[_Told] = ()


class BroadcastAudit(msgspec.Struct, kw_only=True):
    """What became of one broadcast. Times count from its due time (cues: from dispatch) to the device's socket."""

    topic: str
    state_key: str
    timestamp: int
    devices: int = 0
    """Devices that should have got it: it lies above the `latest` of their first continuity."""
    delivered_live: int = 0
    replayed: int = 0
    skipped: int = 0
    """Listed as skipped by a later frame, or jumped over to by continuity while applying it."""
    missed: int = 0
    untold: int = 0
    """Missed ones the device does not even know of: must be 0 whatever happens."""
    out_of_order: int = 0
    wrong_renders: int = 0
    p50_ms: float | None = None
    """Over live deliveries."""
    p99_ms: float | None = None
    last_ms: float | None = None
    replayed_last_ms: float | None = None


class FleetAudit(msgspec.Struct, kw_only=True):
    broadcasts: list[BroadcastAudit]
    devices: int
    unsubscribed: int
    """Devices and topics that never heard a continuity."""
    missed: int
    untold: int
    out_of_order: int
    wrong_renders: int
    unknown_frames: int
    """Frames received that the outbox does not have, or has differently: must be 0."""
    not_newest: int
    """Devices and topics that end elsewhere than at the outbox's newest: the cursor, or what the screen shows."""
    provisional_renders: int


def percentile(sorted_values: Sequence[float], share: float) -> float | None:
    """Nearest rank: the smallest value that at least `share` of them do not exceed; None for nothing."""
    if not sorted_values:
        return None
    return sorted_values[max(0, math.ceil(share * len(sorted_values)) - 1)]


def outbox_from_json(items: Iterable[Mapping[str, Any]]) -> list[OutboxBroadcast]:
    """From `GET /v1/events/{id}/broadcasts` items; milliseconds fields win over RFC 3339 ones."""
    found = []
    for item in items:
        due = item.get("due_at_ms", item.get("due_at"))
        dispatched = item.get("dispatched_at_ms", item.get("dispatched_at"))
        found.append(
            OutboxBroadcast(
                topic=item["topic"],
                state_key=item["state_key"],
                timestamp=item["timestamp"],
                prev=item["prev"],
                due_at=due if isinstance(due, int) else None,
                dispatched_at=dispatched if isinstance(dispatched, int) else None,
            )
        )
    return found


def audit_fleet(
    outbox: Iterable[OutboxBroadcast],
    logs: Iterable[DeviceLog],
    recorded: Mapping[str, Sequence[Answer]] | None = None,
) -> FleetAudit:
    """Judge a fleet. Without `recorded` (fleets without maps) renders are checked for order and state only."""
    return _Judge(outbox, recorded).judge(logs)


class _Judge:
    def __init__(self, outbox: Iterable[OutboxBroadcast], recorded: Mapping[str, Sequence[Answer]] | None) -> None:
        self._by_topic: dict[str, list[OutboxBroadcast]] = {}
        self._known: dict[tuple[str, int], OutboxBroadcast] = {}
        self._results: dict[tuple[str, int], BroadcastAudit] = {}
        self._live_ms: dict[tuple[str, int], list[float]] = {}
        self._replay_ms: dict[tuple[str, int], list[float]] = {}
        self._recorded = recorded
        self._maps: dict[bytes, tuple[str, int, dict[str, str], str]] = {}
        self._unsubscribed = self._unknown_frames = self._not_newest = self._provisional = self._wrong = 0
        for entry in sorted(outbox, key=lambda each: (each.topic, each.timestamp)):
            key = (entry.topic, entry.timestamp)
            self._by_topic.setdefault(entry.topic, []).append(entry)
            self._known[key] = entry
            self._results[key] = BroadcastAudit(topic=entry.topic, state_key=entry.state_key, timestamp=entry.timestamp)
            self._live_ms[key], self._replay_ms[key] = [], []

    def judge(self, logs: Iterable[DeviceLog]) -> FleetAudit:
        devices = 0
        for log in logs:
            devices += 1
            self._receipts(log)
            self._screen(log)
        results = sorted(self._results.values(), key=lambda each: (each.timestamp, each.topic))
        for result in results:
            key = (result.topic, result.timestamp)
            live, replays = sorted(self._live_ms[key]), sorted(self._replay_ms[key])
            result.p50_ms, result.p99_ms = percentile(live, 0.5), percentile(live, 0.99)
            result.last_ms = live[-1] if live else None
            result.replayed_last_ms = replays[-1] if replays else None
        return FleetAudit(
            broadcasts=results,
            devices=devices,
            unsubscribed=self._unsubscribed,
            missed=sum(each.missed for each in results),
            untold=sum(each.untold for each in results),
            out_of_order=sum(each.out_of_order for each in results),
            wrong_renders=self._wrong + sum(each.wrong_renders for each in results),
            unknown_frames=self._unknown_frames,
            not_newest=self._not_newest,
            provisional_renders=self._provisional,
        )

    def _receipts(self, log: DeviceLog) -> None:
        """Who got what, when: from the socket alone."""
        first_latest: dict[str, int] = {}
        arrived: dict[tuple[str, int], tuple[float, bool]] = {}
        explained: set[tuple[str, int]] = set()
        for arrival in log.arrivals:
            frame = arrival.frame
            if isinstance(frame, ContinuityFrame):
                # `pending` is not yet an answer: what lies below the real one is not replayed to a newcomer.
                if frame.verdict != "pending":
                    first_latest.setdefault(frame.topic, frame.latest)
                continue
            key = (frame.topic, frame.timestamp)
            entry = self._known.get(key)
            if entry is None or (entry.state_key, entry.prev) != (frame.state_key, frame.prev):
                self._unknown_frames += 1
                continue
            arrived.setdefault(key, (arrival.at_ms, frame.replayed))
            explained.update((frame.topic, timestamp) for timestamp in frame.skipped)
        # Applied without a frame of its own: a continuity that moved the cursor there and was shown.
        explained.update((r.topic, r.timestamp) for r in log.renders if r.timestamp is not None)
        showing = {render.topic: render.timestamp for render in log.renders}
        for topic, cursor in log.cursors.items():
            baseline = first_latest.get(topic)
            entries = self._by_topic.get(topic, ())
            if baseline is None:
                self._unsubscribed += 1
                continue
            shows = showing.get(topic) if showing else cursor  # a fleet may keep no log of its screens
            if entries and not cursor == shows == entries[-1].timestamp:
                self._not_newest += 1
            for entry in entries:
                if entry.timestamp > baseline:
                    self._receipt(log, entry, arrived, explained)

    def _receipt(
        self,
        log: DeviceLog,
        entry: OutboxBroadcast,
        arrived: Mapping[tuple[str, int], tuple[float, bool]],
        explained: set[tuple[str, int]],
    ) -> None:
        key = (entry.topic, entry.timestamp)
        result = self._results[key]
        result.devices += 1
        receipt = arrived.get(key)
        if receipt is not None:
            at_ms, replayed = receipt
            since = entry.due_at if entry.due_at is not None else entry.dispatched_at
            result.replayed += replayed
            result.delivered_live += not replayed
            if since is not None:
                (self._replay_ms if replayed else self._live_ms)[key].append(at_ms - since)
        elif key in explained:
            result.skipped += 1
        else:
            result.missed += 1
            knows = any(t.topic == entry.topic and t.above < entry.timestamp <= t.upto for t in log.told)
            result.untold += not knows

    def _screen(self, log: DeviceLog) -> None:
        """Whether the screen only ever moved forward, and showed this profile's own prefetched rows."""
        newest: dict[str, int] = {}
        for render in log.renders:
            right = self._recorded is None or render.fingerprint == self._expected(log, render)
            if render.timestamp is None:
                self._provisional += 1
                self._wrong += not right
                continue
            entry = self._known.get((render.topic, render.timestamp))
            if entry is None:
                # Timestamp 0 is the state before the first broadcast; anything else was never dispatched.
                self._wrong += not right or render.timestamp != 0
                continue
            result = self._results[(render.topic, render.timestamp)]
            result.wrong_renders += not right or entry.state_key != render.state_key
            if render.timestamp < newest.get(render.topic, 0):
                result.out_of_order += 1
            newest[render.topic] = max(newest.get(render.topic, 0), render.timestamp)

    def _expected(self, log: DeviceLog, render: _Render) -> str:
        """Fingerprint of the entry in the newest answer this device had got for the topic by then; '' for none.

        An answer of a lower version came from an origin that lagged: what was held stays.
        """
        assert self._recorded is not None
        expected, newest = "", -1
        for answer in self._recorded.get(log.profile_id, ()):
            if answer.device_id != log.device_id or answer.at_ms > render.at_ms:
                continue
            topic, version, entries, default = self._map(answer.body)
            if topic == render.topic and version >= newest:
                expected, newest = entries.get(render.state_key, default), version
        return expected

    def _map(self, body: bytes) -> tuple[str, int, dict[str, str], str]:
        """Topic, version, fingerprints by state key, the default row's."""
        found = self._maps.get(body)
        if found is None:
            answer = json.loads(body)["data"]["prefetchEvent"]
            entries = {key: _fingerprint(entry) for key, entry in answer["byKey"].items()}
            topic, version = answer["event"]["topic"], answer["version"]
            found = self._maps[body] = (topic, version, entries, entries[DEFAULT_STATE])
        return found


def distinct_map_share(recorded: Mapping[str, Sequence[Answer]]) -> float:
    """Share of profiles whose first map differs from every other profile's: 1.0 = all different."""
    if not recorded:
        return 0.0
    seen: set[str] = set()
    for answers in recorded.values():
        seen.add(_fingerprint(json.loads(answers[0].body)["data"]["prefetchEvent"]["byKey"]))
    return len(seen) / len(recorded)


def _fingerprint(entry: Any) -> str:
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return hashlib.blake2b(canonical, digest_size=8).hexdigest()
