"""Goal: the wall clock of running services can be stepped for a test, and is the system's own without one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from contract.runtime.system_clock import CLOCK_OFFSET_VARIABLE, SystemClock, write_clock_offset

HOUR_MS = 3_600_000


def test_without_the_variable_it_is_the_systems_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CLOCK_OFFSET_VARIABLE, raising=False)
    assert abs(SystemClock().now_ms() - time.time() * 1000) < 100


def test_clocks_follow_the_file_while_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offset = tmp_path / "offset"
    write_clock_offset(offset, 0)
    monkeypatch.setenv(CLOCK_OFFSET_VARIABLE, str(offset))
    one, other = SystemClock(), SystemClock()
    for by_ms in (-HOUR_MS, HOUR_MS, 0):
        before_s = one.monotonic_s()
        write_clock_offset(offset, by_ms)
        for clock in (one, other):
            assert abs(clock.now_ms() - by_ms - time.time() * 1000) < 100
        assert 0 <= one.monotonic_s() - before_s < 5, "the monotonic clock does not step"


def test_a_file_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "offset").write_bytes(b"3600")
    monkeypatch.setenv(CLOCK_OFFSET_VARIABLE, str(tmp_path / "offset"))
    with pytest.raises(ValueError, match="8 bytes"):
        SystemClock()
