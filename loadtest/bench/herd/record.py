"""A herd's night as a report shows it. Pure but for the histograms, which go into files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from loadtest.bench.herd.findings import AFTER_CHURN, AFTER_KILL, CONNECTED, HerdFindings, StageFound
from loadtest.bench.herd.spent import CLIENTS, SERVERS
from loadtest.bench.herd.watching import Watching
from loadtest.report.histograms import keep_histogram
from loadtest.report.record import Bar, Chart, Fact, RunRecord, Series, StageReach, Verdict

__all__ = ["herd_record"]

_CURVE: Final = (0.0, 0.1, 1, *range(5, 100, 5), 99, 99.9, 100.0)


def herd_record(found: HerdFindings, watching: Watching, *, envelope: Mapping[str, Any], directory: Path) -> RunRecord:
    """The record of one size; its histograms are written below `directory`. Raises OSError."""
    bars = _bars(found)
    return RunRecord(
        scenario="herd",
        title=f"Herd: {found.devices:,} devices on one machine",
        question=f"Do {found.devices:,} connected devices on one machine all show a new stage at once, and does none "
        "miss it when devices come and go and a node dies?",
        answer=_answer(found),
        verdict=_verdict(found, bars),
        bars=bars,
        charts=[*_reached(found), *watching.charts()],
        marks=watching.marks,
        reach=[_reach(each) for each in found.stages if each.reach is not None],
        histograms=[
            keep_histogram(directory, f"due to device, {each.when}", each.reach.latency)
            for each in found.stages
            if each.reach is not None and each.reach.live
        ],
        facts=_facts(found, watching),
        devices=found.devices,
        notes=found.notes(),
        envelope=envelope,
    )


def _verdict(found: HerdFindings, bars: Sequence[Bar]) -> Verdict:
    if found.interrupted is not None:
        return "partial"
    if found.invalid_because():
        return "invalid"
    return "held" if all(bar.held for bar in bars) and not found.shortfalls() else "failed"


def _answer(found: HerdFindings) -> str:
    stage = found.stage(CONNECTED)
    if stage is None or stage.last_s is None:
        return f"Not known: {found.interrupted or 'no stage was delivered'}."
    after = [
        f"{name} {'not measured' if missed is None else 'none' if missed == 0 else missed}"
        for name, missed in (("after churn", found.missed(AFTER_CHURN)), ("after the kill", found.missed(AFTER_KILL)))
    ]
    text = (
        f"The last of {found.devices:,} devices had the stage {stage.last_s:.2f} s after it was due, half of them "
        f"after {stage.p50_s or 0.0:.2f} s. Missed: {stage.missed}; {', '.join(after)}. All were connected in "
        f"{found.connect_s or 0.0:.1f} s."
    )
    short = found.shortfalls()
    return text + (f" It falls short: {'; '.join(short)}." if short else "")


def _bars(found: HerdFindings) -> list[Bar]:
    limits, devices = found.limits, found.devices
    stage = found.stage(CONNECTED)
    last_s, last_most_s = (None if stage is None else stage.last_s), limits.last_s_of(devices)
    connect_most_s = limits.connect_s_of(devices)
    connected = found.stage(CONNECTED) is not None
    bars = [
        Bar(
            name="last_s", bar=f"<= {last_most_s:g} s", measured=last_s, unit="s",
            held=last_s is not None and last_s <= last_most_s,
            means="from the due time until the last device had the stage; in proportion to a million devices",
        ),
        Bar(
            name="connect_s", bar=f"< {connect_most_s:g} s", measured=found.connect_s, unit="s",
            held=connected and found.connect_s is not None and found.connect_s < connect_most_s,
            means="from the first connect until every device was subscribed; in proportion to a million devices",
        ),
    ]  # fmt: skip
    for name, when in (
        ("missed", CONNECTED),
        ("after_churn_missed", AFTER_CHURN),
        ("after_node_kill_missed", AFTER_KILL),
    ):
        missed = found.missed(when)
        bars.append(
            Bar(
                name=name, bar="0", measured=None if missed is None else float(missed), unit="devices",
                held=missed == 0, means=f"devices that never got the stage ({when})",
            )
        )  # fmt: skip
    if found.origin_requests is not None:
        bars.append(
            Bar(
                name="origin_requests_during_broadcast", bar="0", measured=float(found.origin_requests),
                unit="requests", held=found.origin_requests == 0,
                means="that the DGS got from a second before the stage was due to its last device",
            )
        )  # fmt: skip
    return bars


def _reached(found: HerdFindings) -> list[Chart]:
    """How the number of devices that have a stage rises after it was due, from the histogram of every arrival."""
    series = []
    for each in found.stages:
        if each.reach is None or not each.reach.live:
            continue
        histogram, points = each.reach.histogram, [(0.0, 0.0)]
        for percent in _CURVE:
            after_ms = histogram.percentile_ms(percent)
            if after_ms is not None:
                points.append((after_ms / 1000, round(each.reach.live * percent / 100)))
        series.append(Series(name=f"{each.state_key}, {each.when}", points=points))
    if not series:
        return []
    explains, since = "The steeper, the sooner everybody has it.", "the stage was due"
    return [Chart(title="Devices that have the stage", unit="devices", series=series, explains=explains, since=since)]


def _reach(stage: StageFound) -> StageReach:
    reach = stage.reach
    assert reach is not None
    p50_s, p99_s, last_s = stage.p50_s, stage.p99_s, stage.last_s
    return StageReach(
        state_key=f"{stage.state_key} ({stage.when})",
        devices=reach.devices,
        delivered_live=reach.live,
        replayed=reach.replayed,
        missed=stage.missed or 0,
        p50_ms=None if p50_s is None else p50_s * 1000,
        p99_ms=None if p99_s is None else p99_s * 1000,
        last_ms=None if last_s is None else last_s * 1000,
    )


def _facts(found: HerdFindings, watching: Watching) -> dict[str, Sequence[Fact]]:
    layout, facts = found.layout, dict[str, Sequence[Fact]]()
    facts["The run"] = [
        Fact("push nodes", str(layout.nodes)),
        Fact("client processes", str(len(layout.fleets))),
        Fact("processes started in", _shown(found.started_s, "s")),
        Fact("maps prefetched in", _shown(found.prefetch_s, "s")),
        Fact("distinct maps", "-" if found.prefetched is None else f"{found.prefetched.distinct_maps:,}"),
        Fact("devices that lost the killed node", "-" if found.killed_devices is None else f"{found.killed_devices:,}"),
        Fact("back after", _shown(found.back_s, "s")),
    ]
    facts["Cost of a device"] = [
        Fact("client CPU per connect", _shown(found.client_us_per_connect, "us")),
        Fact("server CPU per connect", _shown(found.server_us_per_connect, "us")),
        Fact("server memory", _shown(found.bytes_per_device(SERVERS), "bytes")),
        Fact("client memory", _shown(found.bytes_per_device(CLIENTS), "bytes")),
        Fact("of that, maps", _shown(found.map_bytes_per_device, "bytes")),
        Fact("kernel memory, both ends", _shown(found.kernel_bytes_per_device, "bytes")),
    ]
    for each in found.stages:
        if each.busy is not None:
            facts[f"CPU, {each.when}"] = [
                Fact(role, f"{used:.2f} s, {each.busy.cores(role):.2f} cores") for role, used in each.busy.cpu_s.items()
            ]
    facts["Settings"] = [Fact(name, value or "(empty)") for name, value in layout.environment.items()]
    facts["Sampling"] = watching.facts()
    return facts


def _shown(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:,.1f} {unit}"
