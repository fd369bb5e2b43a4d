"""The schema's text: its snapshot, its descriptions, and its agreement with the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from graphql import (
    DefinitionNode,
    EnumTypeDefinitionNode,
    InputObjectTypeDefinitionNode,
    ObjectTypeDefinitionNode,
    ScalarTypeDefinitionNode,
    parse,
    print_ast,
)

import contract
import dgs
from dgs.export_schema import sdl

SNAPSHOT = Path(dgs.__file__).parent / "subgraph.graphql"
CONTRACT = Path(contract.__file__).parent / "broadcasts.graphql"
_Named = ObjectTypeDefinitionNode | InputObjectTypeDefinitionNode | EnumTypeDefinitionNode | ScalarTypeDefinitionNode


def definitions(text: str) -> dict[str, _Named]:
    def named(node: DefinitionNode) -> bool:
        return isinstance(node, _Named)

    return {node.name.value: node for node in parse(text).definitions if named(node)}  # type: ignore[attr-defined,misc]


def shape(node: _Named) -> dict[str, str]:
    return {field.name.value: print_ast(field.type) for field in getattr(node, "fields", ())}


def test_the_snapshot() -> None:
    """The exported schema is the committed one: `python -m dgs.export_schema > dgs/subgraph.graphql` after a change."""
    assert sdl() == SNAPSHOT.read_text()


@pytest.mark.parametrize("name", ["BroadcastChannel", "ChannelTopic", "Timestamp"])
def test_the_channel_is_the_contracts(name: str) -> None:
    """Field for field, type for type, nullability included."""
    ours, agreed = definitions(sdl())[name], definitions(CONTRACT.read_text())[name]
    assert type(ours) is type(agreed)
    assert shape(ours) == shape(agreed)


def test_the_prefetch_half_is_the_designs() -> None:
    """Root fields and the stage map as the device teams were promised them."""
    types = definitions(sdl())
    assert shape(types["StageMap"]) == {
        "event": "LiveEvent!",
        "version": "Int!",
        "revision": "Int!",
        "ttlSeconds": "Int!",
        "serverTime": "Timestamp!",
        "stages": "[StageEntry!]!",
        "byKey": "StageMapJSON!",
        "default": "StageEntry!",
        "refreshUrl": "String",
    }
    assert shape(types["StageEntry"]) == {
        "key": "String!",
        "order": "Int!",
        "startsAt": "Timestamp",
        "headline": "String!",
        "rows": "[Row!]!",
    }
    query = types["Query"]
    assert shape(query) == {
        "prefetchEvent": "StageMap!",
        "prefetchHome": "[StageMap!]!",
        "prefetchTitle": "StageMap",
        "broadcastChannel": "BroadcastChannel!",
        "_entities": "[_Entity]!",
        "_service": "_Service!",
    }
    arguments = {
        field.name.value: {argument.name.value: print_ast(argument.type) for argument in field.arguments or ()}
        for field in query.fields or ()  # type: ignore[union-attr]
    }
    assert arguments["prefetchEvent"] == {"eventId": "ID!", "profileId": "ID!", "device": "DeviceContext"}
    assert arguments["prefetchTitle"] == {"titleId": "ID!", "profileId": "ID!", "device": "DeviceContext"}
    assert arguments["prefetchHome"] == {"profileId": "ID!", "device": "DeviceContext", "within": "Duration"}
    assert arguments["broadcastChannel"] == {"eventIds": "[ID!]!", "profileId": "ID!", "device": "DeviceContext!"}


def test_everything_is_described() -> None:
    """Every type, field, input and enum of ours says what it is."""
    for name, node in definitions(sdl()).items():
        if name.startswith("_"):
            continue
        if name != "Query":
            assert node.description, name
        for field in getattr(node, "fields", None) or ():
            if not field.name.value.startswith("_"):
                assert field.description, f"{name}.{field.name.value}"


def test_entities_have_keys() -> None:
    """Another subgraph can extend Title and LiveEvent by id."""
    text = sdl()
    assert 'type Title @key(fields: "id")' in text
    assert 'type LiveEvent @key(fields: "id")' in text
    assert "federation/v2." in text
