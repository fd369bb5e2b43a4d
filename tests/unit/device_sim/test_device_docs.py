"""Goal: the pure example of docs/device.md runs as printed."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_pure_example_runs() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "device.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)
    (pure,) = [block for block in blocks if "device.opened" in block]
    names: dict[str, object] = {}
    exec(compile(pure, str(page), "exec"), names)
    assert names["subscribe"].frame.topics == {"event:tyson-paul": None}  # type: ignore[attr-defined]
