"""What the members of a cluster say of themselves, asked side by side."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import httpx
import msgspec

__all__ = ["ClusterStatus", "MemberAddress", "MemberStatus", "ask_members"]

_CLIENTS: Final = {"redis": "redis.asyncio", "postgres": "psycopg", "kafka": "aiokafka.admin"}
_CONNECT_WITHIN_S: Final = 3
_ANSWER_WITHIN_S: Final = 4.0


class MemberAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a member is found; what `cluster.json` keeps of it."""

    name: str
    role: str
    url: str
    """http:// of a service; redis://, postgresql+psycopg:// or kafka:// of a server."""
    pid: int | None = None
    log: str | None = None


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One member's answer."""

    name: str
    role: str
    url: str
    pid: int | None = None
    answers: bool = False
    ready: bool = False
    failing: dict[str, str] = {}
    """Condition -> why it does not hold; what keeps it from being ready."""
    detail: dict[str, Any] = {}
    """Its `GET /status`; of a server what it says of itself."""


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    members: tuple[MemberStatus, ...]

    @property
    def leaders(self) -> tuple[str, ...]:
        """Names of the producers that say they lead: one, when all is well."""
        return tuple(member.name for member in self.of("producer") if member.detail.get("leads") is True)

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for each thing that is not as it should be."""
        found = []
        for member in self.members:
            if not member.answers:
                found.append(f"{member.name} does not answer at {member.url}")
            elif not member.ready:
                why = "; ".join(f"{name}: {reason}" for name, reason in member.failing.items())
                found.append(f"{member.name} is not ready: {why or 'it does not say why'}")
        producers = list(self.of("producer"))
        if producers and len(self.leaders) != 1:
            found.append(f"{' and '.join(self.leaders) or 'no producer'} says it leads")
        return tuple(found)

    @property
    def healthy(self) -> bool:
        return not self.problems

    def of(self, role: str) -> Iterable[MemberStatus]:
        return (member for member in self.members if member.role == role)


async def ask_members(members: Sequence[MemberAddress], *, within_s: float = _ANSWER_WITHIN_S) -> ClusterStatus:
    """Ask all of them; one that does not answer within `within_s` is said not to. Raises nothing."""
    for role in {member.role for member in members} & set(_CLIENTS):
        importlib.import_module(_CLIENTS[role])  # half a second that must not count as the server's
    async with httpx.AsyncClient(timeout=within_s, trust_env=False) as client:
        answers = await asyncio.gather(*(_ask(client, member, within_s) for member in members))
    return ClusterStatus(members=tuple(answers))


async def _ask(client: httpx.AsyncClient, member: MemberAddress, within_s: float) -> MemberStatus:
    silent = MemberStatus(name=member.name, role=member.role, url=shown(member.url), pid=member.pid)
    try:
        async with asyncio.timeout(within_s):
            if member.url.startswith("http"):
                return await _ask_service(client, member, silent)
            detail = await _SERVERS[member.role](member.url)
    except _SILENT as exc:
        return msgspec.structs.replace(silent, failing={"answer": str(exc) or type(exc).__name__})
    except Exception as exc:  # a driver's own error: it answers, but not as it should
        return msgspec.structs.replace(silent, answers=True, failing={"answer": str(exc) or type(exc).__name__})
    return msgspec.structs.replace(silent, answers=True, ready=True, detail=detail)


_SILENT: Final = (OSError, TimeoutError, httpx.HTTPError)


async def _ask_service(client: httpx.AsyncClient, member: MemberAddress, silent: MemberStatus) -> MemberStatus:
    ready, status = await asyncio.gather(client.get(f"{member.url}/readyz"), client.get(f"{member.url}/status"))
    verdict = ready.json()
    return msgspec.structs.replace(
        silent,
        answers=True,
        ready=ready.status_code == 200,
        failing=dict(verdict.get("failing", {})),
        detail=status.json() if status.status_code == 200 else {},
    )


async def _ask_redis(url: str) -> dict[str, Any]:
    from redis.asyncio import Redis

    client = Redis.from_url(url, decode_responses=True, retry=None, socket_connect_timeout=_ANSWER_WITHIN_S)
    try:
        found = await client.info()
    finally:
        await client.aclose()
    kept = ("redis_version", "used_memory_human", "connected_clients", "aof_enabled", "loading", "uptime_in_seconds")
    return {name: found[name] for name in kept if name in found} | {"keys": found.get("db0", {}).get("keys", 0)}


async def _ask_postgres(url: str) -> dict[str, Any]:
    import psycopg

    # Of the driver's own thread: its asynchronous side wants another kind of loop than some of our callers run.
    def ask() -> dict[str, Any]:
        plain = url.replace("postgresql+psycopg://", "postgresql://")
        with psycopg.connect(plain, connect_timeout=_CONNECT_WITHIN_S) as connection:
            version, connections = connection.execute(
                "SELECT current_setting('server_version'), (SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database())"
            ).fetchone() or ("", 0)
            return {"version": version, "connections": connections}

    return await asyncio.to_thread(ask)


async def _ask_kafka(url: str) -> dict[str, Any]:
    from aiokafka.admin import AIOKafkaAdminClient

    servers = url.removeprefix("kafka://")
    client = AIOKafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=_CONNECT_WITHIN_S * 1000)
    try:
        await client.start()
        cluster = await client.describe_cluster()
        topics = await client.list_topics()
    finally:
        await client.close()
    return {"brokers": len(cluster["brokers"]), "topics": sorted(t for t in topics if not t.startswith("__"))}


_SERVERS: Final = {"redis": _ask_redis, "postgres": _ask_postgres, "kafka": _ask_kafka}


def shown(url: str) -> str:
    """`url` without user name and password."""
    scheme, slashes, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{authority.rpartition('@')[2]}{slash}{path}"
