"""`stagecue bench`: the promised figures, measured."""

from __future__ import annotations

import click

__all__ = ["bench"]


@click.group(
    epilog="\b\nExamples:\n"
    "  stagecue bench dispatch\n"
    "  stagecue bench dispatch --devices 200 --stages 50 --span 20 --json\n"
    "\b\nExit codes: 0 the promise holds, 1 it falls short, 2 it could not run.\n"
)
def bench() -> None:
    """Measure the promised figures: tables for people, `--json` for scripts."""


@bench.command(
    epilog="\b\nExamples:\n"
    "  stagecue bench dispatch\n"
    "  stagecue bench dispatch --devices 2000 --span 120\n"
    "  stagecue bench dispatch --json | jq .last_device.p99_ms\n"
)
@click.option("--devices", type=click.IntRange(1), default=1_000, show_default=True, help="Connected devices.")
@click.option("--stages", type=click.IntRange(1), default=200, show_default=True, help="Stages, at random instants.")
@click.option("--events", type=click.IntRange(1, 20), default=10, show_default=True, help="Events they belong to.")
@click.option("--span", "span_s", type=float, default=120.0, show_default=True, help="Seconds they are spread over.")
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses the instants.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def dispatch(devices: int, stages: int, events: int, span_s: float, seed: int, as_json: bool) -> None:
    """Due time to every device, hop by hop, through the embedded system.

    Promised for 1,000 devices and 200 stages: first device within 20 ms and last within 60 ms of the due time at the
    99th percentile, none early, none missed.
    """
    from loadtest.bench.dispatch import DispatchOptions, run_dispatch

    options = DispatchOptions(devices=devices, stages=stages, events=events, span_s=span_s, seed=seed)
    raise SystemExit(run_dispatch(options, as_json=as_json))


@bench.command(
    epilog="\b\nExamples:\n"
    "  stagecue bench faults --list\n"
    "  stagecue bench faults --fault node-killed --devices 400\n"
    "  stagecue bench faults --runs 3 --update-docs --json | jq .missed\n"
)
@click.option("--fault", "faults", multiple=True, metavar="NAME", help="This one alone; may be given again. All.")
@click.option("--list", "as_list", is_flag=True, help="Name the faults and stop.")
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="Runs of each fault.")
@click.option("--devices", type=click.IntRange(20), default=2_000, show_default=True, help="Connected devices.")
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses the devices' moments of return.")
@click.option("--keep", type=click.Path(file_okay=False), help="Keep logs and records in this directory.")
@click.option("--update-docs", is_flag=True, help="Write the table into docs/reliability.md; wants all faults.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def faults(
    faults: tuple[str, ...],
    as_list: bool,
    runs: int,
    devices: int,
    seed: int,
    keep: str | None,
    update_docs: bool,
    as_json: bool,
) -> None:
    """Kill, freeze, cut off, empty and set back every part of a cluster, and audit every device.

    Promised each time: no broadcast missed by any device connected at the end, none applied out of order, each with one
    timestamp; live again within the bound printed beside what was measured. Starts Kafka, Redis, PostgreSQL and ten
    services as processes on loopback: about a minute per fault.
    """
    from pathlib import Path

    from loadtest.bench.faults.command import FaultsOptions, list_faults, run_faults

    if as_list:
        raise SystemExit(list_faults())
    options = FaultsOptions(
        faults=faults, runs=runs, devices=devices, seed=seed, update_docs=update_docs, keep=Path(keep) if keep else None
    )
    raise SystemExit(run_faults(options, as_json=as_json))


@bench.command(
    epilog="\b\nExamples:\n"
    "  stagecue bench cluster\n"
    "  stagecue bench cluster --part latency --part burst\n"
    "  stagecue bench cluster --json | jq .last_device.p99_ms\n"
)
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(["latency", "burst", "reconnect", "devices", "nodes"]),
    help="This one alone; may be given again. All.",
)
@click.option("--devices", type=click.IntRange(4), default=2_000, show_default=True, help="Connected devices.")
@click.option("--stages", type=click.IntRange(1), default=200, show_default=True, help="Stages, at random instants.")
@click.option("--span", "span_s", type=float, default=120.0, show_default=True, help="Seconds they are spread over.")
@click.option("--burst-events", type=click.IntRange(4), default=500, show_default=True, help="Events within a minute.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Of the router's CPU.")
@click.option("--devices-many", type=int, default=20_000, show_default=True, help="Compared with 2,000, as to CPU.")
@click.option("--node-counts", default="4,16,64", show_default=True, help="Push nodes the router's CPU is fitted to.")
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses the instants.")
@click.option("--keep", type=click.Path(file_okay=False), help="Keep logs and records in this directory.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def cluster(
    parts: tuple[str, ...],
    devices: int,
    stages: int,
    span_s: float,
    burst_events: int,
    rounds: int,
    devices_many: int,
    node_counts: str,
    seed: int,
    keep: str | None,
    as_json: bool,
) -> None:
    """Due time to every device through Kafka, Redis and PostgreSQL; what the router costs; what a storm asks of Redis.

    Promised: first of 2,000 devices on 4 nodes within 35 ms and last within 120 ms of the due time at the 99th
    percentile, also when 500 events with 4 stages each fall due within a minute; the router's CPU per broadcast within
    10 % with ten times the devices; less than 0.01 Redis commands per reconnect. Starts Kafka, Redis, PostgreSQL and
    ten services as processes on loopback: about a quarter of an hour for all parts.
    """
    from pathlib import Path
    from typing import cast

    from loadtest.bench.cluster.command import run_cluster
    from loadtest.bench.cluster.options import PARTS, ClusterOptions, Part

    try:
        counts = tuple(int(count) for count in node_counts.split(","))
    except ValueError:
        raise click.UsageError("--node-counts: numbers separated by commas") from None
    options = ClusterOptions(
        parts=cast("tuple[Part, ...]", parts) or PARTS,
        devices=devices,
        stages=stages,
        span_s=span_s,
        burst_events=burst_events,
        rounds=rounds,
        devices_many=devices_many,
        node_counts=counts,
        seed=seed,
        keep=Path(keep) if keep else None,
    )
    raise SystemExit(run_cluster(options, as_json=as_json))


_peers_option = click.option(
    "--peers", default="floor,websockets,nchan", show_default=True, help="Servers beside ours, of these three."
)
_addresses_option = click.option(
    "--addresses", type=click.IntRange(1), help="Addresses the devices of a server come from. Default: one each."
)


@bench.command(
    epilog="\b\nExamples:\n"
    "  stagecue bench fanout\n"
    "  stagecue bench fanout --devices 3000 --peers floor --rounds 3\n"
    "  stagecue bench fanout --json | jq .ratio_to_floor\n"
)
@click.option("--devices", type=click.IntRange(1), default=15_000, show_default=True, help="Devices of each server.")
@_peers_option
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True, help="Alternating rounds.")
@_addresses_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def fanout(devices: int, peers: str, rounds: int, addresses: int | None, as_json: bool) -> None:
    """CPU of a delivery on a push node, beside a bare send() loop in C and servers people would otherwise pick.

    Promised for 15,000 devices: at most 1.15 times the floor and below the other peers; a probe's round trip during a
    fan-out within 20 ms; none missed. One core for the server, one for the load: wants two cores with nothing else on
    them. Needs gcc, and for nchan: apt-get install nginx libnginx-mod-nchan.
    """
    from loadtest.bench.push.fanout import FanOutOptions, run_fanout

    options = FanOutOptions(devices=devices, peers=peers, rounds=rounds, addresses=addresses)
    raise SystemExit(run_fanout(options, as_json=as_json))


@bench.command(
    epilog="\b\nExamples:\n"
    "  stagecue bench connect\n"
    "  stagecue bench connect --devices 3000 --peers floor --rounds 3\n"
    "  stagecue bench connect --json | jq .us_per_connect\n"
)
@click.option("--devices", type=click.IntRange(1), default=15_000, show_default=True, help="Devices of each server.")
@_peers_option
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True, help="Alternating rounds.")
@_addresses_option
@click.option("--variants/--no-variants", default=True, help="Our other protocols and EdDSA tokens, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def connect(devices: int, peers: str, rounds: int, addresses: int | None, variants: bool, as_json: bool) -> None:
    """CPU of a connect and memory of a device on a push node, beside its peers'.

    A connect: upgrade, a token of its own verified, two topics, continuity, one replayed broadcast. Promised: at most
    75 us of CPU and 2,500 bytes a device at rest, also after reconnects. Needs what `bench fanout` needs.
    """
    from loadtest.bench.push.connect import ConnectOptions, run_connect

    options = ConnectOptions(devices=devices, peers=peers, rounds=rounds, addresses=addresses, variants=variants)
    raise SystemExit(run_connect(options, as_json=as_json))


@bench.command(
    "node-kill",
    epilog="\b\nExamples:\n"
    "  stagecue bench node-kill\n"
    "  stagecue bench node-kill --devices 2000 --lifetime 30\n"
    "  stagecue bench node-kill --json | jq .back_s\n",
)
@click.option("--devices", type=click.IntRange(1), default=15_000, show_default=True, help="On the node that dies.")
@click.option("--nodes", type=click.IntRange(2, 16), default=3, show_default=True, help="That one included.")
@click.option(
    "--lifetime", "lifetime_s", type=click.FloatRange(5), default=240.0, show_default=True, metavar="SECONDS",
    help="Longest life of a connection on the others, and how long they are watched.",
)  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses the devices' moments of return.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def node_kill(devices: int, nodes: int, lifetime_s: float, seed: int, as_json: bool) -> None:
    """Kill a push node with all devices on it: when are they back and caught up, and does a second herd follow?

    Promised: all come back within the window they were told and catch up, no broadcast is missed, and handshakes stay
    level for one lifetime after. Takes the lifetime and about half a minute.
    """
    from loadtest.bench.push.node_kill import NodeKillOptions, run_node_kill

    options = NodeKillOptions(devices=devices, nodes=nodes, lifetime_s=lifetime_s, seed=seed)
    raise SystemExit(run_node_kill(options, as_json=as_json))


@bench.command(
    epilog="\b\nExamples:\n"
    "  stagecue bench prefetch\n"
    "  stagecue bench prefetch --profiles 5000 --peers mercurius --rounds 3\n"
    "  stagecue bench prefetch --json | jq .rps_per_core\n"
)
@click.option("--profiles", type=click.IntRange(1, 1_000_000), default=50_000, show_default=True, help="Distinct ones.")
@click.option("--peers", default="mercurius,strawberry", show_default=True, help="Servers beside ours, of these two.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Alternating rounds.")
@click.option(
    "--form",
    type=click.Choice(["hash", "document"]),
    help="How our DGS is asked. [by the operation's hash if it knows that, else the whole document]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def prefetch(profiles: int, peers: str, rounds: int, form: str | None, as_json: bool) -> None:
    """Stage maps per second and core of the DGS, beside GraphQL servers people would otherwise pick.

    Every profile asks once a round with a token of its own; sampled answers of all servers are compared. Promised: at
    least 16,000 a second on a core and 1.4 times mercurius with its JIT, p99 within 10 ms at 64 connections; 2,000 a
    second for profiles nothing was materialised for. Wants two cores with nothing else on them. Needs gcc, and for
    mercurius: apt-get install nodejs npm, and the network once.
    """
    from loadtest.bench.prefetch.command import PrefetchOptions, run_prefetch

    options = PrefetchOptions(profiles=profiles, peers=peers, rounds=rounds, form=form)
    raise SystemExit(run_prefetch(options, as_json=as_json))


@bench.command(
    epilog="\b\nExamples:\n"
    "  stagecue bench ttl\n"
    "  stagecue bench ttl --devices 100000 --chart /tmp/night.html\n"
    "  stagecue bench ttl --json | jq .peak_to_mean_jittered\n"
)
@click.option(
    "--devices", type=click.IntRange(1), default=1_000_000, show_default=True, help="Few make chance look like herds."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses joins and lifetimes.")
@click.option("--chart", type=click.Path(dir_okay=False), help="Where the picture goes. [reports/bench-ttl.html]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def ttl(devices: int, seed: int, chart: str | None, as_json: bool) -> None:
    """Refreshes of a night after a join surge, fixed lifetimes beside those the DGS draws: simulated, and drawn.

    Promised: the busiest second has at most 3 times the mean, and no map expires near a stage.
    """
    from pathlib import Path

    from loadtest.bench.ttl.command import DEFAULT_CHART, TtlOptions, run_ttl

    options = TtlOptions(devices=devices, seed=seed, chart=Path(chart) if chart else DEFAULT_CHART)
    raise SystemExit(run_ttl(options, as_json=as_json))


@bench.command(
    epilog="\b\nExamples:\n"
    "  stagecue bench overload\n"
    "  stagecue bench overload --load-factor 10 --seconds 30\n"
    "  stagecue bench overload --json | jq .critical_success\n"
)
@click.option(
    "--load-factor", type=click.FloatRange(1.5), default=6.0, show_default=True, help="Times what it sustains."
)
@click.option("--slots", type=click.IntRange(1), default=20, show_default=True, help="Slots of the ranking service.")
@click.option(
    "--slot-ms", type=click.FloatRange(0.1), default=5.0, show_default=True, help="A profile takes one so long."
)
@click.option(
    "--seconds", "lasts_s", type=click.FloatRange(2), default=20.0, show_default=True, help="How long the load lasts."
)
@click.option("--profiles", type=click.IntRange(100), default=50_000, show_default=True, help="Of each class.")
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses when requests come.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def overload(
    load_factor: float, slots: int, slot_ms: float, lasts_s: float, profiles: int, seed: int, as_json: bool
) -> None:
    """Several times the load the DGS sustains: what becomes of critical requests, of the others, and afterwards.

    Requests come whether others were answered or not. Promised while a ranking service is the limit: 99.5 % of critical
    requests served, their p99 at most doubled, goodput at least 90 % of the peak, recovery within 2 s; and at least
    80 % of the possible goodput while the DGS's own core is the limit. Takes about a minute and a half; wants two cores
    with nothing else on them. Needs gcc.
    """
    from loadtest.bench.overload.command import OverloadOptions, run_overload

    options = OverloadOptions(
        load_factor=load_factor, slots=slots, slot_ms=slot_ms, lasts_s=lasts_s, profiles=profiles, seed=seed
    )
    raise SystemExit(run_overload(options, as_json=as_json))


@bench.command(
    epilog="\b\nExamples:\n"
    "  stagecue bench herd --devices 10000\n"
    "  stagecue bench herd --sizes 10000,100000\n"
    "  stagecue bench herd --json | jq '{last_s, missed, after_churn_missed, after_node_kill_missed}'\n"
)
@click.option("--devices", type=click.IntRange(10), default=1_000_000, show_default=True, help="Real connections.")
@click.option("--sizes", metavar="N,N", help="Several numbers, one run each, instead: how cost per device grows.")
@click.option(
    "--profiles", type=click.IntRange(1), default=50_000, show_default=True, help="Distinct ones; devices share maps."
)
@click.option(
    "--churn",
    "churn_share",
    type=click.FloatRange(0, 0.5),
    default=0.05,
    show_default=True,
    help="Share of devices that leave; half of them return, half are replaced.",
)
@click.option(
    "--ping",
    "ping_s",
    type=click.FloatRange(20),
    metavar="SECONDS",
    help="Between pings. [production's, or as often as takes a twentieth of this machine]",
)
@click.option(
    "--report",
    type=click.Path(file_okay=False),
    default="reports/herd",
    show_default=True,
    help="Where the report goes.",
)
@click.option("--keep", type=click.Path(file_okay=False), help="Keep logs of all processes in this directory.")
@click.option("--set-kernel", is_flag=True, help="Set what the kernel must allow, and put it back. Wants root.")
@click.option(
    "--own-network/--no-own-network",
    default=None,
    help="In a network namespace with a TCP table as large as the run. [where this machine's is smaller, and root]",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Chooses who leaves, returns when, and dies.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def herd(
    devices: int,
    sizes: str | None,
    profiles: int,
    churn_share: float,
    ping_s: float | None,
    report: str,
    keep: str | None,
    set_kernel: bool,
    own_network: bool | None,
    seed: int,
    as_json: bool,
) -> None:
    """A million real devices on one machine, with schedule, dispatcher, Kafka, router and push nodes in front of them.

    Promised of a million on 2 cores and 24 GB, and of fewer in proportion: connected within 150 s, all show a stage
    within 12 s of its due time, none misses it; none after 5 % left and came back or were replaced, and none after a
    push node was killed. Checks files, ports, kernel settings and memory first, and says what to set. A million takes
    about seven minutes; Ctrl-C keeps what was measured.
    """
    from pathlib import Path

    from loadtest.bench.herd.command import run_herd
    from loadtest.bench.herd.options import HerdOptions

    try:
        numbers = (devices,) if sizes is None else tuple(int(size) for size in sizes.split(","))
    except ValueError:
        raise click.UsageError("--sizes: numbers separated by commas") from None
    options = HerdOptions(
        sizes=numbers,
        profiles=profiles,
        churn_share=churn_share,
        seed=seed,
        ping_s=ping_s,
        keep=Path(keep) if keep else None,
        report=Path(report),
        set_kernel=set_kernel,
        own_network=own_network,
    )
    raise SystemExit(run_herd(options, as_json=as_json))
