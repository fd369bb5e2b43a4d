"""After a repair, the refused broadcast fits: for any chain, any stored prefix, any part of the log still known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contract.broadcast import Broadcast
from contract.replay_log import AppendOutcome, TopicLog
from message_router.chain import repair_chain


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Broadcast], int, list[Broadcast]]:
    """A chain, how much of it is stored, and the end of it the log in flight still has."""
    timestamps = draw(st.lists(st.integers(1, 10_000), min_size=2, max_size=12, unique=True).map(sorted))
    chain = [
        Broadcast(topic="event:a", state_key="s", timestamp=at, prev=prev, event_id="a")
        for prev, at in zip([0, *timestamps], timestamps, strict=False)
    ]
    return chain, draw(st.integers(0, len(chain) - 1)), chain[draw(st.integers(0, len(chain) - 1)) :]


@given(situations())
def test_fill_and_floor_make_it_fit(situation: tuple[list[Broadcast], int, list[Broadcast]]) -> None:
    chain, stored, known = situation
    log = TopicLog("event:a")
    for one in chain[:stored]:
        assert log.append(one).outcome is AppendOutcome.APPENDED
    refused = chain[-1]
    if log.append(refused).outcome is AppendOutcome.APPENDED:
        return
    repair = repair_chain(refused, log.tail, {one.timestamp: one for one in known if one.timestamp < refused.timestamp})
    assert repair is not None
    if repair.floor is not None:
        log.raise_floor(repair.floor)
    for one in repair.fill:
        assert log.append(one).outcome is AppendOutcome.APPENDED
    assert log.append(refused).outcome is AppendOutcome.APPENDED
    kept = [entry.timestamp for entry in log.snapshot().entries]
    reaches = {one.timestamp for one in known} | {one.timestamp for one in chain[:stored]}
    if {one.timestamp for one in chain} <= reaches:
        assert kept == [one.timestamp for one in chain], "nothing is given up that is still known"
