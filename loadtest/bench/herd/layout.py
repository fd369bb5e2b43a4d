"""How a herd spreads over push nodes and client processes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Final

import msgspec

from device_sim.device import DeviceOptions
from loadtest.bench.fleet_plan import FleetPlan, PrefetchPlan, source_addresses
from loadtest.bench.outcome import CouldNotRun
from loadtest.machine.needs import Shape

__all__ = ["HerdLayout", "NodeRules", "fleet_plans", "herd_layout"]

_SLACK: Final = 0.965
"""Of what a node takes: devices that come back are not spread perfectly, and some are there twice for a moment."""
_NODES_MIN: Final = 2
_ADDRESSES: Final = 250
"""Source addresses of a fleet, one block 127.x.0.0/16 each: devices of one address are limited as in production."""
_BLOCKS: Final = 254
_PREFETCHES_AT_ONCE: Final = 64
"""By all fleets together: devices ask hours before, spread out, and not in a herd."""
_PING_US: Final = 125.0
"""CPU of a ping and its answer, both ends, as measured among a hundred processes: each wakes two of them."""
_RETURN_US: Final = 850.0
"""CPU of a connection that ends its life and comes again elsewhere, alone and not in a wave, both ends, likewise."""
_SHARE: Final = 0.05
"""Of the cores, for pings; and for lives that end."""
_TURN_MS: Final = 20.0
_SILENCE_S: Final = 30.0
"""Among a hundred processes that all have something to do, each has its turn once a second, and a link's ping takes
several: with production's 4 s nodes took their routers for lost and sent all their devices away."""
_BLOCKS_OF_FLEET: Final = 200
_FLEETS_CONNECTING: Final = 4
"""At the same time: enough for the cores, and so few that each works in large batches."""
_DEVICE: Final = DeviceOptions(fetches_maps=False, keeps_renders=False, told_max=1024, welcome_within_ms=300_000)
"""A device's wait for its welcome includes its turn among the devices of its process, which no real one has."""


class NodeRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a push node's own settings say, as far as a layout depends on it."""

    max_connections: int
    ping_s: float
    pong_deadline_s: float
    handshakes_per_s: float
    accept_share: float
    reconnect_window_ms: int
    lifetime_min_s: float


class HerdLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Who is where, and which settings follow from so many nodes sharing so few cores."""

    devices: int
    nodes: int
    fleets: Sequence[int]
    """Devices of each."""
    profiles: Sequence[int]
    """Distinct ones of each fleet."""
    shape: Shape
    ping_s: float
    environment: Mapping[str, str]
    """Settings of the push nodes that differ from production's."""
    turn_ms: float
    """How long nodes and fleets keep a core once they have it; 0: as the system pleases."""
    window_s: float
    """Over which devices return when a node dies, as nodes will tell it."""

    @property
    def fleets_connecting(self) -> int:
        """Fleets whose devices connect at the same time; the next one begins when one of them is nearly through."""
        return _FLEETS_CONNECTING

    @property
    def differs(self) -> list[str]:
        """The settings that differ, with the reason, for a person."""
        found = ["PUSH_EXEMPT_NETWORKS is empty: loopback addresses are limited per address as those of homes are"]
        if "PUSH_PING_S" in self.environment:
            found.append(
                f"PUSH_PING_S={self.environment['PUSH_PING_S']}, PUSH_PONG_DEADLINE_S="
                f"{self.environment['PUSH_PONG_DEADLINE_S']}: in production a node has a core for its pings, here "
                f"{self.nodes} nodes and {len(self.fleets)} fleets share what there is"
            )
        if self.turn_ms:
            found.append(
                f"connections live for {self.environment['PUSH_LIFETIME_MIN_S']} s and more, for the same reason: who "
                "comes back alone costs several times what it costs in a wave"
            )
            found.append(
                f"links may be silent for {_SILENCE_S:g} s, and nodes be without sources for twice that: they wait for "
                "their turn on a core"
            )
            found.append(
                f"client processes connect {self.fleets_connecting} at a time; neighbours among their devices share a "
                "first node"
            )
            found.append(
                f"nodes and fleets keep a core for {self.turn_ms:g} ms at a time (SCHED_BATCH, slices as long): in "
                "production a node has one to itself"
            )
        return found


def herd_layout(
    devices: int, *, profiles: int, files_per_process: int, cores: int, rules: NodeRules, ping_s: float | None = None
) -> HerdLayout:
    """As few processes as files allow, with room on the others for the devices of one node that dies.

    `ping_s` None: production's, unless pings of all devices would take more than a twentieth of the cores. Raises
    CouldNotRun where files allow so few devices each that there are more client processes than blocks of addresses.
    """
    shape = Shape(devices_per_node=int(rules.max_connections * _SLACK), addresses_per_fleet=_ADDRESSES)
    nodes = max(_NODES_MIN, shape.nodes(devices, files_per_process))
    count = shape.fleets(devices, files_per_process)
    if count > _BLOCKS:
        room = _BLOCKS * shape.per_fleet(files_per_process)
        raise CouldNotRun(
            f"{devices} devices take {count} client processes of {files_per_process} open files, and {_BLOCKS} have "
            f"source addresses of their own: {room} devices would fit, or raise the limit (ulimit -Hn)"
        )
    fleets = _shares(devices, count)
    chosen_s = ping_s if ping_s is not None else max(rules.ping_s, _bearable_s(devices, _PING_US, cores))
    environment = {"PUSH_EXEMPT_NETWORKS": ""}
    if chosen_s != rules.ping_s:
        deadline_s = max(rules.pong_deadline_s, chosen_s / 10)
        environment |= {"PUSH_PING_S": f"{chosen_s:g}", "PUSH_PONG_DEADLINE_S": f"{deadline_s:g}"}
    shares_cores = nodes + count > 2 * cores
    if shares_cores:
        life_s = max(rules.lifetime_min_s, _bearable_s(devices, _RETURN_US, cores))
        environment |= {"PUSH_LIFETIME_MIN_S": f"{life_s:g}", "PUSH_LIFETIME_MAX_S": f"{2 * life_s:g}"}
        environment |= dict.fromkeys(("PUSH_LINK_SILENCE_S", "PUSH_LEASE_S", "ROUTER_SILENCE_S"), f"{_SILENCE_S:g}")
    paced_s = devices / nodes / (rules.handshakes_per_s * rules.accept_share)
    return HerdLayout(
        devices=devices,
        nodes=nodes,
        fleets=fleets,
        profiles=[min(size, share) for size, share in zip(fleets, _shares(profiles, count), strict=True)],
        shape=shape,
        ping_s=chosen_s,
        environment=environment,
        turn_ms=_TURN_MS if shares_cores else 0.0,
        window_s=max(rules.reconnect_window_ms / 1000, paced_s),
    )


def fleet_plans(
    layout: HerdLayout, *, push_urls: Sequence[str], dgs_url: str, event_id: str, topic: str, seed: int
) -> list[FleetPlan]:
    """One plan per fleet: devices numbered through, profiles too, an address block each."""
    count = len(layout.fleets)
    return [
        FleetPlan(
            devices=size,
            first=sum(layout.fleets[:number]),
            push_urls=tuple(push_urls),
            homes=_homes(sum(layout.fleets[:number]), size, layout),
            topics=(topic,),
            sources=source_addresses(min(size, _ADDRESSES), block=number + 1),
            seed=seed * 1_000 + number,
            device=_DEVICE,
            record="light",
            prefetch=PrefetchPlan(
                dgs_url=dgs_url,
                event_ids=(event_id,),
                profiles=layout.profiles[number],
                first_profile=sum(layout.profiles[:number]),
                concurrency=max(1, _PREFETCHES_AT_ONCE // count),
            ),
        )
        for number, size in enumerate(layout.fleets)
    ]


def _homes(first: int, size: int, layout: HerdLayout) -> tuple[int, ...]:
    """Nodes of a fleet's devices, in blocks: of all devices in order, each node has an equal share of neighbours.

    In hundredths of the fleet, so that no node has more than that beyond its share.
    """
    parts = min(size, _BLOCKS_OF_FLEET)
    return tuple((first + size * part // parts) * layout.nodes // layout.devices for part in range(parts))


def _bearable_s(devices: int, each_us: float, cores: int) -> float:
    """How far apart something of each device must be that takes `each_us`, for all to take a twentieth of the cores."""
    return float(ceil(devices * each_us * 1e-6 / (_SHARE * cores) / 10) * 10)


def _shares(whole: int, parts: int) -> list[int]:
    """As even as whole numbers go; each at least 1."""
    return [max(1, whole // parts + (number < whole % parts)) for number in range(parts)]
