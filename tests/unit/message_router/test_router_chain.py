"""Laying a chain into a log: what is appended, in which steps, and what is given up."""

from __future__ import annotations

from contract.broadcast import Broadcast
from contract.kv.ports import MAX_EXTEND
from message_router.chain import Step, chain_above, plan_steps


def broadcast(at: int, prev: int) -> Broadcast:
    return Broadcast(topic="event:a", state_key="live", timestamp=at, prev=prev, event_id="a")


A, B, C, D = broadcast(10, 0), broadcast(20, 10), broadcast(30, 20), broadcast(40, 30)
KNOWN = {one.timestamp: one for one in (A, B, C)}


def test_the_chain_is_followed_down_to_the_tail() -> None:
    assert chain_above(D, 10, KNOWN) == (B, C, D)
    assert chain_above(D, 0, KNOWN) == (A, B, C, D)


def test_the_chain_ends_where_nothing_is_known() -> None:
    assert chain_above(D, 5, {20: B, 30: C}) == (B, C, D)
    assert chain_above(D, 10, {}) == (D,)


def test_others_that_lie_between_but_are_not_in_the_chain_are_left_out() -> None:
    assert chain_above(D, 20, KNOWN | {25: broadcast(25, 11)}) == (C, D)


def test_what_follows_the_tail_is_one_step() -> None:
    assert plan_steps([A, B, C, D], 10) == [Step((B, C, D), 10, None)]
    assert plan_steps([A, B], 20) == []
    assert plan_steps([], 20) == []


def test_where_a_predecessor_is_lost_the_floor_rises_to_it() -> None:
    (step,) = plan_steps([C, D], 5)
    assert step == Step((C, D), 5, 20)
    assert not step.foreign


def test_a_hole_inside_gives_up_what_lies_below_it() -> None:
    assert plan_steps([A, C, D], 0) == [Step((A,), 0, None), Step((C, D), 10, 20)]


def test_a_tail_of_another_chain_is_given_up_and_the_truth_begins_above_it() -> None:
    """15 is no part of 10, 20, 30: what is stored ends there, and what is true goes on above."""
    (step,) = plan_steps([A, B, C], 15)
    assert step == Step((B, C), 15, 15)
    assert step.foreign
    (step,) = plan_steps([D], 35)
    assert step == Step((D,), 35, 35)
    assert step.foreign


def test_repeats_and_what_was_overtaken_are_left_out() -> None:
    assert plan_steps([A, A, B, A, C], 0) == [Step((A, B, C), 0, None)]


def test_no_step_is_larger_than_the_store_takes() -> None:
    chain = [broadcast(at, at - 1) for at in range(1, MAX_EXTEND * 2 + 2)]
    steps = plan_steps(chain, 0)
    assert [len(step.broadcasts) for step in steps] == [MAX_EXTEND, MAX_EXTEND, 1]
    assert [(step.tail, step.floor) for step in steps] == [(0, None), (MAX_EXTEND, None), (MAX_EXTEND * 2, None)]
