"""Goal: what runs conclude from renders, rules and records is right for made-up ones."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np

from device_sim.audit import BroadcastAudit, FleetAudit, OutboxBroadcast
from device_sim.client import ConnectionStep
from loadtest.bench.push.cores import Cores
from loadtest.bench.report import Reporter
from loadtest.gameday.clients.audience_child import Shown
from loadtest.gameday.events import event_request
from loadtest.gameday.lateness import counted_from_ms, late_ms
from loadtest.gameday.runs.flood import one_class
from loadtest.gameday.runs.join_surge import connects_ms
from loadtest.gameday.runs.slip_and_cancel import early_renders, showing, wrong_ends
from loadtest.gameday.stage import Stage

SLIPS, CANCELLED = "event:slips", "event:cancelled"


def test_a_moved_stage_shown_at_its_old_time_is_early_and_a_cancelled_one_at_any() -> None:
    renders = [
        Shown(900, 0, SLIPS, "starting_soon", 1),
        Shown(1_999, 0, SLIPS, "live", 2),
        Shown(2_000, 1, SLIPS, "live", 2),
        Shown(9_999, 1, CANCELLED, "live", None),
    ]
    assert early_renders(renders, new_due_ms=2_000) == 2


def test_the_last_screen_of_each_event_decides() -> None:
    right = [Shown(1, 0, SLIPS, "live", 1), Shown(2, 0, CANCELLED, "cancelled", 2)]
    assert wrong_ends(right, 1) == 0
    assert wrong_ends(list(reversed(right)), 1) == 0
    assert wrong_ends([*right, Shown(3, 0, SLIPS, "starting_soon", 1)], 1) == 1
    assert wrong_ends(right, 2) == 2


def test_screens_are_counted_by_what_they_show_and_stand_until_they_change() -> None:
    renders = [
        Shown(1_000, 0, SLIPS, "soon", 1),
        Shown(1_010, 1, SLIPS, "soon", 1),
        Shown(1_020, 1, CANCELLED, "soon", 1),
        Shown(5_000, 0, SLIPS, "live", 2),
    ]
    found = showing(renders, SLIPS, 9_000)
    assert found["soon"] == [(1_050, 2), (5_000, 2), (5_050, 1), (9_000, 1)]
    assert found["live"] == [(1_050, 0), (5_000, 0), (5_050, 1), (9_000, 1)]
    assert showing(renders, "event:other", 9_000) == {}


def test_one_class_for_all_leaves_no_rule_and_no_other_default() -> None:
    found = tomllib.loads(one_class(files("dgs.priority").joinpath("default.toml").read_text()))
    assert found["default"] == "critical"
    assert "rules" not in found
    assert set(found["classes"]) == {"critical", "degraded", "best_effort", "bulk"}


def test_a_connect_is_timed_from_its_own_opening() -> None:
    kind = [("device", "<u4"), ("conn", "<u4"), ("step", "<u2"), ("at_s", "<f8")]
    rows = np.array(
        [
            (0, 1, ConnectionStep.OPENING, 1.0),
            (0, 1, ConnectionStep.ENDED, 1.1),
            (0, 2, ConnectionStep.OPENING, 2.0),
            (0, 2, ConnectionStep.WELCOMED, 2.25),
            (1, 1, ConnectionStep.WELCOMED, 9.0),
        ],
        kind,
    )
    found = connects_ms(rows)
    assert (found.count, found.max_ms) == (1, 250.0)


def test_an_event_is_what_the_producer_takes() -> None:
    found = event_request("night", starts_at_ms=1_800_000_000_500, offsets_s={"soon": -90.5, "live": 0, "extra": None})
    assert found["starts_at"] == "2027-01-15T08:00:00.500+00:00"
    assert found["stages"] == [
        {"key": "soon", "offset": "-PT1M30.5S"},
        {"key": "live", "offset": "PT0S"},
        {"key": "extra", "anchor": "manual"},
    ]


def test_what_was_overdue_when_it_became_known_counts_from_its_dispatch() -> None:
    def broadcast(timestamp: int, due: int | None, dispatched: int) -> OutboxBroadcast:
        return OutboxBroadcast(
            topic=SLIPS, state_key="live", timestamp=timestamp, prev=0, due_at=due, dispatched_at=dispatched
        )

    on_time, overdue, cue = broadcast(1, 5_000, 5_002), broadcast(2, 5_000, 905_000), broadcast(3, None, 7_000)
    assert [counted_from_ms(each) for each in (on_time, overdue, cue)] == [5_000, 905_000, 7_000]
    assert late_ms([on_time, overdue, cue]) == {(SLIPS, 2): 900_000}


def test_stages_of_the_same_name_are_told_apart_by_topic(tmp_path: Path) -> None:
    stage = Stage(
        directory=tmp_path, output=tmp_path, beside=tmp_path, reporter=Reporter(as_json=True), seed=1,
        cores=Cores(server=0, load=0),
    )  # fmt: skip
    audit = FleetAudit(
        broadcasts=[
            BroadcastAudit(topic=SLIPS, state_key="soon", timestamp=1, devices=2, delivered_live=2, last_ms=5.0),
            BroadcastAudit(topic=CANCELLED, state_key="soon", timestamp=1, devices=2, delivered_live=2),
            BroadcastAudit(topic=SLIPS, state_key="live", timestamp=2, devices=2, delivered_live=2),
            BroadcastAudit(topic=CANCELLED, state_key="live", timestamp=0),
        ],
        devices=2, unsubscribed=0, missed=0, untold=0, out_of_order=0, wrong_renders=0, unknown_frames=0, not_newest=0,
        provisional_renders=0,
    )  # fmt: skip
    stage.reached(audit, devices=2, outbox=[])
    assert [each.state_key for each in stage.reach] == ["soon (event:slips)", "soon (event:cancelled)", "live"]
    assert stage.reach[0].last_ms == 5.0
