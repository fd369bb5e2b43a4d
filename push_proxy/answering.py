"""What one subscriber is answered: verdict, replay and schedule, in one write; and the counting of it (R15, R16).

The node decides when and whom; what a topic's memory makes of a subscription is `recovery`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from contract.clock import Clock
from contract.cursor import check_cursor
from contract.errors import MalformedCursor
from contract.frames import Verdict
from push_proxy.followed import FollowedTopic, ReadyAnswer
from push_proxy.forms import JOINABLE, PreparedFrame
from push_proxy.metrics import CounterName, NodeMetrics
from push_proxy.ports import DevicePort
from push_proxy.reach_tally import ReachTally
from push_proxy.recovery import Phase, Subscription

__all__ = ["Answering"]

_VERDICT_COUNTERS: Final[Mapping[Verdict, CounterName]] = {
    "complete": "verdicts_complete",
    "gap": "verdicts_gap",
    "ahead": "verdicts_ahead",
    "pending": "verdicts_pending",
}
Refuse = Callable[[Subscription, str, str], None]
"""Ends a subscription with an error frame: its code and message."""


class Answering:
    """One per node; nothing here waits."""

    def __init__(self, *, clock: Clock, tally: ReachTally, metrics: NodeMetrics, refuse: Refuse) -> None:
        self._clock = clock
        self._tally = tally
        self._metrics = metrics
        self._refuse = refuse
        self._uncounted: list[ReadyAnswer] = []

    def give(self, ready: ReadyAnswer, device: DevicePort) -> None:
        """The answer that others with the same cursor were given: counted later, all at once."""
        if not ready.given:
            self._uncounted.append(ready)
        ready.given += 1
        device.write(ready.frames)

    def count(self, now_s: float) -> None:
        """Count what was given since the last call."""
        for ready in self._uncounted:
            given, ready.given = ready.given, 0
            self._metrics.count(_VERDICT_COUNTERS[ready.verdict], given)
            self._metrics.delivered("replayed", given * len(ready.replayed), 0)
            self._metrics.answered(given * len(ready.frames))
            if ready.verdict == "gap":
                self._tally.gap_told(ready.topic, ready.latest, now_s=now_s, by=given)
            for timestamp in ready.replayed:
                self._tally.replayed(ready.topic, timestamp, now_s=now_s, by=given)
        self._uncounted.clear()

    def answer(self, followed: FollowedTopic, subscription: Subscription, *, give_up: bool = False) -> bool:
        """Say what there is to say, in one write, so that no live frame comes between; returns whether there was.

        `give_up`: what cannot be answered now is told `pending` at once.
        """
        now_s = self._clock.monotonic_s()
        first = subscription.phase is Phase.WAITING
        cursor = subscription.waiting.cursor if subscription.waiting is not None else None
        held_revision = subscription.told_revision
        if self._refused_for_cursor(followed, subscription, now_s):
            return False
        answer = subscription.answer(followed.state, now_s, give_up=give_up)
        if answer is None:
            return False
        frames: list[PreparedFrame] = []
        if answer.verdict is not None:
            frames.append(followed.continuity_frame(answer.verdict))
            self._metrics.count(_VERDICT_COUNTERS[answer.verdict])
            if answer.verdict == "gap":
                self._tally.gap_told(followed.topic, followed.state.latest, now_s=now_s)
        for broadcast in answer.replay:
            frames.append(followed.replay_frame(broadcast))
            self._tally.replayed(followed.topic, broadcast.timestamp, now_s=now_s)
        self._metrics.delivered("replayed", len(answer.replay), 0)
        schedule = followed.schedule
        if first and schedule is not None and subscription.told_revision < schedule.revision:
            subscription.told_revision = schedule.revision
            assert followed.prepared_schedule is not None
            frames.append(followed.prepared_schedule)
        form = subscription.sink.form
        encoded = b"".join([frame.in_form(form) for frame in frames])
        self._metrics.answered(len(encoded))
        subscription.sink.send(frames)
        if first and form in JOINABLE and answer.verdict in ("complete", "gap"):
            ready = ReadyAnswer(
                encoded,
                answer.verdict,
                tuple(broadcast.timestamp for broadcast in answer.replay),
                topic=followed.topic,
                latest=followed.state.latest,
                revision=subscription.told_revision,
            )
            followed.keep_answer(form, cursor, held_revision, ready)
        return True

    def _refused_for_cursor(self, followed: FollowedTopic, subscription: Subscription, now_s: float) -> bool:
        """A cursor from the future, judged only now: our own clock may be the one that is wrong (R15)."""
        cursor = subscription.waiting.cursor if subscription.waiting is not None else None
        if cursor is None or not followed.state.fresh(now_s):
            return False
        topic, latest = followed.topic, followed.state.latest
        if cursor <= latest or subscription.needs_read(followed.state):
            return False
        try:
            check_cursor(cursor, now_ms=self._clock.now_ms(), latest=latest, field=f"topics[{topic}]")
        except MalformedCursor as exc:
            self._refuse(subscription, "cursor_in_future", str(exc))
            return True
        return False
