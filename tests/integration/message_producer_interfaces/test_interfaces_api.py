"""The operator API over the real store: a SQLite file, every rule, every refusal in its form."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import httpx
import jwt
import pytest
from msgspec import structs

from contract.clock import ManualClock
from contract.coverage import TopicCoverage
from contract.errors import StoreUnavailable
from contract.reach import ReachCount
from contract.runtime.runner import Readiness
from contract.tokens import KeyRing, OperatorClaims, new_key_ring
from message_producer.api import create_app
from message_producer.app import open_producer
from message_producer.settings import ProducerSettings
from tests.support.fake_operations import FakeOperations

SCHEDULES = Path(__file__).parents[3] / "examples" / "schedules"
NOW = 1_731_000_000_000  # 2024-11-07
RING = new_key_ring("stagecue.operator")
FIGHT = {
    "id": "tyson-paul",
    "title": "Paul vs. Tyson",
    "starts_at": "2024-11-15T20:00:00-05:00",
    "ends_at": "2024-11-16T01:00:00-05:00",
    "time_zone": "America/New_York",
}


def token(role="operator", exp=NOW // 1000 + 3600, ring=RING):
    return ring.sign(OperatorClaims(sub="ann", exp=exp, role=role))


def client_of(app, bearer=None):
    headers = {"Authorization": f"Bearer {bearer or token()}"}
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://producer", headers=headers)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """A data directory with an empty, migrated store: copied for each test, because migrating costs more than most."""
    path = tmp_path_factory.mktemp("migrated")

    async def migrate():
        async with open_producer(ProducerSettings(data_dir=path), clock=ManualClock(NOW), readiness=Readiness()):
            pass

    asyncio.run(migrate())
    return path


@pytest.fixture
async def producer(tmp_path, migrated):
    clock, readiness = ManualClock(NOW), Readiness()
    shutil.copytree(migrated, tmp_path, dirs_exist_ok=True)
    settings = ProducerSettings(data_dir=tmp_path)
    async with open_producer(settings, clock=clock, readiness=readiness) as opened:
        yield opened, create_app(opened.operations, operator_ring=RING, readiness=readiness, clock=clock)


@pytest.fixture
def storeless():
    """The application over an in-memory store, for what never reaches the store."""
    clock = ManualClock(NOW)
    return create_app(FakeOperations(clock), operator_ring=RING, readiness=Readiness(), clock=clock)


@pytest.fixture
async def app(producer):
    return producer[1]


@pytest.fixture
async def api(app):
    async with client_of(app) as client:
        yield client


async def created(api, **changes):
    answer = await api.post("/v1/events", json=FIGHT | changes)
    assert answer.status_code == 201, answer.text
    return answer


def problem(answer, status, code=None):
    """The problem of `answer`, after checking that it is one, whole and of the right kind."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert {"type", "title", "status", "detail", "code", "instance"} <= found.keys()
    assert found["type"] == f"urn:stagecue:problem:{found['code']}"
    if code:
        assert found["code"] == code
    return found


async def test_an_event_is_created_read_changed_shifted_and_cancelled(api):
    answer = await created(api)
    assert (answer.headers["etag"], answer.headers["location"]) == ('"1"', "/v1/events/tyson-paul")
    event = answer.json()
    assert (event["starts_at"], event["starts_at_ms"]) == ("2024-11-15T20:00:00-05:00", 1_731_718_800_000)
    assert [stage["key"] for stage in event["stages"]] == ["upcoming", "starting_soon", "live", "ended", "replay"]
    assert {item["topic"] for item in event["occurrences"]} == {"event:tyson-paul"}

    read = await api.get("/v1/events/tyson-paul")
    assert (read.json(), read.headers["etag"]) == (event, '"1"')

    changed = await api.patch("/v1/events/tyson-paul", json={"title": "Tyson!"}, headers={"If-Match": '"1"'})
    assert (changed.status_code, changed.json()["title"]) == (200, "Tyson!")
    revision = changed.json()["revision"]

    shifted = await api.post("/v1/events/tyson-paul/shift", json={"by": "PT10M"}, headers={"If-Match": f'"{revision}"'})
    assert shifted.json()["starts_at"] == "2024-11-15T20:10:00-05:00"
    assert shifted.json()["ends_at"] == "2024-11-16T01:10:00-05:00"
    earlier = await api.post("/v1/events/tyson-paul/shift", json={"by": "-PT30S"})
    assert earlier.json()["starts_at"] == "2024-11-15T20:09:30-05:00"

    cancelled = await api.post("/v1/events/tyson-paul/cancel")
    assert cancelled.json()["cancelled"] is True
    problem(await api.post("/v1/events/tyson-paul/cancel"), 409, "conflict")

    trail = (await api.get("/v1/events/tyson-paul/audit")).json()["items"]
    assert [entry["action"] for entry in trail] == ["create", "change", "shift", "shift", "cancel"]
    assert {entry["actor"] for entry in trail} == {"ann"}
    first = (await api.get("/v1/events/tyson-paul/audit?limit=2")).json()
    assert [e["action"] for e in (await api.get(first["next"])).json()["items"]] == ["shift", "shift"]


async def test_reach_says_when_the_first_node_had_it(producer, api):
    """Goal: null until a node reported, then ms and the same moment in the event's zone."""
    opened, _ = producer
    await created(api)
    (sent,) = (await api.post("/v1/events/tyson-paul/cue", json={"stage": "live"})).json()["broadcasts"]
    (before,) = (await api.get("/v1/events/tyson-paul/reach")).json()["items"]
    assert (before["routed_at"], before["routed_at_ms"], before["nodes"]) == (None, None, 0)
    at = 1_731_000_000_250
    count = ReachCount(node_id="n1", incarnation="a", topic=sent["topic"], timestamp=sent["timestamp"], routed_at=at)
    await opened.operations.record_reach([count, structs.replace(count, node_id="n2", routed_at=at + 3)])
    (after,) = (await api.get("/v1/events/tyson-paul/reach")).json()["items"]
    assert (after["routed_at_ms"], after["nodes"]) == (at, 2)
    assert after["routed_at"] == "2024-11-07T12:20:00.250-05:00"
    (listed,) = (await api.get("/v1/events/tyson-paul/broadcasts")).json()["items"]
    assert "routed_at_ms" not in listed


async def test_coverage_is_what_nodes_reported_lately(producer, api):
    """Goal: added up per topic, newest version first; a refused cue is a 409 that names field and rule."""
    opened, _ = producer
    await created(api, coverage_threshold=0.75)
    version = (await api.get("/v1/events/tyson-paul")).json()["version"]
    await opened.operations.record_coverage(
        [
            TopicCoverage(
                node_id=node, incarnation="a", begun_at=1, seq=1, topic="event:tyson-paul", held={version: 2, 0: 1}
            )
            for node in ("n1", "n2")
        ]
    )
    found = (await api.get("/v1/events/tyson-paul/coverage")).json()
    assert found["version"] == version
    (topic,) = found["items"]
    assert (topic["nodes"], topic["subscribers"], topic["audience"]) == (2, 6, "all")
    assert topic["current"] == pytest.approx(4 / 6)
    assert topic["held"] == [{"version": version, "subscribers": 4}, {"version": 0, "subscribers": 2}]
    stages = [{"key": "live"}, {"key": "overtime", "anchor": "manual"}]
    changed = await api.patch("/v1/events/tyson-paul", json={"stages": stages}, headers={"If-Match": "*"})
    assert changed.status_code == 200
    refused = problem(await api.post("/v1/events/tyson-paul/cue", json={"stage": "overtime"}), 409, "conflict")
    assert refused["field"] == "stage"
    assert "0% of 6 connected devices" in refused["detail"]
    assert refused["rule"] == "at least 75% of them (coverage_threshold), or override_coverage"
    problem(await api.get("/v1/events/nothing/coverage"), 404, "not_found")


async def test_a_cue_goes_out_and_is_seen_in_broadcasts_reach_and_graphql(api):
    await created(api)
    cue = await api.post("/v1/events/tyson-paul/cue", json={"stage": "live", "audience": None})
    (sent,) = cue.json()["broadcasts"]
    assert (sent["topic"], sent["state_key"], sent["cause"]) == ("event:tyson-paul", "live", "cue")
    (listed,) = (await api.get("/v1/events/tyson-paul/broadcasts")).json()["items"]
    assert listed["timestamp"] == sent["timestamp"]
    (reached,) = (await api.get("/v1/events/tyson-paul/reach")).json()["items"]
    assert (reached["timestamp"], reached["written"]) == (sent["timestamp"], 0)
    query = (
        "query($id: ID!) { broadcasts(eventId: $id) { topic stateKey timestamp prev replayed skipped ack { oneIn } } }"
    )
    answer = await api.post("/graphql", json={"query": query, "variables": {"id": "tyson-paul"}})
    assert answer.json()["data"]["broadcasts"] == [
        {"topic": "event:tyson-paul", "stateKey": "live", "timestamp": sent["timestamp"], "prev": 0, "replayed": False,
         "skipped": [], "ack": None}
    ]  # fmt: skip
    unknown = await api.post("/graphql", json={"query": query, "variables": {"id": "nothing"}})
    assert unknown.json()["errors"][0]["extensions"]["code"] == "not_found"


async def test_one_graphql_request_cannot_ask_the_store_a_thousand_times(api):
    await created(api)
    many = "".join(f'a{n}: broadcasts(eventId: "tyson-paul") {{ topic }} ' for n in range(50))
    answer = await api.post("/graphql", json={"query": "{ " + many + "}"})
    assert "aliases" in answer.json()["errors"][0]["message"]
    assert answer.json().get("data") is None


async def test_a_preview_says_what_would_go_out_when_and_to_whom(api):
    await created(api)
    items = (await api.get("/v1/events/tyson-paul/preview")).json()["items"]
    due = {item["state_key"]: item["due_at"] for item in items}
    assert due["starting_soon"] == "2024-11-15T19:45:00-05:00"
    assert {item["topic"] for item in items} == {"event:tyson-paul"}
    # The `+` of an offset left unencoded arrives as a blank and is meant as a plus.
    some = (await api.get("/v1/events/tyson-paul/preview?until=2024-11-16T01:00:00+00:00")).json()["items"]
    assert "ended" not in {item["state_key"] for item in some}


async def test_pages_link_to_the_next(api):
    for number in range(5):
        await created(api, id=f"e{number}")
    seen, address = [], "/v1/events?limit=2"
    while address:
        page = await api.get(address)
        assert page.status_code == 200
        seen += [event["id"] for event in page.json()["items"]]
        address = page.json()["next"]
        assert (page.headers.get("link") is not None) == (address is not None)
    assert seen == [f"e{number}" for number in range(5)]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"ends_at": "2024-11-15T19:00:00-05:00"}, "ends_at"),
        ({"starts_at": "2024-11-15T20:00:00", "time_zone": None}, "starts_at"),
        ({"starts_at": "2024-03-10T02:30:00"}, "starts_at"),
        ({"starts_at": 1_731_718_800_000}, "starts_at"),
        ({"starts_at": "soon"}, "starts_at"),
        ({"time_zone": "Mars/Base"}, "time_zone"),
        ({"id": "Not An Id"}, "id"),
        ({"id": "x" * 65}, "id"),
        ({"title": ""}, "title"),
        ({"title": 5}, "title"),
        ({"colour": "red"}, "colour"),
        ({"coverage_threshold": -0.1}, "coverage_threshold"),
        ({"coverage_threshold": 1.1}, "coverage_threshold"),
        ({"broadcast_budget_per_hour": 0}, "broadcast_budget_per_hour"),
        ({"announce_late": "yes"}, "announce_late"),
        ({"stages": []}, "stages"),
        ({"stages": [{"key": "live"}, {"key": "live"}]}, "stages[1].key"),
        ({"stages": [{"key": "live"}, {"key": "soon", "offset": "-PT5M"}]}, "stages[1].offset"),
        ({"stages": [{"key": "live", "offset": "15 minutes"}]}, "stages[0].offset"),
        ({"stages": [{"key": "live", "offset": "P1M"}]}, "stages[0].offset"),
        ({"stages": [{"key": "live", "ofset": "PT5M"}]}, "stages[0].ofset"),
        ({"stages": [{"key": "live", "anchor": "middle"}]}, "stages[0].anchor"),
        ({"stages": [{"key": "cancelled"}]}, "stages[0].key"),
        ({"stages": [{"key": "goal", "anchor": "absolute"}]}, "stages[0].at"),
        (
            {"stages": [{"key": "goal", "anchor": "absolute", "at": "2024-11-15T20:00"}], "time_zone": None},
            "stages[0].at",
        ),
        ({"audiences": [{"name": "eu", "offsets": {"nope": "PT1M"}}]}, "audiences[0].offsets.nope"),
        ({"audiences": [{"name": "eu", "stages": ["nope"]}]}, "audiences[0].stages[0]"),
        ({"audiences": [{"name": "eu", "regions": ["Europe"]}]}, "audiences[0].regions[0]"),
    ],
)
async def test_a_bad_event_names_the_field_and_the_rule_and_changes_nothing(api, changes, field):
    found = problem(await api.post("/v1/events", json=FIGHT | changes), 400)
    assert found["field"] == field
    assert found["rule"]
    assert (await api.get("/v1/events")).json()["items"] == []


async def test_every_bad_field_is_listed_when_there_are_several(api):
    found = problem(await api.post("/v1/events", json={"id": "x", "colour": "red"}), 400)
    assert {item["field"] for item in found["errors"]} == {"title", "starts_at", "colour"}


@pytest.mark.parametrize("raw", [b"{nope", b"[]", b"5", b"", b"\xff\xfe", b'{"id":' + b"[" * 5000])
async def test_a_body_that_is_no_event_is_a_problem(api, raw):
    answer = await api.post("/v1/events", content=raw, headers={"Content-Type": "application/json"})
    problem(answer, 400, "invalid_request")


async def test_a_body_of_another_kind_is_told_what_to_send(api):
    """The usual slip with curl: -d without a Content-Type header."""
    slip = {"Content-Type": "application/x-www-form-urlencoded"}
    found = problem(await api.post("/v1/events", content=b'{"id": "x"}', headers=slip), 400, "invalid_request")
    assert (found["field"], found["rule"]) == ("body", "one JSON object, with Content-Type: application/json")
    found = problem(await api.post("/v1/events", json=FIGHT | {"stages": ["live"]}), 400, "invalid_request")
    assert (found["field"], found["rule"]) == ("stages[0]", "a JSON object")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "field"),
    [
        ("GET", "/v1/events/nothing", None, 404, "not_found", "id"),
        ("POST", "/v1/events/nothing/shift", {"by": "PT1M"}, 404, "not_found", "id"),
        ("POST", "/v1/events/nothing/cue", {"stage": "live"}, 404, "not_found", "id"),
        ("GET", "/v1/events/nothing/reach", None, 404, "not_found", "id"),
        ("POST", "/v1/events/tyson-paul/cue", {"stage": "nope"}, 400, "unknown_stage", "stage"),
        (
            "POST",
            "/v1/events/tyson-paul/cue",
            {"stage": "live", "audience": "mars"},
            400,
            "invalid_request",
            "audience",
        ),
        ("POST", "/v1/events/tyson-paul/cue", {}, 400, "invalid_request", "stage"),
        ("POST", "/v1/events/tyson-paul/shift", {"by": "P1M"}, 400, "invalid_request", "by"),
        ("POST", "/v1/events/tyson-paul/shift", {"by": "PT0S"}, 400, "invalid_request", "by"),
        ("POST", "/v1/events/tyson-paul/shift", {"for": "PT1M"}, 400, "invalid_request", "by"),
        ("GET", "/v1/events/tyson-paul/preview?until=later", None, 400, "invalid_request", "until"),
        ("GET", "/v1/events?limit=0", None, 400, "invalid_request", "limit"),
        ("GET", "/v1/events/tyson-paul/audit?after=x", None, 400, "invalid_request", "after"),
        ("POST", "/v1/events", FIGHT, 409, "conflict", "id"),
        ("DELETE", "/v1/events/tyson-paul", None, 405, "method_not_allowed", None),
        ("GET", "/v1/nothing", None, 404, "not_found", None),
    ],
)
async def test_a_bad_request_is_a_problem_that_names_its_field(api, method, path, body, status, code, field):
    await created(api)
    found = problem(await api.request(method, path, json=body), status, code)
    assert found.get("field") == field
    assert field is None or found["detail"].startswith(f"{field}: ")
    assert (await api.get("/v1/events/tyson-paul")).json()["revision"] == 1


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 428, "precondition_required"),
        ({"If-Match": '"7"'}, 412, "revision_conflict"),
        ({"If-Match": "1"}, 400, "invalid_request"),
        ({"If-Match": 'W/"1"'}, 400, "invalid_request"),
    ],
)
async def test_a_change_needs_the_revision_it_is_based_on(api, headers, status, code):
    await created(api)
    found = problem(await api.patch("/v1/events/tyson-paul", json={"title": "x"}, headers=headers), status, code)
    assert found["field"] == "If-Match"
    if status == 412:
        assert found["current_revision"] == 1
    assert (await api.get("/v1/events/tyson-paul")).json()["title"] == FIGHT["title"]


@pytest.mark.parametrize("what", ["shift", "cancel"])
async def test_a_shift_or_cancellation_minds_a_revision_if_given(api, what):
    await created(api)
    answer = await api.post(f"/v1/events/tyson-paul/{what}", json={"by": "PT1M"}, headers={"If-Match": '"9"'})
    assert problem(answer, 412)["current_revision"] == 1


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({}, "body"),
        ({"id": "other"}, "id"),
        ({"title": None}, "title"),
        ({"starts_at": "2024-11-15T20:00:00"}, "starts_at"),
        ({"ends_at": "2024-11-15T19:00:00-05:00"}, "ends_at"),
        ({"stages": [{"key": "a"}, {"key": "a"}]}, "stages[1].key"),
    ],
)
async def test_a_bad_change_names_the_field_and_changes_nothing(api, patch, field):
    await created(api)
    found = problem(await api.patch("/v1/events/tyson-paul", json=patch, headers={"If-Match": "*"}), 400)
    assert found["field"] == field
    assert (await api.get("/v1/events/tyson-paul")).json()["revision"] == 1


async def test_null_clears_the_end_and_a_local_time_counts_in_the_zone_beside_it(api):
    await created(api)
    patch = {"ends_at": None, "starts_at": "2024-11-15T21:00", "time_zone": "America/Chicago"}
    event = (await api.patch("/v1/events/tyson-paul", json=patch, headers={"If-Match": "*"})).json()
    assert (event["ends_at"], event["starts_at"]) == (None, "2024-11-15T21:00:00-06:00")


async def test_a_repeated_key_repeats_the_answer_and_another_request_under_it_is_refused(api):
    key = {"Idempotency-Key": "night-1"}
    first = await api.post("/v1/events", json=FIGHT, headers=key)
    again = await api.post("/v1/events", json=FIGHT, headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    found = problem(await api.post("/v1/events", json=FIGHT | {"id": "other"}, headers=key), 409, "conflict")
    assert found["field"] == "Idempotency-Key"
    shift = {"Idempotency-Key": "shift-1"}
    for _ in range(3):
        moved = await api.post("/v1/events/tyson-paul/shift", json={"by": "PT10M"}, headers=shift)
        assert moved.json()["starts_at"] == "2024-11-15T20:10:00-05:00"
    cue = {"Idempotency-Key": "cue-1"}
    sent = [(await api.post("/v1/events/tyson-paul/cue", json={"stage": "live"}, headers=cue)).json() for _ in range(2)]
    assert sent[0] == sent[1]
    assert len((await api.get("/v1/events/tyson-paul/broadcasts")).json()["items"]) == 1
    problem(await api.post("/v1/events", json=FIGHT, headers={"Idempotency-Key": "a b"}), 400)


async def test_a_spent_budget_says_when_to_come_back(api):
    await created(api, broadcast_budget_per_hour=1)
    await api.post("/v1/events/tyson-paul/cue", json={"stage": "live"})
    answer = await api.post("/v1/events/tyson-paul/cue", json={"stage": "ended"})
    problem(answer, 429, "budget_spent")
    assert int(answer.headers["retry-after"]) > 0


def forged():
    return jwt.encode(
        {"sub": "eve", "exp": NOW // 1000 + 60, "role": "operator", "aud": "stagecue.operator"},
        b"x" * 32,
        algorithm="HS256",
        headers={"kid": "k1"},
    )


def unsigned():
    return jwt.encode({"sub": "eve", "exp": NOW // 1000 + 60, "aud": "stagecue.operator"}, "", algorithm="none",
                      headers={"kid": "k1"})  # fmt: skip


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic YTpi",
        "Bearer ",
        "Bearer nonsense",
        f"Bearer {token(exp=NOW // 1000 - 60)}",
        f"Bearer {forged()}",
        f"Bearer {unsigned()}",
        f"Bearer {token(ring=KeyRing('stagecue.link', {'k1': b'y' * 32}, 'k1'))}",
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/events"), ("POST", "/v1/events"), ("POST", "/graphql")])
async def test_without_a_good_token_nothing_is_told_or_done(storeless, header, method, path):
    transport = httpx.ASGITransport(app=storeless)
    async with httpx.AsyncClient(transport=transport, base_url="http://producer") as nobody:
        headers = {} if header is None else {"Authorization": header}
        answer = await nobody.request(method, path, content=b"{nope", headers=headers)
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith('Bearer realm="stagecue"')
    secret = (header or "").partition(" ")[2]
    assert not secret or secret not in answer.text


async def test_a_viewer_reads_and_does_not_write(app, api):
    await created(api)
    async with client_of(app, token("viewer")) as viewer:
        assert (await viewer.get("/v1/events/tyson-paul")).status_code == 200
        assert (await viewer.post("/graphql", json={"query": "{ __typename }"})).status_code == 200
        for path in ("/v1/events", "/v1/events/tyson-paul/cue", "/v1/feeds/import"):
            problem(await viewer.post(path, json={}), 403, "forbidden")
        problem(await viewer.patch("/v1/events/tyson-paul", json={}), 403, "forbidden")


async def test_bodies_are_bounded_declared_or_not(api):
    async def chunks():
        for _ in range(20):
            yield b" " * 100_000

    as_json = {"Content-Type": "application/json"}
    problem(await api.post("/v1/events", content=b" " * 1_100_000, headers=as_json), 413, "too_large")
    problem(await api.post("/v1/events", content=chunks(), headers=as_json), 413, "too_large")
    calendar = {"Content-Type": "text/calendar"}
    # Two megabytes are within a calendar's bound: refused for what they are, not for how many.
    problem(await api.post("/v1/feeds/import", content=chunks(), headers=calendar), 400, "invalid_request")
    problem(await api.post("/v1/feeds/import", content=b" " * 5_300_000, headers=calendar), 413, "too_large")


async def imported(api, raw, **query):
    span = {"from": "2024-01-01T00:00:00Z", "until": "2026-12-31T00:00:00Z"}
    answer = await api.post(
        "/v1/feeds/import", content=raw, params=span | query, headers={"Content-Type": "text/calendar; charset=utf-8"}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_calendar_is_taken_once_and_moves_what_it_moves(api):
    raw = (SCHEDULES / "live-events.ics").read_bytes()
    dry = await imported(api, raw, dry_run="true")
    assert (len(dry["created"]), (await api.get("/v1/events")).json()["items"]) == (6, [])
    assert len((await imported(api, raw))["created"]) == 6
    assert (await imported(api, raw))["unchanged"] == 6
    later = raw.replace(b"20241115T200000", b"20241115T203000")
    (moved,) = (await imported(api, later))["moved"]
    assert (moved["id"], moved["after"]) == ("paul-tyson", {"starts_at": "2024-11-15T20:30:00-05:00"})
    assert len((await api.get("/v1/events")).json()["items"]) == 6
    event = (await api.get("/v1/events/paul-tyson")).json()
    assert (event["starts_at"], event["source"]) == ("2024-11-15T20:30:00-05:00", "import")
    off = later.replace(b"STATUS:CONFIRMED", b"STATUS:CANCELLED", 1)
    assert [item["id"] for item in (await imported(api, off))["cancelled"]] == ["paul-tyson"]


async def test_a_broken_calendar_gives_its_good_entries_and_lists_the_bad_ones_by_line(api):
    report = await imported(api, (SCHEDULES / "rough.ics").read_bytes())
    assert [item["line"] for item in report["rejected"]] == [14, 19, 25, 30, 32, 39, 60, 69]
    assert all(item["field"] and item["message"] and item["rule"] for item in report["rejected"])
    assert [item["title"] for item in report["created"]] == [
        "Cup final", "Weekly show", "Weekly show, a day late", "Weekly show", "Season closer"
    ]  # fmt: skip
    assert len((await api.get("/v1/events")).json()["items"]) == 5


@pytest.mark.parametrize(
    ("query", "kind", "status", "field"),
    [
        ("source=api", "text/calendar", 400, "source"),
        ("source=Not%20A%20Name", "text/calendar", 400, "source"),
        ("from=yesterday", "text/calendar", 400, "from"),
        ("from=2025-01-01T00:00:00Z&until=2024-01-01T00:00:00Z", "text/calendar", 400, "until"),
        ("dry_run=perhaps", "text/calendar", 400, "dry_run"),
        ("", "application/json", 415, None),
        ("", "text/calendar", 400, "calendar"),
    ],
)
async def test_an_import_that_makes_no_sense_is_refused_whole(api, query, kind, status, field):
    answer = await api.post(f"/v1/feeds/import?{query}", content=b"hello", headers={"Content-Type": kind})
    assert problem(answer, status).get("field") == field


async def test_health_needs_no_token_and_readiness_names_what_fails():
    clock, readiness = ManualClock(NOW), Readiness()
    app = create_app(FakeOperations(clock), operator_ring=RING, readiness=readiness, clock=clock)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://producer") as nobody:
        assert (await nobody.get("/healthz")).json() == {"status": "alive"}
        readiness.hold("store")
        assert (await nobody.get("/readyz")).status_code == 200
        readiness.fail("store", "disk full")
        answer = await nobody.get("/readyz")
        assert (answer.status_code, answer.json()["failing"]) == (503, {"store": "disk full"})
        assert (await nobody.get("/healthz")).status_code == 200


async def test_a_store_that_is_away_is_a_503_and_a_surprise_a_500_without_details():
    clock = ManualClock(NOW)
    operations = FakeOperations(clock)
    app = create_app(operations, operator_ring=RING, readiness=Readiness(), clock=clock)
    async with client_of(app) as api:
        operations.fail_with = StoreUnavailable("database is locked", retry_after_s=2)
        answer = await api.get("/v1/events")
        problem(answer, 503, "store_unavailable")
        assert answer.headers["retry-after"] == "2"
        operations.fail_with = RuntimeError("secret path")
        answer = await api.get("/v1/events")
        problem(answer, 500, "internal")
        assert "secret" not in answer.text


async def test_the_docs_page_asks_no_other_host(storeless):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=storeless), base_url="http://producer") as browser:
        page = await browser.get("/docs")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "//" not in page.text.replace("<!doctype html>", "")
        for name, beginning in (
            ("swagger-ui-bundle.js", "/*! For license"),
            ("swagger-ui.css", "."),
            ("docs.js", "//"),
        ):
            asset = await browser.get(f"/docs/{name}")
            assert asset.status_code == 200
            assert asset.text.startswith(beginning)


async def test_every_operation_is_described_with_examples(storeless):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=storeless), base_url="http://producer") as browser:
        spec = (await browser.get("/openapi.json")).json()
    operations = [(path, method, it) for path, methods in spec["paths"].items() for method, it in methods.items()]
    assert Counter(method for _, method, _ in operations) == {"get": 9, "post": 7, "patch": 1}
    for path, method, operation in operations:
        where = f"{method} {path}"
        assert operation["summary"], where
        (good,) = (content for status, content in operation["responses"].items() if status.startswith("2"))
        assert good["content"]["application/json"]["example"], where
        if path.startswith("/v1"):
            assert operation["security"], where
        for media in operation.get("requestBody", {}).get("content", {}).values():
            schema = media["schema"]
            named = spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else media
            assert named.get("examples") or named.get("example"), where


async def test_the_examples_of_requests_are_taken_as_they_stand(api, app):
    """An example in the documentation that the API refuses would be a lie."""
    schemas = app.openapi()["components"]["schemas"]
    assert (await api.post("/v1/events", json=schemas["EventIn"]["examples"][0])).status_code == 201
    patched = await api.patch(
        "/v1/events/tyson-paul", json=schemas["EventPatchIn"]["examples"][0], headers={"If-Match": "*"}
    )
    assert patched.status_code == 200
    assert (await api.post("/v1/events/tyson-paul/shift", json=schemas["ShiftIn"]["examples"][0])).status_code == 200
    assert (await api.post("/v1/events/tyson-paul/cue", json=schemas["CueIn"]["examples"][0])).status_code == 200
    rehearsal = schemas["RehearsalIn"]["examples"][0]
    assert (await api.post("/v1/events/tyson-paul/rehearse", json=rehearsal)).status_code == 201


async def test_a_rehearsal_is_an_event_of_its_own_that_no_list_has(api):
    await api.post("/v1/events", json=FIGHT)
    before = (await api.get("/v1/events/tyson-paul")).json()
    played = await api.post("/v1/events/tyson-paul/rehearse", json={"over": "PT90S", "begins_in": "PT5S"})
    shadow = played.json()
    assert (played.status_code, shadow["shadow_of"], shadow["source"]) == (201, "tyson-paul", "shadow")
    assert played.headers["location"] == f"/v1/events/{shadow['id']}"
    assert {item["topic"] for item in shadow["occurrences"]} == {f"shadow:{shadow['id']}"}
    due = [item["due_at_ms"] for item in shadow["occurrences"]]
    assert (due[0], due[-1]) == (NOW + 5_000, NOW + 95_000)
    assert (await api.get("/v1/events/tyson-paul")).json() == before
    assert [event["id"] for event in (await api.get("/v1/events")).json()["items"]] == ["tyson-paul"]
    every = (await api.get("/v1/events?shadows=true&limit=1")).json()
    assert [event["id"] for event in every["items"]] == [shadow["id"]]
    assert [event["id"] for event in (await api.get(every["next"])).json()["items"]] == ["tyson-paul"]
    assert (await api.get("/v1/events/tyson-paul/audit")).json()["items"][-1]["after"] == {"shadow": shadow["id"]}


async def test_a_rehearsal_that_cannot_be_is_refused_by_field(api):
    await api.post("/v1/events", json=FIGHT)

    async def refused(event_id, body):
        answer = await api.post(f"/v1/events/{event_id}/rehearse", json=body)
        return answer.status_code, answer.json().get("field")

    assert await refused("nobody", {}) == (404, "id")
    assert await refused("tyson-paul", {"over": "PT1S"}) == (400, "over")
    assert await refused("tyson-paul", {"over": "soon"}) == (400, "over")
    assert await refused("tyson-paul", {"compress": 1}) == (400, "compress")
    assert await refused("tyson-paul", {"speed": 4}) == (400, "speed")
    await api.post("/v1/events/tyson-paul/cancel")
    assert await refused("tyson-paul", {}) == (409, "id")


async def test_a_large_calendar_is_parsed_beside_the_loop_not_on_it(api):
    """While 1,500 entries are read, the loop still answers health checks."""
    entry = "BEGIN:VEVENT\r\nUID:{n}\r\nSUMMARY:x\r\nDTSTART:20200101T200000Z\r\nEND:VEVENT\r\n"
    raw = "BEGIN:VCALENDAR\r\n" + "".join(entry.format(n=n) for n in range(1500)) + "END:VCALENDAR\r\n"
    importing = asyncio.create_task(imported(api, raw.encode()))
    answered = 0
    while not importing.done():
        assert (await api.get("/healthz")).status_code == 200
        answered += 1
        await asyncio.sleep(0.01)
    assert (await importing)["outside_horizon"] == 1500
    assert answered > 3
