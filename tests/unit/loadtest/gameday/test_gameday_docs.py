"""Goal: docs/gamedays.md names every scenario, parameter and measure there is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from loadtest.gameday.kinds import KINDS

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "gamedays.md").read_text()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_is_described_in_full(kind: str) -> None:
    _, found, section = PAGE.partition(f"\n### `{kind}`\n")
    assert found
    section = section.partition("\n### ")[0]
    named = [field.name for field in msgspec.structs.fields(KINDS[kind].parameters)] + list(KINDS[kind].measures)
    assert [name for name in named if f"\n| `{name}` |" not in section] == []
    assert f"| `{kind}` |" in PAGE.partition("\n### ")[0]
