"""The documentation of the DGS says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

import dgs
from contract.runtime.settings import settings_table
from dgs.check_catalog import main
from dgs.settings import DgsSettings
from dgs.sources.tidy import COLUMNS

DOCS = Path(dgs.__file__).parent.parent / "docs"


def test_every_setting_is_in_the_table() -> None:
    """Name and meaning of each setting stand in docs/dgs.md, and no setting that is gone."""
    text = (DOCS / "dgs.md").read_text()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `DGS_")}
    table = settings_table(DgsSettings)
    assert list(rows) == [name for name, *_ in table]
    for name, _, default, meaning in table:
        assert meaning in rows[name]
        assert name == "DGS_CATALOG_PATH" or (default if default not in ("", "None") else "unset") in rows[name]


def test_every_column_is_described() -> None:
    """Each name a column may have is in docs/catalog.md."""
    text = (DOCS / "catalog.md").read_text()
    assert not [name for names in COLUMNS.values() for name in names if f"`{name}`" not in text]


def test_the_example_of_the_checker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file of docs/catalog.md, checked, prints what docs/catalog.md says."""
    text = (DOCS / "catalog.md").read_text().replace("\n    ", "\n")
    example = text.partition("$ cat mine.csv\n")[2].partition("\n\n")[0]
    promised = text.partition("check_catalog mine.csv\n")[2].partition("\n\n")[0]
    path = tmp_path / "mine.csv"
    path.write_text(example + "\n")
    assert main([str(path)]) == 1
    assert capsys.readouterr().out.strip().replace("\n    ", "\n") == promised.strip()
