"""Compiled documents against graphql-core's own execution: the same payload, key for key, for every frame."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from graphql import (
    ExecutionResult,
    GraphQLError,
    OperationDefinitionNode,
    OperationType,
    parse,
    subscribe,
    validate,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import contract
from contract.errors import InvalidRequest, Overloaded
from contract.frames import (
    AckRequest,
    BroadcastFrame,
    ContinuityFrame,
    ErrorFrame,
    GoawayFrame,
    ScheduleFrame,
    ServerFrame,
    StaleFrame,
    TokenFrame,
    WelcomeFrame,
    WindowFrame,
)
from push_proxy.graphql_documents import Documents, OperationRefused, Prepared, stream_schema
from push_proxy.graphql_items import stream_item

SCHEMA = stream_schema((Path(contract.__file__).parent / "broadcasts.graphql").read_text())
FIELDS: Mapping[str, tuple[str, ...]] = {
    "Broadcast": ("topic", "stateKey", "timestamp", "prev", "replayed", "skipped", "ack"),
    "Continuity": ("topic", "verdict", "stateKey", "latest"),
    "ScheduleChange": ("topic", "revision", "version", "times"),
    "Session": (
        "kind", "node", "serverTime", "lifetimeS", "pingS", "reconnectWindowMs", "refetchWindowMs", "token", "reason",
        "reconnectAfterMs",
    ),
    "AckRequest": ("oneIn", "withinMs"),
    "StageTime": ("key", "dueAt"),
}  # fmt: skip
BELOW = {"ack": "AckRequest", "times": "StageTime"}

# Frames.

int32 = st.integers(0, 2**31 - 1)
stamps = st.integers(1, 2**53)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
frames: st.SearchStrategy[ServerFrame] = st.one_of(
    st.builds(
        lambda topic, key, at, replayed, skipped, ack: BroadcastFrame(topic, key, at, at - 1, replayed, skipped, ack),
        names,
        names,
        stamps,
        st.booleans(),
        st.lists(stamps, max_size=3).map(tuple),
        st.none() | st.builds(AckRequest, int32, int32),
    ),
    st.builds(
        ContinuityFrame, names, st.sampled_from(["complete", "gap", "ahead", "pending"]), st.none() | names, stamps
    ),
    st.builds(ScheduleFrame, names, int32, int32, st.dictionaries(names, st.none() | stamps, max_size=3)),
    st.builds(WelcomeFrame, names, stamps, st.floats(0, 1e6), st.floats(0, 1e6), int32, int32),
    st.builds(WindowFrame, int32, int32),
    st.builds(TokenFrame, names),
    st.just(StaleFrame()),
    st.builds(GoawayFrame, names, int32, int32),
    st.builds(ErrorFrame, names, names.map(lambda text: text or "?"), st.none() | names),
)

# Documents: valid ones, of every shape the schema allows.


@st.composite
def directives(draw: st.DrawFn) -> str:
    parts = []
    for name in draw(st.lists(st.sampled_from(["skip", "include"]), max_size=2, unique=True)):
        parts.append(f"@{name}(if: {draw(st.sampled_from(['true', 'false', '$a', '$b']))})")
    return " ".join(parts)


@st.composite
def fields_of(draw: st.DrawFn, kind: str, depth: int) -> str:
    name = draw(st.sampled_from((*FIELDS[kind], "__typename")))
    # One key never stands for two fields: documents where it would are not valid.
    key = draw(st.sampled_from(["", "", "", f"my_{name}_of_{kind}: ", f"{kind}_{name}: "]))
    if name == "stateKey" and not key:
        key = f"key_of_{kind}: "
    below = "{" + draw(selection_of(BELOW[name], depth + 1)) + "}" if name in BELOW else ""
    return f"{key}{name} {draw(directives())} {below}"


@st.composite
def selection_of(draw: st.DrawFn, kind: str, depth: int = 0) -> str:
    """Selections on an object, at least one."""
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        shape = draw(st.integers(0, 9))
        if shape < 7 or depth > 3:
            parts.append(draw(fields_of(kind, depth)))
        else:
            condition = draw(st.sampled_from(["", f"on {kind}"]))
            parts.append(f"... {condition} {draw(directives())} {{ {draw(selection_of(kind, depth + 1))} }}")
    return " ".join(parts)


@st.composite
def subscriptions(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A document with its variables."""
    members = [kind for kind in FIELDS if kind not in BELOW.values()]
    fragments: dict[str, str] = {}
    parts = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(members))
        shape = draw(st.integers(0, 3))
        if shape == 0:
            parts.append(f"{draw(st.sampled_from(['', 't: ']))}__typename {draw(directives())}")
        elif shape == 1:
            name = f"F{len(fragments)}"
            fragments[name] = f"fragment {name} on {kind} {draw(directives_of_none())} {{ {draw(selection_of(kind))} }}"
            parts += [f"...{name} {draw(directives())}"] * draw(st.integers(1, 2))
        else:
            outer = draw(st.sampled_from(["", "... on StreamItem {"]))
            inner = f"... on {kind} {draw(directives())} {{ {draw(selection_of(kind))} }}"
            parts.append(f"{outer} {inner} {'}' if outer else ''}")
    alias = draw(st.sampled_from(["", "news: "]))
    field = f"{alias}broadcasts(topics: $topics)"
    roots = [f"{field} {{ {' '.join(parts)} }}"]
    if draw(st.booleans()):
        roots.append(f"{field} {{ __typename }}")
    text = " ".join(roots + list(fragments.values()))
    declared = ["$topics: [TopicCursor!]!"]
    variables: dict[str, Any] = {"topics": draw(st.lists(st.fixed_dictionaries(
        {"topic": names}, optional={"cursor": st.none() | stamps}), max_size=3))}  # fmt: skip
    for switch in ("a", "b"):
        if f"${switch})" in text:
            default = draw(st.sampled_from(["", " = true", " = false"]))
            declared.append(f"${switch}: Boolean{default or '!'}")
            if not default or draw(st.booleans()):
                variables[switch] = draw(st.booleans())
    operation = f"subscription S({', '.join(declared)}) {{ {' '.join(roots)} }}"
    return f"{operation} {' '.join(fragments.values())}", variables


def directives_of_none() -> st.SearchStrategy[str]:
    """A fragment's definition takes none."""
    return st.just("")


# The oracle.


async def executed(query: str, variables: dict[str, Any], told: list[ServerFrame]) -> tuple[list[Any], Any]:
    """What graphql-core makes of the frames, and the arguments its resolver saw."""
    asked: list[Any] = []

    async def source(root: Any, info: Any, topics: Any) -> AsyncIterator[ServerFrame]:
        asked.append(topics)
        for frame in told:
            yield frame

    def resolve(frame: ServerFrame, info: Any, topics: Any) -> Any:
        if isinstance(frame, ErrorFrame):
            topic = {"topic": frame.topic} if frame.topic is not None else {}
            raise GraphQLError(frame.message, extensions={"code": frame.code, **topic})
        return stream_item(frame)

    root = SCHEMA.subscription_type
    assert root is not None
    root.fields["broadcasts"].subscribe = source
    root.fields["broadcasts"].resolve = resolve
    try:
        stream = subscribe(SCHEMA, parse(query), variable_values=variables)
        if asyncio.iscoroutine(stream):
            stream = await stream
        assert not isinstance(stream, ExecutionResult), stream
        return [result.formatted async for result in stream], asked[0]  # type: ignore[union-attr]
    finally:
        root.fields["broadcasts"].subscribe = root.fields["broadcasts"].resolve = None


def without_locations(result: Any) -> Any:
    """Ours have none: two documents that select the same share their bytes, wherever the fields stand."""
    for error in result.get("errors", ()):
        error.pop("locations", None)
    return result


@settings(max_examples=60, deadline=None)
@given(subscriptions(), st.lists(frames, min_size=1, max_size=4))
def test_every_payload_is_what_graphql_core_would_have_said(
    document: tuple[str, dict[str, Any]], told: list[ServerFrame]
) -> None:
    query, variables = document
    assert validate(SCHEMA, parse(query)) == []
    try:
        prepared = Documents(SCHEMA).prepare(query, None, variables, now_s=0)
    except OperationRefused as exc:
        assert "at most" in exc.message or "more than" in exc.message  # noqa: PT017 - a limit, and nothing else
        return
    expected, asked = asyncio.run(executed(query, variables, told))
    for frame, result in zip(told, expected, strict=True):
        ours = json.loads(prepared.form(frame))
        assert ours == without_locations(result)
        assert json.dumps(ours.get("data")) == json.dumps(result["data"]), "the same keys in another order"
    assert [(entry.topic, entry.cursor) for entry in prepared.topics] == [
        (entry["topic"], entry.get("cursor")) for entry in asked
    ]


@settings(max_examples=60, deadline=None)
@given(
    subscriptions(),
    st.integers(0, 400),
    st.integers(0, 12),
    st.text(
        st.sampled_from(list('{}()[]!:$@."#&|= \nabtopics0')) | st.characters(exclude_categories=["Cs"]), max_size=6
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["topic", "cursor", "x"]), inner),
        max_leaves=8,
    ),
)
def test_a_damaged_document_is_refused_or_is_valid(
    document: tuple[str, dict[str, Any]], at: int, length: int, put: str, topics: object
) -> None:
    """Nothing but a refusal ever comes out, and what is let in graphql-core finds valid."""
    query, variables = document
    damaged = query[:at] + put + query[at + length :]
    for text, given_variables in ((damaged, variables), (query, {**variables, "topics": topics})):
        try:
            prepared = Documents(SCHEMA).prepare(text, None, given_variables, now_s=0)
        except (InvalidRequest, Overloaded):
            continue
        assert isinstance(prepared, Prepared)  # no mutation grows out of a subscription
        parsed = parse(text)
        assert validate(SCHEMA, parsed) == []
        (operation,) = [node for node in parsed.definitions if isinstance(node, OperationDefinitionNode)]
        assert operation.operation is OperationType.SUBSCRIPTION
        for entry in prepared.topics:
            assert isinstance(entry.topic, str)
            assert entry.cursor is None or type(entry.cursor) is int
