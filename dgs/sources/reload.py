"""The catalog as it is now: looked at every while in a thread, replaced as a whole or not at all.

A new catalog that cannot be used leaves the old one in place, which is said once in the log, and for as long as it
lasts in `status()` and in a count of failures.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import structlog

from contract.backoff import Jitter
from contract.clock import Clock
from contract.errors import BroadcastSystemError
from dgs.ports import CatalogSource
from dgs.sources.catalog import Catalog

__all__ = ["CatalogReload"]

_T = TypeVar("_T")
_REST_MAX: Final = 16
"""Looks after which a catalog that could not be used is tried again: what failed may have been something else."""

LOOK_S: Final = 300.0
"""Reading a million rows takes a fraction of it."""

_log = structlog.get_logger(__name__)


class _Part(NamedTuple):
    prepare: Callable[[Catalog], Any]
    adopt: Callable[[Any], object]


class _Look(NamedTuple):
    stamp: str
    catalog: Catalog | None
    """None: nothing new, or not usable."""
    parts: tuple[Any, ...] = ()
    error: str | None = None
    unsettled: bool = False


class CatalogReload:
    """A service; `current` from the moment it is made. Made blocking: raises InvalidRequest as the source does."""

    name = "catalog_reload"

    def __init__(
        self, source: CatalogSource, *, every_s: float, clock: Clock, jitter: Jitter, look_s: float = LOOK_S
    ) -> None:
        self._source = source
        self._look_s = look_s
        self._every_s = every_s
        self._clock = clock
        self._jitter = jitter
        self._parts: list[_Part] = []
        # Before the load: what changes meanwhile is seen at the first look.
        self._stamp = source.stamp()
        self._current = _warm(source.load())
        self._loaded_at_ms = clock.now_ms()
        self._error: str | None = None
        self._bad_stamp: str | None = None
        self._rests = 0
        self._rest_next = 1
        self._under_way: asyncio.Future[_Look] | None = None
        self._counts: Counter[str] = Counter(loads=1)

    def current(self) -> Catalog:
        return self._current

    def on_new(self, prepare: Callable[[Catalog], _T], adopt: Callable[[_T], object]) -> None:
        """For each new catalog `prepare` runs in the thread, then `adopt` on the loop with what it returned.

        All that adopt do so in one turn, together with `current`; if one `prepare` raises, nobody does.
        """
        self._parts.append(_Part(prepare, adopt))

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Look every `every_s` seconds, a quarter more or less, until `stop`; never if it is 0."""
        ready.set()
        while not stop.is_set():
            pause_s = self._every_s * (0.75 + self._jitter() / 2) if self._every_s else None
            try:
                await asyncio.wait_for(stop.wait(), pause_s)
            except TimeoutError:
                await self._look_unless_stopped(stop)

    async def look(self) -> bool:
        """One look; True if there is a new catalog now. Call it again only once it has returned or was cancelled.

        After `look_s` it is given up and its thread left behind, and nobody looks again before that has ended.
        """
        if self._under_way is None or self._under_way.done():
            self._under_way = _in_thread(self._examine)
            await asyncio.wait({self._under_way}, timeout=self._look_s)
            if self._under_way.done():
                return self._take(self._under_way.result())
        self._counts["looks"] += 1
        self._refuse("", f"the source does not answer within {self._look_s:g} s")
        return False

    def stats(self) -> Mapping[str, int]:
        """Looks, catalogs loaded (the first included), failures, and files that changed while they were read."""
        return {name: self._counts[name] for name in ("looks", "loads", "failures", "unsettled")}

    def status(self) -> dict[str, object]:
        """For /status: what is served, since when, and why not something newer."""
        return {
            "titles": len(self._current.titles),
            "rejected_rows": len(self._current.rejected),
            "loaded_at_ms": self._loaded_at_ms,
            "error": self._error,
        }

    async def _look_unless_stopped(self, stop: asyncio.Event) -> None:
        stopped = asyncio.ensure_future(stop.wait())
        look = asyncio.ensure_future(self.look())
        try:
            # A database that hangs holds up no stop: its thread is left behind.
            await asyncio.wait({stopped, look}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            look.cancel()
        if look.done() and not look.cancelled():
            look.result()

    def _examine(self) -> _Look:
        """In the thread: nothing here touches what the loop reads, but for the source."""
        stamp = ""
        try:
            stamp = self._source.stamp()
            if stamp == self._stamp:
                return _Look(stamp, None)
            if stamp == self._bad_stamp and self._rests > 0:
                return _Look(stamp, None, error=self._error)
            catalog = _warm(self._source.load())
            if self._source.stamp() != stamp:
                return _Look(stamp, None, unsettled=True)
            return _Look(stamp, catalog, tuple(part.prepare(catalog) for part in self._parts))
        except BroadcastSystemError as exc:
            return _Look(stamp, None, error=str(exc))
        except Exception as exc:  # a plug-in's: whatever is wrong with the new catalog, the old one is served
            return _Look(stamp, None, error=f"{type(exc).__name__}: {str(exc)[:300]}")

    def _take(self, found: _Look) -> bool:
        self._counts["looks"] += 1
        if found.unsettled:
            # Somebody is writing it: half a file may look like a whole one.
            self._counts["unsettled"] += 1
            return False
        if found.error is not None:
            self._refuse(found.stamp, found.error)
            return False
        self._bad_stamp, self._rests, self._rest_next = None, 0, 1
        if self._error is not None:
            self._error = None
            _log.info("catalog_usable_again")
        if found.catalog is None:
            return False
        self._stamp, self._current = found.stamp, found.catalog
        self._loaded_at_ms = self._clock.now_ms()
        self._counts["loads"] += 1
        for part, prepared in zip(self._parts, found.parts, strict=True):
            part.adopt(prepared)
        _log.info(
            "catalog_reloaded",
            titles=len(found.catalog.titles),
            rejected=len(found.catalog.rejected),
            corrected=len(found.catalog.corrected),
        )
        return True

    def _refuse(self, stamp: str, error: str) -> None:
        if stamp and stamp == self._bad_stamp and self._rests > 0:
            self._rests -= 1
            return
        self._counts["failures"] += 1
        self._rest_next = min(2 * self._rest_next, _REST_MAX) if stamp == self._bad_stamp else 1
        self._bad_stamp, self._rests = stamp, self._rest_next
        if error != self._error:
            self._error = error
            _log.warning("catalog_kept", why=error, titles=len(self._current.titles))


def _warm(catalog: Catalog) -> Catalog:
    """Compute now, in this thread, what would otherwise be computed at the first request."""
    _ = catalog.by_id, catalog.popular
    return catalog


def _in_thread(work: Callable[[], _Look]) -> asyncio.Future[_Look]:
    """`work` in a thread that no shutdown waits for, unlike those of the loop's executor."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Look] = loop.create_future()

    def tell(result: _Look) -> None:
        if not done.done():
            done.set_result(result)

    def run() -> None:
        result = work()
        try:
            loop.call_soon_threadsafe(tell, result)
        except RuntimeError:
            return  # the loop is closed: nobody wants to know

    threading.Thread(target=run, name="catalog_look", daemon=True).start()
    return done
