"""Bounded logs: few lines whatever happens, and no count lost."""

from __future__ import annotations

import io
import json

import pytest
import structlog

from contract.runtime.log_limit import ByteLimit, KindLimit, Line, LogByteLimit, LogRateLimit


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_million_refusals_make_a_handful_of_lines_that_count_them_all() -> None:
    """A million within 100 s, 10 s a window, 3 lines each: 30 lines; with what is overdue they add up to a million."""
    limit = KindLimit(burst=3, window_s=10.0)
    lines: list[Line] = []
    for number in range(1_000_000):
        line = limit.admit("refused", number / 10_000)
        if line is not None:
            lines.append(line)
    assert len(lines) == 30
    told = len(lines) + sum(line.hidden for line in lines)
    assert told + sum(limit.overdue(110.0).values()) == 1_000_000


def test_kinds_do_not_take_each_others_lines() -> None:
    """One kind's flood leaves another's first line alone."""
    limit = KindLimit(burst=1, window_s=10.0)
    assert limit.admit("refused", 0.0) == Line(0)
    assert limit.admit("refused", 1.0) is None
    assert limit.admit("slow", 1.0) == Line(0)
    assert limit.admit("refused", 10.0) == Line(1)


def test_overdue_tells_once_and_forgets() -> None:
    """Only of windows that passed; afterwards the kind begins anew."""
    limit = KindLimit(burst=1, window_s=10.0)
    for at_s in (0.0, 1.0, 2.0):
        limit.admit("refused", at_s)
    assert limit.overdue(9.0) == {}
    assert limit.overdue(10.0) == {"refused": 2}
    assert limit.overdue(11.0) == {}
    assert limit.admit("refused", 12.0) == Line(0)


def test_too_many_kinds_share_one_allowance() -> None:
    """Names made of input cannot grow the table, nor fill the log; they are counted all the same."""
    limit = KindLimit(burst=2, window_s=10.0, max_kinds=5)
    lines = [line for number in range(1000) if (line := limit.admit(f"kind {number}", 0.0)) is not None]
    assert len(lines) == 5 + 2
    again = limit.admit("yet another", 10.0)
    assert again == Line(1000 - 7)
    assert sum(limit.overdue(30.0).values()) == 0


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> tuple[structlog.stdlib.BoundLogger, io.StringIO, FakeClock]:
    """A logger of its own with the processor under test, its output, and the clock it goes by."""
    clock, out = FakeClock(), io.StringIO()
    logger = structlog.wrap_logger(
        structlog.WriteLogger(out),
        wrapper_class=structlog.BoundLogger,  # whatever level another test's command asked for
        processors=[
            LogRateLimit(burst=5, window_s=10.0, monotonic_s=clock),
            structlog.processors.JSONRenderer(),
        ],
    )
    return logger, out, clock


def test_a_logger_writes_a_handful_with_counts(
    logged: tuple[structlog.stdlib.BoundLogger, io.StringIO, FakeClock],
) -> None:
    """Fifty thousand refusals in 50 s: five lines a window; each window's first line says what the last one hid."""
    logger, out, clock = logged
    for _ in range(50_000):
        logger.warning("refused", why="full")
        clock.now_s += 0.001
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(lines) == 25
    hidden = [line["suppressed_before"] for line in lines if "suppressed_before" in line]
    assert hidden == [pytest.approx(9_995, abs=2)] * 4


def test_a_flood_that_ended_is_told_of_by_the_next_line(
    logged: tuple[structlog.stdlib.BoundLogger, io.StringIO, FakeClock],
) -> None:
    """Nobody writes that kind any more: another line carries its count."""
    logger, out, clock = logged
    for _ in range(100):
        logger.warning("refused")
    clock.now_s += 60.0
    logger.info("drained")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len(lines) == 6
    assert lines[-1] == {"event": "drained", "suppressed_elsewhere": {"refused": 95}}


def test_a_kind_with_a_rate_of_its_own_passes() -> None:
    limit = LogRateLimit(burst=1, window_s=10.0, bounded_elsewhere=("span",), monotonic_s=FakeClock())
    for _ in range(100):
        assert limit(None, "info", {"event": "span", "n": 1}) == {"event": "span", "n": 1}
    limit(None, "info", {"event": "other"})
    with pytest.raises(structlog.DropEvent):
        limit(None, "info", {"event": "other"})


def test_bytes_are_bounded_over_any_time_and_all_are_counted() -> None:
    """A megabyte a second for a minute, 1,000 bytes a second allowed: the burst and a minute's worth."""
    limit = ByteLimit(bytes_per_s=1_000, burst_s=10.0, now_s=0.0)
    written = sum(limit.admit(100, number / 10_000) for number in range(600_000))
    assert 100 * written == pytest.approx(0.75 * 10_000 + 60_000, rel=0.01)
    assert limit.hidden_lines == 600_000 - written
    assert limit.hidden_bytes == 100 * limit.hidden_lines


def test_errors_have_a_quarter_of_their_own() -> None:
    """When a flood of other lines has spent the rest an error is still written; a flood of errors ends, too."""
    limit = ByteLimit(bytes_per_s=1_000, burst_s=10.0, now_s=0.0)
    assert sum(limit.admit(100, 0.0) for _ in range(1_000)) == 75
    assert sum(limit.admit(100, 0.0, error=True) for _ in range(1_000)) == 25


def test_a_logger_writes_no_more_bytes_than_it_may() -> None:
    """A thousand kinds of line, long ones: the output stays under the bound, and says what it left out."""
    clock, out = FakeClock(), io.StringIO()
    bound = LogByteLimit(bytes_per_s=2_000, burst_s=5.0, monotonic_s=clock)
    logger = structlog.wrap_logger(
        structlog.WriteLogger(out),
        wrapper_class=structlog.BoundLogger,
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer(), bound],
    )
    kinds = [f"kind {number}" for number in range(1_000)]
    for number in range(20_000):
        logger.warning(kinds[number % 1_000], why="\u00e4" * 300)
        clock.now_s += 0.001
    logger.error("last")
    text = out.getvalue()
    assert len(text.encode()) <= 10_000 + 20 * 2_000
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[-2]["event"] == "last"
    notes = [line for line in lines if line["event"] == "log_lines_left_out"]
    assert sum(note["lines"] for note in notes) == bound.hidden_lines
    assert len(lines) - len(notes) + bound.hidden_lines == 20_001
