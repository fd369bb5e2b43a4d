"""Threads and connections for one kind of transaction, so that one kind never waits behind another.

A database that does not answer at all (its host frozen, a cable cut) would keep a thread for ever: after a deadline the
caller is told, and the thread's socket is shut down under it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import sqlalchemy as sa

from message_producer.adapters.sql_engine import make_engine

__all__ = ["Attempt", "Lane", "NoAnswer"]

T = TypeVar("T")


class NoAnswer(Exception):
    """The database did not answer in time; what it was asked to write may have happened."""


class Attempt:
    """One call's use of a connection: lets another thread cut it off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._driver: Any = None
        self._cut = False
        self.committing = False
        """The commit is on its way: from here on a broken connection no longer means that nothing happened."""

    def begin(self, connection: sa.Connection) -> None:
        """The call uses `connection` from now on. Raises NoAnswer when it was cut off before."""
        with self._lock:
            if self._cut:
                raise NoAnswer
            self._driver = connection.connection.driver_connection

    @property
    def was_cut(self) -> bool:
        return self._cut

    def end(self) -> None:
        """It does not use it any more."""
        with self._lock:
            self._driver = None

    def cut(self) -> None:
        """Break the connection in use, if there is one. From any thread; idempotent."""
        with self._lock:
            self._cut = True
            if self._driver is None or not hasattr(self._driver, "pgconn"):
                return
            with contextlib.suppress(Exception), socket.socket(fileno=socket.dup(self._driver.fileno())) as sock:
                sock.shutdown(socket.SHUT_RDWR)


class Lane:
    """`threads` transactions at a time, each on a connection of its own."""

    def __init__(self, name: str, url: sa.URL, *, writes: bool, threads: int, busy_timeout_s: float) -> None:
        self.engine = make_engine(url, writes=writes, busy_timeout_s=busy_timeout_s, pool_size=threads)
        self.writes = writes
        self.threads = threads
        self._may_hang = url.get_backend_name() != "sqlite"
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"store-{name}")

    async def run(self, call: Callable[[Attempt], T], *, within_s: float) -> T:
        """Run `call` in a thread. Raises NoAnswer after `within_s`, waiting for a free thread included. Cancel-safe."""
        loop, attempt = asyncio.get_running_loop(), Attempt()
        running = loop.run_in_executor(self._executor, call, attempt)
        if not self._may_hang:
            return await running
        # Not tied to the caller: it may be cancelled while its thread waits for an answer that never comes.
        watchdog = loop.call_later(within_s, attempt.cut)
        try:
            async with asyncio.timeout(within_s):
                return await running
        except TimeoutError as exc:
            raise NoAnswer from exc
        finally:
            if running.done() and not running.cancelled():
                watchdog.cancel()

    async def close(self) -> None:
        """Wait for transactions in progress and close every connection."""
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
        self.engine.dispose()
