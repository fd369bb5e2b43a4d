"""Goal: a plan refuses what cannot be run and says which field; users come, think, retry and act as their crowd says.

Method: pure modules; no locust, no gevent, which would patch this process.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contract.device_operations import MAP, document_hash
from contract.errors import InvalidRequest
from device_sim.stage_map import MapEntry, StageMap
from loadtest.machine.needs import MachineFacts
from loadtest.users import asking, run
from loadtest.users.asking import Heard, NotAnAnswer
from loadtest.users.fitting import lacking
from loadtest.users.operating import OperatorLife
from loadtest.users.pacing import Stay, present_at, refresh_after_s, stays, think_s
from loadtest.users.plan import USERS_PER_WORKER_MAX, Crowd, Stretch, UsersPlan, surge
from loadtest.users.retrying import BUDGET_TRIES_MAX, IMMEDIATE_TRIES_MAX, RetryBudget, next_try_after_s

ENTRY = MapEntry("f", b"")
HELD = StageMap("e", 3, 1, 600, 5, {"live": ENTRY}, ENTRY, {"live": None}, etag='W/"x"')


def plan(**changes: Any) -> UsersPlan:
    given: dict[str, Any] = {
        "crowds": (Crowd(name="home", kind="browse", users=4),),
        "dgs_url": "http://127.0.0.1:1",
        "event_ids": ("e",),
    }
    return UsersPlan(**(given | changes))


def crowd(**changes: Any) -> Crowd:
    given: dict[str, Any] = {"name": "home", "kind": "browse", "users": 10}
    return Crowd(**(given | changes))


# plans
def test_the_parent_side_imports_neither_locust_nor_gevent() -> None:
    assert run.LocustRun.__module__ == "loadtest.users.run"
    assert "gevent" not in sys.modules
    assert "locust" not in sys.modules


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"crowds": ()}, "crowds"),
        ({"dgs_url": ""}, "dgs_url"),
        ({"event_ids": ()}, "event_ids"),
        ({"event_ids": ("a b",)}, "event_ids"),
        ({"event_ids": tuple(f"e{number}" for number in range(65))}, "event_ids"),
        ({"duration_s": 0.0}, "duration_s"),
        ({"workers": -1}, "workers"),
        ({"time_compression": 0.0}, "time_compression"),
        ({"bin_s": 0.001}, "bin_s"),
        ({"crowds": (crowd(), crowd())}, "crowds.name"),
        ({"crowds": (crowd(kind="operate"),)}, "producer_url"),
        ({"crowds": (crowd(kind="operate"),), "producer_url": "http://h"}, "operator_token"),
        ({"operator_token": "two\nlines"}, "operator_token"),
        ({"dgs_url": "127.0.0.1:8401"}, "dgs_url"),
        ({"dgs_url": "http://127.0.0.1:8401/graphql"}, "dgs_url"),
        ({"dgs_url": "http://[::1"}, "dgs_url"),
        ({"dgs_url": "http://me:secret@127.0.0.1"}, "dgs_url"),
        ({"producer_url": "http://127.0.0.1:99999"}, "producer_url"),
        ({"push_urls": ("http://127.0.0.1:8402/v1/stream",)}, "push_urls"),
        ({"push_urls": ("ws://127.0.0.1:8402",)}, "push_urls"),
        ({"duration_s": math.inf}, "duration_s"),
        ({"time_compression": math.inf}, "time_compression"),
        ({"timeout_s": math.nan}, "timeout_s"),
    ],
)
def test_a_plan_names_the_field_at_fault(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan(**changes)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "Home/1"}, "crowds.name"),
        ({"users": 0}, "crowds.users"),
        ({"curve": (Stretch(0, 11),)}, "crowds.users"),
        ({"curve": (Stretch(-1, 5),)}, "crowds.curve"),
        ({"curve": (Stretch(1, 5),), "spawn_per_s": 1.0}, "crowds.spawn_per_s"),
        ({"spawn_per_s": 0.0}, "crowds.spawn_per_s"),
        ({"ttl_spread": 1.0}, "crowds.ttl_spread"),
        ({"home_share": 1.1}, "crowds.home_share"),
        ({"think_median_s": 0.0}, "crowds.think_median_s"),
        ({"think_sigma": 9.0}, "crowds.think_sigma"),
        ({"connect_within_s": -1.0}, "crowds.connect_within_s"),
        ({"act_every_s": 0.0}, "crowds.act_every_s"),
        ({"act_every_s": math.inf}, "crowds.act_every_s"),
        ({"curve": (Stretch(math.nan, 5),)}, "crowds.curve"),
        ({"first_profile": -1}, "crowds.first_profile"),
        ({"headers": {"X-Class": "a\r\nHost: elsewhere"}}, "crowds.headers"),
    ],
)
def test_a_crowd_names_the_field_at_fault(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        crowd(**changes)
    assert caught.value.field == field


@pytest.mark.parametrize("written", ['{"crowds": [], "duraton_s": 3}', '{"crowds": [{"name": "a", "kynd": "browse"}]}'])
def test_a_field_nobody_knows_is_refused(written: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"unknown field `(duraton_s|kynd)`"):
        msgspec.json.decode(written, type=UsersPlan)


def test_too_many_users_for_the_files_of_a_process_are_told_how_many_workers_would_do() -> None:
    many = (crowd(users=2 * USERS_PER_WORKER_MAX + 1),)
    with pytest.raises(InvalidRequest, match="3 workers"):
        plan(crowds=many, workers=2)
    assert plan(crowds=many, workers=3).users == 2 * USERS_PER_WORKER_MAX + 1


def test_crowds_have_profiles_one_after_the_other_unless_they_name_the_first() -> None:
    found = plan(
        crowds=(crowd(name="a", users=5), crowd(name="b", users=7), crowd(name="c", first_profile=100), crowd(name="d"))
    )
    assert [found.first_profile(name) for name in "abcd"] == [0, 5, 100, 110]
    with pytest.raises(KeyError):
        found.first_profile("e")
    assert found.crowd("b").users == 7


def test_a_plan_survives_its_way_to_another_process() -> None:
    found = plan(crowds=(crowd(users=1000, curve=surge(100)),), workers=2)
    assert msgspec.json.decode(msgspec.json.encode(found), type=UsersPlan) == found


def test_the_plan_in_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[3] / "docs" / "load-users.md").read_text()
    found = msgspec.toml.decode(page.split("```toml\n")[1].split("```")[0], type=UsersPlan)
    assert [each.name for each in found.crowds] == ["living-rooms", "polls"]
    assert present_at(found.crowd("living-rooms"), 60.0) == 1000


# what this machine carries
FACTS = MachineFacts(
    cores=2, memory_bytes=8 << 30, memory_available_bytes=4 << 30, files_per_process=1_024, files_max=None,
    processes_max=None, port_range=(32_768, 60_999), tracked_max=None, tcp_pages_max=None, backlog_max=None,
    epoll_watches_max=None,
)  # fmt: skip


def test_a_plan_that_fits_lacks_nothing() -> None:
    assert lacking(plan(), FACTS) == []


@pytest.mark.parametrize(
    ("crowds", "changes", "said"),
    [
        ((crowd(users=2_000),), {}, ["824 users would fit", "--workers 3"]),
        ((crowd(users=2_000),), {"files_per_process": 100}, ["0 users would fit", "ulimit -Hn"]),
        ((crowd(users=15_000, kind="connect"), crowd(name="b", users=15_000, kind="naive")),
         {"files_per_process": 40_000}, ["30000 connections to push nodes", "28232 would fit"]),
        ((crowd(users=800),), {"memory_available_bytes": 150 << 20}, ["memory", "170 would fit"]),
    ],
)  # fmt: skip
def test_what_there_is_too_little_of_is_named_with_how_many_would_fit(
    crowds: tuple[Crowd, ...], changes: dict[str, Any], said: list[str]
) -> None:
    found = lacking(plan(crowds=crowds, workers=len(crowds)), msgspec.structs.replace(FACTS, **changes))
    assert len(found) == 1
    for each in said:
        assert each in found[0]


# coming and going
def test_ten_times_as_many_in_thirty_seconds() -> None:
    found = crowd(users=1000, curve=surge(100, factor=10, after_s=20, over_s=30))
    assert [present_at(found, at_s) for at_s in (0, 19.9, 35, 50, 99)] == [100, 100, 550, 1000, 1000]
    assert stays(found, 99, 0.5) == [Stay(0.0, None)]
    assert stays(found, 999, 0.0)[0].from_s == pytest.approx(20 + 30 * 899 / 900)


def test_without_a_curve_users_come_at_their_rate_and_stay() -> None:
    assert stays(crowd(spawn_per_s=2.0), 7, 0.5) == (Stay(3.75, None),)
    assert stays(crowd(), 7, 0.5) == (Stay(0.5, None),)
    assert present_at(crowd(spawn_per_s=2.0), 3.0) == 6.0


def test_who_came_last_goes_first_and_may_come_again() -> None:
    found = crowd(users=10, curve=(Stretch(10, 10), Stretch(10, 5), Stretch(10, 10)))
    assert stays(found, 9, 0.0) == [Stay(9.0, 10.0), Stay(28.0, None)]
    assert stays(found, 0, 0.0) == [Stay(0.0, None)]


def test_think_times_have_their_median_and_a_long_tail() -> None:
    found = crowd(think_median_s=8.0, think_sigma=0.9)
    assert think_s(found, 0.0, compression=1.0) == 8.0
    assert think_s(found, 0.0, compression=4.0) == 2.0
    assert think_s(found, 2.0, compression=1.0) == pytest.approx(8 * math.exp(1.8))


def test_a_map_is_refreshed_within_the_last_part_of_its_life() -> None:
    assert refresh_after_s(crowd(ttl_spread=0.0), 600, 0.9, compression=1.0) == 600
    assert refresh_after_s(crowd(ttl_spread=0.5), 600, 0.5, compression=10.0) == 45


# retrying
def test_nobody_tries_again_without_a_policy_that_does() -> None:
    assert next_try_after_s("none", 1, budget=RetryBudget(), retry_after_s=None, draw=0.0) is None


def test_an_impatient_device_tries_at_once_whatever_it_was_told_and_stops_at_last() -> None:
    budget = RetryBudget()
    waits = [
        next_try_after_s("immediate", tries, budget=budget, retry_after_s=30.0, draw=0.5)
        for tries in range(1, IMMEDIATE_TRIES_MAX + 1)
    ]
    assert waits == [0.0] * (IMMEDIATE_TRIES_MAX - 1) + [None]
    assert budget.left == RetryBudget.MAX


def test_a_device_with_a_budget_waits_as_long_as_it_is_told_and_longer_each_time() -> None:
    budget = RetryBudget()
    told = next_try_after_s("budget", 1, budget=budget, retry_after_s=7.0, draw=0.25)
    assert told == 7.25
    waits = [
        next_try_after_s("budget", tries, budget=RetryBudget(), retry_after_s=None, draw=0.5) for tries in (1, 2, 3)
    ]
    assert waits == [0.2, 0.4, 0.8]
    assert next_try_after_s("budget", BUDGET_TRIES_MAX, budget=RetryBudget(), retry_after_s=None, draw=0.5) is None
    assert next_try_after_s("budget", 1, budget=RetryBudget(), retry_after_s=3600.0, draw=0.5) is None


def test_a_spent_budget_is_refilled_by_answers_a_tenth_each() -> None:
    budget = RetryBudget()
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    for _ in range(9):
        budget.answered()
    assert not budget.take()
    for _ in range(2):
        budget.answered()
    assert budget.take()


# asking
def test_a_map_is_asked_for_by_hash_and_get_with_what_is_held() -> None:
    asked = asking.map_ask("e", "p-1", {"kind": "TV"}, held=HELD, told_version=4)
    request = asking.request_of(asked, "/graphql", {"X-Device-Id": "d-1"})
    assert (request.method, request.body) == ("GET", b"")
    assert request.target.startswith("/graphql?documentId=sha256%3A" + document_hash(MAP))
    assert request.headers["If-None-Match"] == 'W/"x"'
    assert request.headers["X-Stagecue-Version"] == "4"
    assert request.headers["X-Device-Id"] == "d-1"


def test_an_operation_the_dgs_does_not_know_is_sent_whole_with_its_hash() -> None:
    asked = asking.home_ask("p-1", {"kind": "TV"})
    by_hash = msgspec.json.decode(asking.request_of(asked, "/graphql", {}).body)
    assert by_hash["documentId"] == f"sha256:{document_hash(asking.HOME)}"
    whole = msgspec.json.decode(asking.request_of(asked, "/graphql", {}, whole=True).body)
    assert whole["query"] == asking.HOME
    assert whole["extensions"]["persistedQuery"]["sha256Hash"] == document_hash(asking.HOME)
    unknown = b'{"errors":[{"message":"PersistedQueryNotFound","extensions":{"code":"PERSISTED_QUERY_NOT_FOUND"}}]}'
    assert asking.is_unknown_hash(Heard(200, unknown))
    assert not asking.is_unknown_hash(Heard(200, b'{"data":{}}'))


def test_a_url_is_taken_apart_into_where_and_what() -> None:
    assert asking.target_of("http://h:1/graphql?cluster=b") == ("http://h:1", "/graphql?cluster=b")
    assert asking.target_of("art/x.png") == ("", "/art/x.png")
    asked = asking.map_ask("e", "p-1", {"kind": "TV"})
    assert asking.request_of(asked, "/graphql?cluster=b", {}).target.startswith("/graphql?cluster=b&documentId=")


def test_a_304_gives_the_map_held_a_new_life() -> None:
    found = asking.map_of(Heard(304, b"", cache_control="private, max-age=77"), HELD, server_time_ms=9)
    assert (found.ttl_s, found.server_time, found.version) == (77, 9, 3)
    with pytest.raises(NotAnAnswer, match="nothing held"):
        asking.map_of(Heard(304, b""), None, server_time_ms=9)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "no GraphQL"),
        (b"[]", "no GraphQL"),
        (b'{"errors":[{"extensions":{"code":"not_found"}}],"data":null}', "graphql not_found"),
        (b'{"errors":["odd"]}', "graphql error"),
        (b'{"data":null}', "no data"),
        (b'{"data":{}}', "no stage map"),
        (b'{"data":{"prefetchEvent":{"byKey":{}}}}', "no stage map"),
    ],
)
def test_what_is_no_answer_is_named_briefly(body: bytes, reason: str) -> None:
    with pytest.raises(NotAnAnswer, match=reason):
        asking.map_of(Heard(200, body), None, server_time_ms=0)


# operating
def test_an_operator_makes_an_event_works_on_it_cancels_it_and_makes_the_next() -> None:
    life = OperatorLife("load-1", headers={"Authorization": "Bearer t"})
    names, targets, keys = [], [], set()
    for number in range(9):
        act = life.next_act(1_700_000_000_000, 0.3 if number % 2 else 0.7)
        names.append(act.name)
        targets.append(act.request.target)
        keys.add(act.request.headers["Idempotency-Key"])
        life.done(act, succeeded=True)
    assert names == ["create", "shift", "cue", "shift", "cue", "shift", "cancel", "create", "cue"]
    assert targets[6] == "/v1/events/load-1-0/cancel"
    assert targets[8] == "/v1/events/load-1-1/cue"
    assert len(keys) == 9


def test_an_event_that_could_not_be_made_is_not_worked_on() -> None:
    life = OperatorLife("load-1", headers={})
    for expected in ("load-1-0", "load-1-1"):
        act = life.next_act(1_700_000_000_000, 0.0)
        assert act.name == "create"
        body = msgspec.json.decode(act.request.body)
        assert (body["id"], body["starts_at"]) == (expected, "2023-11-15T22:13:20+00:00")
        life.done(act, succeeded=False)
    assert life.event_id is None
