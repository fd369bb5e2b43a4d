"""Coverage on its way back: the shares of all nodes. Who adds them up is the producer, where every router's meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from contract.backoff import Backoff
from contract.coverage import CoverageSink, TopicCoverage
from message_router.forwarding import Forwarder
from message_router.metrics import RouterMetrics

__all__ = ["CoverageForwarder"]

_AT_ONCE: Final = 1_000
"""Shares per interval: when all devices of a fleet come back at once, the database sees no more than this."""
_Key = tuple[str, str, str]


class CoverageForwarder(Forwarder[_Key, TopicCoverage]):
    """Holds the newest share per (node, incarnation, topic)."""

    def __init__(
        self,
        sink: CoverageSink,
        *,
        bound: int,
        interval_s: float,
        new_backoff: Callable[[], Backoff],
        metrics: RouterMetrics,
    ) -> None:
        super().__init__(
            sink.record_coverage,
            _key,
            bound=bound,
            interval_s=interval_s,
            new_backoff=new_backoff,
            dropped=metrics.coverage_dropped.inc,
            at_once=_AT_ONCE,
        )


def _key(share: TopicCoverage) -> _Key:
    return (share.node_id, share.incarnation, share.topic)
