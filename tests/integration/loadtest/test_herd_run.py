"""Goal: `bench herd`, small, on a real cluster: every stage by its schedule, churn, a node killed, none missed.

No claim about speed: other tests may run beside it. What falls short may only be speed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from loadtest.report.files import read_record

pytestmark = [pytest.mark.external_service, pytest.mark.slow, pytest.mark.timeout(120)]

RUN = """
import sys
from pathlib import Path
from loadtest.bench.herd.command import run_herd
from loadtest.bench.herd.options import HerdOptions
options = HerdOptions(sizes=(300,), profiles=300, keep=Path(sys.argv[1]), report=Path(sys.argv[2]))
sys.exit(run_herd(options, as_json=True))
"""


def test_a_small_herd_misses_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "kept"), str(tmp_path / "report")],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    assert (found["devices"], found["nodes"], found["profiles"]) == (300, 2, 300)
    assert (found["missed"], found["after_churn_missed"], found["after_node_kill_missed"]) == (0, 0, 0)
    assert found["other_missed"] == 0
    assert found["origin_requests_during_broadcast"] == 0
    assert found["killed_devices"] > 100
    assert 0 < found["first_s"] <= found["p50_s"] <= found["p99_s"] <= found["last_s"]
    assert found["kernel_bytes_per_device"] > 1_000
    assert found["client_us_per_connect"] > 0
    assert [each["delivered_live"] + each["replayed"] for each in found["stages"]] == [300, 300, 300]
    assert all("promised" in line for line in found["falls_short"])
    record = read_record(Path(found["report"]))
    assert [each.missed for each in record.reach] == [0, 0, 0]
    assert {"Devices", "CPU by role", "Memory by role"} <= {chart.title for chart in record.charts}
    ours = [process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(process.info["cmdline"])]
    assert not [process for process in ours if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
