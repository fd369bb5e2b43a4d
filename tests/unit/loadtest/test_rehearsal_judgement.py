"""What a rehearsal promises: judged by its outbox, its devices and the real event before and after."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from device_sim.audit import BroadcastAudit, FleetAudit
from loadtest.bench.outcome import CouldNotRun
from loadtest.gameday.bars import judged, verdict_of
from loadtest.gameday.rehearsal_judgement import (
    MEASURES,
    RealEvent,
    bars,
    expected_stages,
    map_gaps,
    measures,
    reach_of,
    real_changes,
)
from loadtest.machine.here import is_here

ALL, WEST = "shadow:s", "shadow:s@west"
BEFORE = RealEvent(revision=3, version=1, broadcasts=1, audited=4, due=1)


def occurrence(topic: str, stage: str, order: int, due_at_ms: int | None) -> dict[str, Any]:
    return {"topic": topic, "stage": stage, "order": order, "due_at_ms": due_at_ms}


def audit(*broadcasts: BroadcastAudit, **changes: int) -> FleetAudit:
    found = FleetAudit(
        broadcasts=list(broadcasts), devices=10, unsubscribed=0, missed=0, untold=0, out_of_order=0, wrong_renders=0,
        unknown_frames=0, not_newest=0, provisional_renders=0,
    )  # fmt: skip
    return msgspec.structs.replace(found, **changes)


def sent(topic: str, key: str, devices: int, last_ms: float | None = 12.0) -> BroadcastAudit:
    return BroadcastAudit(topic=topic, state_key=key, timestamp=1, devices=devices, last_ms=last_ms)


def test_of_stages_due_together_the_last_alone_is_expected_and_manual_ones_are_not() -> None:
    shadow = {
        "occurrences": [
            occurrence(ALL, "soon", 0, 10),
            occurrence(ALL, "live", 1, 10),
            occurrence(ALL, "goal", 2, None),
            occurrence(WEST, "soon", 0, 10),
            occurrence(WEST, "live", 1, 20),
        ]
    }
    assert expected_stages(shadow) == {(ALL, "live"), (WEST, "soon"), (WEST, "live")}


def test_a_perfect_night_holds_every_bar() -> None:
    found = measures({(ALL, "live")}, audit(sent(ALL, "live", 10)), {ALL: 10}, asked=0)
    held = judged(bars(last_within_s=5), MEASURES, found | {"real_map_gaps": 0, "real_changes": 0})
    assert [bar.name for bar in held] == [*(name for name in MEASURES if name != "last_s"), "last_s"]
    assert verdict_of(held, invalid=(), partial=False) == "held"


@pytest.mark.parametrize(
    ("found", "broken"),
    [
        (measures({(ALL, "live")}, audit(), {}, asked=0), {"stages_missing", "last_s"}),
        (measures({(ALL, "live")}, audit(sent(ALL, "live", 9)), {ALL: 10}, asked=0), {"missed"}),
        (measures({(ALL, "live")}, audit(sent(ALL, "live", 10), missed=1), {ALL: 10}, asked=0), {"missed"}),
        (measures({(ALL, "live")}, audit(sent(ALL, "live", 10), wrong_renders=1), {ALL: 10}, asked=0), {"wrong"}),
        (measures({(ALL, "live")}, audit(sent(ALL, "live", 10), unknown_frames=1), {ALL: 10}, asked=0), {"unknown"}),
        (measures({(ALL, "live")}, audit(sent(ALL, "live", 10)), {ALL: 10}, asked=3), {"asked"}),
        (measures({(ALL, "live")}, audit(sent(ALL, "live", 10, 5_001.0)), {ALL: 10}, asked=0), {"last_s"}),
    ],
)
def test_what_went_wrong_breaks_its_own_bar(found: dict[str, float | None], broken: set[str]) -> None:
    judgement = judged(bars(last_within_s=5), MEASURES, found | {"real_map_gaps": 0, "real_changes": 0})
    assert {bar.name for bar in judgement if not bar.held} == broken
    assert verdict_of(judgement, invalid=(), partial=False) == "failed"


def test_reach_names_the_topic_where_a_stage_has_several() -> None:
    found = reach_of(audit(sent(ALL, "live", 10), sent(WEST, "live", 5), sent(ALL, "ended", 10)))
    assert [each.state_key for each in found] == [f"live ({ALL})", f"live ({WEST})", "ended"]


def test_a_map_without_rows_for_a_stage_is_a_gap() -> None:
    rows = [{"heading": "x", "titles": [{"name": "A"}]}]
    entries = {"soon": {"rows": rows}, "live": {"rows": [{"heading": "x", "titles": []}]}, "ended": {"rows": []}}
    assert map_gaps(["soon", "live", "ended", "replay"], entries) == ["live", "ended", "replay"]


@pytest.mark.parametrize(
    ("changed", "unexplained"),
    [
        ({}, 0),
        ({"revision": 4}, 1),
        ({"version": 2}, 1),
        ({"broadcasts": 2}, 1),
        ({"broadcasts": 2, "due": 2}, 0),
        ({"due": 2}, 0),
        ({"revision": 5, "broadcasts": 3}, 4),
        ({"revision": 5, "broadcasts": 3, "audited": 5}, 0),
    ],
)
def test_what_changed_in_the_real_event_is_explained_by_operators_and_time_or_not(
    changed: dict[str, int], unexplained: int
) -> None:
    assert real_changes(BEFORE, msgspec.structs.replace(BEFORE, **changed)) == unexplained


def test_this_machine_is_told_from_others() -> None:
    assert is_here("http://127.0.0.1:8400")
    assert is_here("ws://127.8.4.2/v1/stream")
    assert is_here("http://[::1]:1")
    assert is_here("http://localhost")
    assert not is_here("http://192.0.2.1")
    for unknown in ("http://no.such.host.invalid", "http://", "http://[bad", "127.0.0.1:8401"):
        with pytest.raises(CouldNotRun):
            is_here(unknown)
