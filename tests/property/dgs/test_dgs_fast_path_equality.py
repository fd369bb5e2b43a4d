"""The fast path against the schema's own execution: random operations, variables, profiles and schedules, one answer.

Documents are drawn from the schema itself: aliases, fragments, nesting, directives, several root fields, arguments as
literals and as variables, with some that GraphQL refuses. Clock and draw are frozen, so answers must be equal to the
last byte of canonical JSON. What the fast path leaves to the schema is equal by nature; so it is counted, and a run
that left too much proves nothing and fails.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from random import Random
from typing import Any

from graphql import GraphQLObjectType, get_named_type, is_object_type

from contract.broadcast import Broadcast
from contract.schedule import PlannedStage, TopicSchedule
from dgs.model import Profile, Title, Viewing
from dgs.operations.manifest import sha256_of
from dgs.schema import build_schema
from dgs.sharding.clusters import Cluster, Clusters, Part
from tests.support.fast_world import FastWorld, ask_for

NOW_MS = 1_731_700_000_000
SCHEMA = build_schema()
QUERY = SCHEMA._schema.query_type
NASTY = ("%", "%s %d %%b", '"', "\\", "\u2028\u2029", "\x00\x1f\x7f", "{event} {key}", "</script>", "é𝄞", "", "'", "%b")


def words(draw: Random) -> str:
    if draw.random() < 0.5:
        return draw.choice(NASTY)
    return "".join(
        chr(draw.choice((draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)))) for _ in range(draw.randint(0, 9))
    )


# What there is to see
def titles_of(number: int) -> tuple[Title, ...]:
    """Catalogs to draw from; one is tiny, the last holds a number GraphQL refuses."""
    many = 45 if number != 1 else 3
    return tuple(
        Title(
            id=f"t-{index}",
            name=f"{NASTY[index % len(NASTY)]} {index}",
            synopsis=None if index % 3 else NASTY[index % 7],
            year=(1950 + index if index % 4 else None) if number != 2 or index % 20 else 2**31,
            maturity="PG" if index % 5 else None,
            genres=("Drama", "Action", "Western")[index % 3 : index % 3 + index % 2 + 1],
            runtime_minutes=90 + index if index % 6 else None,
            director=f"Director {index % 4}",
            votes=index * 7 % 31,
        )
        for index in range(many)
    )


CATALOGS = tuple(titles_of(number) for number in range(3))


def _part(scheme: str, *names: str) -> Part:
    return Part(urls=tuple(f"{scheme}://{name}/\u00e9%s" for name in names))


NIGHT = {"dedicated": True, "ramp_in": "PT3H", "ramp_out": "PT3H", "hot_before": "PT10M", "hot_after": "PT10M"}
CLUSTERS = Clusters(
    [
        Cluster(name="main", prefetch=_part("http", "a", "b"), push=_part("ws", "a")),
        Cluster(name="night", prefetch=_part("http", "n", "o"), push=_part("ws", "n"), **NIGHT),  # type: ignore[arg-type]
    ]
)
"""With long ramps, so that some profiles are moved and others not."""


def profiles(draw: Random) -> list[Profile]:
    return [
        Profile(
            id=name,
            region=draw.choice(("US", "DE", "JP")),
            locale=draw.choice(("en-US", "de-AT", "pt", "ja-JP")),
            history=tuple(Viewing(f"t-{index}") for index in draw.sample(range(50), draw.randint(0, 5))),
        )
        for name in ("p-1", "p%s2", 'p"3')
    ]


def schedules(draw: Random, event_id: str) -> list[TopicSchedule]:
    keys = ["upcoming", "starting_soon", "live", "ended", "replay", "extra_time", "cancelled", "default"]
    keys = draw.sample(keys, draw.randint(0, 6))
    if draw.random() < 0.1:
        keys += keys[:1]

    def moment() -> int:
        return NOW_MS + draw.randint(-3_600_000, 40_000_000)

    some = (("us", ("US", "DE") if draw.random() < 0.2 else ("US", "DE", "JP")),)
    audiences = draw.choice(((("all", ()),), (("all", ()), ("eu", ("DE",))), (("us", ("US",)), ("all", ())), some))
    return [
        TopicSchedule(
            topic=f"event:{event_id}@{audience}",
            event_id=event_id,
            title=draw.choice((words(draw), CATALOGS[0][1].name, CATALOGS[0][2].name.upper())),
            revision=draw.choice((*range(30), 2**31 - 1, 2**31)),
            version=draw.randint(0, 9),
            starts_at=moment(),
            ends_at=draw.choice((None, moment())),
            audience=audience,
            regions=regions,
            cancelled=draw.random() < 0.5,
            stages=tuple(
                PlannedStage(
                    key=key,
                    order=draw.choice((order * 10, draw.randint(0, 99))),
                    due_at=draw.choice((None, moment())),
                    headline=draw.choice(("", words(draw))),
                )
                for order, key in enumerate(keys)
            ),
        )
        for audience, regions in audiences
    ]


# What is asked
class Document:
    """A document being written, with the variables it declares and their values."""

    def __init__(self, draw: Random) -> None:
        self.draw = draw
        self.declared: dict[str, str] = {}
        self.variables: dict[str, Any] = {}
        self.fragments: list[str] = []
        self.names = 0
        self.conditions: list[str] = []
        self.few = not self.chance(20)
        """Few enough variables in directives for one plan per truth value."""
        self.aliases = 0

    def chance(self, one_in: int) -> bool:
        return self.draw.randrange(one_in) == 0

    def variable(self, declared: str, value: Any) -> str:
        """A variable for the value; now and then the value is an odd one, or left out."""
        name = f"v{len(self.declared)}"
        self.declared[name] = declared
        if self.chance(60):
            value = self.draw.choice((None, 7, 1.0, "", [], {"kind": "TV", "more": 1}, [value], True))
        if not self.chance(90):
            self.variables[name] = value
        return f"${name}"

    def text(self) -> str:
        roots = " ".join(self.root() for _ in range(self.draw.choice((1, 1, 1, 2, 3))))
        if self.chance(12):
            roots += " __typename"
        head = ", ".join(f"${name}: {kind}" for name, kind in self.declared.items())
        return f"query {f'({head})' if head else ''} {{ {roots} }} {' '.join(self.fragments)}"

    def root(self) -> str:
        name = self.draw.choice(("prefetchEvent",) * 8 + ("broadcastChannel",) * 2 + ("prefetchHome", "prefetchTitle"))
        profile = self.draw.choice(("p-1", "p%s2", 'p"3') * 8 + ("p-9",))
        event = self.draw.choice(("e-1", "e-2") * 8 + ("e-9",))
        arguments = [f"profileId: {self.given('ID!', profile)}"]
        if name == "prefetchEvent":
            arguments.append(f"eventId: {self.given('ID!', event)}")
        elif name == "broadcastChannel":
            arguments.append(f"eventIds: {self.given('[ID!]!', [event] if self.chance(2) else [event, 'e-1'])}")
        elif name == "prefetchTitle":
            arguments.append(f"titleId: {self.given('ID!', self.draw.choice(('t-1', 't-2', 'no-title')))}")
        elif self.chance(2):
            arguments.append(
                f"within: {self.given('Duration', self.draw.choice(('PT6H', 'P1D', 'P31D', 'PT0S', None)))}"
            )
        if name == "broadcastChannel" or not self.chance(4):
            arguments.append(f"device: {self.device(name == 'broadcastChannel')}")
        assert QUERY is not None
        inner = self.selection(get_named_type(QUERY.fields[name].type), 0)
        return f"r{self.next()}: {name}({', '.join(arguments)}){self.directive()} {inner}"

    def given(self, declared: str, value: Any) -> str:
        return json.dumps(value) if self.chance(4) else self.variable(declared, value)

    def device(self, required: bool) -> str:
        value: dict[str, Any] = {"kind": self.draw.choice(("TV", "PHONE", "TABLET", "WEB"))}
        if self.chance(2):
            value["screen"] = self.draw.choice(("SMALL", "LARGE", None, "MEDIUM"))
        if self.chance(2):
            value["locale"] = self.draw.choice(("de-AT", "en", "fr", None, "pt-BR", "ja") * 4 + ("no_locale",))
        form = self.draw.randint(0, 5)
        if form > 1:
            return self.variable("DeviceContext!" if required or self.chance(2) else "DeviceContext", value)
        if form == 1:
            inside = {
                "kind": self.variable("DeviceKind!", value["kind"]),
                "screen": self.variable("ScreenClass", value.get("screen")),
                "locale": self.variable("String", value.get("locale")),
            }
            return "{" + ", ".join(f"{name}: {each}" for name, each in inside.items()) + "}"
        literal = {name: each if name != "locale" else json.dumps(each) for name, each in value.items()}
        return "{" + ", ".join(f"{name}: {'null' if each is None else each}" for name, each in literal.items()) + "}"

    def selection(self, of: Any, depth: int) -> str:
        assert isinstance(of, GraphQLObjectType)
        parts = [self.part(of, depth) for _ in range(self.draw.randint(1, 5))]
        return "{" + " ".join(parts) + "}"

    def part(self, of: GraphQLObjectType, depth: int) -> str:
        form = self.draw.randint(0, 11) if depth < 6 else 2
        if form == 0:
            on = f"on {of.name}" if self.chance(2) else ""
            return f"...{on}{self.directive()} {self.selection(of, depth + 1)}"
        if form == 1:
            name = f"F{self.next()}"
            self.fragments.append(f"fragment {name} on {of.name} {self.selection(of, depth + 1)}")
            again = f" ...{name}" if self.chance(3) else ""
            return f"...{name}{self.directive()}{again}"
        name = self.draw.choice((*of.fields, "__typename"))
        if name == "__typename":
            return f"{self.alias()}__typename{self.directive()}"
        inner = get_named_type(of.fields[name].type)
        below = self.selection(inner, depth + 1) if is_object_type(inner) else ""
        return f"{self.alias()}{name}{self.directive()} {below}"

    def alias(self) -> str:
        if self.aliases >= 4 or not self.chance(5):
            return ""
        self.aliases += 1
        return f"a{self.next()}: "

    def directive(self) -> str:
        if not self.chance(8):
            return ""
        name = self.draw.choice(("skip", "include"))
        if self.chance(2):
            if len(self.conditions) < (3 if self.few else 5):
                self.conditions.append(self.variable("Boolean!", self.chance(2)))
                return f" @{name}(if: {self.conditions[-1]})"
            return f" @{name}(if: {self.draw.choice(self.conditions)})"
        return f" @{name}(if: {self.draw.choice(('true', 'false'))})"

    def next(self) -> int:
        self.names += 1
        return self.names


def canonical(body: bytes) -> bytes:
    return json.dumps(json.loads(body), sort_keys=True, ensure_ascii=False).encode()


async def _compare(world: FastWorld, text: str, variables: dict[str, Any]) -> str:
    """How it was answered: "fast", or "left"; raises where answers differ."""
    for schedule in world.planned[:1]:
        broadcast = Broadcast(
            topic=schedule.topic, state_key="live", timestamp=NOW_MS, prev=0, event_id=schedule.event_id
        )
        await world.log.append(broadcast)
    persisted = {"version": 1, "sha256Hash": sha256_of(text)}
    ask = ask_for({"query": text, "variables": variables, "extensions": {"persistedQuery": persisted}})
    answer = await world.answer(ask)
    assert world.fast.faults == 0
    if answer.status == 599:
        assert len(world.left) == 1
        return "left"
    expected = await world.oracle(ask)
    assert (answer.status, canonical(answer.body)) == (expected.status, canonical(expected.body))
    said = [line for line in answer.head.split(b"\r\n") if line.startswith(b"Cache-Control")]
    assert said == [expected.head.strip()]
    again = await world.answer(ask_for({"variables": variables, "extensions": {"persistedQuery": persisted}}))
    assert again.body == answer.body
    return "fast"


def play(seed: int) -> str:
    """One example, all of it from the seed."""
    draw = Random(seed)
    document = Document(draw)
    text = document.text()
    planned = schedules(draw, "e-1") + schedules(draw, "e-2")
    catalog = CATALOGS[draw.choice((0, 0, 0, 0, 0, 1, 2))]
    clusters = draw.choice((None, CLUSTERS))
    world = FastWorld(
        catalog, profiles(draw), planned, draw=draw.random(), now_ms=NOW_MS, schema=SCHEMA, clusters=clusters
    )
    return asyncio.run(_compare(world, text, document.variables))


def test_the_fast_path_answers_as_the_schema_does() -> None:
    """STAGECUE_FAST_PATH_SEEDS=10000 plays more of them; a failure names its seed."""
    tally: Counter[str] = Counter()
    for seed in range(int(os.environ.get("STAGECUE_FAST_PATH_SEEDS", "120"))):
        try:
            tally[play(seed)] += 1
        except AssertionError as wrong:
            raise AssertionError(f"seed {seed}: {wrong}") from wrong
    assert tally["fast"] > 0.6 * tally.total(), tally
