"""Source `http`: the user's own ranking service, asked in batches.

Profiles that want recommendations at about the same time share a call: one is sent once it is full, or `wait_s` after
its first profile, and no more than `at_once` are under way, so that batches grow when the service is slow. Who waited
until its deadline leaves without an answer; the call itself goes on to its own, and what it brings late is kept for
the next time. A breaker stops calling a service that keeps failing; what it said stays usable for `stale_s`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import structlog

from contract.errors import InvalidRequest, Unavailable
from contract.trace import TraceParent
from dgs.breaker import Breaker, Permit
from dgs.model import Profile
from dgs.picks import Missing
from dgs.ports import Need
from dgs.serving import Outcome
from dgs.sources.answers import StaleAnswers, Unanswered
from dgs.sources.catalog import Catalog
from dgs.sources.ranking_wire import Garbage, Read, answer_limit_bytes, encode_ask, read_answer
from dgs.stage_map import Recommendations
from dgs.traces import FIELD, Trace, concerned

__all__ = ["HttpRecommendations", "check_ranking_url"]

_KEEP_ALIVE_S: Final = 4.0
"""Less than servers keep an idle connection (uvicorn: 5 s), so that a call seldom meets one being closed."""
_CLOSE_S: Final = 1.0
_CALL: Final = "ranking_service"
"""What traces call it: `http` is the wait for it, with that for a batch."""
_Answer: TypeAlias = Recommendations | Missing
_log = structlog.get_logger(__name__)


class _Refused(Exception):
    """An answer that is none; `why` is low-cardinality."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _Waiting(NamedTuple):
    profile: Profile
    answer: asyncio.Future[_Answer]
    until_s: float
    traces: tuple[Trace, ...]


class _Queue:
    """Profiles with one need that wait for a call."""

    __slots__ = ("timer", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.timer: asyncio.TimerHandle | None = None
        """Set while the batch may still grow; None: it leaves as soon as a call may be made."""


class HttpRecommendations:
    """BatchRecommendations over HTTP; use it from one event loop, and `aclose` it there."""

    name = "http"

    def __init__(
        self,
        url: str,
        catalog: Callable[[], Catalog],
        *,
        breaker: Breaker,
        batch: int = 32,
        wait_s: float = 0.002,
        at_once: int = 64,
        deadline_s: float = 0.25,
        stale_s: float = 3600.0,
        stale_entries: int = 20_000,
        observe: Callable[[float, Outcome], None] = lambda took_s, outcome: None,
    ) -> None:
        """`observe` hears how long each call took, in seconds, and how it ended. Raises InvalidRequest for `url`."""
        self._url = check_ranking_url(url)
        self._catalog = catalog
        self._breaker = breaker
        self._batch = batch
        self._wait_s = wait_s
        self._at_once = at_once
        self._deadline_s = deadline_s
        self._stale = StaleAnswers(stale_s=stale_s, max_entries=stale_entries)
        self._observe = observe
        self._queues: dict[Need, _Queue] = {}
        self._waiting = 0
        self._max_waiting = batch * at_once
        self._calls: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._counts: Counter[str] = Counter()

    async def recommend(
        self, profiles: Sequence[Profile], need: Need, deadline_s: float
    ) -> Sequence[Recommendations | Missing]:
        """See BatchRecommendations. Unanswered where the service failed; cancelling it leaves the call to others."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + min(deadline_s, self._deadline_s)
        entered = [self._enter(profile, need, until_s) for profile in profiles]
        pending = [entry for entry in entered if isinstance(entry, asyncio.Future)]
        if pending:
            try:
                await asyncio.wait(pending, timeout=max(0.0, until_s - loop.time()))
            finally:
                for answer in pending:
                    answer.cancel()
        answers = [_outcome(entry) for entry in entered]
        if answers and all(isinstance(answer, Unanswered) for answer in answers):
            wait_s = self._breaker.wait_s(loop.time())
            raise Unavailable(f"the ranking service: {answers[0].why}", retry_after_s=wait_s or None)  # type: ignore[union-attr]
        return answers

    def stale(self, profile: Profile, need: Need) -> Recommendations | None:
        """What the service last said for this profile, if that is recent enough to be shown when it fails."""
        found = self._stale.find(profile.id, need, self._catalog().by_id, asyncio.get_running_loop().time())
        self._counts["stale"] += found is not None
        return found

    def stats(self) -> Mapping[str, int]:
        """Calls by outcome, profiles, and what is under way: for metrics."""
        names = ("calls", "profiles", "answered", "late", "unreachable", "refused", "garbage", "missing", "stale")
        dropped = ("strangers", "malformed", "unknown_titles", "not_called", "retried")
        return {
            **{name: self._counts[name] for name in (*names, *dropped)},
            "waiting": self._waiting,
            "under_way": len(self._calls),
            "kept": len(self._stale),
            "breaker_opened": self._breaker.opened,
            "breaker_closed": int(self._breaker.state == "closed"),
        }

    async def aclose(self) -> None:
        """End what is under way; idempotent. Whoever still waits is unanswered."""
        self._closed = True
        for queue in self._queues.values():
            if queue.timer is not None:
                queue.timer.cancel()
            self._drop(queue, "closed")
        self._queues.clear()
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls, timeout=_CLOSE_S)
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    # Waiting for a call.

    def _enter(self, profile: Profile, need: Need, until_s: float) -> asyncio.Future[_Answer] | Unanswered:
        loop = asyncio.get_running_loop()
        self._counts["profiles"] += 1
        why = "closed" if self._closed else "busy" if self._waiting >= self._max_waiting else None
        if self._breaker.refuses(loop.time()):
            why = "circuit open"
        if why is not None:
            self._counts["not_called"] += 1
            return Unanswered(why)
        queue = self._queues.get(need)
        if queue is None:
            queue = self._queues[need] = _Queue()
        answer: asyncio.Future[_Answer] = loop.create_future()
        queue.waiting.append(_Waiting(profile, answer, until_s, concerned(profile.id)))
        self._waiting += 1
        if len(queue.waiting) >= self._batch:
            self._send(need, queue)
        elif len(queue.waiting) == 1:
            queue.timer = loop.call_later(self._wait_s, self._ripe, need, queue)
        return answer

    def _ripe(self, need: Need, queue: _Queue) -> None:
        queue.timer = None
        self._send(need, queue)

    def _send(self, need: Need, queue: _Queue) -> None:
        """As many calls as are due and may be made."""
        now_s = asyncio.get_running_loop().time()
        while queue.waiting and len(self._calls) < self._at_once:
            if queue.timer is not None and len(queue.waiting) < self._batch:
                return
            batch = self._take(queue, now_s)
            if not batch:
                continue
            permit = self._breaker.allow(now_s)
            if permit is None:
                self._counts["not_called"] += len(batch)
                _answer(batch, Unanswered("circuit open"))
                continue
            call = asyncio.create_task(self._call(batch, need, permit), name="ranking_call")
            self._calls.add(call)
            call.add_done_callback(self._ended)
        if not queue.waiting:
            if queue.timer is not None:
                queue.timer.cancel()
            self._queues.pop(need, None)

    def _take(self, queue: _Queue, now_s: float) -> list[_Waiting]:
        """Up to a batch of those who still wait, each profile once."""
        batch: list[_Waiting] = []
        while queue.waiting and len(batch) < self._batch:
            entry = queue.waiting.popleft()
            self._waiting -= 1
            if not entry.answer.done() and entry.until_s > now_s:
                batch.append(entry)
        return batch

    def _drop(self, queue: _Queue, why: str) -> None:
        self._waiting -= len(queue.waiting)
        _answer(queue.waiting, Unanswered(why))
        queue.waiting.clear()

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not self._closed:
            for need, queue in list(self._queues.items()):
                self._send(need, queue)

    # A call.

    async def _call(self, batch: Sequence[_Waiting], need: Need, permit: Permit) -> None:
        """Ask for a batch; never raises but when cancelled. The service is told the first followed request's trace."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        outcome: Outcome = "failed"
        why = "given up"
        self._counts["calls"] += 1
        traces = tuple(dict.fromkeys(trace for entry in batch for trace in entry.traces))
        span = traces[0].child() if traces else None
        profiles = list({entry.profile.id: entry.profile for entry in batch}.values())
        try:
            async with asyncio.timeout(self._deadline_s):
                body = await self._post(profiles, need, span)
            read = read_answer(body, frozenset(entry.profile.id for entry in batch), need, self._catalog().by_id)
            self._take_in(read, batch, need)
            outcome, why = ("ok", "not in the answer") if read.found else ("failed", "garbage")
            self._counts["garbage"] += not read.found
        except TimeoutError:
            outcome, why = "late", "late"
            self._counts["late"] += 1
        except Garbage:
            why = "garbage"
            self._counts["garbage"] += 1
        except _Refused as exc:
            why = exc.why
            self._counts["refused"] += 1
        except (aiohttp.ClientError, OSError, ValueError):
            # ValueError: what aiohttp says of field lines it cannot read.
            why = "unreachable"
            self._counts["unreachable"] += 1
        except asyncio.CancelledError:
            self._breaker.given_up(permit)
            _answer(batch, Unanswered(why))
            raise
        self._report(permit, outcome, why)
        took_s = loop.time() - started_s
        self._observe(took_s, outcome)
        if span is not None:
            said = "ok" if outcome == "ok" else why
            for trace in traces:
                trace.called(_CALL, said, took_s, span_id=span.parent_id, profiles=len(profiles))
        _answer(batch, Unanswered(why))

    def _report(self, permit: Permit, outcome: Outcome, why: str) -> None:
        """Tell the breaker, and the log if that changes anything."""
        breaker, now_s = self._breaker, asyncio.get_running_loop().time()
        before = breaker.state
        if outcome == "ok":
            breaker.ok(permit)
        else:
            breaker.failed(permit, now_s)
        if before != "open" and breaker.state == "open":
            _log.warning("ranking_service_not_called", why=why, for_s=round(breaker.wait_s(now_s), 1))
        elif before == "half_open" and breaker.state == "closed":
            _log.info("ranking_service_called_again")

    async def _post(self, profiles: Sequence[Profile], need: Need, span: TraceParent | None) -> bytes:
        """The body of the answer; once more if the connection was closed under the call. Raises _Refused."""
        body = encode_ask(profiles, need, self._deadline_s)
        limit = answer_limit_bytes(len(profiles), need)
        headers = None if span is None else {FIELD.decode(): span.header()}
        try:
            return await self._exchange(body, limit, headers)
        except aiohttp.ServerDisconnectedError:
            self._counts["retried"] += 1
            return await self._exchange(body, limit, headers)

    async def _exchange(self, body: bytes, limit: int, headers: Mapping[str, str] | None) -> bytes:
        posted = self._open_session().post(self._url, data=body, headers=headers, allow_redirects=False)
        async with posted as response:
            if 300 <= response.status < 400:
                # Whoever answers for the service's address must not be able to send profiles elsewhere.
                raise _Refused("redirected")
            if response.status != 200:
                raise _Refused(f"status {response.status // 100}xx")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise _Refused("compressed")
            parts: list[bytes] = []
            size = 0
            async for part in response.content.iter_any():
                size += len(part)
                if size > limit:
                    raise _Refused("too large")
                parts.append(part)
            return b"".join(parts)

    def _take_in(self, read: Read, batch: Sequence[_Waiting], need: Need) -> None:
        now_s = asyncio.get_running_loop().time()
        counts = self._counts
        counts["strangers"] += read.strangers
        counts["malformed"] += read.malformed
        counts["unknown_titles"] += read.unknown_titles
        for profile_id, answer in read.found.items():
            if isinstance(answer, Recommendations):
                counts["answered"] += 1
                self._stale.keep(profile_id, need, answer, now_s)
            else:
                counts["missing"] += 1
        for entry in batch:
            found = read.found.get(entry.profile.id)
            if found is not None and not entry.answer.done():
                entry.answer.set_result(found)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._at_once, keepalive_timeout=_KEEP_ALIVE_S),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "stagecue"},
            )
        return self._session


def check_ranking_url(url: str) -> str:
    """Return `url`, or raise InvalidRequest."""
    rule = "an http:// or https:// URL of the ranking service, e.g. http://127.0.0.1:9000/rank"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        usable = False
    if not usable:
        # Not repeated: it may hold a password.
        raise InvalidRequest("not a usable URL" if url else "not set", field="DGS_RANKING_URL", rule=rule)
    return url


def _outcome(entry: asyncio.Future[_Answer] | Unanswered) -> _Answer:
    if isinstance(entry, Unanswered):
        return entry
    return Unanswered("late") if entry.cancelled() else entry.result()


def _answer(batch: Sequence[_Waiting] | deque[_Waiting], answer: Unanswered) -> None:
    for entry in batch:
        if not entry.answer.done():
            entry.answer.set_result(answer)
