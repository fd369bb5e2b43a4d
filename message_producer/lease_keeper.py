"""Holds the producer's lease and the one clock it dispatches by (R3)."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from contract.errors import LeaseLost, StoreUnavailable
from message_producer.anchored_clock import AnchoredClock
from message_producer.lease import claim, released
from message_producer.store import LeaseLock, LeaseRow, Store, Transaction
from message_producer.wakeups import Wakeup, Wakeups

__all__ = ["LeaseKeeper"]

_AFTER_EXPIRY_S = 0.005
_log = structlog.get_logger(__name__)


class _Claimed(msgspec.Struct, frozen=True):
    """What one claim found: the row as it stands, whose it is, and both clocks read side by side."""

    row: LeaseRow
    held: bool
    database_now_ms: int
    read_at_s: float


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
        self._pause_s = renew_every_s
        self._valid_until_s = 0.0
        self._stopping = Wakeup()
        self.epoch: int | None = None
        """The epoch we hold the lease under; None: somebody else does, or the clock is off."""
        self.seen_epoch = 0
        """The newest epoch seen, whoever holds it."""

    @property
    def holds(self) -> bool:
        """Whether the lease is ours, and was renewed lately enough that nobody can have taken it.

        For what goes out without asking the store; who writes to it calls `check`.
        """
        return self.epoch is not None and (self._alone or self._clock.monotonic_s() < self._valid_until_s)

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        watching = asyncio.create_task(self._watch(stop), name=f"{self.name}.stop")
        try:
            while not stop.is_set():
                await self._round()
                ready.set()
                # Who waits for the lease is told when it is given up; its holder renews at its own pace.
                await (self._wakeups.lease if self.epoch is None else self._stopping).wait(self._pause_s)
        finally:
            watching.cancel()
        await self._release()

    async def compete(self) -> bool:
        """Acquire or renew once; returns whether the lease is ours. Raises StoreUnavailable."""
        began_s = self._clock.monotonic_s()
        claimed = await self._store.write(self._claim, urgent=True)
        self.seen_epoch = claimed.row.epoch
        if self.epoch is None:
            # Not dispatching: the moment to take the database's time whole.
            self._clock.anchor(claimed.database_now_ms, claimed.read_at_s)
        elif not self._clock.correct(claimed.database_now_ms, claimed.read_at_s):
            offset_ms = self._clock.offset_ms(claimed.database_now_ms, claimed.read_at_s)
            _log.error("clock_off", offset_ms=round(offset_ms))
            await self._release()
            return False
        if claimed.held:
            self._valid_until_s = began_s + self._length_ms / 1000
            self._pause_s = self._renew_every_s
        else:
            # Whoever waits looks again the moment the lease ends, not up to a renewal later.
            remaining_s = (claimed.row.expires_at - claimed.database_now_ms) / 1000 + _AFTER_EXPIRY_S
            self._pause_s = min(self._renew_every_s, max(remaining_s, _AFTER_EXPIRY_S))
        if claimed.held and self.epoch != claimed.row.epoch:
            _log.info("lease_acquired", epoch=claimed.row.epoch)
            self.epoch = claimed.row.epoch
            self._wakeups.committed()
        elif not claimed.held and self.epoch is not None:
            self.lost()
        return claimed.held

    def check(self, transaction: Transaction) -> None:
        """Raise LeaseLost unless the epoch is ours, and keep it ours until the transaction at hand has ended."""
        row = transaction.leases.read(LeaseLock.FENCE)
        if self.epoch is None or row.epoch != self.epoch:
            if self.epoch is not None:
                _log.warning("fenced", epoch=self.epoch, current_epoch=row.epoch)  # we believed that we lead
            raise LeaseLost("another producer took the lease", rule=f"epoch {self.epoch} against {row.epoch}")

    def lost(self) -> None:
        """Stop dispatching and publishing until the lease is ours again."""
        if self.epoch is not None:
            _log.warning("lease_lost", epoch=self.epoch)
        self.epoch = None

    def _claim(self, transaction: Transaction) -> _Claimed:
        row = transaction.leases.read()
        now, read_at_s = transaction.leases.database_now_ms(), self._clock.monotonic_s()
        new, held = self._judge(row, now)
        if new is not None and new.epoch == row.epoch:
            held = transaction.leases.renew(new)
        elif new is not None:
            # Only now alone with the row: it may have changed hands, and whoever dispatches under it has to end first.
            row = transaction.leases.read(LeaseLock.TAKE)
            now, read_at_s = transaction.leases.database_now_ms(), self._clock.monotonic_s()
            new, held = self._judge(row, now)
            if new is not None:
                transaction.leases.write(new)
        return _Claimed(new if new is not None and held else row, held, now, read_at_s)

    def _judge(self, row: LeaseRow, now: int) -> tuple[LeaseRow | None, bool]:
        return claim(row, self._holder, self.epoch, now, length_ms=self._length_ms, alone=self._alone)

    async def _round(self) -> None:
        try:
            await self.compete()
        except StoreUnavailable as exc:
            self._pause_s = self._renew_every_s
            _log.warning("lease_not_renewed", why=str(exc))

    async def _release(self) -> None:
        epoch, self.epoch = self.epoch, None
        if epoch is None:
            return

        def release(transaction: Transaction) -> None:
            row = released(transaction.leases.read(LeaseLock.TAKE), self._holder, epoch)
            if row is not None:
                transaction.leases.write(row)
                transaction.tell_others()

        try:
            await self._store.write(release, urgent=True)
        except StoreUnavailable as exc:
            _log.warning("lease_not_released", why=str(exc))  # it ends by itself

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._stopping.set()
        self._wakeups.lease.set()
