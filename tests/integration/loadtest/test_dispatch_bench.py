"""Goal: `bench dispatch`, small, against the real embedded system: all stages reach all devices, JSON is clean."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.system import EmbeddedSystem

RUN = """
import sys
from loadtest.bench.dispatch import DispatchOptions, run_dispatch
sys.exit(run_dispatch(DispatchOptions(devices=40, stages=12, events=3, span_s=4.0, lead_s=3.5), as_json=True))
"""


@pytest.mark.slow
def test_a_small_run() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, timeout=50, check=False)
    found = json.loads(done.stdout)
    assert done.returncode in (0, 1), done.stderr
    assert (found["stages"], found["devices"], found["early"], found["missed"]) == (12, 40, 0, 0)
    for hop in ("dispatched", "published", "routed", "first_device", "last_device"):
        assert 0 <= found[hop]["p50_ms"] <= found[hop]["p99_ms"] <= found[hop]["max_ms"] < 2_000
    assert found["dispatched"]["p50_ms"] <= found["published"]["p50_ms"] <= found["last_device"]["p50_ms"]
    assert found["routed"]["p50_ms"] <= found["last_device"]["p50_ms"]
    assert found["seed"] == 1
    assert {"machine", "versions", "commit", "started_at", "wall_s", "valid"} <= found.keys()
    # No claim about speed here: only that what falls short is speed, never a lost broadcast or an unrecorded hop.
    assert all("p99" in line for line in found["falls_short"])
    assert (done.returncode == 0) == (not found["falls_short"] and found["valid"])


async def test_a_system_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the data directory should be")
    with pytest.raises(CouldNotRun, match="its log ends"):
        async with EmbeddedSystem(tmp_path):
            pass
