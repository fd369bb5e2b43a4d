"""Goal: the verdict sees every kind of wrong a fault may do, in whichever of outbox, Kafka and devices it shows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from contract.frames import BroadcastFrame, ContinuityFrame
from device_sim.audit import DeviceLog
from device_sim.client import Arrival
from device_sim.topic import Render, Told
from loadtest.bench.faults.plan import FaultPlan, PlannedStage
from loadtest.bench.faults.recovery import Recovery
from loadtest.bench.faults.verdict import (
    KafkaBroadcast,
    OutboxRow,
    RunVerdict,
    announced,
    lost_stages,
    several_timestamps,
    unjudged,
    verdict,
)

PLAN = FaultPlan(name="v", first_due_ms=10_000, lasts_s=1.0, channels=1, channels_per_device=1)
TOPIC = PLAN.topics()[0]
STAGES: Sequence[PlannedStage] = PLAN.stages()[:4]


def rows(stages: Sequence[PlannedStage] = STAGES) -> list[OutboxRow]:
    found, prev = [], 0
    for stage in stages:
        timestamp = stage.due_at_ms + 2
        found.append(
            OutboxRow(
                topic=TOPIC, state_key=stage.state_key, arming=1, timestamp=timestamp, prev=prev, cause="scheduled",
                due_at=stage.due_at_ms, dispatched_at=timestamp, published_at=timestamp + 3,
            )
        )  # fmt: skip
        prev = timestamp
    return found


def in_kafka(outbox: Sequence[OutboxRow]) -> list[KafkaBroadcast]:
    return [KafkaBroadcast(row.topic, row.timestamp, row.prev, row.state_key) for row in outbox]


def log(outbox: Sequence[OutboxRow], *, told: Sequence[Told] = ()) -> DeviceLog:
    frames = [BroadcastFrame(row.topic, row.state_key, row.timestamp, row.prev) for row in outbox]
    return DeviceLog(
        device_id="d-0",
        profile_id="p-0",
        cursors={TOPIC: outbox[-1].timestamp},
        arrivals=[
            Arrival(1.0, ContinuityFrame(TOPIC, "complete", None, 0)),
            *(Arrival(frame.timestamp + 10.0, frame) for frame in frames),
        ],
        renders=[Render(f.timestamp, TOPIC, f.state_key, f.timestamp, "live", "") for f in frames],
        told=told,
    )


def judge(
    outbox: Sequence[OutboxRow], kafka: Sequence[KafkaBroadcast], logs: Sequence[DeviceLog], *, not_connected: int = 0
) -> RunVerdict:
    until_ms = STAGES[-1].due_at_ms
    return verdict(PLAN, outbox, kafka, logs, not_connected=not_connected, until_ms=until_ms)


def test_a_quiet_night_holds() -> None:
    outbox = rows()
    found = judge(outbox, in_kafka(outbox), [log(outbox)])
    assert found.broken() == []
    assert (found.broadcasts, found.duplicates, found.gaps, found.holes, found.superseded) == (4, 0, 0, 0, 0)


def test_a_broadcast_a_device_never_got_is_missed() -> None:
    outbox = rows()
    found = judge(outbox, in_kafka(outbox), [log([outbox[0], *outbox[2:]])])
    assert found.missed == 1
    assert "1 broadcasts missed" in found.broken()


def test_being_told_of_it_does_not_excuse_it_but_is_counted() -> None:
    outbox = rows()
    told = Told("hole", TOPIC, outbox[0].timestamp, outbox[1].timestamp)
    found = judge(outbox, in_kafka(outbox), [log([outbox[0], *outbox[2:]], told=[told])])
    assert (found.missed, found.holes) == (1, 1)


def test_an_older_state_shown_after_a_newer_one_is_seen() -> None:
    outbox = rows()
    shown = log(outbox)
    found = judge(outbox, in_kafka(outbox), [msgspec.structs.replace(shown, renders=list(reversed(shown.renders)))])
    assert found.out_of_order == 3


def test_an_exact_repeat_is_a_duplicate_and_harmless() -> None:
    outbox = rows()
    once = log(outbox)
    twice = msgspec.structs.replace(once, arrivals=[*once.arrivals, once.arrivals[-1]])
    found = judge(outbox, [*in_kafka(outbox), in_kafka(outbox)[0]], [twice])
    assert (found.duplicates, found.kafka_repeats, found.broken()) == (1, 1, [])


@pytest.mark.parametrize("where", ["outbox", "kafka", "device"])
def test_one_announcement_with_two_timestamps_is_seen_wherever_it_is(where: str) -> None:
    outbox = rows()
    again = msgspec.structs.replace(outbox[-1], timestamp=outbox[-1].timestamp + 1, prev=outbox[-1].timestamp, arming=2)
    both = [*outbox, again]
    found = judge(
        both if where == "outbox" else outbox,
        in_kafka(both if where in ("outbox", "kafka") else outbox),
        [log(both if where != "kafka" else outbox)],
    )
    assert found.double_timestamps == 1
    assert found.broken()


def test_kafka_must_have_what_the_outbox_has_and_nothing_else() -> None:
    outbox = rows()
    assert judge(outbox, in_kafka(outbox)[1:], [log(outbox)]).unknown_records == 1
    stray = KafkaBroadcast(TOPIC, 1, 0, "stray")
    assert judge(outbox, [*in_kafka(outbox), stray], [log(outbox)]).unknown_records == 1


def test_a_stage_before_its_time_is_early() -> None:
    outbox = rows()
    outbox[1] = msgspec.structs.replace(outbox[1], dispatched_at=STAGES[1].due_at_ms - 1)
    assert judge(outbox, in_kafka(outbox), [log(outbox)]).early == 1


def test_a_stage_overtaken_by_a_later_one_is_superseded_and_the_newest_must_not_be_lost() -> None:
    outbox = rows([STAGES[0], STAGES[3]])
    assert lost_stages(PLAN, outbox, until_ms=STAGES[3].due_at_ms) == (2, 0)
    outbox = rows(STAGES[:2])
    assert lost_stages(PLAN, outbox, until_ms=STAGES[3].due_at_ms) == (0, 2)


def test_devices_that_did_not_come_back_break_the_promise() -> None:
    outbox = rows()
    assert judge(outbox, in_kafka(outbox), [log(outbox)], not_connected=3).broken() == [
        "3 devices not connected at the end"
    ]


def test_several_timestamps_are_counted_by_announcement() -> None:
    assert several_timestamps([("t", "a", 1), ("t", "a", 1), ("t", "b", 2), ("u", "a", 3)]) == 0
    assert several_timestamps([("t", "a", 1), ("t", "a", 2), ("t", "a", 3)]) == 1


def test_recovery_counts_from_due_times_and_from_dispatch_for_cues() -> None:
    outbox = rows()
    cue = msgspec.structs.replace(outbox[0], state_key="cue_0", due_at=None, cause="cue", dispatched_at=77)
    assert [each.since_ms for each in announced(PLAN, [outbox[1], cue])] == [STAGES[1].due_at_ms, 77]


def test_a_bound_that_is_broken_is_said() -> None:
    outbox = rows()
    found = judge(outbox, in_kafka(outbox), [log(outbox)])
    found.recoveries = [
        Recovery(phase="killed", bound_s=3.0, seconds=3.4, slowest=7),
        Recovery(phase="back", bound_s=3.0, seconds=None, slowest=2),
        Recovery(phase="free", bound_s=None, seconds=None, slowest=2),
    ]
    assert [line.split(",")[0] for line in found.broken()] == [
        "recovery from `killed`: 3.40 s",
        "recovery from `back`: not in the time given",
    ]


def test_bounds_mean_nothing_on_a_machine_that_was_too_busy_before_but_what_is_missed_does() -> None:
    outbox = rows()
    found = judge(outbox, in_kafka(outbox), [log([outbox[0], *outbox[2:]])])
    found.recoveries = [Recovery(phase="killed", bound_s=3.0, seconds=None, slowest=2)]
    found.quiet = False
    assert found.broken() == ["1 broadcasts missed"]


def test_a_run_that_did_not_come_to_its_end_is_a_failure() -> None:
    assert unjudged("after 30 s: 3 of 9 devices connected").broken() == [
        "not judged: after 30 s: 3 of 9 devices connected"
    ]
