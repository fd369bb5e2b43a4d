"""Goal: one short game day from the command line to the report, against a real system, and nothing left running."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from loadtest.report.files import read_record
from loadtest.report.histograms import read_histogram

pytestmark = pytest.mark.slow

SCENARIO = """
name = "short-storm"
title = "Short storm"
question = "Does the window flatten it?"
kind = "reconnect-storm"

[parameters]
devices = 100
connect_s = 0.5

[[bars]]
name = "attempts_ratio"
op = ">="
value = 2

[[bars]]
name = "late_devices"
op = "=="
value = 0

[[bars]]
name = "missing_devices"
op = "=="
value = 0

[[bars]]
name = "missed"
op = "=="
value = 0
"""


@pytest.mark.timeout(90)
def test_a_short_storm(tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(SCENARIO)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    command = ["gameday", str(tmp_path / "short.toml"), "--json", "--output", str(tmp_path / "report"), "--seed", "3"]
    found = subprocess.run([sys.executable, "-m", "stagecue", *command], capture_output=True, text=True, check=False)
    assert found.returncode in (0, 1), found.stderr
    said = json.loads(found.stdout)
    # Other tests beside it may make it invalid, and nothing else: every bar must hold.
    assert said["verdict"] in ("held", "invalid"), said
    assert [bar["name"] for bar in said["bars"] if not bar["held"]] == []
    record = read_record(tmp_path / "report")
    assert {"Handshake attempts", "Devices back", "CPU by role"} <= {chart.title for chart in record.charts}
    assert record.reach[-1].state_key == "live"
    assert record.reach[-1].delivered_live + record.reach[-1].replayed == 100
    for each in record.histograms:
        assert read_histogram(tmp_path / "report" / each.path).get_total_count() == 100
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
