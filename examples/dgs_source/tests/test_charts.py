"""The source of this package, as the DGS asks it: copy these with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stagecue_charts.source import OWN_CHARTS, Charts, read_charts

from contract.errors import InvalidRequest
from dgs.model import Profile, Viewing
from dgs.picks import Missing
from dgs.ports import Need
from dgs.sources.catalog import DEMO_CATALOG, Catalog, load_catalog, parse_catalog
from dgs.stage_map import Recommendations

CATALOG = parse_catalog("id,title\na,One\nb,Two\nc,Three\n", "csv")
NEED = Need(k=2, because=1, per_because=4)


def current() -> Catalog:
    return CATALOG


def someone(region: str, *watched: str) -> Profile:
    return Profile(id="p-1", region=region, history=tuple(Viewing(title_id) for title_id in watched))


def ids(answer: Recommendations | Missing) -> list[str]:
    assert isinstance(answer, Recommendations)
    return [title.id for title in answer.ranked]


async def test_a_region_gets_its_chart_and_others_the_default() -> None:
    """In the chart's order, without what was watched or the catalog does not have, no more than were asked for."""
    source = Charts({"GB": ["c", "gone", "b", "a"], "default": ["a", "b", "c"]}, current)
    answers = await source.recommend([someone("GB"), someone("GB", "c"), someone("FR")], NEED, 1.0)
    assert [ids(answer) for answer in answers] == [["c", "b"], ["b", "a"], ["a", "b"]]


async def test_without_a_chart_the_next_source_is_asked() -> None:
    """Missing, with why: a value for this profile alone."""
    answers = await Charts({"GB": ["a"]}, current).recommend([someone("FR"), someone("GB")], NEED, 1.0)
    assert isinstance(answers[0], Missing)
    assert ids(answers[1]) == ["a"]


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """Told by file and reason, as everything the DGS reads at its start."""
    path = tmp_path / "charts.json"
    path.write_text(json.dumps({"GB": "a"}))
    with pytest.raises(InvalidRequest, match=r"charts\.json"):
        read_charts(path)
    with pytest.raises(InvalidRequest, match="No such file"):
        read_charts(tmp_path / "none.json")


def test_the_charts_in_the_package_name_titles_of_the_demo_catalog() -> None:
    """Every id is there, so that the template shows something at once."""
    known = load_catalog(DEMO_CATALOG).by_id
    charts = read_charts(OWN_CHARTS)
    assert "default" in charts
    assert not [title_id for chart in charts.values() for title_id in chart if title_id not in known]
