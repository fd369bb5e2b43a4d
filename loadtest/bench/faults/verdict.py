"""What a fault run comes to: joins the outbox, Kafka and what devices recorded. Pure, and outside the device's code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from contract.frames import BroadcastFrame, ContinuityFrame
from device_sim.audit import DeviceLog, OutboxBroadcast, audit_fleet
from loadtest.bench.faults.plan import FaultPlan
from loadtest.bench.faults.recovery import Announced, Recovery

__all__ = [
    "KafkaBroadcast",
    "OutboxRow",
    "RunVerdict",
    "announced",
    "lost_stages",
    "several_timestamps",
    "unjudged",
    "verdict",
]


class OutboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """A broadcast in the producer's database."""

    topic: str
    state_key: str
    arming: int
    timestamp: int
    prev: int
    cause: str
    due_at: int | None
    dispatched_at: int
    published_at: int | None


class KafkaBroadcast(msgspec.Struct, frozen=True, order=True):
    """A record of the broadcasts' Kafka topic."""

    topic: str
    timestamp: int
    prev: int
    state_key: str


class RunVerdict(msgspec.Struct, kw_only=True):
    """One run of one fault. Everything down to `stages_lost` must be 0."""

    missed: int
    out_of_order: int
    double_timestamps: int
    """Announcements that exist with more than one timestamp, anywhere."""
    unknown_frames: int
    """Frames of devices that the outbox does not have, or has differently: no exact repeats."""
    unknown_records: int
    """The same of Kafka, and broadcasts of the outbox that Kafka never had."""
    early: int
    not_newest: int
    unsubscribed: int
    not_connected: int
    stages_lost: int
    """Neither broadcast nor overtaken by a later one."""
    gaps: int
    holes: int
    duplicates: int
    """Exact repeats that reached a device."""
    kafka_repeats: int
    broadcasts: int
    superseded: int
    cues: int
    recoveries: list[Recovery] = []
    quiet: bool = True
    """Everything was live before the fault; else the machine was too busy for recovery to mean anything."""
    remarks: list[str] = []
    failed: str | None = None
    """Why the run did not come to its end, so that nothing was judged: always a failure."""

    def harm(self) -> list[str]:
        """What no device may ever see, however busy the machine is; empty: nothing."""
        found = [
            f"{count} {what}"
            for count, what in (
                (self.missed, "broadcasts missed"),
                (self.out_of_order, "applied out of order"),
                (self.double_timestamps, "announcements with more than one timestamp"),
                (self.unknown_frames, "frames unlike the outbox"),
                (self.unknown_records, "Kafka records unlike the outbox"),
                (self.early, "stages before their time"),
                (self.not_newest, "devices and topics not at the newest state"),
                (self.unsubscribed, "devices and topics never subscribed"),
                (self.not_connected, "devices not connected at the end"),
                (self.stages_lost, "stages lost"),
            )
            if count
        ]
        if self.failed is not None:
            found.append(f"not judged: {self.failed}")
        return found

    def broken(self) -> list[str]:
        """What is wrong with it, recovery that took too long included; empty: it holds."""
        found = self.harm()
        for recovery in self.recoveries:
            if self.quiet and not recovery.held:
                took = "not in the time given" if recovery.seconds is None else f"{recovery.seconds:.2f} s"
                found.append(
                    f"recovery from `{recovery.phase}`: {took}, bound {recovery.bound_s} s, channel {recovery.slowest}"
                )
        return found


def unjudged(why: str) -> RunVerdict:
    """The verdict on a run that did not come to its end."""
    kept = ("recoveries", "quiet", "remarks", "failed")
    zero = dict.fromkeys((name for name in RunVerdict.__struct_fields__ if name not in kept), 0)
    return msgspec.convert({**zero, "failed": why}, RunVerdict)


def verdict(
    plan: FaultPlan,
    outbox: Sequence[OutboxRow],
    kafka: Iterable[KafkaBroadcast],
    logs: Iterable[DeviceLog],
    *,
    not_connected: int,
    until_ms: int,
) -> RunVerdict:
    """`logs` of the devices connected at the end. Stages due until `until_ms` must have been dealt with."""
    known = [
        OutboxBroadcast(
            topic=row.topic,
            state_key=row.state_key,
            timestamp=row.timestamp,
            prev=row.prev,
            due_at=row.due_at,
            dispatched_at=row.dispatched_at,
        )
        for row in outbox
    ]
    tally = _Tally()
    audit = audit_fleet(known, tally.through(logs))
    records = Counter(kafka)
    ours = {KafkaBroadcast(row.topic, row.timestamp, row.prev, row.state_key) for row in outbox}
    said = [(row.topic, row.state_key, row.timestamp) for row in outbox]
    said += [(record.topic, record.state_key, record.timestamp) for record in records]
    said += tally.said
    superseded, lost = lost_stages(plan, outbox, until_ms=until_ms)
    return RunVerdict(
        missed=audit.missed,
        out_of_order=audit.out_of_order,
        double_timestamps=several_timestamps(said),
        unknown_frames=audit.unknown_frames,
        unknown_records=len(ours.symmetric_difference(records)),
        early=sum(row.due_at is not None and row.dispatched_at < row.due_at for row in outbox),
        not_newest=audit.not_newest,
        unsubscribed=audit.unsubscribed,
        not_connected=not_connected,
        stages_lost=lost,
        gaps=tally.gaps,
        holes=tally.holes,
        duplicates=tally.duplicates,
        kafka_repeats=records.total() - len(records),
        broadcasts=len(outbox),
        superseded=superseded,
        cues=sum(row.cause == "cue" for row in outbox),
    )


def several_timestamps(said: Iterable[tuple[str, str, int]]) -> int:
    """Of (topic, state key, timestamp): announcements with more than one timestamp. A plan announces each key once."""
    timestamps: dict[tuple[str, str], set[int]] = {}
    for topic, state_key, timestamp in said:
        timestamps.setdefault((topic, state_key), set()).add(timestamp)
    return sum(len(found) > 1 for found in timestamps.values())


def lost_stages(plan: FaultPlan, outbox: Iterable[OutboxRow], *, until_ms: int) -> tuple[int, int]:
    """(superseded, lost): planned stages due until then that were not broadcast, with and without a later one (R4)."""
    sent = set()
    newest: dict[str, int] = {}
    for row in outbox:
        sent.add((row.topic, row.state_key))
        newest[row.topic] = max(newest.get(row.topic, 0), row.dispatched_at)
    superseded = lost = 0
    for stage in plan.stages():
        if stage.due_at_ms > until_ms or (stage.topic, stage.state_key) in sent:
            continue
        overtaken = newest.get(stage.topic, 0) >= stage.due_at_ms
        superseded += overtaken
        lost += not overtaken
    return superseded, lost


def announced(plan: FaultPlan, outbox: Iterable[OutboxRow]) -> list[Announced]:
    """The outbox as recovery is computed from."""
    channels = plan.channel_of_topic()
    return [
        Announced(
            channels[row.topic], row.topic, row.timestamp, row.dispatched_at if row.due_at is None else row.due_at
        )
        for row in outbox
        if row.topic in channels
    ]


class _Tally:
    """Counts what the audit does not, while its logs pass by."""

    def __init__(self) -> None:
        self.gaps = self.holes = self.duplicates = 0
        self.said: set[tuple[str, str, int]] = set()

    def through(self, logs: Iterable[DeviceLog]) -> Iterable[DeviceLog]:
        for log in logs:
            had: set[tuple[str, int]] = set()
            for arrival in log.arrivals:
                frame = arrival.frame
                if isinstance(frame, BroadcastFrame):
                    key = (frame.topic, frame.timestamp)
                    self.duplicates += key in had
                    had.add(key)
                    self.said.add((frame.topic, frame.state_key, frame.timestamp))
                elif isinstance(frame, ContinuityFrame):
                    self.gaps += frame.verdict == "gap"
            self.holes += sum(getattr(told, "kind", "hole") == "hole" for told in log.told)
            yield log
