"""Goal: a projection is read from either form, refused by name, and scaled in proportion."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.gameday.library import SHIPPED, read_text
from loadtest.gameday.projection import read_projection
from loadtest.gameday.scenario import ScenarioError

TOML = """
title = "Fight"
devices = 60_000_000
joins_per_s = 600_000
[requests_per_s]
critical = 1_500_000
best_effort = 4e6
"""
CSV = """name,value
# as the forecast's export has it
title,Fight
devices,60000000
joins_per_s,600000
requests_per_s.critical,1500000
requests_per_s.best_effort,4000000
"""


def test_both_forms_say_the_same() -> None:
    assert read_projection(TOML, "night.toml") == read_projection(CSV, "night.csv")


def test_a_file_of_a_spreadsheet_may_begin_with_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "NIGHT.CSV"
    path.write_text("\ufeff" + CSV)
    assert read_projection(read_text(path), str(path)) == read_projection(CSV, "night.csv")


def test_what_is_scaled_keeps_its_proportions() -> None:
    found = read_projection(TOML, "night.toml").scaled(1e-4)
    rates = found.requests_per_s
    assert (round(found.devices), round(found.joins_per_s)) == (6_000, 60)
    assert (round(rates.critical), rates.degraded, round(rates.best_effort)) == (150, 0, 400)


@pytest.mark.parametrize(
    ("text", "file", "said"),
    [
        (TOML.replace("devices", "devcies"), "n.toml", "n.toml: devcies: no such field; nearest: devices"),
        (TOML.replace("critical", "critcal"), "n.toml", "requests_per_s.critcal: no such field; nearest: critical"),
        (CSV.replace("joins_per_s,600000", "joins_per_s,600,000"), "n.csv", "n.csv:5: joins_per_s: a name and a value"),
        (CSV.replace("60000000", "many"), "n.csv", "not a projection: Expected `float`"),
        (TOML.replace("60_000_000", "0"), "n.toml", "devices: a number from 1 on"),
        (TOML.replace("60_000_000", "inf"), "n.toml", "devices: a number from 1 on"),
        (TOML.replace("60_000_000", "nan"), "n.toml", "devices: a number from 1 on"),
        (CSV + "requests_per_s,7\n", "n.csv", "n.csv:8: requests_per_s: stands for one number and for several"),
        ("requests_per_s,7\n" + CSV, "n.csv", "n.csv:7: requests_per_s.critical: stands for one number and for sev"),
        ('devices,"' + "6" * 200_000 + '"', "n.csv", "n.csv: not CSV: field larger than field limit"),
        (TOML.replace("1_500_000", "-1"), "n.toml", "critical: a number from 0 on"),
        (TOML.replace("1_500_000", "nan"), "n.toml", "critical: a number from 0 on"),
        ("devices = ", "n.toml", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, file: str, said: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        read_projection(text, file)
    assert said in str(caught.value)


def test_the_one_that_ships_can_be_read() -> None:
    path = SHIPPED / "game-day-projection.toml"
    assert read_projection(path.read_text(), str(path)).devices > 1_000_000
