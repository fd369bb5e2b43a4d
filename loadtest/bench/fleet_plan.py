"""What a fleet in a process of its own is made of, and which of its devices follows what. Pure.

Device `i` (from 0) belongs to address `i mod len(push_urls)` and follows `topics_per_device` of the topics, chosen so
that every topic has the same number of devices on every address, give or take one round.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from device_sim.device import DeviceOptions

__all__ = ["FleetPlan", "PrefetchPlan", "source_addresses"]


class PrefetchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which maps the devices of a fleet hold: asked of a real DGS, one answer per profile, shared by its devices."""

    dgs_url: str
    event_ids: tuple[str, ...]
    profiles: int
    """Distinct profiles of this fleet; device `i` holds the maps of profile `first_profile + i mod profiles`."""
    first_profile: int = 0
    """Profiles are `p-<number>`: fleets with other numbers hold other maps."""
    concurrency: int = 16
    artwork: Literal["device", "edge", "none"] = "none"
    keep_content: bool = False
    """False keeps the fingerprints of map entries alone."""
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.profiles < 1 or not self.event_ids or not self.dgs_url or self.concurrency < 1:
            raise ValueError("a prefetch has a DGS, events, profiles and a concurrency")


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One object for parent and child: the child reads it from a file."""

    devices: int
    push_urls: tuple[str, ...]
    """`ws://host:port/v1/stream` of every push node; a device goes on to the next when one fails it."""
    topics: tuple[str, ...]
    topics_per_device: int | None = None
    """None: every device follows all topics."""
    first: int = 0
    """Number of device 0 among several fleets: device ids are `d-<first + i>`, profiles `p-<first + i>`."""
    sources: tuple[str, ...] = ()
    """Local addresses, in turn; empty: the system chooses. One address has some 28,000 ports."""
    seed: int = 1
    opening_max: int = 256
    """Handshakes under way at once."""
    device: DeviceOptions = DeviceOptions(fetches_maps=False, keeps_renders=False, told_max=1024)
    record: Literal["full", "light"] = "full"
    """`full`: everything every socket received and every screen showed, on disk, for `audit_fleet`. `light`: per
    broadcast and device one byte in memory, for `FleetProcess.stage_reach`."""
    prefetch: PrefetchPlan | None = None
    """None: the devices hold no maps."""
    homes: tuple[int, ...] = ()
    """Indexes of the push URLs that devices try first, each for a block of neighbours of the same size; empty: all push
    URLs in turn. Hundreds of processes on a few cores work in larger batches when each talks to few others."""

    def __post_init__(self) -> None:
        if self.devices < 1 or not self.push_urls or not self.topics:
            raise ValueError("a fleet has devices, push URLs and topics")
        if not 1 <= self.resolved_topics_per_device <= len(self.topics):
            raise ValueError(f"topics_per_device lies in 1..{len(self.topics)}")
        if not all(0 <= home < len(self.push_urls) for home in self.homes):
            raise ValueError("homes are indexes of push URLs")

    @property
    def resolved_topics_per_device(self) -> int:
        return len(self.topics) if self.topics_per_device is None else self.topics_per_device

    def urls_of(self, device: int) -> tuple[str, ...]:
        """All push URLs, in the order in which `address_of_attempt` takes the device home first."""
        if not self.homes:
            return self.push_urls
        home = self.homes[device * len(self.homes) // self.devices]
        start = (home - device) % len(self.push_urls)
        return (*self.push_urls[start:], *self.push_urls[:start])

    def topic_indexes(self, device: int) -> tuple[int, ...]:
        """Indexes into `topics` of what device `device` follows, distinct."""
        count, each = len(self.topics), self.resolved_topics_per_device
        # Counting per address, so that topics are spread over every node alike; neighbours start one topic apart.
        start = device // len(self.push_urls)
        return tuple((start + number * count // each) % count for number in range(each))

    def topics_of(self, device: int) -> tuple[str, ...]:
        return tuple(self.topics[index] for index in self.topic_indexes(device))

    def device_id(self, device: int) -> str:
        return f"d-{self.first + device}"

    def profile_id(self, device: int) -> str:
        return f"p-{self.first + device}"


def source_addresses(count: int, *, block: int = 1) -> tuple[str, ...]:
    """`count` loopback addresses 127.<block>.y.z; another block for another fleet."""
    assert 1 <= block <= 254, "127.0.0.0/16 is where services listen"
    assert 1 <= count <= 250 * 256, "one block of addresses"
    return tuple(f"127.{block}.{number // 250}.{number % 250 + 1}" for number in range(count))
