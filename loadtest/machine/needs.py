"""What N devices and their servers on one machine take, against what there is. Pure.

Both ends of every connection are here: each takes two open files, two sockets and, where connections are tracked, one
entry of the connection table. A process may open only so many files, so that there are many of either kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf
from typing import Final

import msgspec

__all__ = ["Fit", "MachineFacts", "Need", "Shape", "fit"]

_MIB: Final = 1 << 20
_TRACKED_PER_DEVICE: Final = 2.2
"""Entries of the connection table: a device, those that came back and whose first connection waits out its end."""
_TRACKED_TOLD: Final = 2.3
"""What is told to set: a little more than what is asked for."""
_USUAL_PORTS: Final = (32_768, 60_999)
_MARGIN_FILES: Final = 20_000
"""Open files of the whole machine beside the sockets."""


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine allows now. None: it has no such limit, or does not tell."""

    cores: int
    memory_bytes: int
    memory_available_bytes: int
    page_bytes: int = 4_096
    files_per_process: int
    """The hard limit: a process may raise its own up to it."""
    files_max: int | None
    """Of the whole machine."""
    files_open: int = 0
    processes_max: int | None
    processes_running: int = 0
    port_range: tuple[int, int]
    """Ports that outgoing connections take theirs from, both ends included."""
    tracked_max: int | None
    """Connections that are tracked (conntrack); None: it is not loaded."""
    tracked_now: int = 0
    tcp_pages_max: int | None
    """The third of `tcp_mem`: above it the kernel drops what arrives."""
    tcp_pages_now: int = 0
    backlog_max: int | None
    """`somaxconn`."""
    epoll_watches_max: int | None


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How a run spreads over processes, and what it costs. Bytes were measured with `stagecue bench herd`."""

    devices_per_node: int = 18_000
    """What a push node takes at most by its own settings; files may allow it fewer."""
    spare_nodes: int = 1
    """Nodes whose devices the others must be able to take."""
    devices_per_fleet: int | None = None
    """None: as many as files allow."""
    reserved_files: int = 200
    """Of each process, for what is no device's socket."""
    addresses_per_fleet: int = 1
    other_processes: int = 24
    """Brokers, stores and services beside push nodes and fleets."""
    listening_ports: tuple[int, int] | None = (10_000, 32_000)
    """Where listeners are put: outside `port_range`, or an outgoing connection may take one first. None: each looks for
    a free one."""
    backlog: int = 4_096
    """Of each listener."""
    node_bytes: int = 52 * _MIB
    """A push node without devices."""
    fleet_bytes: int = 40 * _MIB
    """A fleet's process without devices."""
    other_bytes: int = 1_500 * _MIB
    server_bytes_per_device: int = 2_500
    client_bytes_per_device: int = 2_500
    kernel_bytes_per_device: int = 10_500
    """Both ends' sockets, files, watches and the tracked connection."""
    tcp_pages_per_device: float = 0.25
    """At the worst moment of a broadcast: pages of frames on their way. Six times what was seen where clients get their
    share of the cores; where they do not, it is nearly one per device."""

    def per_node(self, files_per_process: int) -> int:
        """Devices a node may hold under that limit of files, a share left for handshakes under way; at least 1."""
        return max(1, min(self.devices_per_node, self._room(files_per_process)))

    def per_fleet(self, files_per_process: int) -> int:
        """Devices a fleet's process may hold, a share left for sockets that are closing; at least 1."""
        room = max(1, self._room(files_per_process))
        return room if self.devices_per_fleet is None else max(1, min(self.devices_per_fleet, room))

    def _room(self, files_per_process: int) -> int:
        """Of a process, a twentieth left: whoever goes is still there for a moment when the next one comes."""
        room = files_per_process - self.reserved_files
        return room - max(8, room // 20)

    def nodes(self, devices: int, files_per_process: int) -> int:
        """Push nodes for that many devices, spare ones included."""
        return ceil(devices / self.per_node(files_per_process)) + self.spare_nodes

    def fleets(self, devices: int, files_per_process: int) -> int:
        """Client processes for that many devices."""
        return ceil(devices / self.per_fleet(files_per_process))

    def bytes_needed(self, devices: int, files_per_process: int) -> int:
        """Memory of everything together, kernel included."""
        each = self.server_bytes_per_device + self.client_bytes_per_device + self.kernel_bytes_per_device
        return (
            devices * each
            + self.nodes(devices, files_per_process) * self.node_bytes
            + self.fleets(devices, files_per_process) * self.fleet_bytes
            + self.other_bytes
        )


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """One thing a run takes."""

    name: str
    wanted: str
    found: str
    fits: int | None
    """Devices it would do for; None: it does not depend on their number."""
    held: bool
    sysctl: str | None = None
    """`key=value` that would do, where a setting is in the way."""
    advice: str = ""
    """What else would help."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the question whether `devices` fit."""

    devices: int
    needs: Sequence[Need]
    fits: int
    """Devices that would fit as the machine is now."""

    @property
    def held(self) -> bool:
        return all(need.held for need in self.needs)

    @property
    def sysctls(self) -> list[str]:
        """`key=value` of every setting in the way, each once."""
        return list(dict.fromkeys(need.sysctl for need in self.needs if not need.held and need.sysctl is not None))

    def lines(self) -> list[str]:
        """Why it does not fit and what to do, for a person; empty: it fits."""
        short = [need for need in self.needs if not need.held]
        if not short:
            return []
        lines = [f"{self.devices} devices do not fit on this machine as it is set; {self.fits} would"]
        for need in short:
            advice = f"; {need.advice}" if need.advice else ""
            lines.append(f"  {need.name}: {need.wanted} wanted, {need.found} found{advice}")
        if self.sysctls:
            lines.append("set, as root:")
            lines += [f"  sysctl -w {setting}" for setting in map(_quoted, self.sysctls)]
        return lines


def fit(facts: MachineFacts, devices: int, shape: Shape | None = None) -> Fit:
    """Whether `devices` of that shape fit, and how many would. Raises ValueError for fewer than one."""
    if devices < 1:
        raise ValueError("at least one device")
    chosen = shape or Shape()
    needs = [
        _files_of_process(facts, chosen),
        _files(facts, devices),
        _processes(facts, devices, chosen),
        _ports(facts, devices, chosen),
        _listeners(facts, chosen),
        _tracked(facts, devices),
        _tcp_pages(facts, devices, chosen),
        _backlog(facts, chosen),
        _watches(facts, devices),
        _memory(facts, devices, chosen),
    ]
    found = [need for need in needs if need is not None]
    bounds = [need.fits for need in found if need.fits is not None]
    # A setting that does not depend on the number is in the way of any number.
    blocked = any(not need.held and need.fits is None for need in found)
    return Fit(devices=devices, needs=found, fits=0 if blocked else max(0, min(bounds, default=0)))


def _files_of_process(facts: MachineFacts, shape: Shape) -> Need:
    wanted = 2 * shape.reserved_files
    return Need(
        name="open files of a process",
        wanted=f"at least {wanted}",
        found=str(facts.files_per_process),
        fits=None,
        held=facts.files_per_process >= wanted,
        advice=f"raise the hard limit: ulimit -Hn {max(wanted, 20_000)}",
    )


def _files(facts: MachineFacts, devices: int) -> Need | None:
    if facts.files_max is None:
        return None
    wanted = 2 * devices + _MARGIN_FILES + facts.files_open
    return Need(
        name="open files of the machine",
        wanted=f"{wanted} (two for each device)",
        found=str(facts.files_max),
        fits=(facts.files_max - _MARGIN_FILES - facts.files_open) // 2,
        held=facts.files_max >= wanted,
        sysctl=f"fs.file-max={_round_up(wanted, 100_000)}",
    )


def _processes(facts: MachineFacts, devices: int, shape: Shape) -> Need | None:
    if facts.processes_max is None:
        return None
    files = facts.files_per_process
    wanted = shape.nodes(devices, files) + shape.fleets(devices, files) + shape.other_processes
    room = facts.processes_max - facts.processes_running
    per_pair = 1 / shape.per_node(files) + 1 / shape.per_fleet(files)
    left = room - shape.other_processes - shape.spare_nodes - 2
    return Need(
        name="processes",
        wanted=str(wanted),
        found=f"{room} more",
        fits=max(0, int(left / per_pair)),
        held=room >= wanted,
        advice="raise the limit: ulimit -u",
    )


def _ports(facts: MachineFacts, devices: int, shape: Shape) -> Need:
    low, high = facts.port_range
    # A socket bound to an address takes a port of its own there, wherever it connects to.
    each = (high - low + 1) * shape.addresses_per_fleet
    per_fleet = shape.per_fleet(facts.files_per_process)
    per_process = min(devices, per_fleet)
    return Need(
        name="ports of a client process",
        wanted=f"{per_process} on {shape.addresses_per_fleet} source addresses",
        found=f"{each} ({low}-{high} on each)",
        fits=None if each >= per_fleet else each,
        held=each >= per_process,
        sysctl="net.ipv4.ip_local_port_range={} {}".format(*_USUAL_PORTS),
    )


def _listeners(facts: MachineFacts, shape: Shape) -> Need | None:
    if shape.listening_ports is None:
        return None
    (low, high), (first, last) = facts.port_range, shape.listening_ports
    return Need(
        name="listening ports",
        wanted=f"{first}-{last} outside of what outgoing connections take",
        found=f"those take {low}-{high}",
        fits=None,
        held=last < low or high < first,
        sysctl="net.ipv4.ip_local_port_range={} {}".format(*_USUAL_PORTS),
    )


def _tracked(facts: MachineFacts, devices: int) -> Need | None:
    if facts.tracked_max is None:
        return None
    wanted = ceil(_TRACKED_PER_DEVICE * devices) + facts.tracked_now
    told = _round_up(ceil(_TRACKED_TOLD * devices) + facts.tracked_now, 10_000)
    return Need(
        name="tracked connections",
        wanted=f"{wanted} ({_TRACKED_PER_DEVICE} for each device)",
        found=str(facts.tracked_max),
        fits=int((facts.tracked_max - facts.tracked_now) / _TRACKED_PER_DEVICE),
        held=facts.tracked_max >= wanted,
        sysctl=f"net.netfilter.nf_conntrack_max={told}",
    )


def _tcp_pages(facts: MachineFacts, devices: int, shape: Shape) -> Need | None:
    if facts.tcp_pages_max is None:
        return None
    wanted = ceil(shape.tcp_pages_per_device * devices) + facts.tcp_pages_now
    told = _round_up(wanted, 50_000)
    return Need(
        name="memory of TCP",
        wanted=f"{wanted} pages ({shape.tcp_pages_per_device:g} for each device at worst)",
        found=f"{facts.tcp_pages_max} pages",
        fits=int((facts.tcp_pages_max - facts.tcp_pages_now) / shape.tcp_pages_per_device),
        held=facts.tcp_pages_max >= wanted,
        # Below the first the kernel is generous, from the second on it is not.
        sysctl=f"net.ipv4.tcp_mem={told} {told * 5 // 4} {told * 3 // 2}",
    )


def _backlog(facts: MachineFacts, shape: Shape) -> Need | None:
    if facts.backlog_max is None:
        return None
    return Need(
        name="backlog of a listener",
        wanted=str(shape.backlog),
        found=str(facts.backlog_max),
        fits=None,
        held=facts.backlog_max >= shape.backlog,
        sysctl=f"net.core.somaxconn={shape.backlog}",
    )


def _watches(facts: MachineFacts, devices: int) -> Need | None:
    if facts.epoll_watches_max is None:
        return None
    return Need(
        name="sockets watched",
        wanted=f"{2 * devices} (two for each device)",
        found=str(facts.epoll_watches_max),
        fits=facts.epoll_watches_max // 2,
        held=facts.epoll_watches_max >= 2 * devices,
        sysctl=f"fs.epoll.max_user_watches={_round_up(2 * devices, 100_000)}",
    )


def _memory(facts: MachineFacts, devices: int, shape: Shape) -> Need:
    files, there = facts.files_per_process, facts.memory_available_bytes
    wanted = shape.bytes_needed(devices, files)
    each = shape.server_bytes_per_device + shape.client_bytes_per_device + shape.kernel_bytes_per_device
    each += ceil(shape.node_bytes / shape.per_node(files)) + ceil(shape.fleet_bytes / shape.per_fleet(files))
    fixed = shape.other_bytes + (1 + shape.spare_nodes) * shape.node_bytes + shape.fleet_bytes
    return Need(
        name="memory",
        wanted=_gib(wanted),
        found=f"{_gib(there)} available",
        fits=max(0, int((there - fixed) / each)),
        held=there >= wanted,
        advice="end what else runs here, or ask for fewer devices",
    )


def _round_up(value: float, step: int) -> int:
    return ceil(value / step) * step if value < inf else step


def _quoted(setting: str) -> str:
    """For a shell: a value of several numbers in quotes."""
    key, _, value = setting.partition("=")
    return f'{key}="{value}"' if " " in value else setting


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
