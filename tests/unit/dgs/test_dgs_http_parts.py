"""The server's pure parts: who waits where, and what goes on the wire."""

from __future__ import annotations

import json

from dgs.http.answer import error_answer, malformed_answer, refusal, written
from dgs.http.exchange import Exchange
from dgs.http.intake import Intake
from dgs.http.limits import ServerLimits
from dgs.http.malformed import Malformed
from dgs.serving import Answer, Ask, Verdict
from dgs.settings import DgsSettings

ASK = Ask("GET", "/", "", {}, b"", "h", 0.0)


def test_the_intake_gives_the_most_important_first_and_the_oldest_of_those() -> None:
    intake: Intake[str] = Intake(10)
    for item, klass in (("b1", "bulk"), ("d1", "degraded"), ("c1", "critical"), ("d2", "degraded"), ("c2", "critical")):
        assert intake.put(item, klass, 1.0) is None  # type: ignore[arg-type]
    assert intake.waiting() == {"critical": 2, "degraded": 2, "best_effort": 0, "bulk": 1}
    taken = [intake.take(1.05) for _ in range(6)]
    assert [each and each.item for each in taken] == ["c1", "c2", "d1", "d2", "b1", None]
    assert len(intake) == 0


def test_whoever_waits_too_long_is_looked_at_every_second_time() -> None:
    """The least important first: under load nobody else ever comes to them, not even to refuse."""
    intake: Intake[str] = Intake(10)
    for item, klass in (
        ("b1", "bulk"),
        ("e1", "best_effort"),
        ("c1", "critical"),
        ("c2", "critical"),
        ("c3", "critical"),
    ):
        intake.put(item, klass, 1.0)  # type: ignore[arg-type]
    taken = [intake.take(1.2) for _ in range(5)]
    assert [each and each.item for each in taken] == ["b1", "c1", "e1", "c2", "c3"]


def test_a_full_intake_turns_away_who_waited_least_of_the_least_important() -> None:
    intake: Intake[str] = Intake(3)
    for item, klass in (("b1", "bulk"), ("b2", "bulk"), ("e1", "best_effort")):
        intake.put(item, klass, 1.0)  # type: ignore[arg-type]
    assert intake.put("c1", "critical", 2.0) == "b2"
    assert intake.put("b3", "bulk", 2.0) == "b3"
    assert intake.put("d1", "degraded", 2.0) == "b1"
    assert intake.put("d2", "degraded", 2.0) == "e1"
    assert intake.put("d3", "degraded", 2.0) == "d3", "its own class is not below it"
    assert len(intake) == 3


def test_who_has_waited_too_long_is_told_once() -> None:
    intake: Intake[str] = Intake(10)
    intake.put("old", "bulk", 1.0)
    intake.put("older", "critical", 0.5)
    intake.put("new", "bulk", 5.0)
    assert {each.item for each in intake.expired(2.0)} == {"old", "older"}
    assert intake.expired(2.0) == []
    assert len(intake) == 1
    left = intake.take(3.0)
    assert left is not None
    assert (left.item, left.klass, left.since_s) == ("new", "bulk", 5.0)


def test_an_answer_on_the_wire() -> None:
    answer = Answer(200, b"x: y\r\n", b"body")
    wire = {"head_only": False, "close": False, "date_line": b"date: D\r\n"}
    assert written(answer, **wire) == b"HTTP/1.1 200 OK\r\ndate: D\r\nx: y\r\ncontent-length: 4\r\n\r\nbody"  # type: ignore[arg-type]
    assert written(answer, head_only=True, close=True, date_line=b"") == (
        b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 4\r\nconnection: close\r\n\r\n"
    )
    for status in (204, 304):
        text = written(Answer(status, b"", b"ignored"), head_only=False, close=False, date_line=b"")
        assert text.endswith(b"\r\n\r\n")
        assert b"content-length" not in text
    assert written(Answer(599, b"", b""), head_only=False, close=False, date_line=b"").startswith(b"HTTP/1.1 599 \r\n")


def test_errors_have_graphqls_form_and_waits_are_rounded_up() -> None:
    answer = error_answer(503, "overloaded", "no", retry_after_ms=1001)
    assert b"retry-after: 2\r\n" in answer.head
    assert json.loads(answer.body) == {
        "errors": [{"message": "no", "extensions": {"code": "overloaded", "retryAfterMs": 1001}}]
    }
    answer = malformed_answer(Malformed(413, "5 bytes", "body"))
    assert (answer.status, json.loads(answer.body)["errors"][0]["extensions"]["field"]) == (413, "body")
    assert b"retry-after" not in refusal(ASK, Verdict("bulk", False)).head


class Owner:
    def __init__(self) -> None:
        self.told: list[Exchange] = []

    def answered(self, exchange: Exchange) -> None:
        self.told.append(exchange)


def test_an_exchange_is_answered_once() -> None:
    owner, left = Owner(), []
    exchange = Exchange(owner, ASK)
    exchange.when_gone(lambda: left.append(1))
    assert exchange.wanted
    exchange(Answer(200, b"", b"first"))
    exchange(Answer(200, b"", b"second"))
    exchange.abandon()
    assert exchange.answer is not None
    assert (exchange.answer.body, len(owner.told), left) == (b"first", 1, [])


def test_who_serves_an_abandoned_exchange_is_told_at_once_or_when_it_happens() -> None:
    left: list[str] = []
    early, late = Exchange(Owner(), ASK), Exchange(Owner(), ASK)
    early.when_gone(lambda: left.append("early"))
    early.abandon()
    late.abandon()
    late.when_gone(lambda: left.append("late"))
    late(Answer(200, b"", b""))
    assert (left, late.answer, late.wanted) == (["early", "late"], None, False)


def test_limits_come_from_the_settings() -> None:
    limits = ServerLimits.of(DgsSettings(max_body_bytes=2048, pipelined_max=2, queue_max=77))
    assert (limits.max_body_bytes, limits.pipelined_max, limits.queue_max) == (2048, 2, 77)
