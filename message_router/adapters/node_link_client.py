"""One persistent link to every live push node: found in the node leases, connected to, reconnected to (R12)."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from contract.backoff import Backoff
from contract.clock import Clock
from contract.errors import MalformedFrame, NodeUnreachable, StoreUnavailable, Unauthorized
from contract.kv.ports import NodeLease, NodeLeases
from contract.node_link import MessageChannel
from contract.runtime.link_handshake import NodeIdentity
from contract.runtime.ws_channel import WebSocketChannel, connect_link
from contract.tokens import KeyRing

__all__ = ["NodeLinkClient", "address_allowed"]

_SETTLED_S: Final = 5.0
"""A link that lived this long was a good one; one that ends sooner counts as a failed attempt."""
_log = structlog.get_logger(__name__)


def address_allowed(address: str, networks: Sequence[str]) -> bool:
    """Whether `ip:port` is a literal address inside one of `networks`.

    Names are refused: a lease must not make the router ask a resolver, or connect anywhere but where nodes may live.
    """
    host, _, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
        return 0 < int(port) < 65_536 and any(ip in ipaddress.ip_network(network) for network in networks)
    except ValueError:
        return False


class NodeLinkClient:
    """A Service. Keeps links while the leases cannot be read: an outage of the store is no reason to drop a node."""

    name = "router-node-links"

    def __init__(
        self,
        *,
        leases: NodeLeases,
        attach: Callable[[MessageChannel], None],
        ring: KeyRing,
        router_id: str,
        clock: Clock,
        new_backoff: Callable[[], Backoff],
        allowed_networks: Sequence[str],
        discover_interval_s: float,
        connect_timeout_s: float,
        max_nodes: int,
    ) -> None:
        self._leases = leases
        self._attach = attach
        self._ring = ring
        self._router_id = router_id
        self._clock = clock
        self._new_backoff = new_backoff
        self._allowed_networks = tuple(allowed_networks)
        self._discover_interval_s = discover_interval_s
        self._connect_timeout_s = connect_timeout_s
        self._max_nodes = max_nodes
        self._wanted: dict[str, NodeLease] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._open: dict[str, tuple[NodeLease, WebSocketChannel]] = {}

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Ready after the first look at the leases; on `stop` every link is closed."""
        try:
            while not stop.is_set():
                await self._discover()
                ready.set()
                try:
                    async with asyncio.timeout(self._discover_interval_s):
                        await stop.wait()
                except TimeoutError:
                    continue
        finally:
            await self._close()

    async def _discover(self) -> None:
        try:
            alive = list(await self._leases.alive())
        except StoreUnavailable as exc:
            _log.warning("node_leases_unreadable", why=str(exc))
            return
        wanted: dict[str, NodeLease] = {}
        for lease in alive:
            if not address_allowed(lease.link_address, self._allowed_networks):
                _log.warning("node_address_refused", node=lease.node_id, address=lease.link_address)
            elif len(wanted) >= self._max_nodes:
                _log.warning("too_many_nodes", node=lease.node_id, max_nodes=self._max_nodes)
            else:
                wanted[lease.node_id] = lease
        self._wanted = wanted
        for node_id, (lease, channel) in list(self._open.items()):
            if wanted.get(node_id, lease).incarnation != lease.incarnation:
                channel.close()  # its successor has the lease
        for node_id in wanted:
            if node_id not in self._keepers:
                self._keepers[node_id] = task = asyncio.create_task(self._keep(node_id), name=f"node-link-{node_id}")
                task.add_done_callback(self._keeper_ended)

    async def _keep(self, node_id: str) -> None:
        """Link to the node for as long as it has a lease, and beyond that for as long as the link lives."""
        backoff = self._new_backoff()
        while (lease := self._wanted.get(node_id)) is not None:
            started_s = self._clock.monotonic_s()
            try:
                await self._link(lease)
            except (NodeUnreachable, Unauthorized, MalformedFrame) as exc:
                _log.warning("node_link_failed", node=node_id, address=lease.link_address, why=str(exc))
            else:
                if self._clock.monotonic_s() - started_s >= _SETTLED_S:
                    backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def _link(self, lease: NodeLease) -> None:
        channel = await connect_link(
            lease.link_address,
            ring=self._ring,
            router_id=self._router_id,
            expected=NodeIdentity(lease.node_id, lease.incarnation),
            timeout_s=self._connect_timeout_s,
        )
        self._open[lease.node_id] = (lease, channel)
        try:
            self._attach(channel)
            await channel.wait_closed()
        finally:
            channel.close()
            del self._open[lease.node_id]

    def _keeper_ended(self, task: asyncio.Task[None]) -> None:
        self._keepers = {node_id: keeper for node_id, keeper in self._keepers.items() if keeper is not task}
        if not task.cancelled() and task.exception() is not None:
            _log.error("node_link_keeper_failed", task=task.get_name(), error=repr(task.exception()))

    async def _close(self) -> None:
        self._wanted = {}
        channels = [channel for _, channel in self._open.values()]
        for channel in channels:
            channel.close()
        keepers = list(self._keepers.values())
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        await asyncio.gather(*(channel.wait_closed() for channel in channels))
