"""A window under any order of offers, sends, acknowledgements and time, against a model that remembers everything."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from contract.broadcast import Broadcast
from message_router.commit import PartitionProgress
from message_router.delivery import DeliveryWindow

DEADLINE_S = 0.5


class WindowMachine(RuleBasedStateMachine):
    """The model: offered entries with their deadlines, the batches out, and who is still awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.window = DeliveryWindow(max_unacked=3, max_pending=1_000, deadline_s=DEADLINE_S)
        self.progress = PartitionProgress(1)
        self.now_s = 0.0
        self.offset = 0
        self.waiting: list[int] = []
        self.out: dict[int, list[int]] = {}
        self.deadlines: dict[int, float] = {}
        self.sent: list[int] = []
        self.behind = False

    @rule(count=st.integers(1, 3))
    def offer(self, count: int) -> None:
        for _ in range(count):
            self.offset += 1
            at = self.offset
            work = self.progress.begin(at)
            one = Broadcast(topic="event:a", state_key="s", timestamp=at, prev=0, event_id="a")
            self.window.offer_broadcast(one, (work,), self.now_s)
            work.release()
            self.waiting.append(at)
            if not self.behind:
                self.deadlines[at] = self.now_s + DEADLINE_S

    @rule(most=st.integers(1, 4))
    def send(self, most: int) -> None:
        batch = self.window.next_batch(most)
        if not self.waiting or len(self.out) >= 3:
            assert batch is None
            return
        assert batch is not None
        expected, self.waiting = self.waiting[:most], self.waiting[most:]
        assert [one.timestamp for one in batch.broadcasts] == expected
        assert batch.seq not in self.out
        self.out[batch.seq] = expected
        self.sent += expected

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        if not self.out:
            assert not self.window.acked(99_999)
            return
        seq = data.draw(st.sampled_from(sorted(self.out)))
        assert self.window.acked(seq)
        for at in self.out.pop(seq):
            self.deadlines.pop(at, None)
        if not self.out and not self.waiting:
            self.behind = False

    @rule(by=st.sampled_from([0.0, 0.1, 0.3, 0.6]))
    def let_pass(self, by: float) -> None:
        self.now_s += by
        missed = any(deadline <= self.now_s for deadline in self.deadlines.values())
        assert self.window.expire(self.now_s) == missed
        if missed:
            self.behind = True
            self.deadlines.clear()

    @invariant()
    def only_awaited_entries_hold_the_commit(self) -> None:
        assert self.progress.committable == min(self.deadlines, default=self.offset + 1)

    @invariant()
    def order_and_state_agree(self) -> None:
        assert self.sent == sorted(self.sent)
        assert self.window.behind == self.behind
        assert self.window.unacked == len(self.out) <= 3
        assert self.window.next_deadline_s() == min(self.deadlines.values(), default=None)


TestWindow = WindowMachine.TestCase
