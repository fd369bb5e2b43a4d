"""The example of docs/router.md runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

from router_world import FakeLog, FakeReach

from contract.runtime.runner import Readiness
from contract.runtime.system_clock import SystemClock

DOCS = Path(__file__).parents[3] / "docs" / "router.md"


async def test_the_composition_example_builds_a_router() -> None:
    found = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    names = {"log": FakeLog(), "reports": FakeReach(), "clock": SystemClock(), "readiness": Readiness()}
    exec(compile(found[1], str(DOCS), "exec"), names)
    router = names["router"]
    assert router.service.name == "router"  # type: ignore[attr-defined]
    names["node_end"].close()  # type: ignore[attr-defined]
