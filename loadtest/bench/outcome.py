"""How a benchmark ends: exit codes, and the error of one that could not run."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["CouldNotRun", "ExitCode"]


class ExitCode(IntEnum):
    """What the shell gets."""

    HELD = 0
    """Ran, and its promise holds."""
    FELL_SHORT = 1
    """Ran, and falls short of it, or the load generator was the bottleneck."""
    COULD_NOT_RUN = 2
    """Usage, or a missing part; the message says which."""


class CouldNotRun(Exception):
    """A part is missing or would not start; `str()` says which, for a person."""
