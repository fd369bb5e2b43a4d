"""What an operator does on a game day, and the DGS's own count of requests."""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from loadtest.bench.operator_api import OperatorApi
from loadtest.bench.outcome import CouldNotRun

__all__ = ["Operator"]

_BINS_MAX: Final = 5_000


class Operator(OperatorApi):
    """Raises CouldNotRun for any answer that is not a success."""

    async def cue(self, event_id: str, stage: str) -> dict[str, Any]:
        """Broadcast a stage now; returns the first of the broadcasts."""
        body = msgspec.json.encode({"stage": stage})
        found = await self._call("POST", f"/v1/events/{event_id}/cue", body)
        broadcasts = found["broadcasts"]
        assert isinstance(broadcasts, list)
        return dict(broadcasts[0])

    async def cancel(self, event_id: str) -> dict[str, Any]:
        return await self._call("POST", f"/v1/events/{event_id}/cancel", b"{}")

    async def move(self, event_id: str, *, starts_in_s: float) -> int:
        """Shift it so that it starts in so many seconds, or up to one later; returns the new start, wall clock ms."""
        event = await self.event(event_id)
        now_ms = time.time() * 1000
        by_s = -int((event["starts_at_ms"] - now_ms - starts_in_s * 1000) // 1000)
        return int((await self.shift(event_id, by_s))["starts_at_ms"])

    async def requests_by_bin(self, since_ms: int, until_ms: int, *, width_ms: int = 100) -> npt.NDArray[np.int64]:
        """Requests the DGS and its artwork got in each `width_ms` of [since, until), by its own count.

        Raises CouldNotRun when its memory does not reach back that far.
        """
        bins = -(-(until_ms - since_ms) // width_ms)
        if bins > _BINS_MAX:
            raise CouldNotRun(f"{bins} bins of {width_ms} ms are more than {_BINS_MAX}")
        found = [
            await self.origin_requests(since_ms + number * width_ms, since_ms + (number + 1) * width_ms)
            for number in range(bins)
        ]
        return np.array(found, np.int64)
