"""Which of several addresses a device tries: its own first, then every other one before its own again. Pure."""

from __future__ import annotations

__all__ = ["address_of_attempt"]


def address_of_attempt(device: int, attempt: int, count: int) -> int:
    """Index below `count` of the address that device number `device` tries at its `attempt`-th opening, from 0.

    Devices of one address leave it for all the others evenly, as they would behind a balancer: were each to go to its
    neighbour, one node's death would double the load of one other.
    """
    assert device >= 0, "devices are numbered from 0"
    assert attempt >= 0, "attempts are numbered from 0"
    assert count >= 1, "nowhere to go"
    home, turn = device % count, attempt % count
    if turn == 0:
        return home
    others = count - 1
    other = (device // count + turn - 1) % others
    return other if other < home else other + 1
