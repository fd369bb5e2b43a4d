"""Reach on its way back: counts of all nodes."""

from __future__ import annotations

from collections.abc import Callable

from contract.backoff import Backoff
from contract.log import ReachSink
from contract.reach import ReachCount
from message_router.forwarding import Forwarder
from message_router.metrics import RouterMetrics

__all__ = ["ReachForwarder"]

_Key = tuple[str, str, str, int]


class ReachForwarder(Forwarder[_Key, ReachCount]):
    """Holds the newest count per (node, incarnation, topic, timestamp)."""

    def __init__(
        self,
        sink: ReachSink,
        *,
        bound: int,
        interval_s: float,
        new_backoff: Callable[[], Backoff],
        metrics: RouterMetrics,
    ) -> None:
        super().__init__(
            sink.record_reach,
            _key,
            bound=bound,
            interval_s=interval_s,
            new_backoff=new_backoff,
            dropped=metrics.reach_dropped.inc,
        )


def _key(count: ReachCount) -> _Key:
    return (count.node_id, count.incarnation, count.topic, count.timestamp)
