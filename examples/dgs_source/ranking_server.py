"""A ranking service for source `http`, to run and to read: genres a profile watched, most of them first.

    python ranking_server.py --port 9000
    DGS_RECOMMENDATIONS=http,catalog DGS_RANKING_URL=http://127.0.0.1:9000/rank stagecue dgs ...

The protocol is in docs/sources.md; nothing here but `load_catalog` is of stagecue.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from dgs.sources.catalog import DEMO_CATALOG, Catalog, load_catalog

__all__ = ["create_app"]


class GenreRanking:
    """Titles by how much of a history shares their genres; the more voted one first where that is equal."""

    def __init__(self, catalog: Catalog) -> None:
        self._titles = sorted(catalog.titles, key=lambda title: (-title.votes, title.id))
        self._genres = {title.id: title.genres for title in catalog.titles}

    def rank(self, history: Sequence[dict[str, Any]], count: int) -> list[str]:
        watched = {seen["title"] for seen in history}
        taste: Counter[str] = Counter()
        for seen in history:
            for genre in self._genres.get(seen["title"], ()):
                taste[genre] += seen["weight"]
        unseen = [title for title in self._titles if title.id not in watched]
        # Sorting is stable: within a score the more voted stay first.
        unseen.sort(key=lambda title: -sum(taste[genre] for genre in title.genres))
        return [title.id for title in unseen[:count]]

    def near(self, title_id: str, watched: set[str], count: int) -> list[str]:
        genres = set(self._genres[title_id])
        alike = [title for title in self._titles if title.id not in watched and genres & set(title.genres)]
        alike.sort(key=lambda title: -len(genres & set(title.genres)))
        return [title.id for title in alike[:count]]

    def answer(self, profile: dict[str, Any], need: dict[str, int]) -> dict[str, Any]:
        history = profile["history"]
        if not history:
            return {"profile": profile["id"], "missing": "nothing watched yet"}
        watched = {seen["title"] for seen in history}
        known = [seen["title"] for seen in history if seen["title"] in self._genres]
        return {
            "profile": profile["id"],
            "ranked": self.rank(history, need["ranked"]),
            "because": [
                {"title": title_id, "near": self.near(title_id, watched, need["near"])}
                for title_id in known[: need["because"]]
            ],
        }


def create_app(catalog: Catalog) -> web.Application:
    """`POST /rank` as docs/sources.md has it."""
    ranking = GenreRanking(catalog)

    async def rank(request: web.Request) -> web.Response:
        asked = await request.json()
        return web.json_response(
            {"recommendations": [ranking.answer(profile, asked["need"]) for profile in asked["profiles"]]}
        )

    app = web.Application()
    app.router.add_post("/rank", rank)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A ranking service for the DGS.")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--catalog", type=Path, default=DEMO_CATALOG, help="the catalog the DGS has")
    given = parser.parse_args()
    web.run_app(create_app(load_catalog(given.catalog)), host="127.0.0.1", port=given.port)
