"""Goal: a run ends with a record whatever becomes of it: answered, fallen short, cut short, or not to be run at all."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.report import Reporter
from loadtest.gameday.running import check_machine, run_scenario, show
from loadtest.gameday.scenario import Scenario, read_scenario
from loadtest.gameday.stage import Stage
from loadtest.machine import read_machine
from loadtest.report.files import read_record
from stagecue.commands.gameday import gameday

SCENARIO = """
name = "storm"
title = "Storm"
question = "Does it hold?"
kind = "reconnect-storm"
[parameters]
devices = 20
[[bars]]
name = "attempts_ratio"
op = ">="
value = 5
"""


@pytest.fixture
def scenario() -> Scenario:
    return read_scenario(SCENARIO, "storm.toml")


async def found_enough(stage: Stage, parameters: Any) -> str:
    stage.measure(attempts_ratio=12.5, refused_window=0)
    stage.mark("something happened")
    stage.chart("Attempts", "in 100 ms", {"naive": [(0.0, 1.0)]})
    stage.chart("Attempts", "in 100 ms", {"window": [(0.5, 2.0)]})
    stage.note("read this")
    stage.note("read this")
    return f"{parameters.devices} devices did"


async def test_an_answered_run_has_a_report_to_read_back(scenario: Scenario, tmp_path: Path) -> None:
    record = await run_scenario(scenario, output=tmp_path, seed=7, reporter=Reporter(as_json=True), runner=found_enough)
    assert (record.verdict, record.answer) == ("held", "20 devices did")
    assert record.envelope["seed"] == 7
    kept = read_record(tmp_path)
    assert [(bar.name, bar.measured, bar.held) for bar in kept.bars] == [("attempts_ratio", 12.5, True)]
    assert [series.name for chart in kept.charts if chart.title == "Attempts" for series in chart.series] == [
        "naive",
        "window",
    ]
    assert list(kept.notes) == ["read this"]
    assert [mark.label for mark in kept.marks] == ["something happened"]
    assert ("refused_window", "0") in [(fact.label, fact.value) for fact in kept.facts["measured without a bar"]]
    assert ("devices", "20") in [(fact.label, fact.value) for fact in kept.facts["parameters"]]


async def test_the_generator_as_the_limit_voids_the_run(scenario: Scenario, tmp_path: Path) -> None:
    async def lagging(stage: Stage, parameters: Any) -> str:
        stage.invalid("the load generator's loop lagged")
        return await found_enough(stage, parameters)

    record = await run_scenario(scenario, output=tmp_path, seed=1, reporter=Reporter(as_json=True), runner=lagging)
    assert record.verdict == "invalid"
    assert record.envelope["invalid_because"] == "the load generator's loop lagged"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_run_keeps_what_it_had_and_says_partial(
    scenario: Scenario, tmp_path: Path, number: signal.Signals
) -> None:
    ended = []

    async def interrupted(stage: Stage, parameters: Any) -> str:
        stage.measure(attempts_ratio=3.0)
        asyncio.get_running_loop().call_soon(signal.raise_signal, number)
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("tidied up")
        return "never"

    record = await run_scenario(scenario, output=tmp_path, seed=1, reporter=Reporter(as_json=True), runner=interrupted)
    assert record.verdict == read_record(tmp_path).verdict == "partial"
    assert ended == ["tidied up"]
    assert record.bars[0].measured == 3.0
    assert [mark.label for mark in record.marks] == ["interrupted"]


async def test_children_that_die_of_the_same_signal_do_not_hide_it(scenario: Scenario, tmp_path: Path) -> None:
    async def interrupted(stage: Stage, parameters: Any) -> str:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise CouldNotRun("the fleet's process ended") from None
        return "never"

    record = await run_scenario(scenario, output=tmp_path, seed=1, reporter=Reporter(as_json=True), runner=interrupted)
    assert record.verdict == "partial"


async def test_whatever_an_interrupted_run_falls_over_does_not_hide_what_it_had(
    scenario: Scenario, tmp_path: Path
) -> None:
    async def interrupted(stage: Stage, parameters: Any) -> str:
        stage.measure(attempts_ratio=3.0)
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.sleep(30)
        finally:
            raise ConnectionResetError("the node is gone, too")
        return "never"

    record = await run_scenario(scenario, output=tmp_path, seed=1, reporter=Reporter(as_json=True), runner=interrupted)
    assert (record.verdict, record.bars[0].measured) == ("partial", 3.0)


async def test_a_run_that_falls_over_by_itself_is_not_taken_for_interrupted(scenario: Scenario, tmp_path: Path) -> None:
    async def falls(stage: Stage, parameters: Any) -> str:
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await run_scenario(scenario, output=tmp_path / "r", seed=1, reporter=Reporter(as_json=True), runner=falls)
    assert not (tmp_path / "r").exists()


async def test_what_cannot_run_has_no_report(scenario: Scenario, tmp_path: Path) -> None:
    async def missing(stage: Stage, parameters: Any) -> str:
        raise CouldNotRun("gcc is not on PATH")

    output = tmp_path / "reports" / "r"
    with pytest.raises(CouldNotRun, match="gcc"):
        await run_scenario(scenario, output=output, seed=1, reporter=Reporter(as_json=True), runner=missing)
    assert not (tmp_path / "reports").exists()


async def test_the_result_object_has_the_promised_keys(
    scenario: Scenario, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = Reporter(as_json=True)
    record = await run_scenario(scenario, output=tmp_path, seed=1, reporter=reporter, runner=found_enough)
    show(record, tmp_path, reporter)
    found = json.loads(capsys.readouterr().out)
    assert (found["scenario"], found["verdict"]) == ("storm", "held")
    assert found["bars"] == [{"name": "attempts_ratio", "bar": ">= 5 x", "measured": 12.5, "held": True}]
    assert found["report"] == str(tmp_path / "report.html")
    assert {"machine", "versions", "commit", "seed", "started_at", "wall_s", "valid"} <= set(found)


async def test_a_person_reads_names_as_they_are_and_a_share_that_is_not_whole_as_it_is(
    scenario: Scenario, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def nearly(stage: Stage, parameters: Any) -> str:
        stage.measure(attempts_ratio=0.99983, attempts_per_device_window=0.0001)
        return "nearly [all] of them " + "and " * 40

    named = msgspec.structs.replace(scenario, title="Storm [/red]")
    record = await run_scenario(named, output=tmp_path, seed=1, reporter=Reporter(as_json=True), runner=nearly)
    assert ("attempts_per_device_window", "0.0001") in [
        (fact.label, fact.value) for fact in record.facts["measured without a bar"]
    ]
    show(record, tmp_path, Reporter(as_json=False))
    said = capsys.readouterr().out
    assert "Storm [/red]: failed" in " ".join(said.split())
    assert "0.99983 x" in said
    assert record.answer in said


async def test_a_report_that_cannot_be_written_is_refused_before_the_run(scenario: Scenario, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CouldNotRun, match=r"--output: .*file/report cannot be written"):
        await run_scenario(
            scenario, output=tmp_path / "file" / "report", seed=1, reporter=Reporter(as_json=True), runner=found_enough
        )


def test_more_devices_than_a_process_may_open_files_are_refused_with_how_many_fit(scenario: Scenario) -> None:
    facts = read_machine()
    few_files = msgspec.structs.replace(facts, files_per_process=1_024)
    check_machine(scenario.with_devices(500), few_files)
    with pytest.raises(CouldNotRun, match=r"2000 devices on one push node.* 1024 files here: 783 would fit; .*ulimit"):
        check_machine(scenario.with_devices(2_000), few_files)
    every_port = msgspec.structs.replace(facts, port_range=(1_024, 65_535))
    check_machine(scenario.with_devices(500), every_port)
    little_memory = msgspec.structs.replace(facts, memory_available_bytes=200 << 20)
    with pytest.raises(CouldNotRun, match="2000 devices do not fit on this machine as it is set; 0 would"):
        check_machine(scenario.with_devices(2_000), little_memory)


def test_the_command_refuses_with_2_and_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SCENARIO.replace("devices = 20", "devcies = 20"))
    found = CliRunner().invoke(gameday, [str(tmp_path / "mine.toml")])
    assert found.exit_code == 2
    assert "parameters.devcies: no such field; nearest: devices" in found.output.replace("\n", " ").replace("  ", " ")
    assert CliRunner().invoke(gameday, ["no-such-thing"]).exit_code == 2
    assert CliRunner().invoke(gameday, ["reconnect-storm", "--devices", "900000"]).exit_code == 2


def test_the_list_names_every_scenario_and_its_question() -> None:
    found = json.loads(CliRunner().invoke(gameday, ["list", "--json"]).output)
    assert "reconnect-storm" in [each["name"] for each in found["scenarios"]]
    assert all(each["question"].endswith("?") for each in found["scenarios"])
    said = CliRunner().invoke(gameday, ["list"]).output
    assert [each["question"] for each in found["scenarios"] if f"  {each['question']}\n" not in said] == []


def test_help_says_what_a_scenario_asks_and_promises_and_that_there_is_none_of_that_name() -> None:
    said = " ".join(CliRunner().invoke(gameday, ["reconnect-storm", "--help"]).output.split())
    assert "Does the window the server announces flatten" in said
    assert "Holds if attempts_ratio >= 5, late_devices == 0" in said
    found = CliRunner().invoke(gameday, ["reconnect-strom", "--help"])
    assert found.exit_code == 2
    assert "nearest: reconnect-storm" in " ".join(found.output.split())
