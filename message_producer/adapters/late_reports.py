"""Reports into a store that may come up later than whoever reports."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

import sqlalchemy as sa
import structlog

from contract.backoff import Backoff
from contract.clock import Clock
from contract.coverage import TopicCoverage
from contract.errors import StoreUnavailable
from contract.reach import ReachCount
from contract.runtime.runner import Readiness
from message_producer.adapters.sql_store import SqlStore, open_store
from message_producer.coverage_records import CoverageRecords
from message_producer.reach_records import store_reach

__all__ = ["LateReports"]

_CONDITION: Final = "report-store"
_RETRY_FIRST_S: Final = 0.1
_RETRY_CAP_S: Final = 1.0
_log = structlog.get_logger(__name__)


class LateReports:
    """A ReportSink, to be entered as a context manager; see message_producer.app.open_reports."""

    def __init__(self, url: sa.URL, *, clock: Clock, readiness: Readiness, busy_timeout_s: float) -> None:
        self._url = url
        self._clock = clock
        self._readiness = readiness
        self._busy_timeout_s = busy_timeout_s
        self._stack = AsyncExitStack()
        self._store: SqlStore | None = None
        self._coverage: CoverageRecords | None = None
        self._why = "not opened yet"
        self._opening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises StoreUnavailable where waiting cannot help."""
        try:
            await self._open()
        except StoreUnavailable as exc:
            if exc.retry_after_s is None:
                raise
            self._note(exc)
            self._opening = asyncio.create_task(self._open_later(), name="reports.open")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opening is not None:
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._opening
        await self._stack.aclose()

    async def record_reach(self, counts: Sequence[ReachCount]) -> None:
        """See ReachSink."""
        if self._store is None:
            raise StoreUnavailable(self._why, retry_after_s=_RETRY_CAP_S)
        await store_reach(self._store, counts)

    async def record_coverage(self, shares: Sequence[TopicCoverage]) -> None:
        """See CoverageSink."""
        if self._coverage is None:
            raise StoreUnavailable(self._why, retry_after_s=_RETRY_CAP_S)
        await self._coverage.record(shares)

    async def _open(self) -> None:
        # Readiness is not the store's to decide here: a router delivers without it.
        self._store = await self._stack.enter_async_context(
            open_store(self._url, clock=self._clock, busy_timeout_s=self._busy_timeout_s, rehearse=False)
        )
        self._coverage = CoverageRecords(self._store)
        self._readiness.hold(_CONDITION)

    async def _open_later(self) -> None:
        backoff = Backoff(first_s=_RETRY_FIRST_S, cap_s=_RETRY_CAP_S, jitter=random.random)
        while self._store is None:
            await asyncio.sleep(backoff.next_s())
            try:
                await self._open()
            except StoreUnavailable as exc:
                self._note(exc)

    def _note(self, exc: StoreUnavailable) -> None:
        if self._why != str(exc):
            _log.warning("reports_wait_for_store", why=str(exc))
        self._why = str(exc)
        self._readiness.fail(_CONDITION, self._why)
