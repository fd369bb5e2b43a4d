"""Goal: surge, flood, slip and the whole day, small, from the command line to the report; nothing left running.

Bars here are what holds however busy the machine is; the promised ones, of speed and of ratios, are the scenarios' own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_gamedays import ANY, NONE, played

from loadtest.gameday import scenarios

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_a_surge_of_joins(tmp_path: Path) -> None:
    bars = {"critical_success": (">=", 0.5), "prefetch_p99_ms": ANY, "connected_share": ("==", 1)}
    parameters = {
        "devices": 100, "prefetches_per_s": 20.0, "factor": 4.0, "before_s": 1.5, "surge_s": 4.0, "after_s": 1.5,
        "profiles": 500,
    }  # fmt: skip
    played(tmp_path, "join-surge", parameters, bars)


def test_a_flood_of_refreshes(tmp_path: Path) -> None:
    bars = {"critical_success": (">=", 0.5), "critical_p99_ms": ANY, "recovery_s": ANY}
    parameters = {"slots": 4, "before_s": 1.0, "flood_s": 3.0, "after_s": 3.0, "profiles": 500}
    played(tmp_path, "non-critical-flood", parameters, bars)


def test_what_slips_and_what_is_cancelled(tmp_path: Path) -> None:
    bars = {
        "early_renders": NONE,
        "wrong_ends": NONE,
        "missed": NONE,
        "wrong_renders": NONE,
        "origin_requests": NONE,
        "cancelled_last_ms": ANY,
        "live_last_ms": ANY,
    }
    played(tmp_path, "slip-and-cancel", {"devices": 60, "lead_s": 6.0, "slips_before_s": 2.5, "slip_s": 4}, bars)


def test_a_whole_day(tmp_path: Path) -> None:
    projection = "game-day-projection.toml"
    shutil.copy(Path(scenarios.__file__).parent / projection, tmp_path)
    bars = {"missed": NONE, "out_of_order": NONE, "connected_share": ("==", 1), "browse_failures_share": ANY}
    parameters = {"projection": projection, "devices": 100, "browsers_max": 10, "outage_s": 1.0}
    record = played(tmp_path, "game-day", parameters, bars)
    assert record.reach
