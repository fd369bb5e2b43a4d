"""The template package: found through its own metadata without being installed, used, and its tests pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from contract.clock import ManualClock
from contract.errors import InvalidRequest
from dgs.model import Profile
from dgs.ports import Need
from dgs.settings import DgsSettings
from dgs.sources.catalog import DEMO_CATALOG, load_catalog
from dgs.sources.registry import SourceOptions, installed, load_source
from dgs.stage_map import Recommendations
from tests.support.ranking_services import EXAMPLES

ROOT = EXAMPLES.parent.parent
METADATA = (
    "import sys; from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_wheel(sys.argv[1]))"
)


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, with the metadata its build backend makes of its pyproject.toml, on the path."""
    copy = tmp_path / "package"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    made = subprocess.run([sys.executable, "-c", METADATA, str(copy)], cwd=copy, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr.decode()
    monkeypatch.syspath_prepend(str(copy))
    yield copy  # type: ignore[misc]
    for name in [name for name in sys.modules if name.partition(".")[0] == "stagecue_charts"]:
        del sys.modules[name]


async def test_it_is_found_by_its_entry_point(on_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`charts` is a source like the others, with its settings from the environment."""
    catalog = load_catalog(DEMO_CATALOG)
    options = SourceOptions(DgsSettings(), ManualClock(), lambda: catalog)
    assert "charts" in installed("recommendations")
    source = load_source("recommendations", "charts", options)
    (answer,) = await source.recommend([Profile(id="p", region="GB")], Need(4, 0, 0), 1.0)
    assert isinstance(answer, Recommendations)
    assert len(answer.ranked) == 4
    monkeypatch.setenv("CHARTS_PATH", str(on_path / "none.json"))
    with pytest.raises(InvalidRequest, match="CHARTS_PATH"):
        load_source("recommendations", "charts", options)


def test_it_is_gone_without_its_package() -> None:
    """The shared environment does not have it: what the other test found was the copy."""
    assert "charts" not in installed("recommendations")


def test_its_own_tests_pass() -> None:
    """As its author would run them."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:randomly"],
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONPATH": f"{EXAMPLES}{os.pathsep}{ROOT}", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 passed" in ran.stdout
