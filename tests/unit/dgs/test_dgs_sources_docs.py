"""docs/sources.md and docs/sharding.md say what the code does."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest

import dgs
from contract.clock import ManualClock
from contract.errors import InvalidRequest
from contract.schedule import TopicSchedule
from dgs.check_catalog import main
from dgs.model import Profile, Title, Viewing
from dgs.picks import Missing
from dgs.ports import Need
from dgs.settings import DgsSettings
from dgs.sharding.clusters import Part, parse_clusters
from dgs.sharding.scaling import scaling_report
from dgs.sources.ranking_wire import encode_ask, read_answer
from dgs.sources.registry import BUILT_IN, GROUPS, SourceOptions, load_source
from dgs.stage_map import Recommendations

DOCS = Path(dgs.__file__).parent.parent / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)


def test_what_is_asked_of_a_ranking_service() -> None:
    """The example is what the DGS sends, byte for byte but for white space."""
    asked = json.loads(blocks("sources.md", "json")[0])
    profiles = [
        Profile(id="p-17", region="GB", locale="en-GB", history=(Viewing("alien-388c56e6", 0.8),)),
        Profile(id="p-18", region="US", locale="en-US"),
    ]
    assert json.loads(encode_ask(profiles, Need(36, 3, 24), 0.25)) == asked


def test_what_a_ranking_service_answers() -> None:
    """The example is understood."""
    body = blocks("sources.md", "json")[1].encode()
    titles = {each: Title(id=each, name="x") for each in ("the-sting-f0a5ab2f", "alien-388c56e6", "...")}
    read = read_answer(body, frozenset({"p-17", "p-18"}), Need(36, 3, 24), titles)
    assert read.found["p-18"] == Missing("nothing watched yet")
    answer = read.found["p-17"]
    assert isinstance(answer, Recommendations)
    assert len(answer.ranked) == 2
    assert [(seen.id, len(near)) for seen, near in answer.because] == [("alien-388c56e6", 1)]
    assert (read.strangers, read.malformed, read.unknown_titles) == (0, 0, 0)


def test_every_source_and_setting_is_named() -> None:
    """Names, groups and settings of sources; the refusal of an unknown one as it is printed."""
    text = (DOCS / "sources.md").read_text()
    for kind, points in BUILT_IN.items():
        assert f"`{GROUPS[kind]}`" in text
        assert all(f"`{name}`" in text for name in points)
    for name in DgsSettings.model_fields:
        if name.startswith("ranking_"):
            assert f"DGS_{name.upper()}" in text
    with pytest.raises(InvalidRequest) as refused:
        load_source("recommendations", "nonesuch", SourceOptions(DgsSettings(), ManualClock()))
    assert str(refused.value) in text


def test_the_clusters_of_the_page() -> None:
    """The file parses; its misspelt bound is refused in the words of the page; defaults are those of the table."""
    text = (DOCS / "sharding.md").read_text()
    (example,) = blocks("sharding.md", "toml")
    assert list(parse_clusters(example).by_name) == ["main", "night"]
    with pytest.raises(InvalidRequest) as refused:
        parse_clusters(example.replace("max = 400", "maximum = 400"), source="clusters.toml")
    assert str(refused.value) in text
    part = Part(urls=())
    assert f"{part.min}, {part.max}, `{part.lead_time}`" in text


def test_the_report_of_the_page() -> None:
    """`GET /scaling` with these clusters, at the start of an event of an hour, says what the page shows."""
    shown = json.loads(blocks("sharding.md", "json")[0])
    night = TopicSchedule(
        topic="event:tyson-paul",
        event_id="tyson-paul",
        title="x",
        revision=1,
        version=1,
        starts_at=shown["at"],
        ends_at=shown["at"] + 3_600_000,
    )
    clusters = parse_clusters(blocks("sharding.md", "toml")[0])
    said = json.loads(scaling_report(clusters, [night], shown["at"], open_ended_ms=0))
    push = said["clusters"]["night"]["push"]
    assert {**push, "steps": push["steps"][:2]} == shown["clusters"]["night"]["push"]


def test_the_checker_on_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report of docs/catalog.md, of a database that has such a row."""
    path = tmp_path / "titles.db"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE films (title, year)")
        connection.executemany(
            "INSERT INTO films VALUES (?, ?)", [("A", 1998), ("B", 1999), ("C", None), ("D", "someday")]
        )
    connection.close()
    assert main([f"sqlite:///{path}", "--query", "SELECT * FROM films"]) == 1
    report = "".join(f"    {line}\n" for line in capsys.readouterr().out.splitlines())
    assert report in (DOCS / "catalog.md").read_text()
