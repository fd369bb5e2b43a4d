"""An operation as root fields with known arguments, once per document; its answers are folded from it. Pure.

`compile_operation` gives a value either way: a Plan, or NotFast with the reason, which is counted and documented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec
from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLField,
    GraphQLSchema,
    Node,
    OperationDefinitionNode,
    OperationType,
    Undefined,
    VariableNode,
    get_argument_values,
    get_variable_values,
)
from graphql.execution.values import VariableValues

from dgs.operations.fold import check_foldable
from dgs.operations.selection import NotPlain, Root, Selection, condition_names, select

__all__ = ["ROOTS", "NotFast", "Operation", "Plan", "RootPlan", "compile_operation", "find_operation", "read_variables"]

ROOTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "prefetchEvent": ("eventId", "profileId", "device"),
    "prefetchTitle": ("titleId", "profileId", "device"),
    "prefetchHome": ("within", "profileId", "device"),
    "broadcastChannel": ("eventIds", "profileId", "device"),
}
"""Root fields answered here, and their arguments in the order of `RootPlan.plain`: what, for whom, on what."""
_MAX_CONDITIONS: Final = 3
"""Variables of directives: each doubles the plans of an operation."""
_MAX_ROOTS: Final = 8


class NotFast(NamedTuple):
    """The operation is left to the schema's own execution. A value: it is still answered."""

    why: str


class RootPlan(NamedTuple):
    """One root field."""

    key: str
    """Response key."""
    name: str
    selection: Selection
    node: FieldNode
    definition: GraphQLField | None
    """None for `__typename`, which has no arguments and is a constant."""
    plain: tuple[tuple[Any, str | None], ...] | None
    """Per argument of ROOTS (constant, None) or (None, variable); None: only `exact_arguments` knows them."""
    shape: bytes
    """Digest of the selection: plans that select alike share what is folded."""
    lead: bytes
    """The response key in JSON, and a colon."""
    moves: bool = False
    """It asks where to refresh: its text depends on the profile's cluster."""

    def exact_arguments(self, variables: VariableValues) -> list[Any] | None:
        """The same arguments by GraphQL's own coercion; None if it refuses them. Absent ones are None."""
        assert self.definition is not None
        try:
            values = get_argument_values(self.definition, self.node, variables)
        except GraphQLError:
            return None
        return [values.get(name) for name in ROOTS[self.name]]


class Plan(NamedTuple):
    """An operation with its directives decided."""

    roots: tuple[RootPlan, ...]
    maps: int
    """How many root fields build maps: what a request may ask for is bounded."""
    secret: bool
    """It answers a token."""
    covered: bool
    """Every declared variable is an argument or a condition: whoever read those has checked them all."""
    digest: bytes
    """Of everything an answer's shape depends on: equal in every process."""


class Operation:
    """One named operation of a valid document. Plans are made when a truth value first asks for them."""

    __slots__ = ("_document", "_plans", "_schema", "conditions", "label", "node")

    def __init__(self, schema: GraphQLSchema, document: DocumentNode, node: OperationDefinitionNode) -> None:
        self._schema = schema
        self._document = document
        self.node = node
        self._plans: dict[tuple[bool, ...], Plan | NotFast] = {}
        self.label = _label(node)
        """The first root field, for whoever classes requests; "" for none."""
        self.conditions: tuple[str, ...] = ()
        """Variables that decide directives, in the order of `plan`'s values."""
        try:
            declared = {each.variable.name.value for each in node.variable_definitions or ()}
            self.conditions = tuple(name for name in condition_names(document) if name in declared)
        except NotPlain as odd:
            self._plans[()] = NotFast(str(odd))

    def plan(self, truths: tuple[bool, ...]) -> Plan | NotFast:
        """The plan for these truth values, one per condition; at most eight are kept, for there are no more."""
        found = self._plans.get(truths)
        if found is None:
            conditions = dict(zip(self.conditions, truths, strict=True))
            found = self._plans[truths] = compile_operation(self._schema, self._document, self.node, conditions)
        return found

    def read(self, variables: Mapping[str, Any]) -> VariableValues | None:
        """The variables as GraphQL coerces them; None if it refuses them."""
        return read_variables(self._schema, self.node, variables)


def compile_operation(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation: OperationDefinitionNode,
    conditions: Mapping[str, bool] | None = None,
) -> Plan | NotFast:
    """The plan of a valid document's operation, with truth values for the variables of its @skip and @include."""
    conditions = conditions or {}
    if operation.operation is not OperationType.QUERY:
        return NotFast(operation.operation.value)
    if len(conditions) > _MAX_CONDITIONS:
        return NotFast(f"more than {_MAX_CONDITIONS} variables in directives")
    try:
        roots = select(schema, document, operation, conditions)
        plans = tuple(_root_plan(schema, operation, root) for root in roots)
    except NotPlain as odd:
        return NotFast(str(odd))
    if len(plans) > _MAX_ROOTS:
        return NotFast(f"{len(plans)} root fields")
    shape = repr([(each.key, each.name, each.selection) for each in plans])
    return Plan(
        roots=plans,
        maps=sum(each.name.startswith("prefetch") for each in plans),
        secret=any(each.name == "broadcastChannel" for each in plans),
        covered=_covered(operation, plans, conditions),
        digest=blake2b(shape.encode(), digest_size=16, person=b"plan").digest(),
    )


def find_operation(document: DocumentNode, name: str | None) -> OperationDefinitionNode | None:
    """The operation of this name, or the only one; None if that names none."""
    found = [each for each in document.definitions if isinstance(each, OperationDefinitionNode)]
    if name is not None:
        found = [each for each in found if each.name is not None and each.name.value == name]
    return found[0] if len(found) == 1 else None


def read_variables(
    schema: GraphQLSchema, operation: OperationDefinitionNode, variables: Mapping[str, Any]
) -> VariableValues | None:
    """GraphQL's own coercion; None where it reports an error."""
    values = get_variable_values(schema, operation.variable_definitions or (), dict(variables))
    return None if isinstance(values, list) else values


def _root_plan(schema: GraphQLSchema, operation: OperationDefinitionNode, root: Root) -> RootPlan:
    name = root.field.name
    wanted = ROOTS.get(name)
    assert schema.query_type is not None
    lead = msgspec.json.encode(root.field.key) + b":"
    if name == "__typename":
        constant = Selection(schema.query_type.name, ())
        return RootPlan(root.field.key, name, constant, root.node, None, (), b"", lead)
    definition = schema.query_type.fields.get(name)
    if wanted is None or definition is None or root.field.inner is None:
        raise NotPlain(f"root field {name}")
    if set(definition.args) != set(wanted):
        raise NotPlain(f"{name} has other arguments than it had")
    check_foldable(root.field.inner)
    plain = [_plain(operation, definition, root.node, argument) for argument in wanted]
    return RootPlan(
        key=root.field.key,
        name=name,
        selection=root.field.inner,
        node=root.node,
        definition=definition,
        plain=None if None in plain else tuple(each for each in plain if each is not None),
        shape=blake2b(repr(root.field.inner).encode(), digest_size=16, person=b"selection").digest(),
        lead=lead,
        moves=any(field.name == "refreshUrl" for field in root.field.inner.fields),
    )


def _covered(operation: OperationDefinitionNode, roots: Sequence[RootPlan], conditions: Mapping[str, bool]) -> bool:
    read = {name for root in roots for _, name in root.plain or () if name is not None} | conditions.keys()
    return all(each.variable.name.value in read for each in operation.variable_definitions or ())


def _plain(
    operation: OperationDefinitionNode, definition: GraphQLField, node: FieldNode, argument: str
) -> tuple[Any, str | None] | None:
    """(constant, None) for a literal, (None, name) for a bare variable without a default; None for anything else."""
    given = next((each.value for each in node.arguments or () if each.name.value == argument), None)
    if given is None:
        declared_default = definition.args[argument].default_value
        return (None, None) if declared_default in (None, Undefined) else None
    if isinstance(given, VariableNode):
        name = given.name.value
        declared = next(each for each in operation.variable_definitions or () if each.variable.name.value == name)
        return None if declared.default_value is not None else (None, name)
    if _has_variable(given):
        return None
    only = GraphQLField(definition.type, {argument: definition.args[argument]})
    try:
        return _names(get_argument_values(only, _alone(node, argument)).get(argument)), None
    except GraphQLError:
        return None


def _names(value: Any) -> Any:
    """With enum members by name, as a variable brings them."""
    if isinstance(value, dict):
        return {key: each.name if isinstance(each, Enum) else each for key, each in value.items()}
    return value


def _alone(node: FieldNode, argument: str) -> FieldNode:
    kept = tuple(each for each in node.arguments or () if each.name.value == argument)
    return FieldNode(name=node.name, arguments=kept)


def _has_variable(node: Node) -> bool:
    waiting: list[Node] = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, VariableNode):
            return True
        for key in node.keys:
            below = getattr(node, key, None)
            each_below: Sequence[Any] = below if isinstance(below, (list, tuple)) else (below,)
            waiting.extend(each for each in each_below if isinstance(each, Node))
    return False


def _label(operation: OperationDefinitionNode) -> str:
    first = operation.selection_set.selections[0]
    return first.name.value if isinstance(first, FieldNode) else ""
