"""Goal: whatever part of a cluster dies, freezes, forgets or is cut off, a device connected at the end has everything.

The faults of `stagecue bench faults`, each done once to a smaller fleet; one cluster for all of them. What is judged is
the same: outbox, Kafka and every device's record. How long recovery takes is the benchmark's to say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from loadtest.bench.faults.injections import FAULTS, Fault
from loadtest.bench.faults.run import FaultCluster, RunOptions, open_fault_cluster, run_fault
from loadtest.bench.report import Reporter

pytestmark = [
    pytest.mark.external_service,
    pytest.mark.fault,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]

OPTIONS = RunOptions(devices=200, channels=10, channels_per_device=5, lead_s=3.0, warm_s=1.5, hold_s=1.5)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultCluster]:
    directory: Path = tmp_path_factory.mktemp("faults")
    async with open_fault_cluster(directory, Reporter(as_json=True)) as cluster:
        yield cluster


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_nothing_is_missed_and_everybody_ends_at_the_newest_state(fault: Fault, shared: FaultCluster) -> None:
    verdict = await run_fault(fault, shared, OPTIONS, Reporter(as_json=True))
    assert verdict.harm() == [], verdict
    assert verdict.broadcasts > OPTIONS.channels * 5, "the night went on"
    assert verdict.cues > 0
