"""The demo's script, its verdict and its screen: everything that needs no server."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter

import pytest
from rich.console import Console

from device_sim.audit import BroadcastAudit, FleetAudit
from message_producer.feeds.template import load_template
from message_producer.model import Anchor
from stagecue.demo.plan import NIGHT, STAGES, NightPlan, stage_template_toml
from stagecue.demo.report import NightReport, StageReport, report_of
from stagecue.demo.screen import TerminalScreen, reach_table


def good_night() -> NightReport:
    stages = [
        StageReport(
            state_key=key,
            devices=10,
            delivered_live=10,
            replayed=0,
            missed=0,
            p50_ms=95.0,
            p99_ms=106.0,
            last_ms=1007.0,
            origin_requests=0,
        )
        for key in STAGES
    ]
    return NightReport(devices=10, stages=stages, distinct_maps=1.0, server_kills=1, event="The fight")


def test_the_template_of_the_night_is_a_users_template():
    """It goes through the same loader, and its stages follow one another."""
    stages = load_template(stage_template_toml()).stages
    assert tuple(stage.key for stage in stages) == STAGES
    assert [stage.offset_ms for stage in stages if stage.anchor is Anchor.START] == [-7000, -4000, 0]
    assert stages[-1].anchor is Anchor.END


@pytest.mark.parametrize(
    "change",
    [{"slips_at_s": 5.0}, {"offline_at_s": 13.0}, {"offline_for_s": 0.5}, {"killed_at_s": 12.0}, {"length_s": 9}],
)
def test_a_plan_that_would_prove_nothing_is_refused(change):
    """The slip must not rewind, the offline span must cross the start, the kill must stand between two stages."""
    with pytest.raises(AssertionError):
        dataclasses.replace(NIGHT, **change)
    NightPlan()


def test_a_good_night_has_no_complaints():
    assert good_night().complaints() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"missed": 1}, "1 broadcasts missed"),
        ({"wrong_renders": 2}, "2 renders of something else"),
        ({"out_of_order": 1}, "out of order"),
        ({"not_newest": 3}, "3 devices not in the newest state"),
        ({"unsubscribed": 1}, "never subscribed"),
        ({"unknown_frames": 1}, "the outbox does not know"),
        ({"origin_requests_during_broadcast": 4}, "4 requests to the origin"),
        ({"distinct_maps": 0.9}, "fewer than 95 %"),
        ({"devices": 11}, "10 devices had to see upcoming"),
        ({"stages": []}, "the stages were none"),
    ],
)
def test_every_broken_promise_is_named(change, said):
    assert said in "; ".join(dataclasses.replace(good_night(), **change).complaints())


def test_a_count_nobody_took_proves_nothing():
    report = good_night()
    report.stages[1].origin_requests = None
    assert "nobody counted" in "; ".join(report.complaints())


def test_the_report_takes_the_judges_words():
    audit = FleetAudit(
        broadcasts=[
            BroadcastAudit(
                topic="event:a", state_key="live", timestamp=5, devices=3, delivered_live=2, replayed=1, p50_ms=1.26
            )
        ],
        devices=3, unsubscribed=0, missed=0, untold=0, out_of_order=0, wrong_renders=0, unknown_frames=0, not_newest=0,
        provisional_renders=1,
    )  # fmt: skip
    report = report_of(audit, {"5": 2}, {5: 3}, kills=1, title="A", distinct=1.0)
    (stage,) = report.stages
    assert (stage.p50_ms, stage.origin_requests, stage.written) == (1.3, 2, 3)
    assert report.origin_requests_during_broadcast == 2


def printed(renderable, width=100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def test_the_reach_table_fits_a_terminal_and_ends_with_the_verdict():
    text = printed(reach_table(good_night()), width=80)
    assert "…" not in text
    for word in (*STAGES, "devices", "replayed", "missed", "origin"):
        assert word in text
    assert text.rstrip().endswith("Nobody missed a stage, and everybody saw their own prefetched row.")
    failed = printed(reach_table(dataclasses.replace(good_night(), missed=2)))
    assert "The night failed: 2 broadcasts missed." in failed


def test_without_a_terminal_the_night_is_told_in_lines():
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    with TerminalScreen(console) as screen:
        screen.step("Connecting")
        screen.progress("connected", 1, 2)
        screen.devices(Counter({"live": 2}), 2, 2)
        screen.devices(Counter({"live": 1, "ended": 1}), 2, 2)
    lines = console.file.getvalue().splitlines()
    assert lines[0].endswith("Connecting")
    assert "2 show live" in lines[1]
    assert len(lines) == 3, "progress is for terminals"
