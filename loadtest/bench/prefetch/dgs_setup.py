"""What a benchmark gives the DGS it starts, besides settings."""

from __future__ import annotations

import msgspec

from contract.schedule import TopicSchedule
from loadtest.bench.prefetch.asking import Secret

__all__ = ["DgsSetup"]


class DgsSetup(msgspec.Struct, frozen=True):
    schedule: TopicSchedule
    """The one event there is."""
    secret: Secret
    """Profile tokens are signed with it."""
