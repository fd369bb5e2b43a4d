"""R8 and R9 under random operations: the log is always an unbroken chain above its floor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contract.broadcast import Broadcast
from contract.replay_log import AppendOutcome, TopicLog

CHAIN = [0, 10, 20, 30, 40, 50, 60]


def entry(index: int, state: str = "live") -> Broadcast:
    return Broadcast(topic="t", state_key=state, timestamp=CHAIN[index], prev=CHAIN[index - 1], event_id="e")


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 6), st.sampled_from(["live", "other"])),
        st.tuples(st.just("floor"), st.sampled_from(CHAIN), st.just("")),
        st.tuples(st.just("trim"), st.integers(1, 4), st.sampled_from(["0", "25", "99"])),
    ),
    max_size=30,
)


@given(operations)
def test_the_log_stays_a_chain_whatever_happens(steps):
    """Floor and tail only rise, entries are chained to one another, and each outcome tells the truth."""
    log = TopicLog("t")
    for kind, number, word in steps:
        floor, tail, held = log.floor, log.tail, log.snapshot().entries
        if kind == "append":
            broadcast = entry(number, word)
            result = log.append(broadcast)
            known = next((one for one in held if one.timestamp == broadcast.timestamp), None)
            if broadcast.timestamp <= floor:
                assert result.outcome is AppendOutcome.STALE
            elif known is not None:
                same = known.state_key == broadcast.state_key
                assert result.outcome is (AppendOutcome.DUPLICATE if same else AppendOutcome.CONFLICT)
            elif broadcast.timestamp > tail:
                expected = AppendOutcome.APPENDED if broadcast.prev == tail else AppendOutcome.REFUSED
                assert result.outcome is expected
            assert result.tail == log.tail
            if result.outcome is not AppendOutcome.APPENDED:
                assert log.snapshot().entries == held
        elif kind == "floor":
            log.raise_floor(number)
        else:
            log.trim(keep=number, before=int(word))
            assert not held or log.snapshot().entries[-1] == held[-1], "trimming keeps the newest entry"
        snapshot = log.snapshot()
        assert log.floor >= floor
        assert log.tail >= tail
        assert all(one.timestamp > snapshot.floor for one in snapshot.entries)
        for before, after in zip(snapshot.entries, snapshot.entries[1:], strict=False):
            assert after.prev == before.timestamp
        for cursor in CHAIN:
            assert snapshot.after(cursor) == tuple(one for one in snapshot.entries if one.timestamp > cursor)
