"""The KV store in Redis, single, behind Sentinel or as a cluster: one Lua script per operation, one slot per script.

Every library error becomes StoreUnavailable here and nowhere else; a replica that answers READONLY after a failover
is one of them. Calls are idempotent, so one that timed out may simply be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from contract import names
from contract.broadcast import Broadcast, decode_broadcast, encode_broadcast
from contract.errors import StoreUnavailable
from contract.kv import redis_scripts
from contract.kv.ports import MAX_EXTEND, NodeLease, StoreLife
from contract.kv.redis_scripts import Script
from contract.replay_log import AppendOutcome, AppendResult, LogSnapshot, assert_extends
from contract.schedule import TopicSchedule, decode_schedule, encode_schedule

__all__ = [
    "Client",
    "RedisNodeLeases",
    "RedisReplayLog",
    "RedisScheduleView",
    "connect_redis",
    "is_cluster",
    "translated",
]

Client = Redis | RedisCluster
_CLUSTER_SUFFIX: Final = "+cluster"
_TOPICS_AT_ONCE: Final = 500
"""Larger questions are asked in parts, so that no single answer blocks the server for long."""


def connect_redis(
    url: str,
    *,
    cluster: bool | None = None,
    timeout_s: float = 1.0,
    connect_timeout_s: float = 1.0,
    max_connections: int = 64,
) -> Client:
    """A client for the adapters below; it connects when first used. Close it with `aclose()`.

    `redis+cluster://host:port` (or rediss) names any server of a cluster, as `cluster` does for a plain URL.

    Short timeouts and one immediate retry for a connection the server closed while idle: whoever calls has a deadline
    and a back-off of its own, and a server that does not answer is not asked twice. Callers beyond `max_connections`
    wait for one, at most `timeout_s`. Raises ValueError for what is no such URL.
    """
    scheme, _, rest = url.partition("://")
    if scheme.endswith(_CLUSTER_SUFFIX):
        cluster, url = True, f"{scheme.removesuffix(_CLUSTER_SUFFIX)}://{rest}"
    common: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": connect_timeout_s,
        "protocol": 3,
        "legacy_responses": False,
    }
    if cluster:
        # In a cluster a retry also asks anew who has the slot.
        return RedisCluster.from_url(url, max_connections=max_connections, retry=Retry(NoBackoff(), 1), **common)
    retry = Retry(NoBackoff(), 1, (RedisConnectionError,))
    pool = BlockingConnectionPool.from_url(
        url, max_connections=max_connections, timeout=timeout_s, retry=retry, **common
    )
    return Redis.from_pool(pool)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Library errors as ours; and a cancellation that the library lost, raised after all.

    The client sends under `asyncio.wait_for`, which in Python 3.11 forgets a cancellation that comes in the same turn
    of the loop as the end of what it waits for: a service told to stop would never hear of it.
    """
    task = asyncio.current_task()
    asked_before = task.cancelling() if task is not None else 0
    try:
        with _errors(what):
            yield
    finally:
        if task is not None and task.cancelling() > asked_before:
            raise asyncio.CancelledError


@contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as exc:
        raise StoreUnavailable(f"Redis could not {what}: {exc}") from exc
    except RuntimeError as exc:
        # What uvloop says of a connection that was lost between two writes of one command.
        if "handler is closed" not in str(exc):
            raise
        raise StoreUnavailable(f"Redis could not {what}: the connection was lost") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, AssertionError) as exc:
        raise StoreUnavailable(f"Redis holds what is not ours, found trying to {what}: {exc}") from exc


async def _run(client: Client, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
    """Run a script by its digest; a server that does not know it yet (a restart, a failover) is given the text."""
    try:
        return await client.evalsha(script.sha, len(keys), *keys, *arguments)
    except NoScriptError:
        return await client.eval(script.text, len(keys), *keys, *arguments)


def _chunks(topics: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(topics), _TOPICS_AT_ONCE):
        yield topics[start : start + _TOPICS_AT_ONCE]


class RedisReplayLog:
    """ReplayLog: a sorted set of broadcasts by timestamp, and the floor beside it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def append(self, broadcast: Broadcast) -> AppendResult:
        with translated("append to a replay log"):
            found = await _run(
                self._client,
                redis_scripts.APPEND,
                _log_keys(broadcast.topic),
                broadcast.timestamp,
                broadcast.prev,
                encode_broadcast(broadcast),
            )
            outcome, tail = found[0].decode(), int(found[1])
            if outcome != "known":
                return AppendResult(AppendOutcome(outcome), tail)
            same = bool(found[2]) and decode_broadcast(found[2]).same_payload(broadcast)
            return AppendResult(AppendOutcome.DUPLICATE if same else AppendOutcome.CONFLICT, tail)

    async def extend(self, broadcasts: Sequence[Broadcast], *, tail: int, floor: int | None = None) -> AppendResult:
        assert len(broadcasts) <= MAX_EXTEND
        assert_extends(broadcasts, tail=tail, floor=floor)
        entries: list[str | bytes | int] = []
        for broadcast in broadcasts:
            entries += (broadcast.timestamp, encode_broadcast(broadcast))
        with translated("extend a replay log"):
            keys = _log_keys(broadcasts[0].topic)
            given = "" if floor is None else floor
            found = await _run(self._client, redis_scripts.EXTEND, keys, tail, given, *entries)
            return AppendResult(AppendOutcome(found[0].decode()), int(found[1]))

    async def trim(self, topic: str, *, keep: int, before: int) -> int:
        assert keep >= 1
        with translated("trim a replay log"):
            return int(await _run(self._client, redis_scripts.TRIM, _log_keys(topic), keep, before))

    async def read(self, topic: str) -> LogSnapshot:
        with translated("read a replay log"):
            found = await _run(self._client, redis_scripts.READ_LOG, _log_keys(topic))
            return LogSnapshot(topic, int(found[0]), tuple(decode_broadcast(member) for member in found[1:]))

    async def tails(self, topics: Sequence[str]) -> Mapping[str, int]:
        found: dict[str, int] = {}
        with translated("read tails"):
            for chunk in _chunks(topics):
                tails = await (self._tails_by_slot(chunk) if is_cluster(self._client) else self._tails_at_once(chunk))
                found.update(zip(chunk, tails, strict=True))
        return found

    async def _tails_at_once(self, topics: Sequence[str]) -> list[int]:
        keys = [key for topic in topics for key in _log_keys(topic)]
        return [int(tail) for tail in await _run(self._client, redis_scripts.TAILS, keys)]

    async def _tails_by_slot(self, topics: Sequence[str]) -> list[int]:
        # Plain commands, because a cluster's pipelines take no scripts. Read entry first, floor second: an entry that
        # comes or goes in between makes the answer at worst a moment old.
        pipeline: Any = self._client.pipeline(transaction=False)
        for topic in topics:
            pipeline.zrange(names.kv_log(topic), -1, -1)
            pipeline.get(names.kv_log_floor(topic))
        answers = await pipeline.execute()
        return [
            decode_broadcast(newest[0]).timestamp if newest else int(floor or 0)
            for newest, floor in zip(answers[::2], answers[1::2], strict=True)
        ]


class RedisScheduleView:
    """ScheduleView: a hash per topic, a set of topics per event, a set of events."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def put(self, schedule: TopicSchedule) -> bool:
        with translated("store a schedule"):
            # The indices first: a topic listed before its schedule exists is skipped by readers, one missing is lost.
            pipeline: Any = self._client.pipeline(transaction=False)
            pipeline.sadd(names.kv_event_topics(schedule.event_id), schedule.topic)
            if schedule.shadow_of is None:
                pipeline.sadd(names.kv_events(), schedule.event_id)
            await pipeline.execute()
            stored = await _run(
                self._client,
                redis_scripts.PUT_SCHEDULE,
                [names.kv_schedule(schedule.topic)],
                schedule.revision,
                encode_schedule(schedule),
            )
            return bool(stored)

    async def schedules(self, topics: Sequence[str]) -> Mapping[str, TopicSchedule]:
        found: dict[str, TopicSchedule] = {}
        with translated("read schedules"):
            for chunk in _chunks(topics):
                pipeline: Any = self._client.pipeline(transaction=False)
                for topic in chunk:
                    pipeline.hget(names.kv_schedule(topic), "body")
                for topic, body in zip(chunk, await pipeline.execute(), strict=True):
                    if body is not None:
                        found[topic] = decode_schedule(body)
        return found

    async def revisions(self, topics: Sequence[str]) -> Mapping[str, int]:
        found: dict[str, int] = {}
        with translated("read revisions"):
            for chunk in _chunks(topics):
                if is_cluster(self._client):
                    pipeline: Any = self._client.pipeline(transaction=False)
                    for topic in chunk:
                        pipeline.hget(names.kv_schedule(topic), "revision")
                    answers = await pipeline.execute()
                else:
                    keys = [names.kv_schedule(topic) for topic in chunk]
                    answers = await _run(self._client, redis_scripts.REVISIONS, keys)
                found.update((topic, int(revision)) for topic, revision in zip(chunk, answers, strict=True) if revision)
        return found

    async def topics_of(self, event_id: str) -> tuple[str, ...]:
        with translated("read an event's topics"):
            return await self._members(names.kv_event_topics(event_id))

    async def events(self) -> tuple[str, ...]:
        with translated("read the events"):
            return await self._members(names.kv_events())

    async def life(self) -> StoreLife:
        with translated("say who it is"):
            # The mark last: a store that ends in between is then at worst not whole.
            name = await _life_name(self._client)
            mark = cast("bytes | None", await self._client.get(names.kv_whole()))
            return StoreLife(name, whole=mark is not None and mark.decode() == name)

    async def mark_whole(self, name: str) -> None:
        with translated("mark the store whole"):
            await self._client.set(names.kv_whole(), name)

    async def _members(self, key: str) -> tuple[str, ...]:
        members = await cast("Awaitable[Iterable[bytes]]", self._client.smembers(key))
        return tuple(sorted(member.decode() for member in members))


class RedisNodeLeases:
    """NodeLeases: a hash with an expiry per node, judged by Redis's clock, and a set of node ids to find them by."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def renew(self, lease: NodeLease, *, lifetime_s: float) -> None:
        with translated("renew a node lease"):
            await self._client.sadd(names.kv_nodes(), lease.node_id)
            await _run(
                self._client,
                redis_scripts.RENEW_LEASE,
                [names.kv_node_lease(lease.node_id)],
                lease.incarnation,
                msgspec.json.encode(lease),
                max(1, round(lifetime_s * 1000)),
            )

    async def release(self, lease: NodeLease) -> None:
        with translated("release a node lease"):
            key = names.kv_node_lease(lease.node_id)
            await _run(self._client, redis_scripts.RELEASE_LEASE, [key], lease.incarnation)

    async def alive(self) -> Iterable[NodeLease]:
        with translated("read the node leases"):
            members = await cast("Awaitable[Iterable[bytes]]", self._client.smembers(names.kv_nodes()))
            node_ids = sorted(member.decode() for member in members)
            if not node_ids:
                return []
            pipeline: Any = self._client.pipeline(transaction=False)
            for node_id in node_ids:
                pipeline.hget(names.kv_node_lease(node_id), "body")
            bodies = dict(zip(node_ids, await pipeline.execute(), strict=True))
            gone = [node_id for node_id, body in bodies.items() if body is None]
            if gone:
                # A node that renews at this very moment is listed again with its next renewal, a third of a lease on.
                await self._client.srem(names.kv_nodes(), *gone)
            return [msgspec.json.decode(body, type=NodeLease) for body in bodies.values() if body is not None]


def is_cluster(client: Client) -> bool:
    """Whether keys of several topics must not meet in one command."""
    return isinstance(client, RedisCluster)


async def _life_name(client: Client) -> str:
    """What changes whenever a server may have lost something: its run, its role, and whose replica it is.

    Where INFO is kept from us, all lives bear one name: an emptied store is still told by its missing mark.
    """
    try:
        if isinstance(client, RedisCluster):
            servers: Mapping[str, Any] = await client.info("server", target_nodes=RedisCluster.PRIMARIES)
            replicas: Mapping[str, Any] = await client.info("replication", target_nodes=RedisCluster.PRIMARIES)
            if "run_id" in servers:  # a cluster of one answers without its name
                servers, replicas = {"": servers}, {"": replicas}
            return " ".join(sorted(_name(found, replicas.get(node, {})) for node, found in servers.items()))
        return _name(await client.info("server"), await client.info("replication"))
    except ResponseError:
        return "unnamed"


def _name(server: Mapping[str, Any], replication: Mapping[str, Any]) -> str:
    return "/".join(
        str(found) for found in (server.get("run_id"), replication.get("role"), replication.get("master_replid"))
    )


def _log_keys(topic: str) -> list[str]:
    return [names.kv_log(topic), names.kv_log_floor(topic)]
