"""What federation gateways and browsers ask: entities in batches, introspection only where it is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from dgs_world import World
from graphql import get_introspection_query

from dgs.loaders import MAX_ENTITIES
from dgs.prefetch import Prefetch

ENTITIES = """query($of: [_Any!]!) { _entities(representations: $of) {
  ... on Title { id name artwork { url } } ... on LiveEvent { id title } } }"""


async def test_entities_are_loaded_once_per_kind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many representations of however many titles and events: one load each, none twice, order kept."""
    await world.plan()
    calls: list[tuple[str, tuple[str, ...]]] = []
    titles, events = Prefetch.titles, Prefetch.events

    def count_titles(self: Prefetch, ids: list[str]) -> Any:
        calls.append(("titles", tuple(ids)))
        return titles(self, ids)

    async def count_events(self: Prefetch, ids: list[str]) -> Any:
        calls.append(("events", tuple(ids)))
        return await events(self, ids)

    monkeypatch.setattr(Prefetch, "titles", count_titles)
    monkeypatch.setattr(Prefetch, "events", count_events)
    found = await world.prefetch()
    shown = [title["id"] for row in found["stages"][0]["rows"] for title in row["titles"]]
    wanted = [
        *({"__typename": "Title", "id": title_id} for title_id in (*shown, "gone", shown[0])),
        {"__typename": "LiveEvent", "id": "tyson-paul"},
        {"__typename": "LiveEvent", "id": "no-such"},
    ]
    answer = await world.ask(ENTITIES, of=wanted)
    entities = answer["data"]["_entities"]
    assert [each and each["id"] for each in entities] == [*shown, None, shown[0], "tyson-paul", None]
    assert sorted(calls) == [("events", ("tyson-paul", "no-such")), ("titles", (*shown, "gone"))]


async def test_two_fields_may_share_their_representations(world: World) -> None:
    """One variable for two aliases, as gateways that put several fetches into one document send it."""
    await world.plan()
    document = "query($of: [_Any!]!) { a: _entities(representations: $of) { ... on LiveEvent { id } } " + (
        "b: _entities(representations: $of) { ... on LiveEvent { title } } }"
    )
    answer = await world.ask(document, of=[{"__typename": "LiveEvent", "id": "tyson-paul"}])
    assert answer == {"data": {"a": [{"id": "tyson-paul"}], "b": [{"title": "Tyson vs. Paul"}]}}


async def test_entities_are_bounded(world: World) -> None:
    """Too many of one request are refused by rule, whatever they are."""
    answer = await world.ask(
        ENTITIES, of=[{"__typename": "Title", "id": f"t{number}"} for number in range(MAX_ENTITIES + 1)]
    )
    assert all(error["extensions"]["code"] == "invalid_request" for error in answer["errors"])
    assert answer["errors"][0]["extensions"]["rule"] == f"at most {MAX_ENTITIES}"


async def test_introspection_is_off_unless_allowed(bare_world: World) -> None:
    """Off by default, on in development; `__typename` is nobody's secret."""
    for settings, allowed in (({}, False), ({"introspection": True}, True), ({"graphiql": True}, True)):
        async with bare_world.client(bare_world.build(**settings)) as bare_world.http:
            answer = await bare_world.ask(get_introspection_query())
            assert ("errors" not in answer) == allowed
            if not allowed:
                assert answer["errors"][0]["extensions"]["code"] == "invalid_request"
            assert (await bare_world.ask("{ __typename }"))["data"] == {"__typename": "Query"}
