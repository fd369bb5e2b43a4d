"""What a herd's night found, against what was promised. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from loadtest.bench.fleet_reach import BroadcastReach
from loadtest.bench.herd.crowd import CrowdSnapshot, Prefetched
from loadtest.bench.herd.footprint import Footprint, KernelMemory
from loadtest.bench.herd.layout import HerdLayout
from loadtest.bench.herd.options import HerdLimits
from loadtest.bench.herd.spent import BENCHMARK, CLIENTS, OTHERS, SERVERS, Spent
from loadtest.bench.report import Reporter
from loadtest.bench.validity import OTHERS_CORES_MAX

__all__ = ["AFTER_CHURN", "AFTER_KILL", "CONNECTED", "HerdFindings", "StageFound", "missed_of"]

CONNECTED: Final = "all connected"
AFTER_CHURN: Final = "after churn"
AFTER_KILL: Final = "after a node was killed"


class StageFound(msgspec.Struct, kw_only=True):
    """One stage that fell due while it was watched."""

    when: str
    state_key: str
    due_ms: int
    away: int
    """Devices on their way back when it was due."""
    dispatched_ms: int | None = None
    timestamp: int | None = None
    reach: BroadcastReach | None = None
    missed: int | None = None
    """None: nobody was asked yet."""
    idle: Spent | None = None
    """The seconds before it was due."""
    busy: Spent | None = None
    """From just before it was due until all had it."""
    tcp_bytes_max: int = 0
    """Frames on their way, at the worst moment looked at."""

    def _after_due_s(self, percent: float) -> float | None:
        found = None if self.reach is None else self.reach.histogram.percentile_ms(percent)
        return None if found is None else round(found / 1000, 4)

    @property
    def first_s(self) -> float | None:
        return None if self.reach is None or self.reach.first_ms is None else (self.reach.first_ms - self.due_ms) / 1000

    @property
    def p50_s(self) -> float | None:
        return self._after_due_s(50)

    @property
    def p99_s(self) -> float | None:
        return self._after_due_s(99)

    @property
    def last_s(self) -> float | None:
        return None if self.reach is None or self.reach.last_ms is None else (self.reach.last_ms - self.due_ms) / 1000

    def us_per_delivery(self, role: str) -> float | None:
        """CPU of a role beyond what it uses anyway, per live delivery."""
        if self.busy is None or self.idle is None or self.reach is None or not self.reach.live:
            return None
        return self.busy.less_idle(self.idle, role) / self.reach.live * 1e6

    def keys(self) -> dict[str, Any]:
        reach = self.reach
        return {
            "when": self.when,
            "state_key": self.state_key,
            "devices": None if reach is None else reach.devices,
            "delivered_live": None if reach is None else reach.live,
            "replayed": None if reach is None else reach.replayed,
            "told": None if reach is None else reach.told,
            "missed": self.missed,
            "behind": None if reach is None else reach.behind,
            "away_when_due": self.away,
            "dispatched_s": None if self.dispatched_ms is None else round((self.dispatched_ms - self.due_ms) / 1000, 4),
            "first_s": _rounded(self.first_s, 4),
            "p50_s": self.p50_s,
            "p99_s": self.p99_s,
            "last_s": _rounded(self.last_s, 4),
            "us_per_delivery": _rounded(self.us_per_delivery(SERVERS), 2),
            "client_us_per_delivery": _rounded(self.us_per_delivery(CLIENTS), 2),
            "cpu_s": None if self.busy is None else _rounded_all(self.busy.cpu_s, 3),
            "wall_s": None if self.busy is None else round(self.busy.wall_s, 3),
            "idle_cores": None if self.idle is None else {r: round(self.idle.cores(r), 3) for r in self.idle.cpu_s},
            "tcp_bytes_max": self.tcp_bytes_max,
        }


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """What the run's sockets were found by."""

    rows: int | None = None
    """Of TCP's hash table; None: not told."""
    own: bool = False
    """A namespace of its own, and so a table of its own."""

    def note(self, devices: int) -> str | None:
        """What a reader must know of it."""
        if self.rows is None:
            return None
        each = 2 * devices / self.rows
        if self.own:
            return f"in a network namespace of its own: TCP finds {2 * devices} sockets by {self.rows} rows"
        if each > 1:
            return f"TCP finds {2 * devices} sockets by {self.rows} rows, {each:.1f} in each (see --own-network)"
        return None


class HerdFindings(msgspec.Struct, kw_only=True):
    """What was measured so far; None for what was not reached. Filled by the night as it goes."""

    devices: int
    layout: HerdLayout
    limits: HerdLimits
    network: Network = Network()
    interrupted: str | None = None
    """Why it did not come to its end."""
    started_s: float | None = None
    """Until cluster, nodes and fleets were ready."""
    prefetched: Prefetched | None = None
    prefetch_s: float | None = None
    connect_s: float | None = None
    connecting: Spent | None = None
    stages: list[StageFound] = msgspec.field(default_factory=list)
    unsubscribed: int | None = None
    churned: tuple[int, int] | None = None
    """Devices that left and came back; newcomers in the place of others."""
    killed_devices: int | None = None
    back_s: float | None = None
    """From the node's end until its devices were connected elsewhere."""
    origin_requests: int | None = None
    """Of the DGS and its artwork, from a second before the first stage was due to its last device."""
    other_missed: int | None = None
    """Of stages due between those looked at, with all devices connected."""
    alone_bytes: Mapping[str, int] = {}
    """By role: what its processes allocate before there is a device."""
    started: Footprint | None = None
    """Devices built, none connected."""
    filled: Footprint | None = None
    """Maps prefetched."""
    settled: Footprint | None = None
    """All connected, at rest."""
    crowd: CrowdSnapshot | None = None

    # what the keys of the benchmark are made of
    def stage(self, when: str) -> StageFound | None:
        return next((stage for stage in self.stages if stage.when == when), None)

    def missed(self, when: str) -> int | None:
        stage = self.stage(when)
        return None if stage is None else stage.missed

    @property
    def client_us_per_connect(self) -> float | None:
        return self._us_per_connect(CLIENTS)

    @property
    def server_us_per_connect(self) -> float | None:
        return self._us_per_connect(SERVERS)

    def bytes_per_device(self, role: str) -> float | None:
        """What a role's processes allocated for devices: at rest, all connected, above what they take without any."""
        if self.settled is None or role not in self.alone_bytes:
            return None
        return (self.settled.own_bytes[role] - self.alone_bytes[role]) / self.devices

    @property
    def map_bytes_per_device(self) -> float | None:
        """Of `client_bytes_per_device`: the maps, which devices of a profile share."""
        if self.started is None or self.filled is None:
            return None
        return (self.filled.own_bytes[CLIENTS] - self.started.own_bytes[CLIENTS]) / self.devices

    @property
    def kernel_grown(self) -> KernelMemory | None:
        """By connecting."""
        return None if self.settled is None or self.filled is None else self.settled.kernel - self.filled.kernel

    @property
    def kernel_bytes_per_device(self) -> float | None:
        grown = self.kernel_grown
        return None if grown is None else grown.all_bytes / self.devices

    def _us_per_connect(self, role: str) -> float | None:
        return None if self.connecting is None else self.connecting.cpu_s.get(role, 0.0) / self.devices * 1e6

    # Measured
    def invalid_because(self) -> list[str]:
        # Slow clients are part of what is measured here; programs that are no part of it are not.
        return [
            f"{stage.when}: other processes used {stage.busy.cores(OTHERS):.2f} cores (at most {OTHERS_CORES_MAX})"
            for stage in self.stages
            if stage.busy is not None and stage.busy.cores(OTHERS) > OTHERS_CORES_MAX
        ]

    def shortfalls(self) -> list[str]:
        """What the promise is missed by; empty: it holds."""
        found = [] if self.interrupted is None else [f"partial: {self.interrupted}"]
        found += self._slow()
        for when in (CONNECTED, AFTER_CHURN, AFTER_KILL):
            missed = self.missed(when)
            if missed is None:
                found.append(f"{when}: not measured")
            elif missed:
                found.append(f"{when}: {missed} devices missed the stage")
        for stage in self.stages:
            if stage.reach is not None and stage.reach.behind:
                found.append(f"{stage.when}: {stage.reach.behind} devices showed something older")
        if self.other_missed:
            found.append(f"{self.other_missed} missed of stages due in between")
        if self.unsubscribed:
            found.append(f"{self.unsubscribed} devices never heard a continuity")
        if self.origin_requests:
            found.append(f"{self.origin_requests} requests came to the DGS because of the broadcast, or during it")
        least = min(self.limits.profiles_least, self.devices)
        if self.prefetched is not None and self.prefetched.profiles < least:
            found.append(f"maps of {self.prefetched.profiles} distinct profiles were prefetched, wanted {least}")
        return found

    def _slow(self) -> list[str]:
        found = []
        stage, most_s = self.stage(CONNECTED), self.limits.last_s_of(self.devices)
        if stage is not None and (stage.last_s is None or stage.last_s > most_s):
            split = f"; CPU: {_split(stage.busy)}" if stage.busy is not None else ""
            found.append(
                f"the last device had the stage after {_or_dash(stage.last_s)} s, promised <= {most_s:g}{split}"
            )
        connect_most_s = self.limits.connect_s_of(self.devices)
        if self.connect_s is not None and self.connect_s >= connect_most_s:
            found.append(f"connecting took {self.connect_s:.1f} s, promised < {connect_most_s:g}")
        return found

    def keys(self) -> dict[str, Any]:
        """The benchmark's keys for JSON; those not reached are null."""
        stage, layout = self.stage(CONNECTED), self.layout
        return {
            "devices": self.devices,
            "nodes": layout.nodes,
            "fleets": len(layout.fleets),
            "missed": self.missed(CONNECTED),
            "first_s": _rounded(stage.first_s, 4) if stage else None,
            "p50_s": stage.p50_s if stage else None,
            "p99_s": stage.p99_s if stage else None,
            "last_s": _rounded(stage.last_s, 4) if stage else None,
            "prefetch_s": _rounded(self.prefetch_s, 2),
            "profiles": None if self.prefetched is None else self.prefetched.profiles,
            "distinct_maps": None if self.prefetched is None else self.prefetched.distinct_maps,
            "connect_s": _rounded(self.connect_s, 2),
            "client_us_per_connect": _rounded(self.client_us_per_connect, 1),
            "server_us_per_connect": _rounded(self.server_us_per_connect, 1),
            "cpu_s": _rounded_all(stage.busy.cpu_s, 3) if stage and stage.busy else {},
            "connect_cpu_s": {} if self.connecting is None else _rounded_all(self.connecting.cpu_s, 2),
            "server_bytes_per_device": _rounded(self.bytes_per_device(SERVERS)),
            "client_bytes_per_device": _rounded(self.bytes_per_device(CLIENTS)),
            "map_bytes_per_device": _rounded(self.map_bytes_per_device),
            "kernel_bytes_per_device": _rounded(self.kernel_bytes_per_device),
            "memory_bytes": self._memory(),
            "us_per_delivery": _rounded(stage.us_per_delivery(SERVERS), 2) if stage else None,
            "client_us_per_delivery": _rounded(stage.us_per_delivery(CLIENTS), 2) if stage else None,
            "after_churn_missed": self.missed(AFTER_CHURN),
            "after_node_kill_missed": self.missed(AFTER_KILL),
            "other_missed": self.other_missed,
            "origin_requests_during_broadcast": self.origin_requests,
            "churned": None if self.churned is None else {"returned": self.churned[0], "new": self.churned[1]},
            "killed_devices": self.killed_devices,
            "back_s": _rounded(self.back_s, 2),
            "started_s": _rounded(self.started_s, 1),
            "stages": [each.keys() for each in self.stages],
            "failed_connections": None if self.crowd is None else self.crowd.failed,
            "refused_connections": None if self.crowd is None else self.crowd.refused,
            "partial": self.interrupted is not None,
            "tcp_table_rows": self.network.rows,
            "own_network": self.network.own,
            "settings": dict(layout.environment),
        }

    def _memory(self) -> dict[str, int]:
        """At rest, all connected: proportional memory of processes, and what the kernel took for the connections."""
        grown = self.kernel_grown
        if self.settled is None or grown is None:
            return {}
        return {**self.settled.pss_bytes, "kernel": grown.all_bytes}

    def notes(self) -> list[str]:
        """What a reader must know to judge it."""
        layout = self.layout
        found = [
            "devices are pure devices in asyncio fleets, real sockets over loopback, one source address per "
            f"{max(layout.fleets) // min(250, max(layout.fleets)) or 1} devices or so",
            "each device has a token of its own, signed with the installation's device ring before the night, as its "
            "DGS would have",
            "CPU and memory of servers, clients and kernel were taken on the same machine at the same time",
        ]
        if self.prefetched is not None:
            found.append(
                f"{self.prefetched.profiles} distinct profiles were prefetched from the DGS, and "
                f"{self.prefetched.distinct_maps} of their maps differ; devices of one profile share its map, of which "
                "fingerprints of its entries are kept, not the rows"
            )
        of_network = self.network.note(self.devices)
        return found + ([of_network] if of_network else []) + layout.differs

    def tabulate(self, reporter: Reporter) -> None:
        """Tables for a person."""
        reporter.table(
            f"Herd: {self.devices} devices, {self.layout.nodes} push nodes, {len(self.layout.fleets)} client processes",
            ("s from due", "first", "p50", "p99", "last", "live", "replayed", "missed"),
            [
                (
                    f"{each.when} ({each.state_key})", each.first_s, each.p50_s, each.p99_s, each.last_s,
                    None if each.reach is None else each.reach.live,
                    None if each.reach is None else each.reach.replayed, each.missed,
                )
                for each in self.stages
            ],
            caption="\n".join(self.notes()),
        )  # fmt: skip
        reporter.table(
            "Getting there",
            ("what", "s", "us of servers each", "us of clients each"),
            [
                ("processes started", self.started_s, None, None),
                (
                    f"maps prefetched ({self.prefetched.profiles if self.prefetched else 0})",
                    self.prefetch_s,
                    None,
                    None,
                ),
                ("connected and subscribed", self.connect_s, self.server_us_per_connect, self.client_us_per_connect),
                ("back after a node was killed", self.back_s, None, None),
            ],
        )
        self._tabulate_cpu(reporter)
        self._tabulate_memory(reporter)

    def _tabulate_cpu(self, reporter: Reporter) -> None:
        rows = [
            (f"{each.when}: {role}", used, each.busy.cores(role), each.us_per_delivery(role))
            for each in self.stages[:1]
            if each.busy is not None
            for role, used in each.busy.cpu_s.items()
        ]
        if rows:
            reporter.table("CPU from due to last device", ("role", "s", "cores", "us per delivery above idle"), rows)

    def _tabulate_memory(self, reporter: Reporter) -> None:
        grown = self.kernel_grown
        if self.settled is None or grown is None:
            return
        rows = [(role, held / (1 << 20), self.bytes_per_device(role)) for role, held in self.settled.pss_bytes.items()]
        rows += [
            ("kernel: sockets, files, watches (slabs)", grown.slab_bytes / (1 << 20), grown.slab_bytes / self.devices),
            ("kernel: tables", grown.tables_bytes / (1 << 20), grown.tables_bytes / self.devices),
            ("kernel: frames on their way", grown.tcp_bytes / (1 << 20), grown.tcp_bytes / self.devices),
        ]
        reporter.table(
            "Memory at rest, all connected",
            ("role", "MiB", "bytes a device"),
            rows,
            caption=f"{self.settled.available_bytes / (1 << 30):.1f} GiB were still available; per device: without the "
            f"processes themselves; of the clients' {_or_dash(self.map_bytes_per_device)} bytes a device are maps",
        )


def missed_of(reach: BroadcastReach | None, *, asked: int, of_fleets: int, everybody: bool) -> int:
    """Devices that missed a broadcast: those of fleets that met it, and everybody of those that never did.

    `asked`: devices of all fleets; `of_fleets`: of those that met it. `everybody`: all were subscribed when it was
    due, so that nobody may be left out.
    """
    missed = 0 if reach is None else reach.missed
    return missed + (asked - of_fleets if everybody else 0)


def _split(busy: Spent) -> str:
    named = [(role, busy.cpu_s[role]) for role in busy.cpu_s if role != BENCHMARK and busy.cpu_s[role] >= 0.05]
    return ", ".join(f"{role} {used:.1f} s" for role, used in named) + f" in {busy.wall_s:.1f} s"


def _rounded(value: float | None, digits: int = 0) -> float | int | None:
    if value is None:
        return None
    return round(value) if digits == 0 else round(value, digits)


def _rounded_all(values: Mapping[str, float], digits: int) -> dict[str, float]:
    return {name: round(value, digits) for name, value in values.items()}


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
