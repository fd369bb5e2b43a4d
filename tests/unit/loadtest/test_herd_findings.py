"""Goal: a herd's figures say what was measured, what was not, and what falls short; nothing is left out silently."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import msgspec
import pytest

from loadtest.bench.fleet_reach import BroadcastReach
from loadtest.bench.herd.command import run_herd
from loadtest.bench.herd.crowd import CrowdSnapshot, Prefetched
from loadtest.bench.herd.findings import (
    AFTER_CHURN,
    AFTER_KILL,
    CONNECTED,
    HerdFindings,
    Network,
    StageFound,
    missed_of,
)
from loadtest.bench.herd.footprint import Footprint, KernelMemory, read_footprint, read_kernel_memory
from loadtest.bench.herd.interruption import Interruption
from loadtest.bench.herd.layout import NodeRules, herd_layout
from loadtest.bench.herd.options import HerdLimits, HerdOptions
from loadtest.bench.herd.record import herd_record
from loadtest.bench.herd.spent import CLIENTS, OTHERS, PIPELINE, SERVERS, Spent, read_cpu, spent
from loadtest.bench.herd.turns import take_long_turns
from loadtest.bench.herd.watching import Watching
from loadtest.bench.histogram import LatencyHistogram
from loadtest.bench.outcome import CouldNotRun, ExitCode
from loadtest.machine import read_machine
from loadtest.report.files import read_record, write_report

DUE_MS = 1_700_000_000_000
DEVICES = 1_000
RULES = NodeRules(
    max_connections=18_000, ping_s=30.0, pong_deadline_s=10.0, handshakes_per_s=5_000.0, accept_share=0.5,
    reconnect_window_ms=2_000, lifetime_min_s=60.0,
)  # fmt: skip


def reached(
    *, live: int = DEVICES, missed: int = 0, replayed: int = 0, behind: int = 0, last_s: float = 0.5
) -> BroadcastReach:
    latency = LatencyHistogram()
    latency.record_all_ms(last_s * 1000 * (number + 1) / live for number in range(live))
    return BroadcastReach(
        topic="event:night", timestamp=DUE_MS + 1, state_key="stage_1", devices=live + missed + replayed, live=live,
        replayed=replayed, told=0, missed=missed, behind=behind, repeats=0, origin_ms=float(DUE_MS),
        first_ms=DUE_MS + 10.0, last_ms=DUE_MS + last_s * 1000, latency=latency.encode(),
    )  # fmt: skip


def stage(when: str, reach: BroadcastReach | None = None, *, others_s: float = 0.0) -> StageFound:
    found = reach or reached()
    return StageFound(
        when=when, state_key="stage_1", due_ms=DUE_MS, away=0, dispatched_ms=DUE_MS + 2, timestamp=DUE_MS + 1,
        reach=found, missed=found.missed,
        idle=Spent(wall_s=2.0, cpu_s={SERVERS: 0.2, CLIENTS: 0.2, PIPELINE: 0.1, OTHERS: 0.0}),
        busy=Spent(wall_s=1.0, cpu_s={SERVERS: 0.11, CLIENTS: 0.12, PIPELINE: 0.1, OTHERS: others_s}),
    )  # fmt: skip


def footprint(*, servers: int, clients: int, slab: int) -> Footprint:
    kernel = KernelMemory(slab_bytes=slab, tcp_bytes=0, tables_bytes=1_000)
    held = {SERVERS: servers, CLIENTS: clients, PIPELINE: 500}
    return Footprint(pss_bytes=held, own_bytes=held, kernel=kernel, available_bytes=1 << 30)


def night(**changes: object) -> HerdFindings:
    """One without fault."""
    layout = herd_layout(DEVICES, profiles=DEVICES, files_per_process=20_000, cores=2, rules=RULES)
    found = HerdFindings(
        devices=DEVICES, layout=layout, limits=HerdLimits(), started_s=3.0, prefetch_s=1.0, connect_s=2.0,
        prefetched=Prefetched(profiles=DEVICES, distinct_maps=900, operations=DEVICES, retries=0),
        connecting=Spent(wall_s=2.0, cpu_s={SERVERS: 0.08, CLIENTS: 0.05, PIPELINE: 0.1, OTHERS: 0.0}),
        stages=[stage(CONNECTED), stage(AFTER_CHURN), stage(AFTER_KILL)], unsubscribed=0, churned=(25, 25),
        killed_devices=500, back_s=2.5, origin_requests=0, other_missed=0,
        alone_bytes={SERVERS: 100_000, CLIENTS: 50_000},
        started=footprint(servers=100_000, clients=1_050_000, slab=5_000_000),
        filled=footprint(servers=100_000, clients=1_250_000, slab=5_000_000),
        settled=footprint(servers=1_100_000, clients=2_050_000, slab=12_000_000),
        crowd=CrowdSnapshot(
            connected=DEVICES, subscribed=DEVICES, broadcasts=3 * DEVICES, handshakes=DEVICES, refused=0, failed=0,
            given_up=0, protocol_violations=0, cpu_s=1.0,
        ),
    )  # fmt: skip
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_a_night_without_fault_holds() -> None:
    found = night()
    assert found.shortfalls() == []
    assert found.invalid_because() == []
    keys = found.keys()
    assert (keys["missed"], keys["after_churn_missed"], keys["after_node_kill_missed"]) == (0, 0, 0)
    assert keys["last_s"] == pytest.approx(0.5)
    assert keys["p50_s"] == pytest.approx(0.25, rel=0.01)
    assert keys["first_s"] == pytest.approx(0.01)
    assert keys["partial"] is False
    json.dumps(keys)


def test_costs_are_what_is_spent_above_rest() -> None:
    """Goal: 0.11 s of which 0.1 s are used anyway, over 1,000 deliveries: 10 us."""
    keys = night().keys()
    assert keys["us_per_delivery"] == pytest.approx(10.0)
    assert keys["client_us_per_delivery"] == pytest.approx(20.0)
    assert keys["client_us_per_connect"] == pytest.approx(50.0)
    assert keys["server_us_per_connect"] == pytest.approx(80.0)


def test_memory_of_servers_clients_and_kernel_stand_apart() -> None:
    keys = night().keys()
    assert keys["server_bytes_per_device"] == 1_000
    assert keys["client_bytes_per_device"] == 2_000
    assert keys["map_bytes_per_device"] == 200
    assert keys["kernel_bytes_per_device"] == 7_000


def test_promises_are_a_millions_and_of_fewer_in_proportion() -> None:
    limits = HerdLimits()
    assert (limits.last_s_of(1_000_000), limits.connect_s_of(1_000_000)) == (12.0, 150.0)
    assert (limits.last_s_of(100_000), limits.connect_s_of(100_000)) == (pytest.approx(1.2), pytest.approx(15.0))
    assert limits.last_s_of(10) == limits.last_s_least


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": [stage(CONNECTED, reached(missed=3)), stage(AFTER_CHURN), stage(AFTER_KILL)]}, "3 devices missed"),
        ({"stages": [stage(CONNECTED, reached(behind=2)), stage(AFTER_CHURN), stage(AFTER_KILL)]}, "something older"),
        ({"stages": [stage(CONNECTED, reached(last_s=3.0)), stage(AFTER_CHURN), stage(AFTER_KILL)]}, "CPU: servers"),
        ({"stages": [stage(CONNECTED), stage(AFTER_CHURN)]}, f"{AFTER_KILL}: not measured"),
        ({"connect_s": 400.0}, "connecting took 400.0 s"),
        ({"other_missed": 7}, "7 missed of stages due in between"),
        ({"unsubscribed": 1}, "never heard a continuity"),
        ({"origin_requests": 5}, "5 requests came to the DGS"),
        ({"interrupted": "interrupted by SIGINT"}, "partial: interrupted by SIGINT"),
        ({"prefetched": Prefetched(profiles=10, distinct_maps=10, operations=10, retries=0)}, "10 distinct profiles"),
    ],
)
def test_every_fault_is_named(changes: dict[str, object], words: str) -> None:
    assert any(words in line for line in night(**changes).shortfalls())


def test_a_split_of_the_cpu_goes_with_being_late() -> None:
    (line,) = [
        line for line in night(stages=[stage(CONNECTED, reached(last_s=3.0))]).shortfalls() if "promised" in line
    ]
    assert "servers 0.1 s, clients 0.1 s" in line


def test_other_programs_make_a_night_invalid() -> None:
    found = night(stages=[stage(CONNECTED, others_s=0.9), stage(AFTER_CHURN), stage(AFTER_KILL)])
    assert "other processes used 0.90 cores" in found.invalid_because()[0]


def test_a_broadcast_that_a_fleet_never_met_was_missed_by_all_of_it() -> None:
    """Goal: a fleet that never met a broadcast has no row for it, and must not look as if it had no devices."""
    assert missed_of(reached(missed=2), asked=1_000, of_fleets=600, everybody=True) == 402
    assert missed_of(None, asked=1_000, of_fleets=0, everybody=True) == 1_000
    assert missed_of(None, asked=1_000, of_fleets=0, everybody=False) == 0


def test_a_night_cut_short_has_the_keys_it_has() -> None:
    layout = herd_layout(DEVICES, profiles=10, files_per_process=20_000, cores=2, rules=RULES)
    keys = HerdFindings(devices=DEVICES, layout=layout, limits=HerdLimits(), interrupted="interrupted by SIGINT").keys()
    assert keys["partial"] is True
    assert keys["last_s"] is None
    assert keys["missed"] is None
    json.dumps(keys)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (night(), "held"),
        (night(connect_s=99.0), "failed"),
        (night(interrupted="interrupted by SIGINT"), "partial"),
        (night(stages=[stage(CONNECTED, others_s=0.9), stage(AFTER_CHURN), stage(AFTER_KILL)]), "invalid"),
    ],
)
def test_the_report_says_what_the_command_says(found: HerdFindings, verdict: str, tmp_path: Path) -> None:
    """Goal: the record is whole: it is written, read back, and its histograms are files beside it."""
    record = herd_record(found, Watching(DEVICES), envelope={"seed": 1}, directory=tmp_path)
    write_report(record, tmp_path)
    again = read_record(tmp_path)
    assert again.verdict == verdict
    assert [each.missed for each in again.reach] == [0, 0, 0]
    assert all((tmp_path / each.path).is_file() for each in again.histograms)
    curve = again.charts[0].series[0].points
    assert curve[-1][1] == DEVICES
    assert [at for at, _ in curve] == sorted(at for at, _ in curve)


def test_cpu_adds_up_to_the_machine() -> None:
    """Goal: roles and others are all of it, and a role's processes that ended count nothing below zero."""
    before = read_cpu(servers=[os.getpid()], clients=[], pipeline=[])
    sum(range(2_000_000))
    after = read_cpu(servers=[os.getpid()], clients=[], pipeline=[])
    used = spent(before, after)
    assert used.cpu_s[SERVERS] > 0
    ended = msgspec.structs.replace(after, roles={**after.roles, SERVERS: 0.0})
    assert spent(before, ended).cpu_s[SERVERS] == 0.0
    assert used.cores(SERVERS) == pytest.approx(used.cpu_s[SERVERS] / used.wall_s)


async def test_a_signal_ends_the_night_once_and_is_remembered() -> None:
    """Goal: what was measured can be kept: the task is cancelled, the reason known, and signals mean the same again."""
    interruption = Interruption(available_least_bytes=0)
    with pytest.raises(asyncio.CancelledError), interruption.watching():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(5)
    interruption.end()
    task = asyncio.current_task()
    assert task is not None
    assert task.uncancel() == 0
    assert interruption.because == "interrupted by SIGTERM"


async def test_memory_that_runs_out_ends_the_night() -> None:
    interruption = Interruption(available_least_bytes=1 << 62)
    with pytest.raises(asyncio.CancelledError), interruption.watching():
        await asyncio.sleep(5)
    interruption.end()
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
    assert "memory ran out" in str(interruption.because)


def test_memory_is_read_by_role() -> None:
    found = read_footprint({SERVERS: [os.getpid()], CLIENTS: [2**22 + 1]})
    assert found.pss_bytes[SERVERS] >= found.own_bytes[SERVERS] > 1_000_000
    assert found.pss_bytes[CLIENTS] == 0
    assert read_kernel_memory().slab_bytes > 0


def test_a_turn_of_a_process_that_is_not_there_changes_nothing() -> None:
    assert take_long_turns(2**22 + 1, 20.0) is False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (HerdOptions(sizes=(5,)), "--devices, --sizes"),
        (HerdOptions(sizes=()), "--devices, --sizes"),
        (HerdOptions(churn_share=0.0), "--churn"),
        (HerdOptions(profiles=0), "--profiles"),
        (HerdOptions(ping_s=10.0), "--ping"),
    ],
)
def test_options_that_make_no_sense_are_named(options: HerdOptions, words: str) -> None:
    with pytest.raises(CouldNotRun, match=words):
        options.check()


def test_a_machine_too_small_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Goal: exit code 2, how many would fit, and the line that sets what is in the way."""
    small = msgspec.structs.replace(
        read_machine(), tracked_max=262_144, tracked_now=0, port_range=(32_768, 60_999), files_per_process=20_000
    )
    monkeypatch.setattr("loadtest.bench.herd.command.read_machine", lambda: small)
    assert run_herd(HerdOptions(sizes=(1_000_000,)), as_json=True) == ExitCode.COULD_NOT_RUN
    said = capsys.readouterr()
    assert said.out == ""
    assert "sysctl -w net.netfilter.nf_conntrack_max=2300000" in said.err
    assert "would" in said.err


def test_what_the_sockets_were_found_by_is_told_where_it_matters() -> None:
    assert Network().note(1_000_000) is None, "not told by this kernel"
    assert Network(rows=262_144).note(10_000) is None, "rows enough"
    assert "7.6 in each" in (Network(rows=262_144).note(1_000_000) or "")
    assert "namespace of its own" in (Network(rows=4_194_304, own=True).note(1_000_000) or "")
