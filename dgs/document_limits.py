"""How deep a document goes, how many aliases it has, and that it selects something: one validation rule. Pure.

A fragment is measured once however often it is spread. Following every spread, as strawberry's own limiters do, takes
2^n steps for n fragments that spread each other: twenty-four of them, well within the limit of tokens, took 20 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    Node,
    OperationDefinitionNode,
    SelectionSetNode,
    ValidationContext,
    ValidationRule,
)

__all__ = ["Extent", "extents", "limiting_rule"]


class Extent(NamedTuple):
    """What an operation or a fragment amounts to, with all that it spreads."""

    depth: int
    """Levels below its own selection set; fields below an introspection field do not count."""
    aliases: int
    """Fields with an alias; those of a fragment once per spread."""


class _Own(NamedTuple):
    """The same of one definition alone, and what it spreads at which level."""

    depth: int
    aliases: int
    spreads: tuple[tuple[str, int | None], ...]
    """None: below an introspection field, where depth does not count."""


def limiting_rule(*, max_depth: int, max_aliases: int) -> type[ValidationRule]:
    """A rule that refuses deeper documents, more aliases in all operations together, and empty selection sets."""

    class DocumentLimits(ValidationRule):
        def __init__(self, context: ValidationContext) -> None:
            super().__init__(context)
            for node in _empty(context.document):
                context.report_error(GraphQLError("a selection set is empty: select a field", node))
            found = extents(context.document)
            for operation, extent in found:
                if extent.depth > max_depth:
                    name = operation.name.value if operation.name else "anonymous"
                    why = f"'{name}' exceeds maximum operation depth of {max_depth}"
                    context.report_error(GraphQLError(why, operation))
            aliases = sum(extent.aliases for _, extent in found)
            if aliases > max_aliases:
                told = str(aliases) if aliases < 1_000_000 else "millions of"
                context.report_error(GraphQLError(f"{told} aliases found. Allowed: {max_aliases}"))

    return DocumentLimits


def extents(document: DocumentNode) -> list[tuple[OperationDefinitionNode, Extent]]:
    """Of every operation. Unknown fragments, and spreads within themselves, count nothing: other rules refuse them."""
    fragments = {
        each.name.value: _own(each.selection_set)
        for each in document.definitions
        if isinstance(each, FragmentDefinitionNode)
    }
    totals = _totals(fragments)
    return [
        (each, _with_spreads(_own(each.selection_set), totals))
        for each in document.definitions
        if isinstance(each, OperationDefinitionNode)
    ]


def _totals(fragments: Mapping[str, _Own]) -> dict[str, Extent]:
    """Every fragment's extent, those it spreads first. Not by recursion: a chain may be as long as the document."""
    totals: dict[str, Extent] = {}
    for name in fragments:
        waiting, entered = [name], set[str]()
        while waiting:
            top = waiting[-1]
            if top in totals:
                waiting.pop()
            elif top in entered:
                totals[waiting.pop()] = _with_spreads(fragments[top], totals)
            else:
                entered.add(top)
                inner = {spread for spread, _ in fragments[top].spreads}
                waiting += [each for each in inner if each in fragments and each not in totals and each not in entered]
    return totals


def _with_spreads(own: _Own, totals: Mapping[str, Extent]) -> Extent:
    depth, aliases = own.depth, own.aliases
    for name, level in own.spreads:
        inner = totals.get(name)
        if inner is not None:
            depth = depth if level is None else max(depth, level + inner.depth)
            aliases += inner.aliases
    return Extent(depth, aliases)


def _own(selected: SelectionSetNode) -> _Own:
    depth, aliases = 0, 0
    spreads: list[tuple[str, int | None]] = []
    waiting: list[tuple[SelectionSetNode, int | None]] = [(selected, 0)]
    while waiting:
        around, level = waiting.pop()
        depth = max(depth, level or 0)
        for node in around.selections:
            if isinstance(node, FragmentSpreadNode):
                spreads.append((node.name.value, level))
                continue
            inner = level
            if isinstance(node, FieldNode):
                aliases += node.alias is not None
                inner = None if level is None or node.name.value.startswith("__") else level + 1
            below: SelectionSetNode | None = getattr(node, "selection_set", None)
            if below is not None:
                waiting.append((below, inner))
    return _Own(depth, aliases, tuple(spreads))


def _empty(document: DocumentNode) -> list[Node]:
    """Whose selection set has nothing in it, which the parser lets through."""
    empty: list[Node] = []
    waiting: list[Node] = [
        each for each in document.definitions if isinstance(each, OperationDefinitionNode | FragmentDefinitionNode)
    ]
    while waiting:
        node = waiting.pop()
        below: SelectionSetNode | None = getattr(node, "selection_set", None)
        if below is None:
            continue
        if not below.selections:
            empty.append(node)
        waiting += below.selections
    return empty
