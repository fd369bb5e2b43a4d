"""What an operation selects, as GraphQL itself collects it: fragments, aliases and merged fields are resolved. Pure.

graphql-core's own collecting does the work, so that nothing here has an opinion on what a document means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from graphql import (
    BooleanValueNode,
    DirectiveNode,
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLObjectType,
    GraphQLSchema,
    Node,
    OperationDefinitionNode,
    VariableNode,
    get_named_type,
    get_variable_values,
    is_leaf_type,
    is_object_type,
)
from graphql.execution.collect_fields import FieldDetails, FragmentDetails, collect_fields, collect_subfields
from graphql.execution.values import VariableValues

__all__ = ["Field", "NotPlain", "Root", "Selection", "condition_names", "select"]

_CONDITIONAL = ("include", "skip")


class NotPlain(Exception):
    """An operation, or an answer of it, that is left to the schema's own execution; says why."""


class Field(NamedTuple):
    """One key of an answer's object."""

    key: str
    """Response key: the alias, or the name."""
    name: str
    inner: Selection | None = None
    """What is selected of an object, or of every object of a list; None for a leaf."""


class Selection(NamedTuple):
    """Fields of one object type, in answer order. Equal selections are equal values, whoever wrote them."""

    type: str
    fields: tuple[Field, ...]


class Root(NamedTuple):
    """A root field and the node its arguments stand in."""

    field: Field
    node: FieldNode


def condition_names(document: DocumentNode) -> tuple[str, ...]:
    """Variables that @skip or @include ask, sorted. Raises NotPlain for any other directive in use."""
    names: set[str] = set()
    for node in _nodes(document):
        if not isinstance(node, DirectiveNode):
            continue
        if node.name.value not in _CONDITIONAL:
            raise NotPlain(f"directive @{node.name.value}")
        for argument in node.arguments or ():
            if isinstance(argument.value, VariableNode):
                names.add(argument.value.name.value)
            elif not isinstance(argument.value, BooleanValueNode):
                raise NotPlain(f"@{node.name.value} of something else than a Boolean")
    return tuple(sorted(names))


def select(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    conditions: Mapping[str, bool],
) -> tuple[Root, ...]:
    """The operation's root fields, with `conditions` for the variables of its directives.

    The document must be valid. Raises NotPlain for what is collected otherwise than from fields alone.
    """
    asked = [node for node in operation.variable_definitions or () if node.variable.name.value in conditions]
    values = get_variable_values(schema, asked, dict(conditions))
    if isinstance(values, list):
        raise NotPlain("a directive's variable is no Boolean")
    assert schema.query_type is not None
    collector = _Collector(schema, document, operation, values)
    collected = collect_fields(schema, collector.fragments, values, schema.query_type, operation)
    if collected.new_defer_usages:
        raise NotPlain("@defer")
    return tuple(
        Root(collector.field(schema.query_type, key, details), details[0].node)
        for key, details in collected.grouped_field_set.items()
    )


class _Collector:
    def __init__(
        self, schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode, values: VariableValues
    ) -> None:
        self._schema = schema
        self._operation = operation
        self._values = values
        self.fragments: dict[str, FragmentDetails] = {}
        for definition in document.definitions:
            if isinstance(definition, FragmentDefinitionNode):
                if definition.variable_definitions:
                    raise NotPlain("a fragment with variables")
                self.fragments[definition.name.value] = FragmentDetails(definition)

    def field(self, parent: GraphQLObjectType, key: str, details: list[FieldDetails]) -> Field:
        name = details[0].node.name.value
        if name == "__typename":
            return Field(key, name)
        definition = parent.fields.get(name)
        if definition is None:
            raise NotPlain(f"field {name}")
        if definition.args and parent is not self._schema.query_type:
            raise NotPlain(f"arguments of {parent.name}.{name}")
        inner = get_named_type(definition.type)
        if is_leaf_type(inner):
            return Field(key, name)
        if not is_object_type(inner):
            raise NotPlain(f"abstract type {inner.name}")
        return Field(key, name, self._selection(inner, details))

    def _selection(self, of: GraphQLObjectType, details: list[FieldDetails]) -> Selection:
        collected = collect_subfields(self._schema, self.fragments, self._values, self._operation, of, details)
        if collected.new_defer_usages:
            raise NotPlain("@defer")
        return Selection(of.name, tuple(self.field(of, *each) for each in collected.grouped_field_set.items()))


def _nodes(node: Node) -> Iterator[Node]:
    """The node and everything below it; depth is bounded by what the parser takes."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        for key in node.keys:
            below = getattr(node, key, None)
            if isinstance(below, Node):
                waiting.append(below)
            elif isinstance(below, (list, tuple)):
                waiting.extend(each for each in below if isinstance(each, Node))
