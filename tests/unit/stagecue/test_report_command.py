"""`stagecue report`: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from loadtest.report.files import write_report
from stagecue.cli import cli
from tests.support.run_records import some_record


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, words)], env={"COLUMNS": "200"})


@pytest.fixture
def held(tmp_path: Path) -> Path:
    return write_report(some_record(), tmp_path / "held").parent


def test_a_run_is_shown_with_question_verdict_and_promises(held: Path) -> None:
    result = run("show", held)
    assert result.exit_code == 0, result.output
    for expected in ("Do ten times as many joins", "Held", "last_s", "<= 12 s", "4.2 s", "yes", "shared two cores"):
        assert expected in result.output


def test_a_run_that_does_not_count_is_exit_code_one_and_says_why(tmp_path: Path) -> None:
    late = write_report(some_record(envelope={"valid": False, "invalid_because": "the loop was late"}), tmp_path)
    result = run("show", late)
    assert result.exit_code == 1
    assert "Invalid" in result.output
    assert "the loop was late" in result.output


def test_names_do_not_command_the_terminal(tmp_path: Path) -> None:
    write_report(some_record(title="[red]x\x1b[2Jy", notes=["a\rb\u202ec"]), tmp_path)
    output = run("show", tmp_path).output
    assert "[red]x" in output
    assert not any(character in output for character in "\x1b\r\u202e")


def test_two_runs_alike_are_compared(held: Path, tmp_path: Path) -> None:
    page = tmp_path / "deep" / "both.html"
    result = run("compare", held, held / "report.html", "--output", page)
    assert result.exit_code == 0, result.output
    assert str(page) in result.output.replace("\n", "")
    assert "Comparable" in page.read_text()


def test_runs_that_are_not_alike_are_compared_loudly(held: Path, tmp_path: Path) -> None:
    other = write_report(some_record(devices=2), tmp_path / "other").parent
    result = run("compare", held, other, "--output", tmp_path / "both.html")
    assert result.exit_code == 1
    assert "not comparable: devices: 1,000 in A, 2 in B" in result.output
    assert (tmp_path / "both.html").is_file()


def test_slips_are_exit_code_two_and_say_what_is_wrong(held: Path, tmp_path: Path) -> None:
    for words, told in (
        (("show", tmp_path), "no report here"),
        (("show", tmp_path / "gone"), "no such file"),
        (("compare", held, tmp_path), "no report here"),
        (("compare", held, held, "--output", tmp_path), "is no file"),
        (("compare", held, held, "--output", held / "run.json" / "x"), "cannot be written"),
        (("compare", held), "Missing argument"),
    ):
        result = run(*words)
        assert result.exit_code == 2, words
        assert told in result.output
