"""Reach: who got a broadcast, how, when. Absolute per (node, incarnation, broadcast), so repeats cost nothing."""

from __future__ import annotations

import msgspec

__all__ = ["ReachCount"]


class ReachCount(msgspec.Struct, frozen=True, kw_only=True):
    """What one incarnation of one node has done with one broadcast so far.

    Counts only rise; a later report replaces an earlier one. "Written" means handed to the kernel, not received:
    `acked` is the sample that says received (one in `one_in` devices is asked).
    """

    node_id: str
    incarnation: str
    topic: str
    timestamp: int
    subscribers: int = 0
    """Connections subscribed to the topic when the broadcast was first written."""
    written: int = 0
    replayed: int = 0
    coalesced: int = 0
    acked: int = 0
    gaps: int = 0
    """`gap` verdicts told with this timestamp as `latest`."""
    holes: int = 0
    routed_at: int | None = None
    """When this incarnation first received it from a router over the link: ms since the epoch, the node's clock.

    None: it only came from the log. Of several reports the earliest stands.
    """
