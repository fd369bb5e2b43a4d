"""Whatever order entries finish in, exactly the finished prefix may be committed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from message_router.commit import PartitionProgress


@given(offsets=st.lists(st.integers(0, 200), unique=True, max_size=30).map(sorted), data=st.data())
def test_committable_is_the_end_of_the_finished_prefix(offsets: list[int], data: st.DataObject) -> None:
    progress = PartitionProgress(0)
    works = {offset: progress.begin(offset) for offset in offsets}
    finished: set[int] = set()
    for offset in data.draw(st.permutations(offsets)):
        works[offset].release()
        finished.add(offset)
        prefix = [one for number, one in enumerate(offsets) if finished.issuperset(offsets[: number + 1])]
        assert progress.committable == (prefix[-1] + 1 if prefix else 0)
        assert progress.in_flight == len(offsets) - len(prefix)
