"""`stagecue gameday rehearse` and `stagecue device`: what they take and refuse before anything is asked of a system."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from stagecue.commands.device import device
from stagecue.commands.gameday import gameday


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--over", "10s", "--compress", "5", "--token", "t"], "--over and --compress: one of the two"),
        (["--over", "soon", "--token", "t"], "'soon': write 60s, 2m or PT1M30S"),
        (["--dgs", "example.org", "--token", "t"], "'example.org' is no http(s) address"),
        (["--compress", "0.5", "--token", "t"], "0.5 is not in the range x>=1"),
        ([], "no operator token"),
        (["--token", "t", "--sign-profiles"], "no keys in"),
        (["--token", "t", "--producer", "http://192.0.2.1:8400"], "192.0.2.1:8400 is outside this machine: --remote"),
        (["--token", "t", "--producer", "http://127.0.0.1:1"], "no operator API at http://127.0.0.1:1"),
    ],
)
def test_a_rehearsal_that_cannot_be_ends_with_2(words: list[str], told: str, tmp_path: Path) -> None:
    given = ["rehearse", "--event", "night", "--data-dir", str(tmp_path), *words]
    done = CliRunner(env={"STAGECUE_TOKEN": None, "STAGECUE_URL": None}).invoke(gameday, given)
    assert done.exit_code == 2, done.output
    assert told in " ".join(done.output.split())
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_could_not_be_written_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    given = ["rehearse", "--event", "../night", "--token", "t", "--producer", "http://127.0.0.1:1"]
    done = CliRunner().invoke(gameday, [*given, "--output", str(tmp_path / "file" / "report")])
    assert done.exit_code == 2
    assert "cannot be written: Not a directory" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Missing option '--event'"),
        (["--event", "night", "--push", "http://x"], "ws://host:port/path or wss://"),
        (["--event", "night", "--dgs", "x"], "'x' is no http(s) address"),
        (["--event", "night", "--kind", "TOASTER"], "'TOASTER' is not one of"),
        (["--event", "night", "--for", "0"], "0.0 is not in the range 0<x"),
    ],
)
def test_a_device_that_cannot_be_ends_with_2(words: list[str], told: str) -> None:
    done = CliRunner(env={"STAGECUE_DGS_URL": None}).invoke(device, words)
    assert done.exit_code == 2, done.output
    assert told in done.output
