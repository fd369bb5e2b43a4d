"""The reach table's rows and the verdict, from what the judge found. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from device_sim.audit import BroadcastAudit, FleetAudit
from stagecue.demo.plan import STAGES

__all__ = ["NightReport", "StageReport", "report_of"]


@dataclass(kw_only=True)
class StageReport:
    """One row of the reach table; times in ms from the due time to a device's socket, live deliveries."""

    state_key: str
    devices: int
    delivered_live: int
    replayed: int
    missed: int
    p50_ms: float | None
    p99_ms: float | None
    last_ms: float | None
    origin_requests: int | None
    """Asked of the origin while it went out; None: nobody counted, which proves nothing."""
    written: int = 0
    """By the system's own account (reach): written live, replays included."""


@dataclass(kw_only=True)
class NightReport:
    devices: int
    stages: list[StageReport] = field(default_factory=list)
    missed: int = 0
    wrong_renders: int = 0
    out_of_order: int = 0
    not_newest: int = 0
    unsubscribed: int = 0
    unknown_frames: int = 0
    """Frames devices received that the outbox does not have, or has differently."""
    provisional_renders: int = 0
    origin_requests_during_broadcast: int = 0
    server_kills: int = 0
    distinct_maps: float = 0.0
    event: str = ""

    def complaints(self) -> list[str]:
        """What keeps the promise from holding; empty when it holds."""
        found = [f"{self.missed} broadcasts missed"] if self.missed else []
        found += [f"{self.wrong_renders} renders of something else than the prefetched row"] * bool(self.wrong_renders)
        found += [f"{self.out_of_order} renders out of order"] * bool(self.out_of_order)
        found += [f"{self.not_newest} devices not in the newest state"] * bool(self.not_newest)
        found += [f"{self.unknown_frames} frames the outbox does not know"] * bool(self.unknown_frames)
        found += [f"{self.unsubscribed} devices never subscribed"] * bool(self.unsubscribed)
        found += [f"{self.origin_requests_during_broadcast} requests to the origin"] * bool(
            self.origin_requests_during_broadcast
        )
        keys = tuple(stage.state_key for stage in self.stages)
        found += [f"the stages were {', '.join(keys) or 'none'}"] if keys != STAGES else []
        found += [f"{short.devices} devices had to see {short.state_key}" for short in self.stages
                  if short.devices != self.devices]  # fmt: skip
        found += [f"nobody counted the origin's requests at {one.state_key}" for one in self.stages
                  if one.origin_requests is None]  # fmt: skip
        found += ["fewer than 95 % of the maps differ"] * (self.distinct_maps < 0.95)
        return found


def report_of(
    audit: FleetAudit,
    origin: dict[str, int],
    written: dict[int, int],
    *,
    kills: int,
    title: str,
    distinct: float,
) -> NightReport:
    """The audit in the words of the reach table."""

    def row(one: BroadcastAudit) -> StageReport:
        return StageReport(
            state_key=one.state_key,
            devices=one.devices,
            delivered_live=one.delivered_live,
            replayed=one.replayed,
            missed=one.missed,
            p50_ms=_rounded(one.p50_ms),
            p99_ms=_rounded(one.p99_ms),
            last_ms=_rounded(one.last_ms),
            origin_requests=origin.get(str(one.timestamp)),
            written=written.get(one.timestamp, 0),
        )

    return NightReport(
        devices=audit.devices,
        stages=[row(one) for one in audit.broadcasts],
        missed=audit.missed,
        wrong_renders=audit.wrong_renders,
        out_of_order=audit.out_of_order,
        not_newest=audit.not_newest,
        unsubscribed=audit.unsubscribed,
        unknown_frames=audit.unknown_frames,
        provisional_renders=audit.provisional_renders,
        origin_requests_during_broadcast=sum(origin.values()),
        server_kills=kills,
        distinct_maps=round(distinct, 4),
        event=title,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
