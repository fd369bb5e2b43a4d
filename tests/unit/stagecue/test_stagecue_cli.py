"""The entry point: help without imports, clear words for a slip of the finger, a lock that names no host."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from stagecue.cli import COMMANDS, cli

ROOT = Path(__file__).parents[3]


def test_help_imports_no_service():
    """`stagecue --help` answers at once because nothing heavy is imported for it."""
    code = (
        "import sys; from click.testing import CliRunner; from stagecue.cli import cli; "
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0; "
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    heavy = {"sqlalchemy", "fastapi", "strawberry", "numpy", "aiohttp", "httpx", "rich", "pydantic", "msgspec"}
    assert heavy.isdisjoint(out.split())


def test_help_lists_every_command_with_its_line():
    result = CliRunner().invoke(cli, ["--help"])
    for name, (_, line) in COMMANDS.items():
        assert name in result.output
        assert line.split(".")[0][:30] in result.output


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_loads_and_shows_examples(name):
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "stagecue " + name in result.output


def test_an_unknown_command_names_those_there_are():
    result = CliRunner().invoke(cli, ["upp"])
    assert result.exit_code == 2
    assert "no command 'upp'" in result.output
    assert "demo" in result.output


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_lock_files_pin_hashes_and_name_no_host(lock):
    """Every requirement is pinned and hashed; no index, no host, no link anywhere."""
    text = (ROOT / lock).read_text()
    assert not re.search(r"https?:|--index|--find-links|--extra-index|@ ", text)
    requirements = [block for block in re.split(r"\n(?=[a-z0-9])", text) if block.strip()]
    assert len(requirements) > 40
    for block in requirements:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+", block), block[:60]
        assert "--hash=sha256:" in block, block[:60]
