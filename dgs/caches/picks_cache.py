"""Picks from the nearest place that has them: memory, the materialised store, whoever ranks; else older ones.

A profile is asked for once, whoever wants it (single-flight per topic, version and profile); what one turn of the loop
misses goes into one read of the store. Rankings computed in this process get so many per turn and no more: whoever can
be served from memory never waits behind a queue of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import structlog

from contract.clock import Clock
from contract.errors import BroadcastSystemError, StoreUnavailable
from contract.schedule import TopicSchedule
from dgs.caches.expiring import Expiring, Lifetimes, Moments
from dgs.picks import Layout, Missing, Picks, Wanted
from dgs.ports import MaterialisedStore, PicksSource
from dgs.shelf import fits
from dgs.traces import Trace, concerned, traced, tracing

__all__ = ["CachedPicks", "InstantStore"]

_PICKS_BYTES: Final = 420
"""What picks and their key cost besides the cells."""
_DEGRADED_S: Final = 5.0
"""Mean time for which what was shown instead is shown again; then the source is asked anew."""
_STORE_S: Final = 0.25
"""A read of the store; it lies within the caller's deadline, which leaves time to do without it."""
_STORE_PAUSE_S: Final = 1.0
"""A store that failed is not asked for this long."""
_SHARE: Final = 0.9
"""Of a caller's deadline; the rest is for answering with something else."""
_WAITING_MAX: Final = 4_096
"""Profiles asked for at once; beyond it there are older picks or the default ones."""
_BATCHES_MAX: Final = 32
_REFRESH_BEHIND: Final = 64
"""Early refreshes wait for a quieter moment while more profiles than this are being asked for."""
_TOPICS_MAX: Final = 10_000
_LEAST_S: Final = 0.01
_COUNTED: Final = (
    "joined", "store_hits", "store_reads", "store_failures", "asked", "failed", "late", "stale", "otherwise", "refused",
)  # fmt: skip
_log = structlog.get_logger(__name__)
_Key = tuple[str, int, str]


@runtime_checkable
class InstantStore(Protocol):
    """A MaterialisedStore that can be read without waiting."""

    def read_now(self, topic: str, version: int, profile_id: str) -> Picks | None: ...


class _Fitting(NamedTuple):
    """What was found out about layouts for one state of a topic."""

    revision: int
    catalog: str
    schedule: TopicSchedule
    layouts: dict[Layout, bool]


class _Miss:
    """A profile being asked for, and who waits for it."""

    __slots__ = ("key", "refresh", "traces", "until_s", "waiters", "wanted")

    def __init__(self, key: _Key, wanted: Wanted, until_s: float, *, refresh: bool) -> None:
        self.key = key
        self.wanted = wanted
        self.until_s = until_s
        self.refresh = refresh
        self.waiters: list[asyncio.Future[Picks | Missing]] = []
        self.traces: tuple[Trace, ...] = ()

    @property
    def alive(self) -> bool:
        return self.refresh or not all(waiter.done() for waiter in self.waiters)


class CachedPicks:
    """PicksSource in front of another one. One event loop's; nothing of it blocks."""

    name = "cache"

    def __init__(
        self,
        source: PicksSource,
        *,
        schedule_of: Callable[[str], TopicSchedule | None],
        catalog: Callable[[], str],
        clock: Clock,
        lifetimes: Lifetimes,
        draw: Callable[[], float],
        store: MaterialisedStore | None = None,
        otherwise: Callable[[Wanted, str], Picks | None] | None = None,
        max_bytes: int = 64 * 1024 * 1024,
        stale_s: float = 3600.0,
        per_turn: int | None = None,
        gather_s: float = 0.0,
        batch: int = 256,
    ) -> None:
        """`catalog` tells the digest in use. `otherwise(wanted, why)` gives picks nobody has to wait for.

        With `per_turn` the source computes in this process: it is asked for that many profiles in a turn of the loop;
        without, for up to `batch` at once, many times over, and what is missed within `gather_s` goes together:
        everything behind this cache costs a question more than it costs a profile.
        """
        assert per_turn is None or per_turn >= 1
        self._source = source
        self._schedule_of = schedule_of
        self._catalog = catalog
        self._clock = clock
        self._lifetimes = lifetimes
        self._draw = draw
        self._store = store
        self._instant: InstantStore | None = store if isinstance(store, InstantStore) else None
        self._otherwise = otherwise
        self._per_turn = per_turn
        self._cache: Expiring[_Key, Picks] = Expiring(max_bytes=max_bytes, stale_ms=round(stale_s * 1000))
        self._instead: Expiring[_Key, Picks] = Expiring(max_bytes=max_bytes // 8)
        """What was shown where a profile's own could not be had, for a few seconds."""
        self._fitting: dict[str, _Fitting] = {}
        self._misses: dict[_Key, _Miss] = {}
        self._new: list[_Miss] = []
        self._queue: deque[_Miss] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._batches = 0
        self._gather_s = gather_s
        self._batch = batch
        self._gathering: asyncio.TimerHandle | None = None
        self._store_again_s = float("-inf")
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._closed = False

    # What requests ask.

    def at_once(self, wanted: Wanted) -> Picks | None:
        """See PicksSource. An entry that falls due is made anew in the background, told to one caller alone."""
        key = wanted.topic, wanted.version, wanted.profile_id
        picks, due = self._cache.look(key, self._clock.now_ms())
        if picks is None or not self._fits(wanted, picks):
            return self._instantly(key, wanted) or self._shown_instead(key, wanted)
        if due:
            self._refresh(key, wanted)
        return picks

    async def find(self, wanted: Sequence[Wanted], deadline_s: float) -> Mapping[Wanted, Picks | Missing]:
        """See PicksSource: one for each, whatever fails; before the deadline, then with what there is. Cancel-safe.

        They fit the schedule as it is when they are made, which may have moved on since the question.
        """
        loop = asyncio.get_running_loop()
        found: dict[Wanted, Picks | Missing] = {}
        waiting: list[tuple[Wanted, asyncio.Future[Picks | Missing]]] = []
        until_s = loop.time() + deadline_s * _SHARE
        for each in wanted:
            key = each.topic, each.version, each.profile_id
            picks = self._cache.peek(key, self._clock.now_ms())
            if picks is not None and self._fits(each, picks):
                found[each] = picks
            elif key not in self._misses and len(self._misses) >= _WAITING_MAX:
                self._counts["refused"] += 1
                found[each] = self._other(key, each, "too many rankings wait already", keep=False)
            else:
                waiter: asyncio.Future[Picks | Missing] = loop.create_future()
                miss = self._miss(key, each, until_s)
                miss.waiters.append(waiter)
                miss.traces += concerned(each.profile_id)
                waiting.append((each, waiter))
        if waiting:
            timer = loop.call_at(until_s, self._late, waiting)
            try:
                for each, waiter in waiting:
                    found[each] = await waiter
            finally:
                timer.cancel()
                for _, waiter in waiting:
                    waiter.cancel()
        return found

    def stats(self) -> dict[str, int]:
        """Counters since the start, and what is held or waits now."""
        cache = self._cache
        return {
            "hits": cache.hits,
            "misses": cache.misses,
            "early_refreshes": cache.due,
            "pushed_out": cache.pushed_out,
            "entries": len(cache),
            "bytes": cache.bytes,
            "waiting": len(self._misses),
            **self._counts,
        }

    async def aclose(self) -> None:
        """Give up on what is under way: whoever waits gets what there is. Idempotent."""
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for miss in tuple(self._misses.values()):
            self._land(miss, self._other(miss.key, miss.wanted, "the service stops", keep=False))

    # Memory.

    def _instantly(self, key: _Key, wanted: Wanted) -> Picks | None:
        if self._instant is None:
            return None
        picks = self._instant.read_now(*key)
        if picks is None or not self._fits(wanted, picks):
            return None
        self._counts["store_hits"] += 1
        self._keep(key, picks)
        return picks

    def _fits(self, wanted: Wanted, picks: Picks) -> bool:
        catalog = self._catalog()
        fitting = self._fitting.get(wanted.topic)
        if fitting is None or fitting.revision != wanted.revision or fitting.catalog != catalog:
            schedule = self._schedule_of(wanted.topic)
            if schedule is None:
                return False
            if len(self._fitting) >= _TOPICS_MAX:
                self._fitting.clear()
            fitting = self._fitting[wanted.topic] = _Fitting(wanted.revision, catalog, schedule, {})
        known = fitting.layouts.get(picks.layout)
        if known is None:
            known = fitting.layouts[picks.layout] = fits(picks, fitting.schedule, catalog)
        return known

    def _shown_instead(self, key: _Key, wanted: Wanted) -> Picks | None:
        picks = self._instead.peek(key, self._clock.now_ms())
        return picks if picks is not None and self._fits(wanted, picks) else None

    def _keep(self, key: _Key, picks: Picks) -> None:
        schedule = self._schedule_of(key[0])
        stages = schedule.stages if schedule is not None else ()
        times = [each.due_at for each in stages if each.due_at is not None]
        moments = self._lifetimes.moments(self._clock.now_ms(), times)
        self._cache.put(key, picks, _PICKS_BYTES + 4 * len(picks.cells), moments)

    def _other(
        self, key: _Key, wanted: Wanted, why: str, *, other: Picks | None = None, keep: bool = True
    ) -> Picks | Missing:
        """Older picks, else `other`, else the default ones; shown again for a few seconds if they are to be kept."""
        now_ms = self._clock.now_ms()
        old = self._cache.stale(key, now_ms)
        if old is not None and self._fits(wanted, old):
            self._counts["stale"] += 1
            other = old._replace(degraded=True, why=why)
        elif other is None and self._otherwise is not None:
            other = self._otherwise(wanted, why)
            self._counts["otherwise"] += other is not None
        if other is None:
            return Missing(why)
        if keep:
            expires_ms = now_ms + round(_DEGRADED_S * 1000 * (0.5 + self._draw()))
            self._instead.put(key, other, _PICKS_BYTES + 4 * len(other.cells), Moments(expires_ms, expires_ms))
        return other

    # Asking.

    def _miss(self, key: _Key, wanted: Wanted, until_s: float, *, refresh: bool = False) -> _Miss:
        miss = self._misses.get(key)
        if miss is not None:
            self._counts["joined"] += not refresh
            miss.until_s = max(miss.until_s, until_s)
            return miss
        miss = self._misses[key] = _Miss(key, wanted, until_s, refresh=refresh)
        if not self._new:
            asyncio.get_running_loop().call_soon(self._flush)
        self._new.append(miss)
        return miss

    def _refresh(self, key: _Key, wanted: Wanted) -> None:
        if len(self._misses) >= _REFRESH_BEHIND:
            self._cache.keep_old(key)
            return
        self._miss(key, wanted, asyncio.get_running_loop().time() + 1.0, refresh=True)

    def _flush(self) -> None:
        """What this turn missed: to the store first, if it answers."""
        new, self._new = self._new, []
        if self._store is None or self._clock.monotonic_s() < self._store_again_s:
            self._enqueue(new)
        else:
            self._start(self._from_store(self._store, new))

    async def _from_store(self, store: MaterialisedStore, misses: Sequence[_Miss]) -> None:
        by_topic: dict[tuple[str, int], list[_Miss]] = {}
        for miss in misses:
            by_topic.setdefault(miss.key[:2], []).append(miss)
        landed: set[_Miss] = set()
        try:
            for (topic, version), group in by_topic.items():
                with tracing(_traces_of(group)):
                    found = await self._read(store, topic, version, [miss.key[2] for miss in group])
                for miss in group:
                    picks = found.get(miss.key[2])
                    if picks is not None and self._fits(miss.wanted, picks):
                        self._counts["store_hits"] += 1
                        self._keep(miss.key, picks)
                        self._land(miss, picks)
                        landed.add(miss)
        finally:
            # Whatever ended it: one that is neither landed nor queued would be waited for by all who ask later.
            self._enqueue(miss for miss in misses if miss not in landed)

    async def _read(
        self, store: MaterialisedStore, topic: str, version: int, profiles: Sequence[str]
    ) -> Mapping[str, Picks]:
        if self._clock.monotonic_s() < self._store_again_s:
            return {}
        self._counts["store_reads"] += 1
        outcome = "ok"
        began_s = self._clock.monotonic_s()
        try:
            async with asyncio.timeout(_STORE_S):
                return await store.read(topic, version, profiles)
        except (StoreUnavailable, TimeoutError) as exc:
            outcome = "late" if isinstance(exc, TimeoutError) else "failed"
            self._store_failed()
            _log.warning("materialised_not_read", why=str(exc) or "too slow", again_in_s=_STORE_PAUSE_S)
            return {}
        except Exception:
            outcome = "failed"
            self._store_failed()
            _log.exception("materialised_store_broken", again_in_s=_STORE_PAUSE_S)
            return {}
        finally:
            for trace in traced():
                trace.called("store", outcome, self._clock.monotonic_s() - began_s, profiles=len(profiles))

    def _store_failed(self) -> None:
        self._counts["store_failures"] += 1
        self._store_again_s = self._clock.monotonic_s() + _STORE_PAUSE_S

    def _enqueue(self, misses: Iterable[_Miss]) -> None:
        if self._closed:
            return
        self._queue.extend(misses)
        if self._per_turn is not None:
            if self._queue and not self._batches:
                self._batches = 1
                self._start(self._by_turns(self._per_turn))
        elif not self._gather_s:
            self._start_batches()
        elif self._queue and self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(self._gather_s, self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        if not self._closed:
            self._start_batches()

    def _start_batches(self) -> None:
        while self._queue and self._batches < _BATCHES_MAX:
            self._batches += 1
            self._start(self._by_batches())

    async def _by_turns(self, per_turn: int) -> None:
        try:
            while self._queue:
                batch = self._taken(per_turn)
                if batch:
                    await self._ask(batch)
                await asyncio.sleep(0)
        finally:
            self._batches -= 1

    async def _by_batches(self) -> None:
        try:
            while self._queue and self._gathering is None:
                batch = self._taken(self._batch)
                if batch:
                    await self._ask(batch)
        finally:
            self._batches -= 1

    def _taken(self, count: int) -> list[_Miss]:
        """The next of the queue whom anybody still waits for."""
        batch: list[_Miss] = []
        while self._queue and len(batch) < count:
            miss = self._queue.popleft()
            if miss.alive:
                batch.append(miss)
            else:
                self._forget(miss)
        return batch

    async def _ask(self, batch: Sequence[_Miss]) -> None:
        loop = asyncio.get_running_loop()
        left_s = max(_LEAST_S, max(miss.until_s for miss in batch) - loop.time())
        found: Mapping[Wanted, Picks | Missing] = {}
        why = "no answer"
        self._counts["asked"] += len(batch)
        try:
            with tracing(_traces_of(batch)):
                async with asyncio.timeout(left_s):
                    found = await self._source.find([miss.wanted for miss in batch], left_s)
        except TimeoutError:
            why = "late"
        except BroadcastSystemError as exc:
            why = exc.message
        except Exception:
            _log.exception("picks_source_failed", profiles=len(batch))
            why = "the source failed"
        finally:
            # Also when this is cancelled: then they are told that there was no answer.
            for miss in batch:
                self._land(miss, self._judged(miss, found.get(miss.wanted), why))

    def _judged(self, miss: _Miss, found: Picks | Missing | None, why: str) -> Picks | Missing:
        if isinstance(found, Missing):
            return found
        if found is None or found.degraded:
            self._counts["failed"] += 1
            return self._other(miss.key, miss.wanted, why if found is None else found.why, other=found)
        self._keep(miss.key, found)
        return found

    def _land(self, miss: _Miss, found: Picks | Missing) -> None:
        self._forget(miss)
        for waiter in miss.waiters:
            if not waiter.done():
                waiter.set_result(found)

    def _forget(self, miss: _Miss) -> None:
        if self._misses.get(miss.key) is miss:
            del self._misses[miss.key]

    def _late(self, waiting: Sequence[tuple[Wanted, asyncio.Future[Picks | Missing]]]) -> None:
        for wanted, waiter in waiting:
            if not waiter.done():
                self._counts["late"] += 1
                key = wanted.topic, wanted.version, wanted.profile_id
                waiter.set_result(self._other(key, wanted, "late"))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="picks-cache")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _traces_of(misses: Iterable[_Miss]) -> Iterable[Trace]:
    return (trace for miss in misses for trace in miss.traces)
