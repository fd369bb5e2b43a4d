"""What every service process shares: patience with what it starts on, the ready line."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar

import msgspec
import structlog

from contract.backoff import Backoff
from contract.errors import InvalidRequest, Unavailable
from contract.runtime.runner import Readiness

__all__ = [
    "DATABASE_FILE_PATIENCE_S",
    "DATABASE_SETTING",
    "KAFKA_SETTING",
    "Announce",
    "ReadyLine",
    "ServiceAddress",
    "StoppedEarly",
    "WorkerAddress",
    "opened_patiently",
]

T = TypeVar("T")
DATABASE_SETTING: Final = "--database (PRODUCER_DATABASE_URL)"
KAFKA_SETTING: Final = "--kafka (KAFKA_BOOTSTRAP_SERVERS)"
DATABASE_FILE_PATIENCE_S: Final = 10.0
"""A SQLite file that another process holds for longer will not be let go."""
_RETRY_FIRST_S: Final = 0.05
_RETRY_CAP_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.02
_SLOW_AFTER_S: Final = 4.0
_SLOW_ADVICE: Final = "see in its log whether it is well, a full disk ends or stops it, or name another host and port"
_SAY_AFTER_S: Final = 2.0
_SAY_EVERY_S: Final = 30.0
_log = structlog.get_logger(__name__)


class WorkerAddress(msgspec.Struct, frozen=True, kw_only=True):
    """One of several push nodes behind one device port."""

    node: str
    pages: str
    """/healthz, /readyz, /status and /metrics of this one."""
    link: str


class ServiceAddress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ready line of a service process; `--ready-json` prints these fields as they are."""

    service: str
    address: str
    """Where it answers; GET /healthz and /readyz work there too."""
    data_dir: str
    docs: str | None = None
    operator_token: str | None = None
    link: str | None = None
    """A push node's internal listener, as its lease tells routers."""
    node: str | None = None
    """A push node's id."""
    pages: str | None = None
    """Where one of several push workers answers for itself: /healthz, /readyz, /status, /metrics."""
    workers: tuple[WorkerAddress, ...] = ()
    """Of `stagecue push --workers`: the nodes behind the address."""


Announce = Callable[[ServiceAddress], Awaitable[None]]


class StoppedEarly(Exception):
    """Asked to stop before anything was open: a clean end."""


@asynccontextmanager
async def opened_patiently(
    open_once: Callable[[], AbstractAsyncContextManager[T]],
    stop: asyncio.Event,
    *,
    setting: str,
    where: str,
    readiness: Readiness,
    condition: str,
    patience_s: float | None = DATABASE_FILE_PATIENCE_S,
) -> AsyncIterator[T]:
    """Enter `open_once()`, trying again with back-off where the error says that waiting may help.

    Meanwhile `condition` tells in `readiness` what is waited for. Raises what was raised where waiting cannot help
    (Unavailable without `retry_after_s`, InvalidRequest), Unavailable after `patience_s` (None: never), and
    StoppedEarly. Every error names `setting`, unless it names another already. One that takes its time is named, too,
    by its setting and by `where` it is.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + (math.inf if patience_s is None else patience_s)
    backoff = Backoff(first_s=_RETRY_FIRST_S, cap_s=_RETRY_CAP_S, jitter=random.random)
    said_at_s = -math.inf

    def slow() -> None:
        why = f"{setting}: {where} has not answered for {_SLOW_AFTER_S:.0f} s; {_SLOW_ADVICE}"
        readiness.expect(condition, why)
        _log.warning("waiting", condition=condition, why=why)

    async with AsyncExitStack() as stack:
        while True:
            told = loop.call_later(_SLOW_AFTER_S, slow)
            try:
                opened = await stack.enter_async_context(open_once())
                break
            except (Unavailable, InvalidRequest) as exc:
                exc.field = exc.field or setting
                if isinstance(exc, InvalidRequest) or exc.retry_after_s is None or loop.time() >= deadline_s:
                    raise
                readiness.expect(condition, str(exc))
                if loop.time() - said_at_s >= _SAY_EVERY_S:
                    said_at_s = loop.time()
                    _log.warning("waiting", condition=condition, why=str(exc), then="retrying")
            finally:
                told.cancel()
            try:
                async with asyncio.timeout(backoff.next_s()):
                    await stop.wait()
            except TimeoutError:
                continue
            raise StoppedEarly
        readiness.hold(condition)
        yield opened


class ReadyLine:
    """Service, last in line: announces once, when `/readyz` would say yes; meanwhile logs what it waits for."""

    name = "ready-line"

    def __init__(self, readiness: Readiness, address: ServiceAddress, announce: Announce) -> None:
        self._readiness = readiness
        self._address = address
        self._announce = announce

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        ready.set()
        loop = asyncio.get_running_loop()
        say_at_s = loop.time() + _SAY_AFTER_S
        while not self._readiness.ready and not stop.is_set():
            if loop.time() >= say_at_s:
                say_at_s = loop.time() + _SAY_EVERY_S
                _log.warning("waiting", address=self._address.address, failing=self._readiness.failing())
            await asyncio.sleep(_LOOK_EVERY_S)
        if not stop.is_set():
            await self._announce(self._address)
        await stop.wait()
