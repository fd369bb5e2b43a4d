"""Coverage: who holds which version of a topic's stage map (R7). Absolute per (node, incarnation, topic)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

__all__ = ["CoverageShare", "CoverageSink", "TopicCoverage"]


class CoverageShare(msgspec.Struct, frozen=True):
    """One topic's subscriptions on one node, by the version of the map each said it holds."""

    topic: str
    held: dict[int, int]
    """Version -> subscriptions; 0: without a map. Empty: nobody follows the topic there any more.

    A node bounds how many versions it tells apart; what it cannot is counted under a lower one, never under a higher.
    """


class TopicCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """A share and whose it is. Of several the one with the highest `seq` stands, whichever router it came by."""

    node_id: str
    incarnation: str
    begun_at: int
    """When the incarnation began: ms since the epoch, the node's clock. A later one replaces those before it."""
    seq: int
    topic: str
    held: dict[int, int]


class CoverageSink(Protocol):
    """Where the router leaves what nodes report."""

    async def record_coverage(self, shares: Sequence[TopicCoverage]) -> None:
        """Store absolute counts, and that their nodes live; repeats and reordering do no harm.

        Raises StoreUnavailable.
        """
        ...
