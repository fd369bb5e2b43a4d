"""However a chain and what is stored came apart: afterwards the newest is stored, and no more given up than must be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contract.broadcast import Broadcast
from contract.replay_log import AppendOutcome, TopicLog
from message_router.chain import chain_above, plan_steps

TIMESTAMPS = st.lists(st.integers(1, 200), min_size=1, max_size=12, unique=True).map(sorted)


def chained(timestamps: list[int], state: str) -> list[Broadcast]:
    return [
        Broadcast(topic="event:a", state_key=state, timestamp=at, prev=prev, event_id="a")
        for prev, at in zip([0, *timestamps], timestamps, strict=False)
    ]


def lay(log: TopicLog, broadcasts: list[Broadcast]) -> None:
    for step in plan_steps(broadcasts, log.tail):
        assert log.extend(step.broadcasts, tail=step.tail, floor=step.floor).outcome is AppendOutcome.APPENDED


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Broadcast], int, list[Broadcast]]:
    """A chain, how much of it is stored, and the end of it the log in flight still has."""
    chain = chained(draw(TIMESTAMPS), "s")
    return chain, draw(st.integers(0, len(chain) - 1)), chain[draw(st.integers(0, len(chain) - 1)) :]


@given(situations())
def test_a_refused_broadcast_fits_after_its_repair(situation: tuple[list[Broadcast], int, list[Broadcast]]) -> None:
    chain, stored, known = situation
    log = TopicLog("event:a")
    for one in chain[:stored]:
        assert log.append(one).outcome is AppendOutcome.APPENDED
    refused = chain[-1]
    if log.append(refused).outcome is AppendOutcome.APPENDED:
        return
    lay(log, list(chain_above(refused, log.tail, {one.timestamp: one for one in known})))
    kept = [entry.timestamp for entry in log.snapshot().entries]
    assert kept[-1] == refused.timestamp
    reaches = {one.timestamp for one in known} | {one.timestamp for one in chain[:stored]}
    if {one.timestamp for one in chain} <= reaches:
        assert kept == [one.timestamp for one in chain], "nothing is given up that is still known"


@given(TIMESTAMPS, TIMESTAMPS, st.data())
def test_whatever_another_night_left_there_the_log_in_flight_wins(
    foreign: list[int], truth: list[int], data: st.DataObject
) -> None:
    """Any stored chain, any true one, any part of it still in flight: the log ends contiguous, in the newest truth."""
    log = TopicLog("event:a")
    for one in chained(foreign, "foreign"):
        log.append(one)
    chain = chained(truth, "true")
    lay(log, chain[data.draw(st.integers(0, len(chain) - 1)) :])
    snapshot = log.snapshot()
    if truth[-1] > foreign[-1]:
        assert snapshot.entries[-1] == chain[-1]
        at = max(snapshot.floor, snapshot.entries[0].prev)
        for entry in snapshot.entries:
            assert entry.prev <= at < entry.timestamp, "whoever reads it finds no hole"
            at = entry.timestamp
        newest_truth = [entry for entry in snapshot.entries if entry.state_key == "true"]
        assert snapshot.entries[-len(newest_truth) :] == tuple(newest_truth)
    else:
        assert snapshot.tail == foreign[-1], "what may be another router's newer truth is left alone"
