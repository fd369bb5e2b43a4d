"""The whole topology on loopback: Kafka, Redis, PostgreSQL, and our services, a process each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.kafka import KafkaBroker
from loadtest.cluster.member import Member
from loadtest.cluster.ports import PortBlocks, reserve_ports
from loadtest.cluster.postgres import PostgresServer
from loadtest.cluster.redis import RedisServer
from loadtest.cluster.service import DgsMember, ProducerMember, PushMember, RouterMember, ServiceMember
from loadtest.cluster.status import ClusterStatus, MemberAddress, ask_members

__all__ = ["LocalCluster"]

S = TypeVar("S", bound=ServiceMember)
_LEADER_WITHIN_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.1
_SERVERS: Final = 3


class LocalCluster:
    """`async with LocalCluster(directory) as cluster`: all ready inside, all gone afterwards.

    Everything it writes lies below `directory`: a folder per member, and `data`, which the services share. Used again,
    the directory brings back what was stored; with the same `port_base` under the same addresses.
    """

    def __init__(
        self,
        directory: Path,
        *,
        producers: int = 2,
        routers: int = 2,
        nodes: int = 4,
        dgs: int = 2,
        environment: Mapping[str, str] | None = None,
        member_environment: Mapping[str, Mapping[str, str]] | None = None,
        port_base: int | None = None,
        log_level: str = "INFO",
        on_change: Callable[[Member, str], None] | None = None,
    ) -> None:
        """`environment` is every service's, `member_environment` one member's by name, and wins.

        `on_change(member, what)` is told "starting" and "ready" as it happens. `port_base` None: free ones. Raises
        CouldNotRun when those ports are taken.
        """
        self.directory = directory.absolute()
        self.data_dir = self.directory / "data"
        self._environment = dict(environment or {})
        self._member_environment = {name: dict(given) for name, given in (member_environment or {}).items()}
        self._log_level = log_level
        self.on_change = on_change or (lambda member, what: None)
        count = producers + dgs + routers + _SERVERS + nodes
        self.ports = reserve_ports(count) if port_base is None else PortBlocks(port_base, count)
        blocks = iter(range(count))
        self.producers = [self._service(ProducerMember, n, next(blocks)) for n in range(producers)]
        self.dgs = [self._service(DgsMember, n, next(blocks)) for n in range(dgs)]
        self.routers = [self._service(RouterMember, n, next(blocks)) for n in range(routers)]
        self.kafka = KafkaBroker(self.directory / "kafka", port=self.ports[next(blocks)])
        self.redis = RedisServer(self.directory / "redis", port=self.ports[next(blocks)])
        self.postgres = PostgresServer(self.directory / "postgres", port=self.ports[next(blocks)])
        self.nodes = [self._service(PushMember, n, next(blocks)) for n in range(nodes)]
        self.services: list[ServiceMember] = [*self.producers, *self.routers, *self.nodes, *self.dgs]
        self.servers: list[Member] = [self.kafka, self.redis, self.postgres]
        self.members: dict[str, Member] = {one.name: one for one in (*self.servers, *self.services)}
        """By name, in start order."""
        if unknown := set(self._member_environment) - set(self.members):
            raise CouldNotRun(f"no member is called {', '.join(sorted(unknown))}; there are {', '.join(self.members)}")

    def member(self, name: str) -> Member:
        return self.members[name]

    @property
    def producer_urls(self) -> list[str]:
        return [one.url for one in self.producers]

    @property
    def dgs_urls(self) -> list[str]:
        return [one.url for one in self.dgs]

    @property
    def push_urls(self) -> list[str]:
        """Listeners for devices, ws://host:port without the path."""
        return [one.stream_url for one in self.nodes]

    @property
    def operator_token(self) -> str:
        """Good at every producer."""
        tokens = [one.operator_token for one in self.producers if one.operator_token]
        assert tokens, "no producer was started"
        return tokens[-1]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """The servers side by side, then all services side by side.

        Raises CouldNotRun naming the first that does not start; nothing runs then.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        try:
            await self._start_all(self.servers)
            for service in self.services:
                service.environment = self.service_environment(service)
            await self._start_all(self.services)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Services first, nodes before routers, so that the last reach arrives; then the servers. Idempotent."""
        for group in (self.dgs, self.nodes, self.routers, self.producers, self.servers):
            await asyncio.gather(*(one.stop() for one in group))
        self.ports.close()

    def service_environment(self, service: ServiceMember) -> dict[str, str]:
        """All that a service is told beside its command line; valid once the servers were started."""
        own = {"PUSH_NODE_ID": service.name, "ROUTER_ROUTER_ID": service.name}
        push_urls = ",".join(f"{url}/v1/stream" for url in self.push_urls)
        return {
            "STAGECUE_KV_URL": self.redis.url,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "PRODUCER_DATABASE_URL": self.postgres.url,
            **({"DGS_PUSH_URL": push_urls} if push_urls else {}),
            **own,
            **self._environment,
            **self._member_environment.get(service.name, {}),
        }

    async def leader(self) -> ProducerMember:
        """The producer that leads. Raises CouldNotRun when none, or more than one, says so within ten seconds."""
        said: Sequence[str] = ()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEADER_WITHIN_S):
                while True:
                    said = (await ask_members([self._address(one) for one in self.producers if one.running])).leaders
                    if len(said) == 1:
                        return next(one for one in self.producers if one.name == said[0])
                    await asyncio.sleep(_LOOK_EVERY_S)
        raise CouldNotRun(f"{' and '.join(said) or 'no producer'} says it leads")

    async def status(self) -> ClusterStatus:
        """What every member says of itself, within about two seconds."""
        return await ask_members(self.addresses())

    def addresses(self) -> list[MemberAddress]:
        return [self._address(one) for one in self.members.values()]

    def _address(self, member: Member) -> MemberAddress:
        if isinstance(member, KafkaBroker):
            url = f"kafka://{member.bootstrap_servers}"
        else:
            assert isinstance(member, ServiceMember | RedisServer | PostgresServer)
            url = member.url
        pid = member.pid if member.running else None
        return MemberAddress(name=member.name, role=member.role, url=url, pid=pid, log=str(member.log_path))

    def _service(self, kind: type[S], number: int, block: int) -> S:
        name = f"{kind.role}-{number}"
        return kind(
            name,
            self.directory / name,
            data_dir=self.data_dir,
            port_base=self.ports[block],
            log_level=self._log_level,
        )

    async def _start_all(self, members: Sequence[Member]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for member in members:
                    group.create_task(self._start(member), name=f"start.{member.name}")
        except* CouldNotRun as failed:
            raise failed.exceptions[0] from None

    async def _start(self, member: Member) -> None:
        self.on_change(member, "starting")
        await member.start()
        self.on_change(member, "ready")
