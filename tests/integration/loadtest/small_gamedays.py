"""A small game day of any kind, played by the command; what is told of it and what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from loadtest.report.files import read_record
from loadtest.report.record import RunRecord

__all__ = ["ANY", "NONE", "played", "titles"]

MARK = "STAGECUE_TEST_DIRECTORY"
"""Inherited by whatever a run starts, however deep."""
NONE = ("==", 0)
ANY = (">=", 0)


def scenario(kind: str, parameters: dict[str, Any], bars: dict[str, tuple[str, float]]) -> str:
    lines = [f'name = "small"\ntitle = "Small"\nquestion = "Does it run?"\nkind = "{kind}"\n\n[parameters]']
    lines += [f"{name} = {json.dumps(value)}" for name, value in parameters.items()]
    lines += [f'\n[[bars]]\nname = "{name}"\nop = "{op}"\nvalue = {value}' for name, (op, value) in bars.items()]
    return "\n".join(lines) + "\n"


def played(directory: Path, kind: str, parameters: dict[str, Any], bars: dict[str, tuple[str, float]]) -> RunRecord:
    """The record of one run, all of whose bars held."""
    file = directory / "small.toml"
    file.write_text(scenario(kind, parameters, bars))
    command = ["gameday", str(file), "--json", "--output", str(directory / "report"), "--seed", "3"]
    found = subprocess.run(
        [sys.executable, "-m", "stagecue", *command],
        capture_output=True, text=True, check=False, env={**os.environ, MARK: str(directory)},
    )  # fmt: skip
    assert found.returncode in (0, 1), found.stderr
    said = json.loads(found.stdout)
    # Other tests beside it may make it invalid, and nothing else: every bar must hold.
    assert said["verdict"] in ("held", "invalid"), said
    short = [bar for bar in said["bars"] if not bar["held"]]
    assert not short, short
    left = marked(directory)
    assert not left, left
    assert "<svg" in (directory / "report" / "report.html").read_text(), "a picture"
    return read_record(directory / "report")


def marked(directory: Path) -> list[list[str]]:
    """Command lines of what a run in this directory left running."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(directory):
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found


def titles(record: RunRecord) -> set[str]:
    return {chart.title for chart in record.charts}
