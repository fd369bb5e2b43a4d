"""Goal: the table says what was measured beside what is promised, and the document has a row for every fault."""

from __future__ import annotations

import re
from typing import Any

import pytest

from loadtest.bench.faults.command import DOCUMENT, FaultsOptions
from loadtest.bench.faults.injections import FAULTS, fault_named
from loadtest.bench.faults.recovery import Recovery
from loadtest.bench.faults.table import BEGIN, COLUMNS, END, FaultResult, cells, markdown, with_table
from loadtest.bench.faults.verdict import RunVerdict
from loadtest.bench.outcome import CouldNotRun

ENVELOPE: dict[str, Any] = {
    "machine": {"cores": 2, "memory_bytes": 8 * 2**30, "kernel": "6.1"},
    "commit": "0123456789abcdef",
    "started_at": "2024-11-15T20:00:00.000+00:00",
}


def run(*recoveries: Recovery, **counts: int) -> RunVerdict:
    zero = dict.fromkeys(
        (field for field in RunVerdict.__struct_fields__ if field not in ("recoveries", "quiet", "remarks", "failed")),
        0,
    )
    return RunVerdict(**{**zero, **counts}, recoveries=list(recoveries))


def took(seconds: float | None, phase: str = "killed", bound_s: float | None = 3.0) -> Recovery:
    return Recovery(phase=phase, bound_s=bound_s, seconds=seconds)


FAULT = fault_named("producer-killed")


def test_recovery_is_that_of_the_slowest_step_with_a_bound_and_of_all_runs() -> None:
    runs = [run(took(1.0), took(0.3, "back")), run(took(1.5), took(2.0, "back")), run(took(1.2), took(9, "free", None))]
    found = FaultResult(FAULT, runs).as_json()
    assert (found["recover_s_p50"], found["recover_s_max"]) == (1.2, 2.0)
    assert found["held"]
    assert [phase["phase"] for phase in found["phases"]] == ["killed", "back", "free"]


def test_one_run_that_did_not_recover_is_not_averaged_away() -> None:
    found = FaultResult(FAULT, [run(took(1.0)), run(took(None))]).as_json()
    assert (found["recover_s_p50"], found["recover_s_max"], found["held"]) == (None, None, False)
    assert "did not recover" in cells(FaultResult(FAULT, [run(took(None))]))[-1]


def test_the_keys_are_those_of_the_figures() -> None:
    counts = {"missed", "out_of_order", "double_timestamps", "gaps", "holes"}
    assert {"name", "runs", *counts, "recover_s_p50", "recover_s_max"} <= set(
        FaultResult(FAULT, [run(took(1.0))]).as_json()
    )


def test_counts_are_summed_and_what_falls_short_is_named_by_run() -> None:
    result = FaultResult(FAULT, [run(took(1.0), missed=2, gaps=1), run(took(3.1), missed=1)])
    assert result.as_json()["missed"] == 3
    assert len(result.broken) == 3
    assert result.broken[0].startswith("producer-killed, run 1: 2 broadcasts missed")
    assert len(cells(result)) == len(COLUMNS)


def test_the_markdown_says_machine_commit_and_date_and_marks_what_falls_short() -> None:
    text = markdown([FaultResult(FAULT, [run(took(3.1))])], ENVELOPE, devices=2_000)
    assert all(word in text for word in ("2 cores", "0123456789ab", "2024-11-15", "2,000 devices", "falls short"))
    assert "killed 3.10 (3)" in text


def test_the_table_replaces_the_one_before_and_nothing_else() -> None:
    document = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_table(document, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ValueError, match="no place"):
        with_table("nothing here", "new")


def test_options_refuse_what_does_not_exist_and_half_a_document() -> None:
    assert len(FaultsOptions().chosen()) == len(FAULTS)
    with pytest.raises(CouldNotRun, match="one of nothing, producer-killed"):
        FaultsOptions(faults=("x",)).chosen()
    with pytest.raises(CouldNotRun, match="all of them"):
        FaultsOptions(faults=("node-killed",), update_docs=True).chosen()


def test_the_document_has_a_row_for_every_fault() -> None:
    text = DOCUMENT.read_text()
    table = text[text.index(BEGIN) : text.index(END)]
    rows = re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE)
    assert rows == [fault.name for fault in FAULTS]
