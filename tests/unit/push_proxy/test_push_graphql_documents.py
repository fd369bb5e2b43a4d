"""Documents and forms: what is let in, what is refused and why, and that equal selections share one form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import contract
from contract.errors import NotFound, Overloaded
from contract.frames import (
    AckFrame,
    AckRequest,
    BroadcastFrame,
    ContinuityFrame,
    ErrorFrame,
    GoawayFrame,
    Held,
    HoleFrame,
    ScheduleFrame,
    ServerFrame,
    StaleFrame,
    TokenFrame,
    WelcomeFrame,
    WindowFrame,
)
from push_proxy.graphql_documents import (
    MAX_QUERY_CHARS,
    NEW_DOCUMENTS_BURST,
    NEW_DOCUMENTS_PER_S,
    Documents,
    GraphqlForm,
    Prepared,
    Report,
    TopicCursor,
    stream_schema,
)
from push_proxy.graphql_selection import MAX_ALIASES, MAX_DEPTH, MAX_FIELDS, MAX_SELECTIONS, OperationRefused

SCHEMA = stream_schema((Path(contract.__file__).parent / "broadcasts.graphql").read_text())
WHOLE = """
subscription Follow($topics: [TopicCursor!]!) {
  broadcasts(topics: $topics) {
    __typename
    ... on Broadcast { topic stateKey timestamp prev replayed skipped ack { oneIn withinMs } }
    ... on Continuity { topic verdict current: stateKey latest }
    ... on ScheduleChange { topic revision version times { key dueAt } }
    ... on Session {
      kind node serverTime lifetimeS pingS reconnectWindowMs refetchWindowMs token reason reconnectAfterMs
    }
  }
}
"""
TOPICS: dict[str, Any] = {"topics": [{"topic": "event:a", "cursor": 5}, {"topic": "event:b"}]}


def documents(**limits: int) -> Documents:
    return Documents(SCHEMA, **limits)


def prepared(
    known: Documents, query: str, variables: dict[str, Any] | None = None, name: str | None = None
) -> Prepared:
    made = known.prepare(query, name, variables, now_s=0)
    assert isinstance(made, Prepared)
    return made


def form_of(query: str, variables: dict[str, Any] | None = None) -> GraphqlForm:
    return prepared(documents(), query, variables).form


def refusal(query: str, variables: dict[str, Any] | None = None, name: str | None = None) -> dict[str, Any]:
    """The first error of a document that must be refused."""
    with pytest.raises(OperationRefused) as caught:
        documents().prepare(query, name, TOPICS if variables is None else variables, now_s=0)
    error = caught.value.errors[0]
    assert error["extensions"]["code"] == "invalid_request"
    json.dumps(caught.value.errors)
    return dict(error)


def selecting(selection: str) -> str:
    return "subscription { broadcasts(topics: []) { " + selection + " } }"


MEMBERS: list[tuple[ServerFrame, dict[str, Any]]] = [
    (
        BroadcastFrame("event:a", "live", 9, 3, replayed=True, skipped=(5, 7), ack=AckRequest(100, 30)),
        {
            "__typename": "Broadcast",
            "topic": "event:a",
            "stateKey": "live",
            "timestamp": 9,
            "prev": 3,
            "replayed": True,
            "skipped": [5, 7],
            "ack": {"oneIn": 100, "withinMs": 30},
        },
    ),
    (
        ContinuityFrame("event:a", "gap", None, 4),
        {"__typename": "Continuity", "topic": "event:a", "verdict": "GAP", "current": None, "latest": 4},
    ),
    (
        ScheduleFrame("event:a", 3, 2, {"live": 8, "replay": None}),
        {
            "__typename": "ScheduleChange",
            "topic": "event:a",
            "revision": 3,
            "version": 2,
            "times": [{"key": "live", "dueAt": 8}, {"key": "replay", "dueAt": None}],
        },
    ),
]
SESSIONS: list[tuple[ServerFrame, dict[str, Any]]] = [
    (
        WelcomeFrame("n1", 5, 60.5, 30.0, 10_000, 60_000),
        {
            "kind": "WELCOME",
            "node": "n1",
            "serverTime": 5,
            "lifetimeS": 60.5,
            "pingS": 30.0,
            "reconnectWindowMs": 10_000,
            "refetchWindowMs": 60_000,
        },
    ),
    (WindowFrame(7, 8), {"kind": "WINDOW", "reconnectWindowMs": 7, "refetchWindowMs": 8}),
    (TokenFrame("t"), {"kind": "TOKEN", "token": "t"}),
    (StaleFrame(), {"kind": "STALE"}),
    (
        GoawayFrame("drain", 3, 4),
        {"kind": "GOAWAY", "reason": "drain", "reconnectAfterMs": 3, "reconnectWindowMs": 4},
    ),
]


@pytest.mark.parametrize(("frame", "told"), MEMBERS)
def test_a_frame_is_told_field_for_field(frame: ServerFrame, told: dict[str, Any]) -> None:
    form = form_of(WHOLE, TOPICS)
    assert json.loads(form(frame)) == {"data": {"broadcasts": told}}


@pytest.mark.parametrize(("frame", "told"), SESSIONS)
def test_what_is_said_of_the_session_is_one_member_and_silent_where_it_says_nothing(
    frame: ServerFrame, told: dict[str, Any]
) -> None:
    form = form_of(WHOLE, TOPICS)
    item = json.loads(form(frame))["data"]["broadcasts"]
    assert item.pop("__typename") == "Session"
    assert {key: value for key, value in item.items() if value is not None} == told
    assert len(item) == 10


def test_a_topic_in_error_is_an_error_of_one_event() -> None:
    """The stream goes on: other topics of the operation are not concerned."""
    form = form_of("subscription { mine: broadcasts(topics: []) { __typename } }")
    assert json.loads(form(ErrorFrame("unknown_topic", "no such topic", "event:x"))) == {
        "data": None,
        "errors": [
            {"message": "no such topic", "path": ["mine"], "extensions": {"code": "unknown_topic", "topic": "event:x"}}
        ],
    }


def test_topics_come_out_with_their_cursors() -> None:
    asked = prepared(documents(), WHOLE, TOPICS, "Follow")
    assert asked.topics == (TopicCursor("event:a", 5), TopicCursor("event:b", None))
    literal = 'subscription { broadcasts(topics: {topic: "event:c", cursor: 1731722400123}) { __typename } }'
    assert prepared(documents(), literal).topics == (TopicCursor("event:c", 1731722400123),)


def test_documents_that_select_the_same_share_a_form() -> None:
    """Whatever their spelling, arguments and fragments: the fan-out encodes once for all of them."""
    known = documents()
    plain = prepared(known, selecting("... on Broadcast { topic timestamp }"), None).form
    spelled = known.prepare(
        """subscription Other($t: [TopicCursor!]!, $no: Boolean = false) {
             broadcasts(topics: $t) { ...Part ... on Continuity @include(if: $no) { latest } } }
           fragment Part on Broadcast { topic topic ... on Broadcast { timestamp } }""",
        None,
        {"t": []},
        now_s=0,
    ).form
    assert spelled is plain
    order = prepared(known, selecting("... on Broadcast { timestamp topic }"), None).form
    assert order is not plain
    alias = prepared(known, selecting("... on Broadcast { topic at: timestamp }"), None).form
    assert alias is not plain


def test_variables_that_affect_the_selection_make_forms_of_their_own() -> None:
    known = documents()
    query = """subscription ($t: [TopicCursor!]!, $schedules: Boolean!) { broadcasts(topics: $t) {
        __typename ... on ScheduleChange @include(if: $schedules) { revision } } }"""
    with_them = prepared(known, query, {"t": [], "schedules": True}).form
    without = known.prepare(query, None, {"t": [{"topic": "x"}], "schedules": False}, now_s=0).form
    assert known.prepare(query, None, {"t": [{"topic": "y"}], "schedules": True}, now_s=0).form is with_them
    frame = ScheduleFrame("x", 3, 1, {})
    assert json.loads(with_them(frame))["data"]["broadcasts"] == {"__typename": "ScheduleChange", "revision": 3}
    assert json.loads(without(frame))["data"]["broadcasts"] == {"__typename": "ScheduleChange"}


def test_what_was_prepared_is_kept_for_the_next_who_asks_the_same_and_no_other() -> None:
    """A herd comes back at the same cursors; a variable of another type, even an equal one, is another."""
    known = documents()
    first = prepared(known, WHOLE, TOPICS)
    assert prepared(known, WHOLE, json.loads(json.dumps(TOPICS))) is first
    assert prepared(known, WHOLE, TOPICS, "Follow") is not first
    one = prepared(known, WHOLE, {"topics": [{"topic": "a", "cursor": 1}]})
    for cursor in (True, 1.0, "1"):
        with pytest.raises(OperationRefused):
            known.prepare(WHOLE, None, {"topics": [{"topic": "a", "cursor": cursor}]}, now_s=0)
    assert one.topics == (TopicCursor("a", 1),)
    for number in range(1_000):
        prepared(known, WHOLE, {"topics": [{"topic": "a", "cursor": number}]})
    assert len(known._prepared) <= 256
    prepared(known, WHOLE, {"topics": [{"topic": "a" * 600}]})
    assert not any("a" * 600 in str(key) for key in known._prepared)


@pytest.mark.parametrize(
    ("query", "variables", "says"),
    [
        ("", None, "Syntax Error"),
        ("not graphql at all", None, "Syntax Error"),
        ("subscription {", None, "Syntax Error"),
        (selecting("nonsense"), None, "Cannot query field 'nonsense' on type 'StreamItem'"),
        (selecting("... on Broadcast { nonsense }"), None, "Cannot query field 'nonsense'"),
        (selecting("... on Nonsense { x }"), None, "Unknown type 'Nonsense'"),
        (selecting("... on Broadcast { topic { x } }"), None, "must not have a selection"),
        (selecting("...Missing"), None, "Unknown fragment"),
        (selecting("...A") + " fragment A on StreamItem { ...A }", None, "Cannot spread fragment 'A' within itself"),
        (selecting("__typename @defer"), None, "defer"),
        ("subscription { broadcasts(topics: []) }", None, "must have a selection"),
        ("subscription { broadcasts { __typename } }", None, "topics:)' of type"),
        ("subscription { __typename }", None, "introspection"),
        ("subscription { a: broadcasts(topics: []) { __typename } b: broadcasts(topics: []) { __typename } }",
         None, "only one top level field"),
        ("subscription { broadcasts(topics: []) @skip(if: true) { __typename } }", None, "@skip"),
        ("{ streamProtocol }", None, "a query is not served here"),
        ("{ __schema { types { name } } }", None, "a query is not served here"),
        ("mutation { x }", None, "Cannot query field 'x' on type 'Mutation'"),
        ("mutation { acknowledge(topic: 1, timestamp: 2) }", None, "String cannot represent"),
        ("type X { a: Int }", None, "not executable"),
        ("fragment A on Broadcast { topic }", None, "Fragment 'A' is never used"),
        (WHOLE, {}, "$topics"),
        (WHOLE, {"topics": None}, "$topics"),
        (WHOLE, {"topics": [{"cursor": 1}]}, "required field 'topic'"),
        (WHOLE, {"topics": [{"topic": 5}]}, "String"),
        (WHOLE, {"topics": [{"topic": "a", "cursor": "1731722400123"}]}, "a Timestamp is an integer"),
        (WHOLE, {"topics": [{"topic": "a", "cursor": 1.5}]}, "a Timestamp is an integer"),
        (WHOLE, {"topics": [{"topic": "a", "cursor": True}]}, "a Timestamp is an integer"),
        (WHOLE, {"topics": [{"topic": "a", "cursors": 1}]}, "unknown field 'cursors'"),
        ('subscription { broadcasts(topics: [{topic: "a", cursor: "1"}]) { __typename } }', None, "a Timestamp"),
    ],
)  # fmt: skip
def test_a_bad_document_is_refused_with_what_is_wrong(query: str, variables: dict[str, Any] | None, says: str) -> None:
    assert says in refusal(query, variables)["message"]


def test_an_operation_must_be_named_where_there_are_several() -> None:
    one = selecting("__typename")
    two = one.replace("{", "A {", 1) + one.replace("{", "B {", 1)
    assert refusal(two)["extensions"]["field"] == "operationName"
    assert "no operation named 'C'" in refusal(two, name="C")["message"]
    documents().prepare(two, "B", {}, now_s=0)
    mixed = "query Q { streamProtocol } " + one.replace("{", "S {", 1)
    documents().prepare(mixed, "S", {}, now_s=0)
    assert "a query is not served here" in refusal(mixed, name="Q")["message"]


@pytest.mark.parametrize(
    "query",
    [
        "#" * (MAX_QUERY_CHARS + 1),
        "#\n" * 1000,
        "{" * 4000,
        "subscription { broadcasts(topics: " + "[" * 300 + "]" * 300 + ") { __typename } }",
        selecting("... on StreamItem { " * MAX_DEPTH + "__typename" + " }" * MAX_DEPTH),
        selecting(" ".join(f"a{n}: __typename" for n in range(MAX_ALIASES + 1))),
        selecting("__typename " * (MAX_SELECTIONS + 1)),
        selecting("__typename @skip(if: false) " * 33),
        selecting("...F0") + "".join(f" fragment F{n} on StreamItem {{ ...F{n + 1} }}" for n in range(20)),
        "subscription { broadcasts(topics: []) { __typename } } " * 50,
    ],
)
def test_a_document_beyond_a_limit_is_refused_and_costs_little(query: str) -> None:
    refusal(query)


def test_fields_are_counted_with_what_fragments_bring() -> None:
    """A short text may select much, by spreading a fragment in many places."""
    fragment = "fragment T on StageTime { key dueAt __typename " + " ".join(f"k{n}: key" for n in range(6)) + " }"

    def wide(times: int) -> str:
        return selecting("... on ScheduleChange {" + " ".join(f"t{n}: times {{ ...T }}" for n in range(times)) + "}")

    few = 10
    documents().prepare(wide(few) + fragment, None, {}, now_s=0)  # each of them brings ten
    session = "... on Session { kind node serverTime lifetimeS pingS reconnectWindowMs refetchWindowMs token reason }"
    broadcast = "... on Broadcast { topic timestamp prev replayed skipped ack { oneIn withinMs } }"
    other = "... on ScheduleChange { topic revision version times { ...T } } ... on Continuity { topic verdict latest }"
    many = wide(few)[:-3] + session + broadcast + other + "} }"
    assert f"more than {MAX_FIELDS} fields" in refusal(many + fragment)["message"]


def test_documents_kept_are_bounded_by_number_and_by_length() -> None:
    known = documents(max_documents=4, max_chars=2000)
    for number in range(20):
        known.prepare(selecting("__typename") + f"# {number}", None, {}, now_s=number)
    assert known.known == 4
    known.prepare(selecting("__typename") + "#" + "x" * 1900, None, {}, now_s=100)
    assert known.known <= 2
    with pytest.raises(OperationRefused):
        known.prepare("x" * (MAX_QUERY_CHARS + 1), None, {}, now_s=200)
    assert known.known <= 2


def test_a_refused_document_is_not_read_twice() -> None:
    known = documents()
    for _ in range(3):
        with pytest.raises(OperationRefused):
            known.prepare("{", None, {}, now_s=0)
    assert known.is_known("{")


def test_new_documents_come_at_a_bounded_rate_and_known_ones_at_any() -> None:
    """Somebody who makes up documents takes the loop's time for a while, not for ever."""
    known = documents()
    for number in range(int(NEW_DOCUMENTS_BURST)):
        known.prepare(selecting("__typename") + f"# {number}", None, {}, now_s=0)
    with pytest.raises(Overloaded) as caught:
        known.prepare(selecting("__typename") + "# one more", None, {}, now_s=0)
    assert caught.value.retry_after_s == pytest.approx(1 / NEW_DOCUMENTS_PER_S)
    known.prepare(selecting("__typename") + "# 0", None, {}, now_s=0)
    known.prepare(selecting("__typename") + "# one more", None, {}, now_s=2 / NEW_DOCUMENTS_PER_S)


HOLDS = "subscription ($t: [TopicCursor!]!) { broadcasts(topics: $t) { __typename } }"


def test_a_cursor_may_name_the_stage_map_held() -> None:
    topics = [{"topic": "event:a", "cursor": 5, "heldVersion": 7, "heldRevision": 12}]
    assert prepared(documents(), HOLDS, {"t": topics}).topics == (TopicCursor("event:a", 5, Held(7, 12)),)
    assert "together" in refusal(HOLDS, {"t": [{"topic": "event:a", "heldVersion": 7}]})["message"]
    assert "together" in refusal(HOLDS, {"t": [{"topic": "event:a", "heldRevision": 7}]})["message"]


REPORTS = """mutation ($topic: String!) {
  acknowledge(topic: $topic, timestamp: 9)
  hole: reportHole(topic: $topic, cursor: 1, prev: 5, timestamp: 9)
}"""


def test_a_mutation_reports_field_by_field() -> None:
    report = documents().prepare(REPORTS, None, {"topic": "event:a"}, now_s=0)
    assert isinstance(report, Report)
    told: list[AckFrame | HoleFrame] = []
    assert json.loads(report.execute(told.append)) == {"data": {"acknowledge": True, "hole": True}}
    assert told == [AckFrame("event:a", 9), HoleFrame("event:a", 1, 5, 9)]


def test_what_is_not_taken_is_an_error_of_its_field() -> None:
    report = documents().prepare(REPORTS, None, {"topic": "event:a"}, now_s=0)
    assert isinstance(report, Report)

    def refuse(frame: AckFrame | HoleFrame) -> None:
        raise NotFound("no such topic")

    answer = json.loads(report.execute(refuse))
    assert answer["data"] is None
    assert answer["errors"][0]["path"] == ["acknowledge"]
    assert answer["errors"][0]["extensions"] == {"code": "not_found"}
    assert "$topic" in refusal(REPORTS, {})["message"]
