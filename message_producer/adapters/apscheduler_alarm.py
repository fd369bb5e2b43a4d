"""APScheduler as an alarm clock and nothing else: one job in memory, re-armed from the store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from contract.clock import Clock

__all__ = ["ApschedulerAlarm"]

_JOB = "next-due"


class ApschedulerAlarm:
    """See AlarmClock. Rings on the event loop it was started on."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._armed: int | None = None
        # Its defaults would drop a job that is a second late; ours may be as late as it likes (R4).
        self._scheduler = AsyncIOScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True})

    def start(self) -> None:
        """Begin to ring. Event loop only."""
        self._scheduler.start()

    def close(self) -> None:
        """Ring no more. Event loop only."""
        self._scheduler.shutdown(wait=False)

    def arm(self, at_ms: int | None) -> None:
        if at_ms == self._armed:
            return
        self._armed = at_ms
        if at_ms is None:
            if self._scheduler.get_job(_JOB) is not None:
                self._scheduler.remove_job(_JOB)
            return
        # As a duration from now: the scheduler reads the host's clock, `at_ms` is by ours.
        in_ms = max(0, min(at_ms - self._clock.now_ms(), _FAR_MS))
        when = datetime.now(UTC) + timedelta(milliseconds=in_ms)
        self._scheduler.add_job(self._wake, DateTrigger(when), id=_JOB, name=_JOB, replace_existing=True)

    async def _wake(self) -> None:
        self._armed = None
        self._ring()


_FAR_MS = 24 * 3600 * 1000
"""Appointments further off are made for a day: a date in the year 9999 is beyond the event loop's timers."""
