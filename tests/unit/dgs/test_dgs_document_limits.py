"""Depth, aliases and empty selections of documents: what they come to, and that measuring them costs little."""

from __future__ import annotations

import pytest
from graphql import parse, validate
from strawberry.extensions import MaxAliasesLimiter, QueryDepthLimiter

from dgs.document_limits import extents, limiting_rule
from dgs.schema import build_schema

SCHEMA = build_schema()._schema
RULE = limiting_rule(max_depth=3, max_aliases=2)


def refused(text: str) -> list[str]:
    return [error.message for error in validate(SCHEMA, parse(text), [RULE])]


@pytest.mark.parametrize(
    ("text", "depth", "aliases"),
    [
        ("{a}", 0, 0),
        ("{a{b{c}}}", 2, 0),
        ("{x: a{y: b} c}", 1, 2),
        ("{...F ...F} fragment F on T {x: a{b}}", 1, 2),
        ("{a{...F}} fragment F on T {b{...G}} fragment G on T {c}", 2, 0),
        ("{... on T{a{b}}}", 1, 0),
        ("{__schema{types{...F}} x: a} fragment F on T {y: b{c{d}}}", 0, 2),
        ("{a{...Nope}}", 1, 0),
        ("{...A} fragment A on T {a{...B}} fragment B on T {b{...A}}", 2, 0),
        ("{...A} fragment A on T {a{...A}}", 1, 0),
    ],
)
def test_what_a_document_comes_to(text: str, depth: int, aliases: int) -> None:
    """Fragments where they are spread, introspection not deep, unknown ones and circles without end or effect."""
    ((_, extent),) = extents(parse(text))
    assert extent == (depth, aliases)


@pytest.mark.parametrize(
    "text",
    [
        "{a{b{c{d}}}}",
        "{a{b{c{d{e}}}}}",
        "{x: a y: b}",
        "{x: a y: b z: c}",
        "query A {...F ...F} fragment F on T {x: a{b{c{d{e}}}}}",
        "query A {x: a} query B {y: a z: b}",
    ],
)
def test_it_says_what_strawberrys_own_limiters_say(text: str) -> None:
    """The same messages for the same documents, where those come to an end; once each."""
    theirs = [
        *QueryDepthLimiter(max_depth=3).validation_rules,
        *MaxAliasesLimiter(max_alias_count=2).validation_rules,
    ]
    assert set(refused(text)) == {error.message for error in validate(SCHEMA, parse(text), theirs)}


@pytest.mark.parametrize("text", ["{}", "{a{}}", "{a{... on T{}}}", "{...F} fragment F on T {}"])
def test_an_empty_selection_is_refused(text: str) -> None:
    """The parser lets it through; nobody behind it expects it."""
    assert refused(text) == ["a selection set is empty: select a field"]


def test_fragments_that_spread_each_other_are_measured_once_each() -> None:
    """Sixty of them are 2^60 paths; a chain of them needs no recursion. Would never end, or fail, otherwise."""
    every = "{...F0}" + "".join(
        f"fragment F{n} on T{{x: a{{{' '.join(f'...F{m}' for m in range(n + 1, 61))} b}}}}" for n in range(61)
    )
    assert len(refused(every)) == 2
    assert "millions of aliases found. Allowed: 2" in refused(every)
    chain = "{...F0}" + "".join(f"fragment F{n} on T{{...F{n + 1}}}" for n in range(2000)) + "fragment F2000 on T{a}"
    assert extents(parse(chain))[0][1] == (0, 0)
