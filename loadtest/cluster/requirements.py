"""What a local cluster needs of the machine: said all at once, before anything is started.

`python -m loadtest.cluster.requirements` checks it, and fetches Kafka's class path once.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

from loadtest.bench.outcome import CouldNotRun, ExitCode
from loadtest.cluster.kafka import kafka_jars
from loadtest.cluster.member import program

__all__ = ["missing_programs", "require"]

_NEEDED: Final = (
    ("java", "openjdk-17-jre-headless", "the Kafka broker"),
    ("redis-server", "redis-server", "the KV store"),
    ("redis-check-aof", "redis-tools", "a Redis that lost its last second"),
    ("initdb", "postgresql", "the schedule store"),
    ("postgres", "postgresql", "the schedule store"),
    ("setpriv", "util-linux", "members that end when their cluster does"),
)
"""Program, Debian's package, what it is for."""


def missing_programs() -> list[str]:
    """A line for each program that is not there, naming its package."""
    packaged = list(Path("/usr/lib/postgresql").glob("*/bin"))  # Debian keeps the server's programs off the PATH
    lines = []
    for name, package, purpose in _NEEDED:
        try:
            program(name, package, also_in=packaged)
        except CouldNotRun:
            lines.append(f"{name} is missing (for {purpose}): apt-get install {package}")
    return lines


async def require() -> Path:
    """All that a cluster needs is there; returns Kafka's class path. Raises CouldNotRun naming everything missing."""
    lines = missing_programs()
    if lines:
        raise CouldNotRun("a local cluster needs more than is installed here:\n  " + "\n  ".join(lines))
    return await kafka_jars()


def main() -> int:
    try:
        asyncio.run(require())
    except CouldNotRun as exc:
        sys.stderr.write(f"{exc}\n")
        return ExitCode.COULD_NOT_RUN
    return ExitCode.HELD


if __name__ == "__main__":
    sys.exit(main())
