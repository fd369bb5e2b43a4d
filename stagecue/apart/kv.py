"""The Redis that router, push nodes and DGS share: opened from one URL, judged at first contact, watched afterwards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import structlog
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from contract.backoff import Backoff
from contract.errors import InvalidRequest, StoreUnavailable
from contract.kv.redis import RedisNodeLeases, RedisReplayLog, RedisScheduleView, connect_redis
from contract.names import KV_SCHEMA, kv_schema
from contract.runtime.runner import Readiness

__all__ = ["Kv", "KvWatch", "contact", "open_kv", "shown_address"]

_CONDITION: Final = "kv"
_WATCH_EVERY_S: Final = 1.0
_RETRY_FIRST_S: Final = 0.1
_RETRY_CAP_S: Final = 2.0
_RULE: Final = "set --kv or STAGECUE_KV_URL to redis://host:port, or redis+cluster://host:port"
_ABSENT: Final = "start it, or mend host and port in --kv or STAGECUE_KV_URL"
_LASTING = (InvalidResponse, AuthenticationError, AuthorizationError, ResponseError)
_PASSING = (ReadOnlyError, OutOfMemoryError)
_PASSING_WORDS = ("MISCONF", "NOREPLICAS")
"""A full disk under its append-only file, or replicas that are away."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Kv:
    """The store's ports over one client."""

    address: str
    """Without credentials, for logs and messages."""
    listener: tuple[str, int] | None
    """Host and port, where it is reached over plain TCP."""
    client: Redis | RedisCluster
    replay_log: RedisReplayLog
    schedule_view: RedisScheduleView
    leases: RedisNodeLeases
    silence: str | None = None
    """Why it did not answer when it was opened; None: it did."""

    @property
    def answered(self) -> bool:
        return self.silence is None


@asynccontextmanager
async def open_kv(url: str) -> AsyncIterator[Kv]:
    """The store at `url`, asked once. Raises InvalidRequest naming the setting where waiting cannot help.

    One that does not answer is no error: services start in any order, and KvWatch tells when it is there.
    """
    try:
        client = connect_redis(url)
    except ValueError as exc:
        raise InvalidRequest(f"not the address of a Redis: {exc}", field="kv_url", rule=_RULE) from exc
    kv = Kv(
        shown_address(url),
        _listener(url),
        client,
        RedisReplayLog(client),
        RedisScheduleView(client),
        RedisNodeLeases(client),
    )
    try:
        try:
            await contact(kv, first=True)
        except StoreUnavailable as exc:
            kv = replace(kv, silence=str(exc))
            _log.warning("kv_unreachable", address=kv.address, why=str(exc), then="retrying")
        yield kv
    finally:
        await client.aclose()


async def contact(kv: Kv, *, first: bool = False) -> None:
    """Ask whether a Redis we may use answers there; bounded by the client's timeouts.

    Raises StoreUnavailable where waiting may help, InvalidRequest where it cannot: something else listens there, it
    wants other credentials, or (asked at the `first` contact) it is a Sentinel or a cluster's node, or holds what
    another version of this code stored.
    """
    expected = "cluster" if isinstance(kv.client, RedisCluster) else "standalone"
    mode = expected
    try:
        await kv.client.ping()
        if first:
            with suppress(NoPermissionError):  # INFO may be kept from us; then it is taken for what it should be
                mode = (await kv.client.info("server")).get("redis_mode", mode)
            if mode == "standalone":
                await _same_schema(kv)
    except _LASTING as exc:
        if isinstance(exc, _PASSING) or str(exc).startswith(_PASSING_WORDS):
            raise StoreUnavailable(f"Redis at {kv.address}: {exc}") from exc
        refused = isinstance(exc, AuthenticationError | AuthorizationError | ResponseError)
        what = "refuses us" if refused else "is not a Redis"
        raise InvalidRequest(f"{kv.address} {what}: {exc}", field="kv_url", rule=_RULE) from exc
    except (RedisError, OSError, TimeoutError, RuntimeError) as exc:  # the last is uvloop's, of a connection just lost
        if kv.listener is not None and (words := await _first_words(*kv.listener)) and words[:1] not in b"+-":
            raise InvalidRequest(
                f"{kv.address} is not a Redis: it answers {words!r}", field="kv_url", rule=_RULE
            ) from exc
        raise StoreUnavailable(f"no Redis answers at {kv.address}: {exc}", field="kv_url", rule=_ABSENT) from exc
    if mode != expected:
        wanted = "a single one" if expected == "standalone" else "a cluster's node"
        raise InvalidRequest(f"{kv.address} is a Redis in mode {mode}, not {wanted}", field="kv_url", rule=_RULE)


async def _same_schema(kv: Kv) -> None:
    """What is stored there is of this version; an empty store becomes so. Raises InvalidRequest."""
    with suppress(NoPermissionError):
        await kv.client.set(kv_schema(), KV_SCHEMA, nx=True)
        stored = await kv.client.get(kv_schema())
        said = stored.decode(errors="replace") if isinstance(stored, bytes) else str(stored)
        if said != str(KV_SCHEMA):
            raise InvalidRequest(
                f"the Redis at {kv.address} holds what another version wrote: schema {said[:20]}, ours is {KV_SCHEMA}",
                field="kv_url",
                rule="stop the services of the other version and empty that database (redis-cli FLUSHDB), routers fill "
                "it again from the log; or give another with --kv or STAGECUE_KV_URL, as in redis://host:port/1",
            )


class KvWatch:
    """Service: readiness follows the store; it fails `patience_s` after the last answer and recovers by itself.

    Until the first answer a store that can never serve us ends the process (InvalidRequest); later, nothing does.
    """

    name = "kv-watch"

    def __init__(self, kv: Kv, readiness: Readiness, *, patience_s: float = 2.0) -> None:
        self._kv = kv
        self._readiness = readiness
        self._patience_s = patience_s
        if kv.silence is None:
            readiness.hold(_CONDITION)
        else:
            readiness.expect(_CONDITION, kv.silence)

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Ready at once: the others start without the store, too."""
        ready.set()
        loop = asyncio.get_running_loop()
        answered_s = loop.time() if self._kv.answered else None
        backoff = Backoff(first_s=_RETRY_FIRST_S, cap_s=_RETRY_CAP_S, jitter=random.random)
        while not stop.is_set():
            try:
                await contact(self._kv, first=answered_s is None)
            except (StoreUnavailable, InvalidRequest) as exc:
                if isinstance(exc, InvalidRequest) and answered_s is None:
                    raise
                if answered_s is None or loop.time() - answered_s >= self._patience_s:
                    self._readiness.fail(_CONDITION, str(exc))
                wait_s = backoff.next_s()
            else:
                if answered_s is None:
                    _log.info("kv_connected", address=self._kv.address)
                answered_s = loop.time()
                self._readiness.hold(_CONDITION)
                backoff.reset()
                wait_s = _WATCH_EVERY_S
            try:
                async with asyncio.timeout(wait_s):
                    await stop.wait()
            except TimeoutError:
                continue


def shown_address(url: str) -> str:
    """`url` without user name, password and query."""
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname or 'localhost'}:{parts.port or 6379}"


def _listener(url: str) -> tuple[str, int] | None:
    parts = urlsplit(url)
    return (parts.hostname or "localhost", parts.port or 6379) if parts.scheme == "redis" else None


async def _first_words(host: str, port: int) -> bytes:
    """What answers an inline PING there; b"" for nothing.

    Many servers hang up on the client's first command, which then looks like a Redis about to end.
    """
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"PING\r\n")
                return await reader.read(40)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""
