"""Whether this machine can carry a plan's users, and how many it could. Pure.

A user takes an open file for as long as it is connected or asks, and a port of this machine for each target: a target
has one address, so that as many connections lead to it as there are ports for outgoing ones.
"""

from __future__ import annotations

from math import ceil
from typing import Final

from loadtest.machine.needs import MachineFacts
from loadtest.users.plan import UsersPlan

__all__ = ["lacking"]

_RESERVED_FILES: Final = 200
"""Of each process, for what is no user's; a device that changes nodes has two for a moment."""
_PROCESS_BYTES: Final = 70 << 20
_USER_BYTES: Final = 60 << 10
"""Measured: 45 KB each (docs/load-users.md), and room for maps that are larger."""


def lacking(plan: UsersPlan, facts: MachineFacts) -> list[str]:
    """What there is too little of for this plan, and how many users it would do for; empty: nothing."""
    workers = max(1, plan.workers)
    found = []
    per_process = ceil(plan.users / workers)
    room = max(0, facts.files_per_process - _RESERVED_FILES)
    if per_process > room:
        advice = f"--workers {ceil(plan.users / room)} or a higher limit (ulimit -Hn)" if room else "raise ulimit -Hn"
        found.append(
            f"open files: {per_process} users in a process, {facts.files_per_process} files; {room * workers} users "
            f"would fit: {advice}"
        )
    ports = facts.port_range[1] - facts.port_range[0] + 1
    for what, users, targets in (
        ("the DGS", _users(plan, "browse"), 1),
        ("push nodes", _users(plan, "connect", "naive"), max(1, len(plan.push_urls))),
    ):
        if users > ports * targets:
            found.append(
                f"ports: {users} connections to {what}, {ports} ports for each of {targets} addresses; "
                f"{ports * targets} would fit: sysctl -w net.ipv4.ip_local_port_range='1024 65535', or more addresses"
            )
    spare = facts.memory_available_bytes - (workers + 1) * _PROCESS_BYTES
    if plan.users * _USER_BYTES > spare:
        found.append(
            f"memory: {plan.users} users and {workers} processes want "
            f"{(plan.users * _USER_BYTES + (workers + 1) * _PROCESS_BYTES) >> 20} MiB, "
            f"{facts.memory_available_bytes >> 20} MiB are available; {max(0, spare // _USER_BYTES)} would fit"
        )
    return found


def _users(plan: UsersPlan, *kinds: str) -> int:
    return sum(crowd.users for crowd in plan.crowds if crowd.kind in kinds)
