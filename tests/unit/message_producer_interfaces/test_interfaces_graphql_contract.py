"""The producer's GraphQL types against `contract/broadcasts.graphql`, compared by structure with graphql-core."""

from __future__ import annotations

from pathlib import Path

import pytest
from graphql import GraphQLEnumType, GraphQLInputObjectType, GraphQLObjectType, GraphQLUnionType, build_schema

from message_producer.graphql import build_schema as build_producer_schema

CONTRACT = build_schema((Path(__file__).parents[3] / "contract" / "broadcasts.graphql").read_text())
PRODUCER = build_schema(build_producer_schema().as_str())
OWN_ROOTS = {"Query", "Mutation", "Subscription"}
AGREED = sorted(
    name for name in CONTRACT.type_map if not name.startswith("__") and name not in OWN_ROOTS and name != "Boolean"
)


def structure(schema, name):
    """Fields with arguments and exact types (nullability, lists), values or members of one named type."""
    found = schema.type_map[name]
    if isinstance(found, GraphQLObjectType):
        return {
            field: (str(it.type), {arg: str(a.type) for arg, a in it.args.items()})
            for field, it in found.fields.items()
        }
    if isinstance(found, GraphQLInputObjectType):
        return {field: str(it.type) for field, it in found.fields.items()}
    if isinstance(found, GraphQLEnumType):
        return set(found.values)
    if isinstance(found, GraphQLUnionType):
        return {member.name for member in found.types}
    return type(found).__name__


@pytest.mark.parametrize("name", AGREED)
def test_every_agreed_type_is_told_exactly_as_agreed(name):
    assert name in PRODUCER.type_map, f"{name} is in the contract and not in the producer's schema"
    assert structure(PRODUCER, name) == structure(CONTRACT, name)


def test_the_comparison_covers_the_broadcast_half():
    assert {"Broadcast", "BroadcastChannel", "ChannelTopic", "Continuity", "StreamItem", "Timestamp"} <= set(AGREED)


def test_the_producer_answers_an_event_s_broadcasts():
    query = PRODUCER.query_type
    assert query is not None
    field = query.fields["broadcasts"]
    assert str(field.type) == "[Broadcast!]!"
    assert {name: str(arg.type) for name, arg in field.args.items()} == {"eventId": "ID!"}
