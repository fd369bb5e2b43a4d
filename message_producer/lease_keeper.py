"""Holds the producer's lease and the one clock it dispatches by (R3)."""

from __future__ import annotations

import asyncio

import structlog

from contract.errors import LeaseLost, StoreUnavailable
from message_producer.anchored_clock import AnchoredClock
from message_producer.lease import claim, released
from message_producer.store import Store, Transaction
from message_producer.wakeups import Wakeup, Wakeups

__all__ = ["LeaseKeeper"]

_log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Competes for the lease, renews it, and gives it up when the clock is off.

    The epoch is the fence: every transaction that dispatches or publishes calls `check`. Losing the store does not
    lose the lease: as long as nobody raised the epoch it is still ours when the store is back.
    """

    name = "producer.lease"

    def __init__(
        self,
        store: Store,
        clock: AnchoredClock,
        wakeups: Wakeups,
        *,
        holder: str,
        length_ms: int,
        renew_every_s: float,
        alone: bool,
    ) -> None:
        self._store = store
        self._clock = clock
        self._wakeups = wakeups
        self._holder = holder
        self._length_ms = length_ms
        self._renew_every_s = renew_every_s
        self._alone = alone
        self._stopping = Wakeup()
        self.epoch: int | None = None
        """The epoch we hold the lease under; None: somebody else does, or the clock is off."""

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        watching = asyncio.create_task(self._watch(stop), name=f"{self.name}.stop")
        try:
            while not stop.is_set():
                await self._round()
                ready.set()
                await self._stopping.wait(self._renew_every_s)
        finally:
            watching.cancel()
        await self._release()

    async def compete(self) -> bool:
        """Acquire or renew once; returns whether the lease is ours. Raises StoreUnavailable."""
        row_epoch, held, database_now, read_at_s = await self._store.write(self._claim)
        if self.epoch is None:
            # Not dispatching: the moment to take the database's time whole.
            self._clock.anchor(database_now, read_at_s)
        elif not self._clock.correct(database_now, read_at_s):
            _log.error("clock_off", offset_ms=round(self._clock.offset_ms(database_now, read_at_s)))
            await self._release()
            return False
        if held and self.epoch != row_epoch:
            _log.info("lease_acquired", epoch=row_epoch)
            self.epoch = row_epoch
            self._wakeups.committed()
        elif not held and self.epoch is not None:
            self.lost()
        return held

    def check(self, transaction: Transaction) -> None:
        """Raise LeaseLost unless the epoch is still ours, in the transaction at hand."""
        row = transaction.leases.read(lock=True)
        if self.epoch is None or row.epoch != self.epoch:
            raise LeaseLost("another producer took the lease", rule=f"epoch {self.epoch} against {row.epoch}")

    def lost(self) -> None:
        """Stop dispatching and publishing until the lease is ours again."""
        if self.epoch is not None:
            _log.warning("lease_lost", epoch=self.epoch)
        self.epoch = None

    def _claim(self, transaction: Transaction) -> tuple[int, bool, int, float]:
        row = transaction.leases.read(lock=True)
        now = transaction.leases.database_now_ms()
        new, held = claim(row, self._holder, self.epoch, now, length_ms=self._length_ms, alone=self._alone)
        if new is not None:
            transaction.leases.write(new)
        # Both clocks are read here, side by side: the commit that follows may take long.
        return (new or row).epoch, held, transaction.leases.database_now_ms(), self._clock.monotonic_s()

    async def _round(self) -> None:
        try:
            await self.compete()
        except StoreUnavailable as exc:
            _log.warning("lease_not_renewed", why=str(exc))

    async def _release(self) -> None:
        epoch, self.epoch = self.epoch, None

        def release(transaction: Transaction) -> None:
            row = released(transaction.leases.read(lock=True), self._holder, epoch)
            if row is not None:
                transaction.leases.write(row)

        try:
            await self._store.write(release)
        except StoreUnavailable as exc:
            _log.warning("lease_not_released", why=str(exc))  # it ends by itself

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping.set()
