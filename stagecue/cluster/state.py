"""cluster.json: what runs where, for other processes; and what to do about a cluster that was killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.status import MemberAddress
from stagecue.keys import write_privately

__all__ = ["ClusterState", "claim", "read_state", "write_state"]

_FILE: Final = "cluster.json"
_GONE_WITHIN_S: Final = 5.0
_OURS: Final = ("stagecue", "redis-server", "postgres", "kafka.Kafka")
"""One of these is in the command line of every member."""


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """What `stagecue cluster up` writes. It holds the database's password: readable by its owner only."""

    supervisor_pid: int
    directory: str
    members: tuple[MemberAddress, ...]
    operator_token_file: str


def write_state(directory: Path, state: ClusterState) -> None:
    """Whole or not at all. Raises OSError."""
    write_privately(directory / _FILE, msgspec.json.format(msgspec.json.encode(state), indent=2), replace=True)


def read_state(directory: Path) -> ClusterState:
    """Raises CouldNotRun when there is none, or it is damaged."""
    path = directory / _FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=ClusterState)
    except FileNotFoundError:
        raise CouldNotRun(
            f"no cluster was started in {directory}; start one with `stagecue cluster up --directory {directory}`"
        ) from None
    except (OSError, msgspec.MsgspecError) as exc:
        raise CouldNotRun(f"{path} cannot be read: {exc}; remove it if no cluster runs there") from exc


def claim(directory: Path) -> int:
    """Make `directory` ours: nothing may run there. Returns how many members of a killed cluster were ended.

    Raises CouldNotRun when another `stagecue cluster up` runs there, or what it left behind does not end. Only a
    process whose command line and working directory say that it is a member here is touched.
    """
    try:
        state = read_state(directory)
    except CouldNotRun:
        return 0  # none, or damaged: then taken ports say what still runs
    if _is_supervisor(state.supervisor_pid):
        raise CouldNotRun(
            f"a cluster runs in {directory} already (process {state.supervisor_pid}); see it with "
            f"`stagecue cluster status --directory {directory}`, or name another --directory and --port-base"
        )
    left = [one.pid for one in state.members if one.pid is not None and _is_member(one.pid, directory)]
    for pid in left:
        _kill(pid)
    deadline_s = time.monotonic() + _GONE_WITHIN_S
    while any(_command_line(pid) for pid in left):
        if time.monotonic() >= deadline_s:
            raise CouldNotRun(f"processes of a killed cluster in {directory} do not end: {', '.join(map(str, left))}")
        time.sleep(0.02)
    return len(left)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _is_supervisor(pid: int) -> bool:
    words = _command_line(pid)
    return pid != os.getpid() and "cluster" in words and "up" in words


def _is_member(pid: int, directory: Path) -> bool:
    """Whether the process works below `directory` and is of a kind we start: ids are given out again."""
    line = " ".join(_command_line(pid))
    try:
        place = Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return False
    return place.is_relative_to(directory.resolve()) and any(word in line for word in _OURS)


def _command_line(pid: int) -> Sequence[str]:
    """Empty for a process that is not there, or only waits to be reaped."""
    try:
        return [
            word.decode(errors="replace") for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if word
        ]
    except OSError:
        return []
