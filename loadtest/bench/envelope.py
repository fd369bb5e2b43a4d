"""The envelope around every figure: on what it was measured, with what, when, and whether it counts."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import psutil

__all__ = ["Envelope", "git_commit", "machine", "versions"]

_PACKAGES: Final = ("stagecue", "uvloop", "msgspec", "websockets", "aiohttp", "sqlalchemy", "strawberry-graphql")


def machine() -> dict[str, Any]:
    """Cores, memory and kernel of this host."""
    return {
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "processor": platform.machine(),
    }


def versions(packages: tuple[str, ...] = _PACKAGES) -> dict[str, str | None]:
    """Python's and the packages' versions; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def git_commit(directory: Path | None = None) -> str | None:
    """The commit checked out where this code lives, `-dirty` when files differ; None outside a repository."""
    where = directory or Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=where, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None


class Envelope:
    """Started with the benchmark, sealed around its keys at the end."""

    def __init__(self, *, seed: int | None) -> None:
        self.seed = seed
        self._started_at = datetime.now(UTC)
        self._started_s = time.monotonic()
        self._invalid_because: list[str] = []

    def invalid(self, because: str) -> None:
        """The measurement does not count; may be called for several reasons."""
        if because not in self._invalid_because:
            self._invalid_because.append(because)

    @property
    def valid(self) -> bool:
        return not self._invalid_because

    def seal(self, keys: dict[str, Any]) -> dict[str, Any]:
        """The one JSON object: the benchmark's keys and everything needed to judge or repeat it."""
        sealed = {
            **keys,
            "machine": machine(),
            "versions": versions(),
            "commit": git_commit(),
            "seed": self.seed,
            "started_at": self._started_at.isoformat(timespec="milliseconds"),
            "wall_s": round(time.monotonic() - self._started_s, 3),
            "valid": self.valid,
        }
        if not self.valid:
            sealed["invalid_because"] = "; ".join(self._invalid_because)
        return sealed
