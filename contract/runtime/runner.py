"""Lifecycle of a process: start services in order, stop them in reverse, on the first failure or signal.

A service is anything with a `name` and `run(ready, stop)`: it sets `ready` once it serves, and returns after `stop`
was set and its work is drained. The second signal aborts.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog

__all__ = ["ABORT_EXIT_CODE", "GC_THRESHOLDS", "Readiness", "Service", "StopIncomplete", "run_process", "run_services"]

ABORT_EXIT_CODE = 130
SWITCH_INTERVAL_S = 0.0005
"""A store's thread waits this long for the interpreter while the loop is busy, not the default 5 ms: a dispatch makes
a dozen calls into the database and would otherwise wait that long for each during another broadcast's fan-out."""
GC_THRESHOLDS: Final = (20_000, 10, 20)
"""New objects before a collection of the youngest, about 1 ms; young ones before one of the older, and so on."""
_log = structlog.get_logger(__name__)


class StopIncomplete(Exception):
    """The process ends without having drained: some service failed to stop, or not within the deadline."""


class Service(Protocol):
    name: str

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None: ...


class Readiness:
    """Named conditions that must all hold; what `/readyz` answers from.

    A condition is set by whoever knows it, so that a full disk or a lost link turns readiness off and its recovery
    turns it on again.
    """

    def __init__(self) -> None:
        self._reasons: dict[str, str | None] = {}
        self._logged: set[str] = set()
        self._stopping = False

    def expect(self, condition: str, why: str) -> None:
        """It does not hold yet, as is normal at a start: nothing to log."""
        self._reasons[condition] = why

    def hold(self, condition: str) -> None:
        self._note(condition, None)

    def fail(self, condition: str, why: str) -> None:
        self._note(condition, why)

    def stopping(self) -> None:
        """Never ready again."""
        self._stopping = True

    @property
    def ready(self) -> bool:
        return not self._stopping and bool(self._reasons) and not self.failing()

    def report(self) -> tuple[int, dict[str, object]]:
        """What every service's `/readyz` answers: the HTTP status, and the body."""
        ready = self.ready
        return 200 if ready else 503, {"ready": ready, "failing": self.failing()}

    def failing(self) -> dict[str, str]:
        """Conditions that do not hold -> why."""
        found = {name: why for name, why in self._reasons.items() if why is not None}
        if self._stopping:
            found["lifecycle"] = "stopping"
        return found

    def _note(self, condition: str, why: str | None) -> None:
        before = self._reasons.get(condition)
        self._reasons[condition] = why
        if why is not None and before is None:
            self._logged.add(condition)
            _log.warning("not_ready", condition=condition, why=why)
        elif why is None and condition in self._logged:
            self._logged.discard(condition)
            _log.info("ready_again", condition=condition)


async def run_services(
    services: Sequence[Service],
    *,
    stop: asyncio.Event,
    stop_deadline_s: float = 20.0,
    on_ready: Callable[[], Awaitable[None]] | None = None,
    on_stopping: Callable[[], None] | None = None,
) -> None:
    """Run until `stop` is set or a service ends; raises the first service's error after stopping the others.

    Raises StopIncomplete when all went well but the stop.

    Services start one after the other, each once the one before is ready; they stop in reverse order and share
    `stop_deadline_s`, after which they are cancelled.
    """
    running: list[tuple[Service, asyncio.Task[None], asyncio.Event]] = []
    stopped = asyncio.ensure_future(stop.wait())
    failure: BaseException | None = None
    try:
        for service in services:
            ready, service_stop = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(service.run(ready, service_stop), name=service.name)
            running.append((service, task, service_stop))
            became_ready = asyncio.ensure_future(ready.wait())
            tasks = [entry[1] for entry in running]
            await asyncio.wait({became_ready, stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            became_ready.cancel()
            if stop.is_set() or any(entry.done() for entry in tasks):
                break
        else:
            # What start-up built lives as long as the process: a full collection would walk all of it, for 50 ms.
            gc.collect()
            gc.freeze()
            # By default every 700 new objects are walked, in a herd of connects again and again: all of them stay.
            gc.set_threshold(*GC_THRESHOLDS)
            if on_ready:
                await on_ready()
            await asyncio.wait({stopped, *(entry[1] for entry in running)}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            service, task, _ = next(entry for entry in running if entry[1].done())
            failure = task.exception() if not task.cancelled() else asyncio.CancelledError()
            if failure is None:
                failure = RuntimeError(f"service {service.name} ended by itself")
            _log.error("service_failed", service=service.name, error=repr(failure))
    finally:
        stopped.cancel()
        if on_stopping:
            on_stopping()
        unfinished = await _stop_in_reverse(running, stop_deadline_s)
    if failure is not None:
        raise failure
    if unfinished:
        raise StopIncomplete(f"stopped before its work was drained: {', '.join(unfinished)}")


async def _stop_in_reverse(
    running: list[tuple[Service, asyncio.Task[None], asyncio.Event]], stop_deadline_s: float
) -> list[str]:
    """Names of services that failed to stop or were cut off."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + stop_deadline_s
    unfinished = []
    for service, task, service_stop in reversed(running):
        service_stop.set()
        await asyncio.wait({task}, timeout=max(0.0, deadline - loop.time()))
        if not task.done():
            _log.error("service_cut_off", service=service.name, after_s=stop_deadline_s)
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
            unfinished.append(service.name)
        elif not task.cancelled() and task.exception() is not None:
            _log.error("service_stop_failed", service=service.name, error=repr(task.exception()))
            unfinished.append(service.name)
    return unfinished


def run_process(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `main(stop)` on uvloop; SIGTERM and SIGINT set `stop`, the second one aborts. Returns the exit code."""
    import uvloop

    sys.setswitchinterval(SWITCH_INTERVAL_S)

    async def with_signals() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        signals = 0

        def on_signal() -> None:
            # Counted: `stop` may have been set otherwise, and then the first signal asks for the same.
            nonlocal signals
            signals += 1
            if signals > 1:
                sys.stderr.write("aborted\n")
                sys.stderr.flush()
                os._exit(ABORT_EXIT_CODE)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        await main(stop)

    uvloop.run(with_signals())
    return 0
