"""A small game day of any kind, played by the command; what is told of it and what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from loadtest.report.files import read_record
from loadtest.report.record import RunRecord

__all__ = ["ANY", "NONE", "played", "titles"]

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
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    command = ["gameday", str(file), "--json", "--output", str(directory / "report"), "--seed", "3"]
    found = subprocess.run([sys.executable, "-m", "stagecue", *command], capture_output=True, text=True, check=False)
    assert found.returncode in (0, 1), found.stderr
    said = json.loads(found.stdout)
    # Other tests beside it may make it invalid, and nothing else: every bar must hold.
    assert said["verdict"] in ("held", "invalid"), said
    assert [bar for bar in said["bars"] if not bar["held"]] == []
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert "<svg" in (directory / "report" / "report.html").read_text(), "a picture"
    return read_record(directory / "report")


def titles(record: RunRecord) -> set[str]:
    return {chart.title for chart in record.charts}
