"""docs/overload.md has every field there is, examples that can be used, and the code's own numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from dgs.priority.dependencies import fill_of
from dgs.priority.rules import Match, Phase, PhaseTimes, Rule, When
from dgs.priority.ruleset_file import RulesetFile, parse_ruleset
from dgs.priority.shedding import Lane, priority_threshold
from dgs.serving import CLASSES

TEXT = (Path(__file__).parents[3] / "docs" / "overload.md").read_text("utf-8")
SHIPPED = RulesetFile().ruleset


def fields_of(heading: str) -> list[str]:
    """First cells of the table below a heading cell, in code spans."""
    table = TEXT[TEXT.index(f"| {heading} |") :].partition("\n\n")[0]
    return re.findall(r"^\| `([a-z_]+)` \|", table, re.M)


def test_the_example_can_be_used() -> None:
    """As it stands."""
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    ruleset = parse_ruleset(example, "docs/overload.md")
    assert len(ruleset.rules) == 2
    assert ruleset.classes == SHIPPED.classes


@pytest.mark.parametrize(
    ("heading", "kind"), [("field of a rule", Rule), ("field of `match`", Match), ("field of `when`", When)]
)
def test_every_field_is_explained(heading: str, kind: type[msgspec.Struct]) -> None:
    """Neither more nor fewer."""
    assert sorted(fields_of(heading)) == sorted(field.encode_name for field in msgspec.structs.fields(kind))


def test_every_phase_and_class_is_explained() -> None:
    """By name; the lengths of phases are the default ones."""
    assert fields_of("phase") == list(get_args(Phase))
    assert fields_of("class") == list(CLASSES)
    for field in PhaseTimes.__struct_fields__:
        assert f"`{field}`" in TEXT
    assert SHIPPED.phases == PhaseTimes()


def test_the_numbers_are_the_codes() -> None:
    """Thresholds by wait, and how far each class is let into a dependency."""
    lane = Lane(SHIPPED.classes["bulk"], 0.005)
    lane.standing = True
    waits = re.search(r"\| wait, target 5 ms (.*)\|\n", TEXT)
    above = re.search(r"\| priorities shed \| none (.*) \| all \|\n", TEXT)
    assert waits is not None
    assert above is not None
    waits_ms = [float(wait) for wait in re.findall(r"([\d.]+) ms", waits[1])]
    told = [1.0, *map(float, re.findall(r"above ([\d.]+)", above[1])), 0.0]
    thresholds = [priority_threshold(lane.overload(wait_ms / 1000)) for wait_ms in waits_ms]
    assert thresholds == [pytest.approx(value, abs=0.006) for value in told]
    fills = {klass: f"{fill_of(SHIPPED.classes[klass], klass):.2f}" for klass in CLASSES}
    assert f"`degraded` {fills['degraded']} of it, `best_effort` {fills['best_effort']}" in TEXT
    assert f"`bulk` {fills['bulk']}" in TEXT
