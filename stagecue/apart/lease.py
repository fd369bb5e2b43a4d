"""A push node's lease: how routers find it, and how long they wait for one that died."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from contract.errors import StoreUnavailable
from contract.kv.ports import NodeLease, NodeLeases
from contract.runtime.runner import Readiness

__all__ = ["LeaseRenewal"]

_CONDITION: Final = "push.lease"
_RELEASE_S: Final = 2.0
_log = structlog.get_logger(__name__)


class LeaseRenewal:
    """Service: claims the address for this incarnation, renews every third of the lease, gives it up at the end.

    A renewal that fails is repeated at the next turn: two may fail before the lease runs out. Routers keep links they
    have, so that an expired lease costs a new router, not a linked one, this node.
    """

    name = "node-lease"

    def __init__(self, lease: NodeLease, leases: NodeLeases, readiness: Readiness, *, lifetime_s: float) -> None:
        assert lifetime_s > 0
        self._lease = lease
        self._leases = leases
        self._readiness = readiness
        self._lifetime_s = lifetime_s
        readiness.expect(_CONDITION, "not claimed yet")

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Ready after the first attempt, whatever came of it."""
        loop = asyncio.get_running_loop()
        held_until_s = 0.0
        while not stop.is_set():
            asked_s = loop.time()
            try:
                async with asyncio.timeout(self._lifetime_s / 3):
                    await self._leases.renew(self._lease, lifetime_s=self._lifetime_s)
            except (StoreUnavailable, TimeoutError) as exc:
                _log.warning("lease_not_renewed", node=self._lease.node_id, why=str(exc) or "no answer in time")
                if loop.time() >= held_until_s:
                    self._readiness.fail(_CONDITION, "routers linked from now on cannot find this node")
            else:
                held_until_s = asked_s + self._lifetime_s
                self._readiness.hold(_CONDITION)
            ready.set()
            # Not held: no router can find us, so the store's return is noticed sooner.
            pause_s = self._lifetime_s / 3 if held_until_s > loop.time() else min(1.0, self._lifetime_s / 3)
            try:
                async with asyncio.timeout(pause_s):
                    await stop.wait()
            except TimeoutError:
                continue
        await self._release()

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(_RELEASE_S):
                await self._leases.release(self._lease)
        except (StoreUnavailable, TimeoutError) as exc:
            _log.warning("lease_left_to_expire", node=self._lease.node_id, why=str(exc) or "no answer in time")
