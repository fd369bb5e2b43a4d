"""The light record of a fleet: per broadcast one byte and one moment per device, in memory; and the judge over it.

Judged from what arrived at the sockets, by payload: nothing the device computed is asked, except for what it says it
was *told* of broadcasts that never came, and for its cursor, which is reported apart (`behind`).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Final

from contract.frames import BroadcastFrame, ContinuityFrame
from device_sim.client import ConnectionStep, DeviceClient
from device_sim.topic import Render
from loadtest.bench.fleet_commands import ReachAnswer
from loadtest.bench.fleet_reach import BroadcastReach
from loadtest.bench.histogram import LatencyHistogram

__all__ = ["FleetTally"]

_BROADCASTS_MAX: Final = 128
"""Kept; 18,000 devices cost 160 KB each."""
_PAYLOADS_MAX: Final = 4_096
_LIVE, _REPLAYED, _TOLD, _GONE = 1, 2, 4, 8
"""How a broadcast came to a device; `_GONE`: another device sat in its place when it was sent."""
_NEVER, _NOT_FOLLOWED = -1, -2


class _Row:
    """One broadcast."""

    __slots__ = ("at_ms", "frame", "how", "repeats")

    def __init__(self, devices: int, frame: BroadcastFrame) -> None:
        self.frame = frame
        self.how = bytearray(devices)
        self.at_ms = array("d")
        """Of live arrivals, in their order."""
        self.repeats = 0


class FleetTally:
    """A `device_sim.client.Recorder` for `devices` devices that follow some of `topics`. One loop, one owner."""

    def __init__(self, devices: int, topics: Sequence[str]) -> None:
        self._devices = devices
        self._rows: dict[tuple[str, int], _Row] = {}
        self._known: dict[bytes, _Row] = {}
        """By the payload of a live frame: equal bytes are one broadcast."""
        self._first_latest = {topic: array("q", [_NEVER]) * devices for topic in topics}
        """By device: the `latest` of its first continuity."""
        self._early: dict[tuple[str, int], set[int]] = {}
        """Devices told of a broadcast that none had received yet."""
        self._forgotten = 0

    # Recorder
    def arrival(
        self, client: DeviceClient, at_ms: float, payload: bytes, frame: BroadcastFrame | ContinuityFrame
    ) -> None:
        row = self._known.get(payload)
        if row is None:
            self._rare(client.number, at_ms, payload, frame)
        elif not row.how[client.number]:
            row.how[client.number] = _LIVE
            row.at_ms.append(at_ms)
        elif row.how[client.number] == _TOLD:
            self._rare(client.number, at_ms, payload, frame)
        else:
            row.repeats += 1

    def render(self, client: DeviceClient, render: Render) -> None:
        """Screens are not judged here."""

    def connection(self, client: DeviceClient, conn: int, step: ConnectionStep, code: int = 0) -> None:
        """Nor are connections."""

    # for its owner
    def replaced(self, number: int) -> None:
        """Another device sits in this place from now on: what came before is none of its business."""
        for row in self._rows.values():
            row.how[number] = row.how[number] or _GONE
        for early in self._early.values():
            early.discard(number)
        for first in self._first_latest.values():
            first[number] = _NEVER

    def reach(self, clients: Sequence[DeviceClient], origins: Mapping[tuple[str, int], float]) -> ReachAnswer:
        """As it stands now; a broadcast without an origin counts from its own timestamp. Some 30 ms per broadcast."""
        assert len(clients) == self._devices, "numbered from 0 without a gap"
        cursors = {topic: _cursors(clients, topic) for topic in self._first_latest}
        broadcasts = [
            self._judge(row, clients, cursors[topic], origins.get((topic, timestamp), float(timestamp)))
            for (topic, timestamp), row in sorted(self._rows.items(), key=lambda item: item[0][1])
        ]
        unsubscribed = sum(
            latest == _NEVER and cursor != _NOT_FOLLOWED
            for topic, first in self._first_latest.items()
            for latest, cursor in zip(first, cursors[topic], strict=True)
        )
        return ReachAnswer(tuple(broadcasts), unsubscribed, self._forgotten)

    def _rare(self, number: int, at_ms: float, payload: bytes, frame: BroadcastFrame | ContinuityFrame) -> None:
        if isinstance(frame, ContinuityFrame):
            first = self._first_latest.get(frame.topic)
            if frame.verdict == "pending" or first is None:
                return
            if first[number] == _NEVER:
                first[number] = frame.latest
            elif frame.verdict == "gap":
                self._told(number, frame.topic, frame.latest)
            return
        row = self._rows.get((frame.topic, frame.timestamp))
        if row is None:
            row = self._meet(frame)
        for timestamp in frame.skipped:
            self._told(number, frame.topic, timestamp)
        if not frame.replayed and not frame.skipped:
            if len(self._known) >= _PAYLOADS_MAX:
                self._known.clear()
            self._known[payload] = row
        if row.how[number] not in (0, _TOLD):
            row.repeats += 1
            return
        row.how[number] = _REPLAYED if frame.replayed else _LIVE
        if not frame.replayed:
            row.at_ms.append(at_ms)

    def _meet(self, frame: BroadcastFrame) -> _Row:
        if len(self._rows) >= _BROADCASTS_MAX:
            oldest = min(self._rows, key=lambda key: key[1])
            gone = self._rows.pop(oldest)
            self._known = {payload: row for payload, row in self._known.items() if row is not gone}
            self._forgotten += 1
        key = (frame.topic, frame.timestamp)
        row = self._rows[key] = _Row(self._devices, frame)
        for number in self._early.pop(key, ()):
            row.how[number] = _TOLD
        return row

    def _told(self, number: int, topic: str, timestamp: int) -> None:
        key = (topic, timestamp)
        row = self._rows.get(key)
        if row is not None:
            row.how[number] = row.how[number] or _TOLD
        elif key in self._early or len(self._early) < _BROADCASTS_MAX:
            self._early.setdefault(key, set()).add(number)

    def _judge(
        self, row: _Row, clients: Sequence[DeviceClient], cursors: Sequence[int], origin_ms: float
    ) -> BroadcastReach:
        frame, how = row.frame, row.how
        first = self._first_latest[frame.topic]
        told, missed = how.count(_TOLD), 0
        number = how.find(0)
        while number >= 0:
            if _NEVER < first[number] < frame.timestamp:
                if _knows(clients[number], frame):
                    told += 1
                else:
                    missed += 1
            number = how.find(0, number + 1)
        live, replayed = how.count(_LIVE), how.count(_REPLAYED)
        latency = LatencyHistogram()
        latency.record_all_ms(at_ms - origin_ms for at_ms in row.at_ms)
        return BroadcastReach(
            topic=frame.topic,
            timestamp=frame.timestamp,
            state_key=frame.state_key,
            devices=live + replayed + told + missed,
            live=live,
            replayed=replayed,
            told=told,
            missed=missed,
            behind=sum(_NOT_FOLLOWED < cursor < frame.timestamp for cursor in cursors),
            repeats=row.repeats,
            origin_ms=origin_ms,
            first_ms=min(row.at_ms, default=None),
            last_ms=max(row.at_ms, default=None),
            latency=latency.encode(),
        )


def _knows(client: DeviceClient, frame: BroadcastFrame) -> bool:
    """Whether the device says that it knows of a broadcast which it did not receive."""
    told = client.device.told or ()
    return any(each.topic == frame.topic and each.above < frame.timestamp <= each.upto for each in told)


def _cursors(clients: Sequence[DeviceClient], topic: str) -> Sequence[int]:
    """Every device's cursor; `_NEVER` for null, `_NOT_FOLLOWED` where it does not follow the topic."""
    found = array("q", [_NOT_FOLLOWED]) * len(clients)
    for number, client in enumerate(clients):
        for state in client.device.states:
            if state.topic == topic:
                found[number] = _NEVER if state.cursor is None else state.cursor
    return found
