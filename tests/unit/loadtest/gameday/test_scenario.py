"""Goal: a scenario says what it is, or is refused with file, line, field and the nearest known name."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.gameday.kinds import KINDS
from loadtest.gameday.library import load_scenario, shipped_scenarios
from loadtest.gameday.parameters import GameDay, ReconnectStorm
from loadtest.gameday.scenario import ScenarioError, read_scenario

GOOD = """
name = "my-storm"
title = "My storm"
question = "Does it hold?"
kind = "reconnect-storm"

[parameters]
devices = 500
handshakes_per_s = 300

[[bars]]
name = "attempts_ratio"
op = ">="
value = 5

[[bars]]
name = "missed"
op = "=="
value = 0
"""


def refusal(text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        read_scenario(text, "night.toml")
    return str(caught.value)


def test_a_scenario_is_typed_by_its_kind() -> None:
    found = read_scenario(GOOD, "night.toml")
    assert isinstance(found.parameters, ReconnectStorm)
    assert (found.parameters.devices, found.parameters.handshakes_per_s) == (500, 300.0)
    assert [(bar.name, bar.op, bar.value) for bar in found.bars] == [
        ("attempts_ratio", ">=", 5.0),
        ("missed", "==", 0.0),
    ]


@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        ("handshakes_per_s", "handshake_per_s", "night.toml:9: parameters.handshake_per_s: no such field; nearest: "),
        ('kind = "reconnect-storm"', 'kind = "rain"', "night.toml:5: kind: no such kind of run: 'rain'; "),
        ("question =", "qestion =", "night.toml:4: qestion: no such field; nearest: question"),
        ("devices = 500", 'devices = "many"', "night.toml:8: parameters.devices: Expected `int`, got `str`"),
        ("devices = 500", "devices = 3", "night.toml:8: parameters.devices: Expected `int` >= 10"),
        ('name = "missed"', 'name = "mised"', "night.toml:17: bars[1].name: 'mised' is nothing a run of "),
        ('op = "=="', 'op = "="', "night.toml:18: bars[1].op: Invalid enum value '='"),
        ("value = 0", "valeu = 0", "night.toml:19: bars[1].valeu: no such field; nearest: value"),
        ('title = "My storm"\n', "", "night.toml: title: is missing"),
        ('name = "my-storm"', 'name = "My storm"', "night.toml:2: name: a-z, 0-9 and -"),
        ("[parameters]", "[parameters", "night.toml: not TOML:"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(written: str, instead: str, said: str) -> None:
    assert written in GOOD
    assert said in refusal(GOOD.replace(written, instead, 1))


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("join-surge", "factor = 1000\nsurge_s = 1000"),
        ("join-surge", "prefetches_per_s = 1e6"),
        ("non-critical-flood", "slots = 1000000"),
        ("non-critical-flood", "slot_ms = 0.000001"),
        ("retry-storm", "slots = 1000000000"),
    ],
)
def test_more_requests_than_can_be_planned_are_refused_before_anything_starts(kind: str, given: str) -> None:
    bar = next(iter(KINDS[kind].measures))
    text = GOOD.partition("[parameters]")[0].replace("reconnect-storm", kind)
    said = refusal(f'{text}[parameters]\n{given}\n[[bars]]\nname = "{bar}"\nop = ">="\nvalue = 1\n')
    assert "parameters: these come to" in said
    assert "at most 20,000,000" in said


def test_a_run_longer_than_requests_are_remembered_is_refused_before_it() -> None:
    text = GOOD.replace("reconnect-storm", "naive-vs-prefetch").replace("attempts_ratio", "herd_peak")
    said = refusal(text.replace("handshakes_per_s = 300", "stages = 20\nspacing_s = 30"))
    assert "parameters: 20 stages 30 s apart last 600 s; requests are counted over at most 450 s" in said


def test_without_bars_no_run_could_fail() -> None:
    assert "bars: a scenario has at least one" in refusal(GOOD.partition("[[bars]]")[0])


def test_devices_of_the_command_line_follow_the_same_rules() -> None:
    found = read_scenario(GOOD, "night.toml")
    assert found.with_devices(800).devices == 800
    assert isinstance(found.with_devices(800).parameters, ReconnectStorm)
    with pytest.raises(ScenarioError, match="--devices: Expected `int` <= 18000"):
        found.with_devices(1_000_000)
    with pytest.raises(ScenarioError, match="--devices: no devices connect in a run of this kind"):
        load_scenario("non-critical-flood").with_devices(800)


def test_devices_of_the_command_line_stand_instead_of_a_proportion() -> None:
    text = (
        GOOD.replace("reconnect-storm", "game-day")
        .replace("devices = 500", "scale = 0.1")
        .replace("attempts_ratio", "missed")
    )
    found = read_scenario(text.replace("handshakes_per_s = 300", ""), "night.toml").with_devices(50).parameters
    assert isinstance(found, GameDay)
    assert (found.devices, found.scale) == (50, None)


def test_everything_that_ships_is_well_formed_and_named_as_its_file() -> None:
    shipped = shipped_scenarios()
    assert {each.kind for each in shipped} == set(KINDS)
    assert [each.name for each in shipped] == [Path(each.file).stem for each in shipped]
    assert all(load_scenario(each.name).name == each.name for each in shipped)


def test_an_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(ScenarioError, match="naive-vs-prefech: no such scenario; nearest: naive-vs-prefetch"):
        load_scenario("naive-vs-prefech")


def test_a_file_of_ones_own_is_named_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD)
    assert load_scenario(str(tmp_path / "mine.toml")).name == "my-storm"
    with pytest.raises(ScenarioError, match="cannot be read: No such file"):
        load_scenario(str(tmp_path / "other.toml"))
    with pytest.raises(ScenarioError, match="/dev/zero: too large: more than"):
        load_scenario("/dev/zero")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="not UTF-8"):
        load_scenario(str(tmp_path / "bytes.toml"))
