"""Source `charts`: the same titles for everybody of a region, in the order editors chose, without those watched.

Charts are a JSON object of region (or `default`) to title ids, at CHARTS_PATH; without it the ones in this package.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from contract.errors import InvalidRequest
from dgs.model import Profile
from dgs.picks import Missing
from dgs.ports import Need
from dgs.sources.catalog import Catalog
from dgs.sources.registry import SourceOptions
from dgs.stage_map import Recommendations

__all__ = ["Charts", "create", "read_charts"]

DEFAULT = "default"
OWN_CHARTS = Path(__file__).with_name("charts.json")


class Charts:
    """What the DGS asks: an object with `name` and `recommend`. Also `aclose` and `stats`, where there is a need."""

    name = "charts"

    def __init__(self, charts: Mapping[str, Sequence[str]], catalog: Callable[[], Catalog]) -> None:
        self._charts = charts
        self._catalog = catalog

    async def recommend(
        self, profiles: Sequence[Profile], need: Need, deadline_s: float
    ) -> Sequence[Recommendations | Missing]:
        """One for each profile, in order. Everything is in memory here: else keep within `deadline_s`."""
        # Asked every time: a reload replaces it.
        titles = self._catalog().by_id
        answers: list[Recommendations | Missing] = []
        for profile in profiles:
            chart = self._charts.get(profile.region) or self._charts.get(DEFAULT, ())
            watched = {seen.title_id for seen in profile.history}
            ranked = [titles[title_id] for title_id in chart if title_id in titles and title_id not in watched]
            # Missing is no failure: the next source of DGS_RECOMMENDATIONS is asked for this profile.
            answers.append(Recommendations(tuple(ranked[: need.k])) if ranked else Missing("no chart for the region"))
        return answers


def create(options: SourceOptions) -> Charts:
    """The entry point: called once, at start; it may read files. What it raises is told with the source's name."""
    assert options.catalog is not None, "recommendation sources are given the catalog"
    return Charts(read_charts(Path(os.environ.get("CHARTS_PATH", OWN_CHARTS))), options.catalog)


def read_charts(path: Path) -> Mapping[str, Sequence[str]]:
    """Raises InvalidRequest naming the file and what is wrong with it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
    except OSError as exc:
        raise InvalidRequest(f"{path}: cannot be read: {exc.strerror}", field="CHARTS_PATH") from exc
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"{path}: {exc}", field="CHARTS_PATH", rule="region -> list of title ids") from exc
