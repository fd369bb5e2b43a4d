"""Goal: `bench overload` finds what a server sustains, and tells one that gives way from one that does not.

Method: servers that do exactly that, on a real socket, under the real load.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.overload import arena
from loadtest.bench.overload.command import OverloadOptions, measure_overload
from loadtest.bench.overload.figures import OverloadFigures
from loadtest.bench.prefetch.asking import HASH
from loadtest.bench.prefetch.subject import DgsSubject
from loadtest.bench.report import Reporter

PER_S = 400
OPTIONS = OverloadOptions(lasts_s=2.0, profiles=500, slots=4, slot_ms=5.0)


def pretend(monkeypatch: pytest.MonkeyPatch, *, polite: bool) -> None:
    """Have the benchmark start that server instead of our DGS."""

    class Ideal(DgsSubject):
        def program(self) -> Sequence[str]:
            script = Path(__file__).parents[2] / "support" / "ideal_dgs.py"
            return [sys.executable, str(script), str(PER_S), str(int(polite))]

        async def prepare(self) -> None:
            self._form = HASH

        def ready(self, said: Mapping[str, Any]) -> None:
            self._port = int(said["port"])
            self._wanted = "hash"

    monkeypatch.setattr(arena, "DgsSubject", Ideal)


async def measured(monkeypatch: pytest.MonkeyPatch, *, polite: bool) -> OverloadFigures:
    pretend(monkeypatch, polite=polite)
    return await measure_overload(OPTIONS, Reporter(as_json=True))


@pytest.mark.slow
async def test_a_server_that_gives_way_is_found_to(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await measured(monkeypatch, polite=True)
    ranking = found.ranking
    assert 0.5 * PER_S <= ranking.sustained_per_s <= 1.1 * PER_S
    assert ranking.critical.success == 1.0
    assert ranking.other.asked > 5 * ranking.other.good
    assert ranking.other.failed == ranking.critical.failed == 0
    assert ranking.goodput_ratio > 0.7
    assert ranking.recovery_s <= 0.5
    assert (ranking.unloaded.p50_ms or 0) >= 9
    keys = found.keys()
    assert {"critical_success", "critical_p99_ratio", "goodput_ratio", "recovery_s"} <= keys.keys()
    assert {"shed_cost_ratio", "cpu_goodput_ratio", "cpu_goodput_bound", "log_bytes_per_request"} <= keys.keys()
    assert isinstance(keys["shed_cost_ratio"], float), "measured; of some seconds it is noise, below 0 at times"
    found.tabulate(Reporter(as_json=True))


@pytest.mark.slow
async def test_a_server_that_treats_all_alike_falls_short(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await measured(monkeypatch, polite=False)
    assert found.ranking.critical.success < 0.9
    assert any("critical requests were served" in line for line in found.shortfalls())


@pytest.mark.slow
async def test_a_server_that_refuses_everybody_sustains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, polite=True)
    options = OverloadOptions(lasts_s=0.5, profiles=100, slots=4, environment={"DGS_RULESET_PATH": "/dev/null"})
    with pytest.raises(CouldNotRun, match=r"does not sustain 25 requests a second; answered: HTTP/1.1 503"):
        await measure_overload(options, Reporter(as_json=True))
