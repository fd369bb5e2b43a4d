"""Repairing a refused append: fill, raise the floor, or see that nothing fits."""

from __future__ import annotations

from contract.broadcast import Broadcast
from message_router.chain import Repair, repair_chain


def broadcast(at: int, prev: int) -> Broadcast:
    return Broadcast(topic="event:a", state_key="live", timestamp=at, prev=prev, event_id="a")


CHAIN = {at: broadcast(at, prev) for at, prev in ((10, 0), (20, 10), (30, 20))}
REFUSED = broadcast(40, 30)


def test_everything_between_tail_and_refused_is_filled_ascending() -> None:
    assert repair_chain(REFUSED, 10, CHAIN) == Repair((CHAIN[20], CHAIN[30]), None)


def test_an_empty_store_is_filled_from_the_first() -> None:
    assert repair_chain(REFUSED, 0, CHAIN) == Repair((CHAIN[10], CHAIN[20], CHAIN[30]), None)


def test_where_the_log_no_longer_reaches_down_the_floor_rises_to_the_break() -> None:
    """30 and 20 are known, 10 is gone: the floor is 10, and nothing more than necessary is given up."""
    assert repair_chain(REFUSED, 5, {20: CHAIN[20], 30: CHAIN[30]}) == Repair((CHAIN[20], CHAIN[30]), 10)


def test_nothing_known_raises_the_floor_to_prev() -> None:
    assert repair_chain(REFUSED, 10, {}) == Repair((), 30)


def test_a_tail_that_is_not_in_the_chain_cannot_be_repaired() -> None:
    assert repair_chain(REFUSED, 15, CHAIN) is None
    assert repair_chain(REFUSED, 35, CHAIN) is None


def test_others_that_lie_between_but_are_not_in_the_chain_are_left_out() -> None:
    known = CHAIN | {25: broadcast(25, 11)}
    repair = repair_chain(REFUSED, 20, known)
    assert repair == Repair((CHAIN[30],), None)
