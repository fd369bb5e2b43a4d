"""The kinds of runs there are: what each can be told and what it measures. Pure; runners live in `runs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from loadtest.gameday import parameters as given
from loadtest.gameday.bars import Measure

__all__ = ["KINDS", "Kind"]


class Kind(msgspec.Struct, frozen=True):
    module: str
    """Of `loadtest.gameday.runs`; it has `async def run(stage, parameters) -> str`."""
    parameters: type[given.Parameters]
    measures: Mapping[str, Measure]
    """Name -> what it is; bars name these."""


_NAIVE: Final = {
    "origin_requests_prefetch": Measure(
        "requests", "prefetching: at the DGS and its artwork, from 1 s before due to the last render, all stages"
    ),
    "origin_requests_naive": Measure(
        "requests", "naive: at the DGS and its artwork, from 1 s before due to the last answer, all stages"
    ),
    "requests_per_device": Measure("", "naive: what one device asked per stage; 1 is everybody, once"),
    "herd_peak": Measure("requests in 100 ms", "naive: the fullest 100 ms at the DGS"),
    "prefetch_peak": Measure(
        "requests in 100 ms", "prefetching: the fullest 100 ms at the DGS from 1 s before the first stage"
    ),
    "shown_p99_ms_naive": Measure("ms", "naive: due time to the answer in hand, 99 of 100"),
    "shown_p99_ms_prefetch": Measure("ms", "prefetching: due time to the render, 99 of 100"),
    "first_refused_share": Measure(
        "", "naive: part of the devices and stages with an ask that was refused or not answered in time"
    ),
    "missed": Measure("", "prefetching: broadcasts devices missed"),
    "wrong_renders": Measure("", "prefetching: renders that are not the map entry the profile was sent"),
}
_TTL: Final = {
    "ratio": Measure(
        "x", "peak to mean with fixed lifetimes over that with jittered ones, simulated night, bins of 1 s"
    ),
    "peak_to_mean_fixed": Measure("x", "fixed lifetimes: busiest second of the simulated night over its mean"),
    "peak_to_mean_jittered": Measure(
        "x", "lifetimes as the service hands them out: busiest second of the simulated night over its mean"
    ),
    "near_stage_jittered": Measure("", "simulated maps that expired nearer to a stage than the guard"),
    "real_ratio": Measure(
        "x", "peak to mean of refetches at a real DGS with fixed lifetimes over that with jittered ones, bins of 1 s"
    ),
    "real_peak_to_mean_fixed": Measure("x", "fixed lifetimes: busiest second of the compressed run over its mean"),
    "real_peak_to_mean_jittered": Measure(
        "x", "jittered by server and devices: busiest second of the compressed run over its mean"
    ),
    "real_failures": Measure("", "refetches of the compressed run that failed"),
}
_STORM: Final = {
    "attempts_ratio": Measure(
        "x", "peak of handshake attempts in 100 ms, refused ones included: without the window over with it"
    ),
    "attempts_peak_naive": Measure("attempts in 100 ms", "without the window: the fullest 100 ms"),
    "attempts_peak_window": Measure("attempts in 100 ms", "with the window: the fullest 100 ms"),
    "attempts_per_device_naive": Measure("", "without the window: attempts per device until all were back"),
    "attempts_per_device_window": Measure("", "with the window: attempts per device until all were back"),
    "refused_naive": Measure("", "without the window: attempts that were refused or came to nothing"),
    "refused_window": Measure("", "with the window: attempts that were refused"),
    "announced_s": Measure("s", "the window devices had been told when the connections broke"),
    "last_back_s_window": Measure("s", "with the window: break to the last welcome"),
    "last_back_s_naive": Measure("s", "without the window: break to the last welcome"),
    "late_devices": Measure(
        "", "with the window: devices not welcomed in the announced time and 0.5 s for the handshake"
    ),
    "missing_devices": Measure("", "devices that were not back when the run gave up waiting, both halves"),
    "missed": Measure("", "with the window: broadcasts devices missed, one of them in the middle of their return"),
}
_RETRY: Final = {
    "amplification_naive": Measure(
        "x", "without budgets: requests per answer wanted during the trouble, retries whenever they come"
    ),
    "amplification_budget": Measure(
        "x", "with budgets: requests per answer wanted during the trouble, retries whenever they come"
    ),
    "amplification_ratio": Measure("x", "amplification without budgets over that with them"),
    "peak_naive": Measure("requests in 100 ms", "without budgets: fullest 100 ms from the trouble on"),
    "peak_budget": Measure("requests in 100 ms", "with budgets: fullest 100 ms from the trouble on"),
    "recovery_s_naive": Measure(
        "s",
        "without budgets: end of the trouble until new answers come in time again; all of the time when they never do",
    ),
    "recovery_s_budget": Measure(
        "s", "with budgets: end of the trouble until new answers come in time again; all of the time when they never do"
    ),
    "caught_up_s_naive": Measure("s", "without budgets: end of the trouble until all wanted during it was answered"),
    "caught_up_s_budget": Measure("s", "with budgets: end of the trouble until all wanted during it was answered"),
    "answered_share_naive": Measure("", "without budgets: part of the wanted answers that came before the end"),
    "answered_share_budget": Measure("", "with budgets: part of the wanted answers that came before the end"),
    "degraded_share_budget": Measure("", "with budgets: part of the answers that were default maps, marked degraded"),
}
_SURGE: Final = {
    "critical_success": Measure("", "of first prefetches due in the surge, the part that got its own map"),
    "prefetch_p50_ms": Measure("ms", "first prefetches, from when they were due, half of them"),
    "prefetch_p99_ms": Measure("ms", "first prefetches, from when they were due, 99 of 100"),
    "connect_p99_ms": Measure("ms", "connects, opening to welcome, 99 of 100"),
    "connected_share": Measure("", "of the devices that came, connected at the end"),
    "handshakes_refused": Measure("", "handshakes refused or failed meanwhile"),
    "surge_per_s": Measure("prefetches/s", "asked in the surge"),
}
_FLOOD: Final = {
    "critical_success": Measure("", "of first prefetches due during the flood, the part that got its own map"),
    "critical_success_flat": Measure("", "all requests of one class: part of first prefetches that got their own map"),
    "critical_p99_ms": Measure("ms", "first prefetches that were served, 99 of 100"),
    "critical_p99_ms_flat": Measure("ms", "all requests of one class: first prefetches that were served, 99 of 100"),
    "other_success": Measure("", "of refreshes due during the flood, the part that was served"),
    "other_shed_share": Measure("", "of refreshes due during the flood, the part refused or given something else"),
    "goodput_per_s": Measure("answers/s", "good ones of both classes during the flood"),
    "recovery_s": Measure("s", "end of the flood to nearly everything served"),
}
_SLIP: Final = {
    "early_renders": Measure(
        "", "screens that showed the moved stage before its new due time, or the cancelled one at all"
    ),
    "wrong_ends": Measure("", "devices and events whose screen does not end in the right state"),
    "missed": Measure("", "broadcasts devices missed"),
    "wrong_renders": Measure("", "renders that are not the map entry the profile was sent"),
    "live_p99_ms": Measure("ms", "new due time to the socket, 99 of 100"),
    "live_last_ms": Measure("ms", "new due time to the last socket"),
    "cancelled_p99_ms": Measure("ms", "dispatch of `cancelled` to the socket, 99 of 100"),
    "cancelled_last_ms": Measure("ms", "dispatch of `cancelled` to the last socket"),
    "schedule_last_ms": Measure("ms", "the operator's request to the last device that holds the moved schedule"),
    "origin_requests": Measure("requests", "what the DGS was asked meanwhile: a moved time makes no map stale"),
}
_GAME_DAY: Final = {
    "missed": Measure("", "broadcasts devices missed"),
    "out_of_order": Measure("", "shown out of order"),
    "stage_p99_ms": Measure("ms", "due time to the socket, 99 of 100, worst stage"),
    "stage_last_ms": Measure("ms", "due time to the last socket that was connected, worst stage"),
    "connected_share": Measure("", "of the devices, connected at the end"),
    "critical_success": Measure("", "of first prefetches, the part that got its own map"),
    "critical_p99_ms": Measure("ms", "first prefetches that got their own map, from when they were due, 99 of 100"),
    "refresh_success": Measure("", "of refreshes, the part served"),
    "browse_failures_share": Measure("", "of the browsing users' requests"),
    "back_s": Measure("s", "end of the outage to the last device back"),
    "scale": Measure("", "this run over the projection"),
}
KINDS: Final[Mapping[str, Kind]] = {
    "naive-vs-prefetch": Kind("naive_vs_prefetch", given.NaiveVsPrefetch, _NAIVE),
    "fixed-vs-jittered-ttl": Kind("ttl_herds", given.TtlHerds, _TTL),
    "reconnect-storm": Kind("reconnect_storm", given.ReconnectStorm, _STORM),
    "retry-storm": Kind("retry_storm", given.RetryStorm, _RETRY),
    "join-surge": Kind("join_surge", given.JoinSurge, _SURGE),
    "non-critical-flood": Kind("flood", given.Flood, _FLOOD),
    "slip-and-cancel": Kind("slip_and_cancel", given.SlipAndCancel, _SLIP),
    "game-day": Kind("game_day", given.GameDay, _GAME_DAY),
}
