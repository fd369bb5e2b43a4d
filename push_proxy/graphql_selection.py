"""What a GraphQL document selects: the limits on it, and the plan of each object, in the order a result has. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLIncludeDirective,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLSkipDirective,
    GraphQLUnionType,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    VariableNode,
    get_directive_values,
    get_named_type,
)
from graphql.execution.values import VariableValues

from contract.errors import InvalidRequest

__all__ = [
    "MAX_ALIASES",
    "MAX_DEPTH",
    "MAX_FIELDS",
    "MAX_FRAGMENTS",
    "MAX_SELECTIONS",
    "Collector",
    "OperationRefused",
    "Plan",
    "Step",
    "check_limits",
    "project",
    "refusal",
    "refused",
    "switches",
]

MAX_SELECTIONS: Final = 96
"""Fields and fragments written in one document: validation compares many of them with many."""
MAX_DEPTH: Final = 12
"""Selection sets within each other; the schema's own fields go 3 deep."""
MAX_ALIASES: Final = 16
"""Fields renamed in one document: each makes a frame longer by what it selects once more."""
MAX_FIELDS: Final = 128
"""Fields of all members together once fragments are filled in; the schema has 40."""
MAX_FRAGMENTS: Final = 16
_MAX_DIRECTIVES: Final = 32


class OperationRefused(InvalidRequest):
    """What was asked for cannot be executed; `errors` is the payload of an `error` message."""

    def __init__(self, errors: Sequence[Mapping[str, Any]], *, field: str) -> None:
        super().__init__(str(errors[0]["message"]), field=field)
        self.errors = tuple(errors)


class Step(NamedTuple):
    """One field of a result: its key, what it is taken from, and the plan of what lies below it."""

    key: str
    field: str
    below: Plan | None


Plan: TypeAlias = tuple[Step, ...]


class Collector:
    """CollectFields and what follows from it (GraphQL specification, section 6.3), for plans in place of values."""

    def __init__(
        self, schema: GraphQLSchema, fragments: Mapping[str, FragmentDefinitionNode], values: VariableValues
    ) -> None:
        self._schema = schema
        self._fragments = fragments
        self._values = values
        self._fields_left = MAX_FIELDS

    def plan(self, fields: Sequence[FieldNode], of: GraphQLObjectType) -> Plan:
        """Steps for what `fields` select below themselves, of an object of type `of`."""
        sets = [field.selection_set for field in fields if field.selection_set is not None]
        steps = []
        for key, chosen in self.collect(sets, of).items():
            self._fields_left -= 1
            if self._fields_left < 0:
                raise refusal(f"more than {MAX_FIELDS} fields, counted with what fragments bring", "query")
            name = chosen[0].name.value
            below: Plan | None = None
            if chosen[0].selection_set is not None:
                kind = get_named_type(of.fields[name].type)
                assert isinstance(kind, GraphQLObjectType)
                below = self.plan(chosen, kind)
            steps.append(Step(key, name, below))
        return tuple(steps)

    def collect(self, sets: Sequence[SelectionSetNode], of: GraphQLObjectType) -> dict[str, list[FieldNode]]:
        """Response key -> the fields that share it, in the order keys first appear."""
        found: dict[str, list[FieldNode]] = {}
        seen: set[str] = set()
        for selection_set in sets:
            self._collect(selection_set, of, found, seen)
        return found

    def _collect(
        self,
        selection_set: SelectionSetNode,
        of: GraphQLObjectType,
        found: dict[str, list[FieldNode]],
        seen: set[str],
    ) -> None:
        for selection in selection_set.selections:
            if not self._included(selection):
                continue
            if isinstance(selection, FieldNode):
                key = (selection.alias or selection.name).value
                found.setdefault(key, []).append(selection)
            elif isinstance(selection, InlineFragmentNode):
                condition = selection.type_condition
                if condition is None or self._applies(condition.name.value, of):
                    self._collect(selection.selection_set, of, found, seen)
            elif isinstance(selection, FragmentSpreadNode):
                name = selection.name.value
                fragment = self._fragments[name]
                if name not in seen and self._applies(fragment.type_condition.name.value, of):
                    seen.add(name)
                    self._collect(fragment.selection_set, of, found, seen)

    def _included(self, selection: SelectionNode) -> bool:
        if not selection.directives:
            return True
        skip = get_directive_values(GraphQLSkipDirective, selection, self._values)
        if skip is not None and skip["if"] is True:
            return False
        include = get_directive_values(GraphQLIncludeDirective, selection, self._values)
        return include is None or include["if"] is True

    def _applies(self, condition: str, of: GraphQLObjectType) -> bool:
        if condition == of.name:
            return True
        kind = self._schema.type_map[condition]
        return isinstance(kind, GraphQLUnionType) and of in kind.types


def check_limits(document: DocumentNode) -> None:
    """Before validation, some of whose rules compare every field with every other."""
    aliases = directives = selections = 0
    fragments = sum(isinstance(node, FragmentDefinitionNode) for node in document.definitions)
    if fragments > MAX_FRAGMENTS:
        raise refusal(f"{fragments} fragments (at most {MAX_FRAGMENTS})", "query")
    waiting: list[tuple[SelectionSetNode, int]] = [
        (node.selection_set, 1)
        for node in document.definitions
        if isinstance(node, OperationDefinitionNode | FragmentDefinitionNode)
    ]
    while waiting:
        selection_set, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise refusal(f"selections nested more than {MAX_DEPTH} deep", "query")
        selections += len(selection_set.selections)
        for selection in selection_set.selections:
            directives += len(selection.directives or ())
            aliases += isinstance(selection, FieldNode) and selection.alias is not None
            below: SelectionSetNode | None = getattr(selection, "selection_set", None)
            if below is not None:
                waiting.append((below, depth + 1))
    if selections > MAX_SELECTIONS:
        raise refusal(f"{selections} fields and fragments (at most {MAX_SELECTIONS})", "query")
    if aliases > MAX_ALIASES:
        raise refusal(f"{aliases} aliases (at most {MAX_ALIASES})", "query")
    if directives > _MAX_DIRECTIVES:
        raise refusal(f"{directives} directives (at most {_MAX_DIRECTIVES})", "query")


def switches(operation: OperationDefinitionNode, fragments: Mapping[str, FragmentDefinitionNode]) -> tuple[str, ...]:
    """Variables that decide what is selected: those of the operation that stand in any directive."""
    names: dict[str, None] = {}
    waiting = [operation.selection_set, *(fragment.selection_set for fragment in fragments.values())]
    while waiting:
        for selection in waiting.pop().selections:
            for directive in selection.directives or ():
                for argument in directive.arguments or ():
                    if isinstance(argument.value, VariableNode):
                        names[argument.value.name.value] = None
            below: SelectionSetNode | None = getattr(selection, "selection_set", None)
            if below is not None:
                waiting.append(below)
    return tuple(names)


def refused(errors: Sequence[GraphQLError], field: str) -> OperationRefused:
    told = []
    for error in errors:
        formatted: dict[str, Any] = {"message": error.message[:400]}
        if error.locations:
            formatted["locations"] = [{"line": at.line, "column": at.column} for at in error.locations]
        formatted["extensions"] = {"code": InvalidRequest.code, "field": field}
        told.append(formatted)
    return OperationRefused(told, field=field)


def refusal(message: str, field: str) -> OperationRefused:
    told = {"message": message, "extensions": {"code": InvalidRequest.code, "field": field}}
    return OperationRefused([told], field=field)


def project(plan: Plan, item: Mapping[str, Any]) -> dict[str, Any]:
    result = {}
    for key, field, below in plan:
        value = item[field]
        if below is None or value is None:
            result[key] = value
        elif isinstance(value, list):
            result[key] = [project(below, entry) for entry in value]
        else:
            result[key] = project(below, value)
    return result
