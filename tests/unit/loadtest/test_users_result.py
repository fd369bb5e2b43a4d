"""Goal: figures of many processes add up to those of one, times are honest, and a run says when it does not count."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hdrh.histogram import HdrHistogram

from loadtest.bench.histogram import LatencyHistogram
from loadtest.users.exchange import Begun, Line, Over, Standing, encode_line
from loadtest.users.figures import NO_FILE, REASONS_MAX, Book, BookReport, corrected_ms, reasons_of
from loadtest.users.lag import Lag
from loadtest.users.plan import Crowd, UsersPlan
from loadtest.users.result import BroadcastTimes, Generator, UsersResult, UsersSnapshot
from loadtest.users.summing import result_of

PLAN = UsersPlan(
    crowds=(Crowd(name="home", kind="browse", users=4), Crowd(name="tv", kind="connect", users=2)),
    dgs_url="http://127.0.0.1:1",
    event_ids=("e",),
    duration_s=4.0,
    bin_s=0.5,
)


def generator(**changes: Any) -> Generator:
    given: dict[str, Any] = {
        "worker": 0,
        "lag_p50_ms": 0.1,
        "lag_p99_ms": 2.0,
        "lag_worst_ms": 5.0,
        "lag_max_ms": 9.0,
        "cpu_mean": 0.2,
        "cpu_worst": 0.4,
        "rss_bytes": 1,
    }
    return Generator(**(given | changes))


def result(book: Book, *, generators: tuple[Generator, ...] = (), **changes: Any) -> UsersResult:
    given: dict[str, Any] = {"began_at_ms": 1_000, "lasted_s": 4.0, "partial": False}
    return result_of(PLAN, book, generators=generators, **(given | changes))


def asked(book: Book, *, bin_number: int, time_ms: float) -> None:
    book.count("home/map", "asks")
    book.count("home/map", "answered")
    book.count("home/map", "=200")
    book.count_in("home/map", "sent", bin_number)
    book.time("home/map", "time", time_ms)
    book.time("home/map", "service", min(time_ms, 2.0))


# coordinated omission
@pytest.mark.parametrize(
    ("value_ms", "interval_ms"), [(1000.0, 10.0), (25.0, 10.0), (9.0, 10.0), (30.0, 10.0), (5.0, 0.0)]
)
def test_the_correction_is_that_of_the_hdr_histogram(value_ms: float, interval_ms: float) -> None:
    oracle = HdrHistogram(1, 3_600_000_000, 3)
    oracle.record_corrected_value(round(value_ms * 1000), round(interval_ms * 1000))
    ours = LatencyHistogram()
    ours.record_all_ms(corrected_ms(value_ms, interval_ms))
    assert ours.count == oracle.get_total_count()
    for percent in (1, 10, 50, 90, 99):
        assert ours.percentile_ms(percent) == pytest.approx(oracle.get_value_at_percentile(percent) / 1000, rel=0.002)


def test_one_pause_of_a_second_is_a_hundred_late_looks() -> None:
    assert list(corrected_ms(1000, 10))[:3] == [1000, 990, 980]
    assert len(list(corrected_ms(1000, 10))) == 100
    assert list(corrected_ms(7, 10)) == [7]


def test_a_moment_of_lag_is_found_in_its_seconds_however_long_the_run() -> None:
    lag = Lag(nap_s=0.01, stretch_s=5.0)
    for number in range(60_000):
        lag.woke(number * 0.01, 400.0 if number == 30_000 else 0.5)
    assert (lag.whole.percentile_ms(99) or 0) < 1
    assert 330 <= lag.worst_p99_ms() <= 400


def test_a_run_shorter_than_a_stretch_is_judged_whole() -> None:
    lag = Lag(nap_s=0.01, stretch_s=5.0)
    assert lag.worst_p99_ms() == 0.0
    for number in range(100):
        lag.woke(number * 0.01, 7.0)
    assert lag.worst_p99_ms() == 7.0


def test_a_moved_histogram_keeps_its_counts_and_says_what_fell_below_zero() -> None:
    found = LatencyHistogram()
    found.record_all_ms([1, 5, 100])
    later, earlier = found.moved_ms(50), found.moved_ms(-20)
    assert (later.count, later.min_ms, later.max_ms) == (3, 51, 150)
    assert later.percentile_ms(50) == pytest.approx(55, rel=0.002)
    assert (earlier.count, earlier.below_zero, earlier.max_ms) == (3, 2, 80)
    assert LatencyHistogram().moved_ms(5).count == 0


# adding up
def test_two_workers_add_up_to_one() -> None:
    whole, parts = Book(), [Book(), Book(), Book()]
    for number in range(300):
        time_ms = 1.0 + number * 3.7
        for book in (whole, parts[number % 3]):
            asked(book, bin_number=number % 8, time_ms=time_ms)
            book.level("home", "users", number % 8, 0)
    merged = Book()
    for each in parts:
        sent = msgspec.json.encode(each.report())
        merged.add(Book.of_report(msgspec.json.decode(sent, type=BookReport)))
    ours, theirs = result(merged), result(whole)
    for found, expected in zip(ours.requests, theirs.requests, strict=True):
        assert found.time.histogram().summary() == expected.time.histogram().summary()
        assert msgspec.structs.replace(found, time=expected.time, service=expected.service) == expected
    assert ours.curves == theirs.curves


def test_levels_of_processes_add_up_and_a_bin_has_one() -> None:
    one, other, merged = Book(), Book(), Book()
    for level in (3, 5):
        one.level("tv", "open", 2, level)
    other.level("tv", "open", 2, 4)
    merged.add(one)
    merged.add(other)
    assert result(merged).curve("tv", "open").values[2] == 9


def test_reasons_are_bounded() -> None:
    book = Book()
    for number in range(REASONS_MAX + 10):
        book.reason("home/map", f"reason {number}")
    book.reason("home/map", "reason 0")
    found = book.counters[reasons_of("home/map")]
    assert found["other"] == 10
    assert found["reason 0"] == 2


# results
def test_requests_refusals_and_failures_are_told_apart() -> None:
    book = Book()
    asked(book, bin_number=0, time_ms=5)
    book.count("home/map", "asks")
    book.count("home/map", "gave_up")
    for what in ("refused", "failed"):
        book.count_in("home/map", "sent", 1)
        book.count_in("home/map", what, 1)
    book.count("home/map", "refused_with_retry_after")
    book.count("home/map", "=503")
    book.reason("home/map", "timeout")
    found = result(book).request("home", "map")
    assert found is not None
    assert (found.asks, found.answered, found.gave_up, found.sent) == (2, 1, 1, 3)
    assert (found.refused, found.refused_with_retry_after, found.failed) == (1, 1, 1)
    assert found.statuses == {"200": 1, "503": 1}
    assert found.reasons == {"timeout": 1}
    assert result(book).request("home", "other") is None


def test_curves_have_no_holes_and_rates_are_per_second() -> None:
    book = Book()
    asked(book, bin_number=2, time_ms=5)
    asked(book, bin_number=2, time_ms=5)
    book.level("home", "users", 2, 4)
    book.count_in("home/map", "sent", 99)
    found = result(book)
    assert found.curve("home/map", "sent").values == [0, 0, 2, 0, 0, 0, 0, 0]
    assert found.curve("home/map", "sent").points()[2] == (1.0, 4.0)
    assert found.curve("home", "users").points()[2] == (1.0, 4.0)
    assert found.curve("home/map", "sent").peak == 2
    assert found.summed("sent", kind="browse").values == found.curve("home/map", "sent").values
    assert sum(found.summed("sent", kind="connect").values) == 0
    assert found.curve("tv", "lost").values == (0,) * 8
    assert found.users == {"home": 4, "tv": 0}


def delivered(due_ms: int | None) -> Book:
    book = Book()
    of = "tv/event:e@5000"
    book.facts[of] = {"crowd": "tv", "topic": "event:e", "timestamp": 5000, "state_key": "live", "due_ms": due_ms}
    book.count(of, "devices", 2)
    book.count(of, "live", 2)
    for time_ms in (10, 30):
        book.time(of, "time", time_ms)
    return book


def test_deliveries_count_from_the_due_time_the_producer_names() -> None:
    (found,) = result(delivered(4_000), broadcasts={("event:e", 5000): BroadcastTimes(4_900, 5_001)}).deliveries
    assert (found.since, found.due_ms, found.dispatched_ms, found.devices) == ("due", 4_900, 5_001, 2)
    assert found.time.max_ms == 130
    (cue,) = result(delivered(4_000), broadcasts={("event:e", 5000): BroadcastTimes(None, 5_002)}).deliveries
    assert (cue.since, cue.time.max_ms) == ("dispatched", 28)


def test_deliveries_count_from_the_devices_schedule_or_the_cursor_where_nobody_was_asked() -> None:
    (scheduled,) = result(delivered(4_990)).deliveries
    assert (scheduled.since, scheduled.time.max_ms) == ("due", 40)
    (unknown,) = result(delivered(None)).deliveries
    assert (unknown.since, unknown.time.max_ms) == ("timestamp", 30)


def test_a_generator_at_its_limit_makes_the_run_invalid_and_says_why() -> None:
    assert result(Book(), generators=(generator(),)).valid
    slow = result(Book(), generators=(generator(), generator(worker=1, lag_p99_ms=80.0)))
    assert not slow.valid
    assert "generator 1 lagged 80 ms" in slow.invalid_because[0]
    late = result(Book(), generators=(generator(lag_worst_ms=180.0),))
    assert "180 ms at p99 of its worst five seconds" in late.invalid_because[0]
    busy = result(Book(), generators=(generator(cpu_worst=0.97),))
    assert "0.97 of its core" in busy.invalid_because[0]


def test_users_that_crashed_make_the_run_invalid() -> None:
    book = Book()
    book.count("home", "crashed", 3)
    assert "3 users" in result(book).invalid_because[0]


@pytest.mark.parametrize(
    ("what", "said"), [("kept_here", "outside this machine"), ("overdue_uncounted", "overdue at the end")]
)
def test_what_the_run_itself_left_out_makes_it_invalid(what: str, said: str) -> None:
    book = Book()
    book.count("home", what, 2)
    assert said in result(book).invalid_because[0]


def test_too_few_files_of_the_generator_make_the_run_invalid() -> None:
    book = Book()
    book.reason("tv", NO_FILE)
    book.reason("home/map", NO_FILE)
    (said,) = result(book).invalid_because
    assert said == "2 connections failed: too many open files here"


def test_refused_and_failed_handshakes_say_why() -> None:
    book = Book()
    book.count("tv", "handshakes_refused", 2)
    book.count("tv", "=503", 2)
    book.reason("tv", "connection refused")
    (found,) = result(book).sockets
    assert (found.statuses, found.reasons) == ({"503": 2}, {"connection refused": 1})


def test_a_due_time_once_known_is_not_forgotten_for_somebody_who_heard_late() -> None:
    merged = Book()
    for due_ms in (None, 4_990, None):
        merged.add(delivered(due_ms))
    assert result(merged).deliveries[0].due_ms == 4_990


def test_a_result_is_json_and_its_histograms_come_back() -> None:
    book = Book()
    asked(book, bin_number=0, time_ms=12.5)
    found = result(book, generators=(generator(),))
    again = msgspec.json.decode(msgspec.json.encode(found), type=UsersResult)
    assert again.requests[0].time.histogram().percentile_ms(50) == pytest.approx(12.5, rel=0.002)
    assert json.loads(msgspec.json.encode(found))["kinds"] == {"home": "browse", "tv": "connect"}


def test_lines_tell_what_they_are() -> None:
    snapshot = UsersSnapshot(
        at_s=1.0, users={"home": 1}, sent=2, sent_per_s=3.0, failed=0, refused=0, handshakes=0, open=0, delivered=0
    )
    for line in (Begun(5), Standing(snapshot), Over()):
        assert msgspec.json.decode(encode_line(line), type=Line) == line
