"""Goal: storms, herds and retries, small, from the command line to the report, on a real system; nothing left running.

Bars here are what holds however busy the machine is; the promised ones, of speed and of ratios, are the scenarios' own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from small_gamedays import ANY, NONE, played, titles

from loadtest.report.histograms import read_histogram

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_a_short_storm(tmp_path: Path) -> None:
    bars = {"attempts_ratio": (">=", 2), "late_devices": NONE, "missing_devices": NONE, "missed": NONE}
    record = played(tmp_path, "reconnect-storm", {"devices": 100, "connect_s": 0.5}, bars)
    assert {"Handshake attempts", "Devices back", "CPU by role"} <= titles(record)
    assert record.reach[-1].state_key == "live"
    assert record.reach[-1].delivered_live + record.reach[-1].replayed == 100
    for each in record.histograms:
        assert read_histogram(tmp_path / "report" / each.path).get_total_count() == 100


def test_naive_devices_ask_and_those_that_prefetched_do_not(tmp_path: Path) -> None:
    bars = {
        "origin_requests_prefetch": NONE,
        "prefetch_peak": NONE,
        "requests_per_device": (">=", 1),
        "missed": NONE,
        "wrong_renders": NONE,
    }
    record = played(tmp_path, "naive-vs-prefetch", {"devices": 60, "stages": 2, "spacing_s": 2.0}, bars)
    assert len(record.reach) >= 2


def test_lifetimes_with_and_without_jitter(tmp_path: Path) -> None:
    bars = {"ratio": (">=", 1.5), "near_stage_jittered": NONE, "real_ratio": ANY, "real_failures": NONE}
    parameters = {"devices": 60, "simulated_devices": 20_000, "lasts_s": 12.0}
    record = played(tmp_path, "fixed-vs-jittered-ttl", parameters, bars)
    assert len(record.charts) >= 2


def test_retries_with_and_without_a_budget(tmp_path: Path) -> None:
    bars = {
        "amplification_budget": ANY,
        "amplification_ratio": (">=", 1),
        "recovery_s_budget": ANY,
        "answered_share_budget": (">=", 0.5),
    }
    parameters = {
        "profiles": 500, "slots": 4, "before_s": 1.0, "trouble_s": 2.0, "after_s": 6.0, "refetch_window_s": 2.0
    }  # fmt: skip
    played(tmp_path, "retry-storm", parameters, bars)
