"""Goal: the fast path answers what it understands and hands on the rest, exactly once, whatever is asked of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from unittest.mock import patch

import pytest

from contract.device_operations import FIRST, MAP, document_hash
from contract.errors import Unavailable
from contract.schedule import PlannedStage, TopicSchedule
from dgs.model import DeviceContext, Profile, Title, Viewing
from dgs.operations.fragments import Fragments
from dgs.operations.manifest import sha256_of
from dgs.operations.topics import Lifetimes, TopicViews
from dgs.schema import build_schema
from dgs.serving import Answer, Ask
from tests.support.fast_world import FastWorld, ask_for

NOW_MS = 1_731_700_000_000
SCHEMA = build_schema()
TITLES = tuple(
    Title(id=f"t-{n}", name=f"Title {n} %d", genres=("Drama", "Action")[n % 2 :], votes=n) for n in range(60)
)
PROFILES = [
    Profile(id=f"p-{n}", region="US", locale="de-DE", history=(Viewing("t-1"), Viewing(f"t-{n}"))) for n in range(9)
]


def schedule(version: int = 3, **more: Any) -> TopicSchedule:
    stages = tuple(
        PlannedStage(key=key, order=order, due_at=NOW_MS + order * 3_600_000)
        for order, key in enumerate(("upcoming", "live", "ended"))
    )
    facts: dict[str, Any] = {"topic": "event:e", "event_id": "e", "title": "100 % \u2028", "revision": version}
    return TopicSchedule(**{**facts, "version": version, "starts_at": NOW_MS, "stages": stages, **more})


def world(**settings: Any) -> FastWorld:
    manifest = {document_hash(each): each for each in (FIRST, MAP)}
    return FastWorld(TITLES, PROFILES, [schedule()], manifest=manifest, now_ms=NOW_MS, schema=SCHEMA, **settings)


def variables(profile: str = "p-1", **device: Any) -> dict[str, Any]:
    return {"eventId": "e", "profileId": profile, "device": {"kind": "TV", "locale": "en", **device}}


def posted(profile: str = "p-1", **fields: str) -> Ask:
    return ask_for({"documentId": document_hash(MAP), "variables": variables(profile)}, **fields)


def got(profile: str = "p-1", **fields: str) -> Ask:
    query = f"documentId={document_hash(MAP)}&variables={json.dumps(variables(profile))}".replace(" ", "%20")
    head = {name.replace("_", "-").encode(): value.encode() for name, value in fields.items()}
    return Ask("GET", "/graphql", query.replace('"', "%22"), head, b"", "127.0.0.1", 0.0)


def field(answer: Answer, name: bytes) -> bytes:
    found = [line for line in answer.head.split(b"\r\n") if line.startswith(name + b": ")]
    assert len(found) == 1, answer.head
    return found[0].partition(b": ")[2]


async def data(made: FastWorld, ask: Ask) -> Any:
    answer = await made.answer(ask)
    assert answer.status == 200, made.left
    return json.loads(answer.body)["data"]


async def test_a_map_comes_by_hash_and_as_the_schema_says_it() -> None:
    made = world()
    answer = await made.answer(posted())
    whole = ask_for({"query": MAP, "variables": variables()})
    expected = await made.oracle(whole)
    assert json.loads(answer.body) == json.loads(expected.body)
    assert field(answer, b"Content-Type") == b"application/json; charset=utf-8"
    assert field(answer, b"Cache-Control").startswith(b"private, max-age=")
    assert b"Authorization" in field(answer, b"Vary")
    named = await made.answer(posted(accept="application/graphql-response+json"))
    assert field(named, b"Content-Type").startswith(b"application/graphql-response+json")
    assert made.left == []
    assert made.fast.stats()["fast"] == 2


async def test_an_unknown_hash_is_answered_in_apollos_words() -> None:
    made = world()
    extensions = {"persistedQuery": {"version": 1, "sha256Hash": "0" * 64}}
    answer = await made.answer(ask_for({"extensions": extensions}))
    assert (answer.status, json.loads(answer.body)) == (
        200,
        {"errors": [{"message": "PersistedQueryNotFound", "extensions": {"code": "PERSISTED_QUERY_NOT_FOUND"}}]},
    )
    assert field(answer, b"Cache-Control") == b"no-store"


# 304
async def test_a_get_with_the_tag_it_holds_is_answered_by_a_head() -> None:
    made = world()
    first = await made.answer(got())
    tag = field(first, b"ETag").decode()
    assert tag.startswith('W/"')
    for held in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        again = await made.answer(got(if_none_match=held))
        assert (again.status, again.body) == (304, b"")
        assert field(again, b"ETag").decode() == tag
        assert field(again, b"Cache-Control").startswith(b"private, max-age=")
        assert b"Authorization" in field(again, b"Vary")
    for held in ('W/"other"', tag[2:-2], ""):
        assert (await made.answer(got(if_none_match=held))).status == 200
    assert (await made.answer(posted(if_none_match=tag))).status == 200, "a POST is answered whole (RFC 9110, 13.1.2)"
    made.clock.advance_ms(1_000)
    assert (await made.answer(got(if_none_match=tag))).status == 304, "the clock is no content"


async def test_a_head_is_what_a_get_would_be() -> None:
    """RFC 9110, 9.3.2; the server leaves the body out."""
    made = world()
    got_it, head = await made.answer(got()), await made.answer(got()._replace(method="HEAD"))
    tag = field(got_it, b"ETag").decode()
    assert (head.status, field(head, b"ETag").decode(), len(head.body)) == (200, tag, len(got_it.body))
    assert (await made.answer(got(if_none_match=tag)._replace(method="HEAD"))).status == 304
    assert made.left == []


async def test_the_tag_is_of_content_and_the_same_in_every_process() -> None:
    made, other = world(), world()
    tag = field(await made.answer(got()), b"ETag")
    assert field(await other.answer(posted()), b"ETag") == tag
    assert field(await made.answer(got("p-2")), b"ETag") != tag
    made.schedules.by_event["e"] = (schedule(version=4),)
    assert field(await made.answer(got()), b"ETag") != tag
    renamed = FastWorld(
        (TITLES[0], *TITLES[2:], Title(id="t-1", name="Renamed")),
        PROFILES,
        [schedule()],
        manifest={"m": MAP},
        now_ms=NOW_MS,
        schema=SCHEMA,
    )
    assert field(await renamed.answer(posted()), b"ETag") != tag
    looks = [variables(), variables(kind="PHONE"), variables(screen="LARGE"), variables(locale="fr")]
    asks = [ask_for({"documentId": document_hash(MAP), "variables": each}) for each in looks]
    assert len({field(await other.answer(ask), b"ETag") for ask in asks}) == 4
    alike = ask_for({"documentId": document_hash(MAP), "variables": variables(kind="WEB")})
    assert field(await other.answer(alike), b"ETag") == field(await other.answer(asks[0]), b"ETag"), "shown the same"


async def test_an_answer_with_a_token_is_kept_by_nobody() -> None:
    made = world()
    asked = {**variables(), "eventIds": ["e"]}
    answer = await made.answer(ask_for({"documentId": document_hash(FIRST), "variables": asked}))
    assert answer.status == 200
    assert field(answer, b"Cache-Control") == b"no-store"
    assert b"ETag" not in answer.head
    assert json.loads(answer.body)["data"]["broadcastChannel"]["topics"][0]["topic"] == "event:e"


# Variables
@pytest.mark.parametrize(
    ("given", "how"),
    [
        ({"eventId": "e", "profileId": "p-1", "device": None}, "fast"),
        ({"eventId": "e", "profileId": "p-1"}, "fast"),
        ({"eventId": "e", "profileId": "p-1", "device": {"kind": "TV", "screen": None, "locale": None}}, "fast"),
        ({"eventId": "e", "profileId": "p-1", "more": {"a": [1]}}, "fast"),
        ({"eventId": "e", "profileId": "p-1", "device": {"kind": "tv"}}, "left"),
        ({"eventId": "e", "profileId": "p-1", "device": {"kind": "TV", "colour": 1}}, "left"),
        ({"eventId": "e", "profileId": "p-1", "device": {}}, "left"),
        ({"eventId": "e", "profileId": "p-1", "device": {"kind": "TV", "locale": 7}}, "left"),
        ({"eventId": "e", "profileId": "p-1", "device": [{"kind": "TV"}]}, "left"),
        ({"eventId": 1.5, "profileId": "p-1"}, "left"),
        ({"eventId": None, "profileId": "p-1"}, "left"),
        ({"eventId": "e"}, "left"),
        ({"eventId": "e\u0000", "profileId": "p-1"}, "left"),
        ({"eventId": "e", "profileId": ""}, "left"),
        ({"eventId": "e", "profileId": ["p-1"]}, "left"),
        ({"eventId": "e", "profileId": "p-1", "device": {"kind": "TV", "locale": "%s\u2028"}}, "left"),
    ],
)
async def test_plain_variables_are_read_here_and_odd_ones_left(given: dict[str, Any], how: str) -> None:
    made = world()
    answer = await made.answer(ask_for({"documentId": document_hash(MAP), "variables": given}))
    assert ("left" if answer.status == 599 else "fast") == how
    assert made.fast.faults == 0
    if how == "left":
        (whole,) = made.left
        assert json.loads(whole.body)["query"] == MAP
        assert "errors" in json.loads((await made.oracle(whole)).body)
    else:
        expected = await made.oracle(ask_for({"query": MAP, "variables": given}))
        assert json.loads(answer.body) == json.loads(expected.body)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{ __type(name: \"Query\") { name } }", None),
        ('{ _entities(representations: []) { __typename } }', "abstract type _Entity"),
        ("query ($a: Boolean!, $b: Boolean!, $c: Boolean!, $d: Boolean!) { "
         "a: __typename @skip(if: $a) b: __typename @skip(if: $b) c: __typename @skip(if: $c) "
         "d: __typename @skip(if: $d) }", "more than 3 variables in directives"),
        ("query ($a: Boolean = true) { a: __typename @skip(if: $a) b: __typename }", ""),
    ],
)  # fmt: skip
async def test_what_is_not_compiled_has_a_reason(text: str, why: str | None) -> None:
    made = world()
    given = {"a": True, "b": True, "c": False, "d": False}
    extensions = {"persistedQuery": {"version": 1, "sha256Hash": sha256_of(text)}}
    answer = await made.answer(ask_for({"query": text, "variables": given, "extensions": extensions}))
    assert (answer.status == 599) is (why != "")
    assert list(made.fast.reasons) == ([why] if why else [])


async def test_one_of_several_operations_is_named() -> None:
    made = world()
    text = "query A { __typename } query B { b: __typename }"
    extensions = {"persistedQuery": {"version": 1, "sha256Hash": sha256_of(text)}}
    asks = {name: ask_for({"query": text, "operationName": name, "extensions": extensions}) for name in ("A", "B")}
    assert await data(made, asks["A"]) == {"__typename": "Query"}
    assert await data(made, asks["B"]) == {"b": "Query"}
    for name in (None, "", "C"):
        ask = ask_for({"query": text, "operationName": name, "extensions": extensions})
        assert (await made.answer(ask)).status == 599


# Tokens
async def test_a_token_is_looked_at_once_and_is_for_its_own_profile() -> None:
    made = world()
    assert (await made.answer(posted(authorization="p-1"))).status == 200
    assert len(made.callers) == 1
    for token in ("p-2", "bad"):
        assert (await made.answer(posted(authorization=token))).status == 599, "refused by the endpoint behind"
    text = "{ __typename }"
    extensions = {"persistedQuery": {"version": 1, "sha256Hash": sha256_of(text)}}
    plain = {"query": text, "extensions": extensions}
    assert (await made.answer(ask_for(plain, authorization="bad"))).status == 599, "a bad token is bad for anything"
    assert (await made.answer(ask_for(plain))).status == 200


# Waiting
async def test_picks_that_are_not_in_memory_are_asked_for_together() -> None:
    made = world()
    made.picks.cold = {each.id for each in PROFILES}
    answers = await asyncio.gather(*(made.answer(posted(f"p-{n % 4}")) for n in range(8)))
    assert [answer.status for answer in answers] == [200] * 8
    assert [len(batch) for batch in made.picks.asked] == [4], "each profile once, in one go"
    made.picks.cold.clear()
    warm = [(await made.answer(posted(f"p-{n % 4}"))).body for n in range(8)]
    assert warm == [answer.body for answer in answers]
    assert made.fast.stats()["waiting"] == 0


async def test_a_profile_nobody_has_fails_alone() -> None:
    made = world()
    made.picks.cold = {"p-1"}
    good, bad = await asyncio.gather(made.answer(posted("p-1")), made.answer(posted("nobody")))
    assert (good.status, bad.status) == (200, 599)
    assert [[each.profile_id for each in batch] for batch in made.picks.asked] == [["p-1"]]


async def test_no_root_field_takes_a_profile_nobody_has_into_a_batch() -> None:
    made = world()
    made.picks.cold = {each.id for each in PROFILES}
    one = 'prefetchEvent(eventId: "e", profileId: "%s") { version }'
    channel = 'c: broadcastChannel(eventIds: ["e"], profileId: "p-1", device: {kind: TV}) { url }'
    for text in (f"{{ a: {one % 'p-1'} b: {one % 'nobody'} }}", f"{{ {channel} b: {one % 'nobody'} }}"):
        extensions = {"persistedQuery": {"version": 1, "sha256Hash": sha256_of(text)}}
        assert (await made.answer(ask_for({"query": text, "extensions": extensions}))).status == 599
    assert made.picks.asked == []


@pytest.mark.parametrize("how", ["unavailable", "missing", "broken"])
async def test_without_picks_the_cohorts_map_is_shown_and_said(how: str) -> None:
    made = world()
    made.picks.cold = {"p-1"}
    made.picks.missing = how == "missing"
    failures = {"unavailable": Unavailable("the ranking service is away"), "broken": RuntimeError("boom")}
    made.picks.fails = failures.get(how)
    answer = await made.answer(posted())
    assert answer.status == 200
    whole = ask_for({"query": MAP, "variables": variables()})
    if how != "broken":
        assert json.loads(answer.body) == json.loads((await made.oracle(whole)).body)
    (said,) = json.loads(answer.body)["extensions"]["degraded"]
    assert (said["what"], said["eventId"], said["source"]) == ("picks", "e", "cohort")
    life_s = int(field(answer, b"Cache-Control").rpartition(b"=")[2])
    made.picks.cold.clear()
    healthy = await made.answer(posted())
    assert life_s < int(field(healthy, b"Cache-Control").rpartition(b"=")[2])
    assert field(healthy, b"ETag") != field(answer, b"ETag")


async def test_degraded_picks_in_memory_are_said_too() -> None:
    made = world()
    made.picks.degraded = True
    answer = await made.answer(posted())
    expected = await made.oracle(ask_for({"query": MAP, "variables": variables()}))
    assert json.loads(answer.body) == json.loads(expected.body)
    assert json.loads(answer.body)["extensions"]["degraded"][0]["why"] == "stale %s"


async def test_too_many_that_wait_are_handed_on() -> None:
    made = world(queue_max=16)
    made.picks.cold = {"p-1"}
    answers = await asyncio.gather(*(made.answer(posted()) for _ in range(20)))
    assert sorted(answer.status for answer in answers) == [200] * 16 + [599] * 4
    assert made.fast.stats()["waiting_refused"] == 4


async def test_whoever_waits_when_it_closes_is_answered() -> None:
    made = world()
    made.picks.cold = {"p-1"}
    asked = {**variables(), "eventIds": ["e"]}
    for turns in range(4):
        asks = [
            posted(),
            ask_for({"documentId": document_hash(FIRST), "variables": asked}),
            posted("p-2", x_stagecue_version="8"),
        ]
        waiting = [asyncio.ensure_future(made.answer(ask)) for ask in asks]
        for _ in range(turns):
            await asyncio.sleep(0)
        await made.fast.close()
        assert {answer.status for answer in await asyncio.gather(*waiting)} <= {200, 599}
        assert made.fast.stats()["waiting"] == 0


async def test_a_device_told_of_a_newer_version_gets_no_older_one() -> None:
    made = world()
    made.schedules.newer["e"] = (schedule(version=9),)
    assert (await data(made, posted()))["prefetchEvent"]["version"] == 3
    assert (await data(made, posted(x_stagecue_version="3")))["prefetchEvent"]["version"] == 3
    assert made.schedules.ensured == []
    assert (await data(made, posted(x_stagecue_version="9")))["prefetchEvent"]["version"] == 9
    assert made.schedules.ensured == [("e", 9)]
    assert (await data(made, posted(x_stagecue_version="77")))["prefetchEvent"]["version"] == 9, (
        "asked for once, not for ever"
    )
    for odd in ("-1", "x", "9" * 40):
        assert (await made.answer(posted(x_stagecue_version=odd))).status == 200


async def test_who_is_shed_too_late_to_return_gets_everyones_map() -> None:
    made = world()
    made.picks.cold = {each.id for each in PROFILES}
    maps = [made.fast.default_map(posted(profile)) for profile in ("p-1", "p-2")]
    assert maps[0] is not None
    assert maps[1] is not None
    assert maps[0].body == maps[1].body
    (said,) = json.loads(maps[0].body)["extensions"]["degraded"]
    assert (said["source"], said["why"]) == ("cohort", "more is asked than can be served")
    assert made.picks.asked == []
    asked = {**variables(), "eventIds": ["e"]}
    for other in (
        ask_for({"documentId": document_hash(FIRST), "variables": asked}),
        ask_for({"query": "{ __typename }"}),
        posted("p-1", authorization="p-2"),
        posted()._replace(path="/artwork/x"),
    ):
        assert made.fast.default_map(other) is None


# Faults
async def test_what_nobody_expected_is_counted_and_handed_on() -> None:
    made = world()
    made.picks.at_once = lambda wanted: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    assert (await made.answer(posted())).status == 599
    assert made.fast.faults == 1


async def test_an_endpoint_behind_that_raises_later_is_masked() -> None:
    made = world()
    made.picks.cold = {"p-1"}

    def serve(ask: Ask, reply: Any) -> None:
        raise RuntimeError("behind")

    made.fast._fallback.serve = serve  # type: ignore[method-assign]
    made.fast._defaults.of = lambda *given: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    made.picks.missing = True
    answer = await made.answer(posted())
    assert answer.status == 500
    assert b"behind" not in answer.body


async def test_picks_of_other_stages_or_another_catalog_are_left() -> None:
    made = world()
    made.schedules.by_event["e"] = (schedule(stages=()),)
    first = await made.answer(posted())
    assert first.status == 200
    kept = made.picks.at_once
    stale = kept(made.picks_wanted("e", "p-1"))
    assert stale is not None
    made.schedules.by_event["e"] = (schedule(version=5),)
    made.picks.at_once = lambda wanted: stale  # type: ignore[method-assign]
    assert (await made.answer(posted())).status == 599
    foreign = stale._replace(layout=type(stale.layout)(stale.layout.stages, "0" * 16))
    made.picks.at_once = lambda wanted: foreign  # type: ignore[method-assign]
    assert (await made.answer(posted())).status == 599
    assert made.fast.faults == 0


# Bounds
async def test_fragments_are_bounded_and_answers_do_not_change_by_it() -> None:
    small, large = world(fragment_cache_bytes=4_000), world()
    for kind in ("TV", "PHONE", "TV"):
        for number in range(6):
            ask = ask_for({"documentId": document_hash(MAP), "variables": variables(f"p-{number}", kind=kind)})
            assert (await small.answer(ask)).body == (await large.answer(ask)).body
            assert small.fast.stats()["fragment_bytes"] <= 4_000 + 1_000
    assert small.fast.stats()["fragment_tables_emptied"] > 0
    assert large.fast.stats()["fragment_tables_emptied"] == 0


async def test_a_revision_makes_a_new_fold_and_no_new_fragment() -> None:
    made = world()
    await made.answer(posted())
    before = made.fast.stats()
    made.schedules.by_event["e"] = (schedule(revision=8),)
    assert (await data(made, posted()))["prefetchEvent"]["revision"] == 8
    after = made.fast.stats()
    assert after["folds"] == before["folds"] == 1
    assert (after["folded"], after["fragments_made"]) == (2, before["fragments_made"])
    made.schedules.by_event["e"] = (schedule(revision=8),)
    await made.answer(posted())
    assert made.fast.stats()["folded"] == 2, "the same schedule read again is the same"


def test_fragment_tables_are_shared_by_devices_that_look_alike() -> None:
    made = world()
    fragments = Fragments(made.catalogs, max_bytes=1 << 20)
    names = [fragments.appearance(DeviceContext(kind=kind)) for kind in ("TV", "WEB", "PHONE")]  # type: ignore[arg-type]
    assert names[0] == names[1] != names[2]


# Looking
def test_a_look_costs_nothing_and_says_what_classes_need() -> None:
    made = world()
    seen = made.fast.look(posted(x_stagecue_class="bulk", if_none_match='"x"'))
    assert seen == ("prefetchEvent", "bulk", "TV", "e", True, False)
    assert made.callers == []
    asked = {**variables(), "eventIds": ["e"]}
    assert made.fast.look(ask_for({"documentId": document_hash(FIRST), "variables": asked})).event_id == "e"
    assert made.fast.look(posted()._replace(path="/artwork/x")).operation == "page"
    for unknown in ({"query": "{ other }"}, {"id": "nobody"}, {}):
        assert made.fast.look(ask_for(unknown)).operation == ""
    odd = {"documentId": document_hash(MAP), "variables": {"eventId": [{}], "device": {"kind": 3}}}
    assert made.fast.look(ask_for(odd))[:4] == ("prefetchEvent", None, None, None)


async def test_other_paths_and_other_bodies_go_on_untouched() -> None:
    made = world()
    for ask in (posted()._replace(path="/healthz"), ask_for(b"{"), ask_for({}), got()._replace(query="")):
        assert (await made.answer(ask)).status == 599
        assert made.left[-1] is ask


TWO = """query ($p: ID!) {
  a: prefetchEvent(eventId: "e", profileId: $p) { ttlSeconds }
  b: prefetchEvent(eventId: "f", profileId: $p) { ttlSeconds }
}"""


async def test_an_answer_of_two_events_is_kept_until_a_moment_near_no_stage_of_either() -> None:
    """The least lifetime, clear of its own event's stages, would have ended at the other's."""
    mean_s = 6 * 3600
    one = schedule(stages=())
    other_at_ms = NOW_MS + mean_s * 1000
    other = schedule(topic="event:f", event_id="f", stages=(PlannedStage(key="live", order=1, due_at=other_at_ms),))
    made = FastWorld(TITLES, PROFILES, [one, other], manifest={"two": TWO}, now_ms=NOW_MS, schema=SCHEMA, draw=0.52)
    answer = await made.answer(ask_for({"documentId": "two", "variables": {"p": "p-1"}}))
    lifetimes = [each["ttlSeconds"] for each in json.loads(answer.body)["data"].values()]
    assert abs(min(lifetimes) - mean_s) < 900, "or this shows nothing"
    kept_s = int(field(answer, b"Cache-Control").rpartition(b"=")[2])
    assert 0 < kept_s < mean_s - 900
    expected = await made.oracle(ask_for({"query": TWO, "variables": {"p": "p-1"}}))
    assert b"max-age=%d\r" % kept_s in expected.head


def test_forgetting_topics_counts_their_folds_once() -> None:
    """The topic that is replaced may be the one that went longest unasked."""
    lifetimes = Lifetimes(1_000, 100, 0.5, 0)
    made = world()
    views = TopicViews(lifetimes, Fragments(made.catalogs, max_bytes=1_000_000))
    with patch("dgs.operations.topics._MAX_TOPICS", 2):
        views.of([schedule(topic="event:e")], "US")
        views.of([schedule(topic="event:f")], "US")
        folds: Any = views._views["event:e"].folds
        folds["one"] = None
        views.folds = 1
        views.of([schedule(4, topic="event:e")], "US")
        assert views.folds == 0
