"""The catalog checker: its report and its exit codes."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from dgs.check_catalog import main
from dgs.sources.catalog import DEMO_CATALOG
from dgs.sources.tidy import title_id


def test_the_demo_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    """Usable with a row left out: exit code 1, the row by line, long lists cut for people and whole in JSON."""
    assert main([str(DEMO_CATALOG)]) == 1
    report = capsys.readouterr().out
    assert report.startswith("3200 titles\n1 left out\n  line 3055, column title: missing\n26 put right\n")
    assert "... and 6 more" in report
    assert main([str(DEMO_CATALOG), "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["titles"], len(facts["rejected"]), len(facts["corrected"])) == (3200, 1, 26)


def test_a_refusal_and_a_clean_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2 for a file the service would not start with, 0 for one without a bad row."""
    assert main([str(DEMO_CATALOG), "--strict"]) == 2
    assert capsys.readouterr().out == "refused: films.csv: line 3055, column title: missing\n"
    clean = tmp_path / "clean.csv"
    clean.write_text("title\nSlam\n")
    assert main([str(clean)]) == 0
    capsys.readouterr()
    assert main([str(clean), "--ids"]) == 0
    assert capsys.readouterr().out == f"{title_id('Slam', '')}\tSlam\n"
    assert main([str(tmp_path / "none.csv"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["titles"] == 0


def test_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its URL: the same report, by rows; a refusal says which database, never with a password."""
    path = tmp_path / "titles.db"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE titles (id, title)")
        connection.execute("INSERT INTO titles VALUES ('a', 'Slam'), ('b', NULL)")
    connection.close()
    assert main([f"sqlite:///{path}"]) == 1
    assert capsys.readouterr().out == "1 titles\n1 left out\n  row 2, column title: missing\n0 put right\n"
    assert main([f"sqlite:///{path}", "--query", "SELECT title FROM titles WHERE id = 'a'"]) == 0
    capsys.readouterr()
    assert main([f"sqlite:///{path}", "--strict", "--json"]) == 2
    assert "row 2, column title: missing" in json.loads(capsys.readouterr().out)["refused"]
    assert main(["postgresql+psycopg://me:secret@127.0.0.1:1/titles"]) == 2
    assert "secret" not in capsys.readouterr().out
