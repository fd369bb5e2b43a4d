"""What a run's parent and its processes tell each other: files in one directory, lines over pipes. Pure.

Parent to master, by its input: `finish`; its end means that the parent is gone, and ends the run. Master to parent, by
its output: one JSON object a line. The result comes as a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from loadtest.users.figures import BookReport
from loadtest.users.result import Generator, UsersSnapshot

__all__ = [
    "FINAL_WITHIN_S",
    "FINISH",
    "OUTCOME_FILE",
    "PLAN_FILE",
    "USERS_ENDED_PER_S",
    "WORKER_READY_S",
    "Begun",
    "Line",
    "Outcome",
    "Over",
    "Standing",
    "encode_line",
]

PLAN_FILE: Final = "users.plan.json"
OUTCOME_FILE: Final = "users.outcome.json"
FINISH: Final = b"finish\n"
WORKER_READY_S: Final = 2.0
"""Of each worker, beside what the first takes: they share the cores while they import."""
USERS_ENDED_PER_S: Final = 500
"""How fast greenlets end, at the very least, on a busy machine."""
FINAL_WITHIN_S: Final = 15.0
"""Beside its users' ends and the drain, a worker may take so long for its last figures."""


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """All processes are up; the first users arrive at `at_ms` by the wall clock."""

    at_ms: int


class Standing(msgspec.Struct, frozen=True, tag="standing"):
    snapshot: UsersSnapshot


class Over(msgspec.Struct, frozen=True, tag="over"):
    """The outcome is written."""


Line = Begun | Standing | Over


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the master leaves behind."""

    began_at_ms: int
    lasted_s: float
    partial: bool
    book: BookReport
    generators: Sequence[Generator]
    invalid_because: Sequence[str] = ()


def encode_line(line: Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"
