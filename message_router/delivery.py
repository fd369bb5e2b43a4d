"""Delivery to one node, pure: broadcasts and schedules in, numbered batches out, and whether the node is behind (R12).

A window holds what was offered and not yet acknowledged. While the node keeps up, each entry of the log is held back
from commit until the node acknowledged it; one missed deadline makes the node *behind*: it is still sent to, but
nobody waits for it, until it has acknowledged everything sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from contract.broadcast import Broadcast
from contract.node_link import Deliver
from contract.schedule import TopicSchedule
from message_router.commit import Work

__all__ = ["DeliveryWindow"]


class _Pending(msgspec.Struct):
    """Something offered and not yet put into a batch."""

    deadline_s: float
    works: list[Work]
    broadcast: Broadcast | None = None
    schedule: TopicSchedule | None = None


class _Batch(msgspec.Struct):
    deadline_s: float
    works: list[Work]


class DeliveryWindow:
    """One link's deliveries, bounded twice.

    At most `max_unacked` batches are out; what comes meanwhile waits, and goes out in larger ones. Beyond
    `max_pending` broadcasts waiting the window is `overflowing` and its link must be closed: the node comes back, says
    hello and reads the log.
    """

    __slots__ = (
        "_batches",
        "_broadcasts",
        "_deadline_s",
        "_max_pending",
        "_max_unacked",
        "_schedules",
        "_seq",
        "behind",
    )

    def __init__(self, *, max_unacked: int, max_pending: int, deadline_s: float) -> None:
        assert max_unacked >= 1
        assert max_pending >= 1
        self._max_unacked = max_unacked
        self._max_pending = max_pending
        self._deadline_s = deadline_s
        self._broadcasts: deque[_Pending] = deque()
        # A schedule is state: of one topic only the newest waits, so these are bounded by the node's topics.
        self._schedules: dict[str, _Pending] = {}
        self._batches: dict[int, _Batch] = {}
        self._seq = 0
        self.behind = False

    @property
    def unacked(self) -> int:
        return len(self._batches)

    @property
    def idle(self) -> bool:
        """Nothing offered that is not acknowledged."""
        return not (self._batches or self._broadcasts or self._schedules)

    @property
    def overflowing(self) -> bool:
        return len(self._broadcasts) > self._max_pending

    def offer_broadcast(self, broadcast: Broadcast, works: Iterable[Work], now_s: float) -> None:
        """Queue a broadcast; holds `works` until it is acknowledged, unless the node is behind."""
        self._broadcasts.append(_Pending(now_s + self._deadline_s, self._held(works), broadcast=broadcast))

    def offer_schedule(self, schedule: TopicSchedule, works: Iterable[Work], now_s: float) -> None:
        """Queue a schedule; of two of one topic only the higher revision goes out (R5)."""
        held = self._held(works)
        waiting = self._schedules.get(schedule.topic)
        if waiting is None:
            self._schedules[schedule.topic] = _Pending(now_s + self._deadline_s, held, schedule=schedule)
            return
        assert waiting.schedule is not None
        waiting.works.extend(held)
        if schedule.revision > waiting.schedule.revision:
            waiting.schedule = schedule

    def next_batch(self, max_items: int) -> Deliver | None:
        """The next numbered batch, oldest first; None when nothing waits or too many batches are out."""
        assert max_items >= 1
        if len(self._batches) >= self._max_unacked:
            return None
        taken = [self._broadcasts.popleft() for _ in range(min(max_items, len(self._broadcasts)))]
        topics = list(self._schedules)[: max_items - len(taken)]
        taken_schedules = [self._schedules.pop(topic) for topic in topics]
        everything = taken + taken_schedules
        if not everything:
            return None
        self._seq += 1
        works = [work for pending in everything for work in pending.works]
        self._batches[self._seq] = _Batch(min(pending.deadline_s for pending in everything), works)
        return Deliver(
            self._seq,
            tuple(pending.broadcast for pending in taken if pending.broadcast is not None),
            tuple(pending.schedule for pending in taken_schedules if pending.schedule is not None),
        )

    def acked(self, seq: int) -> bool:
        """The node has batch `seq`; returns whether such a batch was open. With nothing left open it is caught up."""
        batch = self._batches.pop(seq, None)
        if batch is None:
            return False
        for work in batch.works:
            work.release()
        if self.idle:
            self.behind = False
        return True

    def next_deadline_s(self) -> float | None:
        """When `expire` should be asked next; None while nothing is awaited."""
        if self.behind:
            return None
        return min((pending.deadline_s for pending in self._open()), default=None)

    def expire(self, now_s: float) -> bool:
        """Whether the node became behind at this instant; everything held for it is let go."""
        deadline_s = self.next_deadline_s()
        if deadline_s is None or now_s < deadline_s:
            return False
        self.behind = True
        self._let_go()
        return True

    def close(self) -> None:
        """Let everything go: the link is gone. Idempotent."""
        self._let_go()
        self._broadcasts.clear()
        self._schedules.clear()
        self._batches.clear()

    def _held(self, works: Iterable[Work]) -> list[Work]:
        if self.behind:
            return []
        held = list(works)
        for work in held:
            work.hold()
        return held

    def _open(self) -> list[_Batch | _Pending]:
        return [*self._batches.values(), *self._broadcasts, *self._schedules.values()]

    def _let_go(self) -> None:
        for pending in self._open():
            works, pending.works = pending.works, []
            for work in works:
                work.release()
