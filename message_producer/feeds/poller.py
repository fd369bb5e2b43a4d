"""A feed followed: a file or an address asked again and again, cheaply, and given to the store when it changed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec
import structlog

from contract.clock import Clock
from contract.errors import BroadcastSystemError, InvalidRequest
from message_producer.feeds.ics import parse_calendar
from message_producer.feeds.model import DEFAULT_LIMITS, FeedLimits
from message_producer.feeds.sync import FeedReport, sync_feed
from message_producer.feeds.template import DEFAULT_TEMPLATE, StageTemplate
from message_producer.ports import Operations

if TYPE_CHECKING:
    import httpx

__all__ = ["FeedPoller", "FeedSource", "FeedUnreachable", "next_delay_s"]

_log = structlog.get_logger(__name__)
_MAX_REDIRECTS: Final = 3
_MAX_BACKOFF_FACTOR: Final = 16


class FeedUnreachable(Exception):
    """The feed gave no body this time; `kind` is low-cardinality."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class FeedSource(msgspec.Struct, frozen=True, kw_only=True):
    """One feed and how it is followed."""

    name: str
    """Owner of the events it creates; renaming it makes every event a stranger."""
    location: str
    """Path of a file, or an http(s) address."""
    interval_s: float = 300.0
    jitter: float = 0.1
    """Share of the interval that is random, so that many producers do not ask at once."""
    timeout_s: float = 20.0
    """Bound of one whole request."""
    parse_budget_s: float = 30.0
    horizon_past_ms: int = 86_400_000
    horizon_ms: int = 400 * 86_400_000

    def __post_init__(self) -> None:
        if self.interval_s <= 0 or not 0 <= self.jitter < 1 or self.timeout_s <= 0:
            raise ValueError("interval_s and timeout_s must be positive, jitter in [0, 1)")

    @property
    def is_address(self) -> bool:
        return urlsplit(self.location).scheme in ("http", "https")


def next_delay_s(source: FeedSource, failures: int, draw: float) -> float:
    """Seconds to the next look: the interval, doubled per failure in a row (at most 16 times), jittered by `draw`."""
    factor: int = min(2 ** min(failures, 10), _MAX_BACKOFF_FACTOR)
    return source.interval_s * float(factor) * (1 + source.jitter * (2 * draw - 1))


class FeedPoller:
    """A runner Service. Keeps going whatever the feed does; the last good state stays in the store.

    A failure is logged when its kind changes, not per attempt. `last_report` and `failing` say how it stands.
    """

    def __init__(
        self,
        source: FeedSource,
        operations: Operations,
        *,
        clock: Clock,
        draw: Callable[[], float],
        template: StageTemplate = DEFAULT_TEMPLATE,
        limits: FeedLimits = DEFAULT_LIMITS,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self.name = f"producer.feed.{source.name}"
        self._source = source
        self._operations = operations
        self._clock = clock
        self._draw = draw
        self._template = template
        self._limits = limits
        self._client = client
        self._validators: dict[str, str] = {}
        """Conditional headers of the last answer that reached the store whole."""
        self._file_seen: tuple[int, int] | None = None
        self._digest: str | None = None
        self._synced_at_s = 0.0
        self._failures = 0
        self.failing: str | None = None
        """Kind of the present failure, None while all is well."""
        self.last_report: FeedReport | None = None

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Ready at once: a feed that is away must not keep the producer from serving."""
        ready.set()
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                looking = asyncio.create_task(self.poll_once(), name=f"{self.name}.poll")
                await asyncio.wait({looking, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not looking.done():
                    looking.cancel()
                    await asyncio.wait({looking})
                    return
                looking.result()
                delay_s = next_delay_s(self._source, self._failures, self._draw())
                await asyncio.wait({stopping}, timeout=delay_s)
        finally:
            stopping.cancel()
            if self._client is not None:
                await self._client.aclose()

    async def poll_once(self) -> FeedReport | None:
        """Look once; the report when something new was read, None when unchanged or failed. Never raises for the
        feed's or the store's sake."""
        try:
            found = await self._fetch()
            report = await self._give(*found) if found is not None else None
        except FeedUnreachable as exc:
            self._fail(exc.kind, str(exc))
        except InvalidRequest as exc:
            self._fail("not_a_calendar", str(exc))
        except BroadcastSystemError as exc:
            self._fail(exc.code, str(exc))
        else:
            self._recover()
            return report
        return None

    async def _give(self, body: bytes, remember: Callable[[], None]) -> FeedReport | None:
        digest = hashlib.sha256(body).hexdigest()
        # The horizon moves: an unchanged file is read again once a day, for what has come into view.
        stale = self._clock.monotonic_s() - self._synced_at_s > 86_400
        if digest == self._digest and not stale:
            remember()
            return None
        now = self._clock.now_ms()
        from_ms, until_ms = now - self._source.horizon_past_ms, now + self._source.horizon_ms
        deadline_s = self._clock.monotonic_s() + self._source.parse_budget_s
        contents = await asyncio.to_thread(
            parse_calendar,
            body,
            from_ms=from_ms,
            until_ms=until_ms,
            limits=self._limits,
            out_of_time=lambda: self._clock.monotonic_s() > deadline_s,
        )
        report = await sync_feed(
            contents,
            self._operations,
            source=self._source.name,
            actor=f"feed:{self._source.name}",
            from_ms=from_ms,
            until_ms=until_ms,
            template=self._template,
        )
        # Only now: what did not reach the store is fetched again.
        remember()
        self._digest, self._synced_at_s, self.last_report = digest, self._clock.monotonic_s(), report
        _log.info(
            "feed_read",
            feed=self._source.name,
            created=len(report.created),
            moved=len(report.moved),
            changed=len(report.changed),
            cancelled=len(report.cancelled),
            unchanged=report.unchanged,
            missing=len(report.missing),
            outside_horizon=report.outside,
            rejected=[str(item) for item in report.rejected[:10]],
            rejected_count=len(report.rejected) + report.rejected_unlisted,
        )
        return report

    async def _fetch(self) -> tuple[bytes, Callable[[], None]] | None:
        """Body and how to remember it, None when it is the one already in the store. Raises FeedUnreachable."""
        return await (self._fetch_address() if self._source.is_address else self._fetch_file())

    async def _fetch_file(self) -> tuple[bytes, Callable[[], None]] | None:
        path = Path(self._source.location)
        stale = self._clock.monotonic_s() - self._synced_at_s > 86_400

        def read() -> tuple[tuple[int, int], bytes] | None:
            status = path.stat()
            seen = (status.st_mtime_ns, status.st_size)
            if seen == self._file_seen and not stale:
                return None
            with path.open("rb") as file:
                return seen, file.read(self._limits.file_bytes + 1)

        try:
            found = await asyncio.to_thread(read)
        except OSError as exc:
            raise FeedUnreachable("unreadable", f"{path}: {exc.strerror or exc}") from exc
        if found is None:
            return None
        seen, body = found

        def remember() -> None:
            self._file_seen = seen

        return body, remember

    async def _fetch_address(self) -> tuple[bytes, Callable[[], None]] | None:
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(follow_redirects=True, max_redirects=_MAX_REDIRECTS)
        stale = self._clock.monotonic_s() - self._synced_at_s > 86_400
        # Plain bytes: a compressed answer could unfold to far more than its bound before it is counted.
        headers = {"Accept": "text/calendar", "Accept-Encoding": "identity", **({} if stale else self._validators)}
        try:
            async with (
                asyncio.timeout(self._source.timeout_s),
                self._client.stream("GET", self._source.location, headers=headers) as response,
            ):
                if response.status_code == 304:
                    return None
                if response.status_code != 200:
                    raise FeedUnreachable(f"http_{response.status_code}", f"answered {response.status_code}")
                body = await self._read(response)
                validators = _validators(response.headers)
        except TimeoutError as exc:
            raise FeedUnreachable("timeout", f"no whole answer within {self._source.timeout_s} s") from exc
        except httpx.HTTPError as exc:
            raise FeedUnreachable("unreachable", f"{type(exc).__name__}: {exc}") from exc

        def remember() -> None:
            self._validators = validators

        return body, remember

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._limits.file_bytes:
                raise FeedUnreachable("too_large", f"more than {self._limits.file_bytes} bytes")
        return bytes(body)

    def _fail(self, kind: str, message: str) -> None:
        self._failures += 1
        if kind != self.failing:
            _log.warning("feed_failed", feed=self._source.name, kind=kind, why=message[:300])
        self.failing = kind

    def _recover(self) -> None:
        if self.failing is not None:
            _log.info("feed_recovered", feed=self._source.name, after=self._failures)
        self.failing, self._failures = None, 0


def _validators(headers: httpx.Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    if etag := headers.get("etag"):
        found["If-None-Match"] = etag[:500]
    if modified := headers.get("last-modified"):
        found["If-Modified-Since"] = modified[:100]
    return found
