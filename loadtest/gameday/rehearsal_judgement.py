"""What a rehearsal promises, and whether it kept it: the shadow's outbox against every simulated device. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from device_sim.audit import FleetAudit
from loadtest.gameday.bars import BarSpec, Measure
from loadtest.report.record import StageReach

__all__ = ["MEASURES", "RealEvent", "bars", "expected_stages", "map_gaps", "measures", "reach_of", "real_changes"]

MEASURES: Final[Mapping[str, Measure]] = {
    "stages_missing": Measure("stages", "Stages of the compressed schedule that the system did not broadcast."),
    "missed": Measure("deliveries", "Devices that a stage did not reach, over all stages; those not following it too."),
    "wrong": Measure("screens", "Screens that showed anything but the row their own map has for the stage."),
    "out_of_order": Measure("screens", "Screens that went back to an older state."),
    "unknown": Measure("frames", "Frames received that the outbox does not have so."),
    "asked": Measure("requests", "Maps the devices asked for between the first stage and the last."),
    "last_s": Measure("s", "From a stage's due time to the last device it reached live, the slowest stage."),
    "real_map_gaps": Measure("entries", "Stages of the real event for which maps prefetched now have no rows."),
    "real_changes": Measure("changes", "Revisions and broadcasts of the real event that no operator or plan explains."),
}


class RealEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The event rehearsed, at one moment."""

    revision: int
    version: int
    broadcasts: int
    audited: int
    """Entries of its audit trail that are no rehearsals."""
    due: int = 0
    """Stages whose time has come by then."""


def bars(*, last_within_s: float) -> tuple[BarSpec, ...]:
    """Nothing may be missed, and nothing may be noticed."""
    none = [name for name in MEASURES if name != "last_s"]
    return (
        *(BarSpec(name=name, op="==", value=0) for name in none),
        BarSpec(name="last_s", op="<=", value=last_within_s),
    )


def expected_stages(shadow: Mapping[str, Any]) -> set[tuple[str, str]]:
    """(topic, stage) that must go out: of stages due at the same instant the later one alone is true."""
    latest: dict[tuple[str, int], tuple[int, str]] = {}
    for item in shadow["occurrences"]:
        if item["due_at_ms"] is not None:
            place = item["topic"], item["due_at_ms"]
            latest[place] = max(latest.get(place, (-1, "")), (item["order"], item["stage"]))
    return {(topic, stage) for (topic, _), (_, stage) in latest.items()}


def measures(
    expected: Iterable[tuple[str, str]], audit: FleetAudit, followers: Mapping[str, int], *, asked: int
) -> dict[str, float | None]:
    """By the names of MEASURES; `followers`: topic -> simulated devices that follow it."""
    played = {(each.topic, each.state_key) for each in audit.broadcasts}
    late = [each.last_ms for each in audit.broadcasts if each.last_ms is not None]
    # Whoever subscribed after a stage went out is not counted among those it missed by the judge.
    absent = sum(followers.get(each.topic, 0) - each.devices for each in audit.broadcasts)
    return {
        "stages_missing": len(set(expected) - played),
        "missed": audit.missed + absent,
        "wrong": audit.wrong_renders,
        "out_of_order": audit.out_of_order,
        "unknown": audit.unknown_frames,
        "asked": asked,
        "last_s": max(late) / 1000 if late else None,
    }


def reach_of(audit: FleetAudit) -> list[StageReach]:
    """Per broadcast; the topic's name only where there are several."""
    topics = Counter(each.state_key for each in audit.broadcasts)
    return [
        StageReach(
            state_key=each.state_key if topics[each.state_key] == 1 else f"{each.state_key} ({each.topic})",
            devices=each.devices,
            delivered_live=each.delivered_live,
            replayed=each.replayed,
            missed=each.missed,
            p50_ms=each.p50_ms,
            p99_ms=each.p99_ms,
            last_ms=each.last_ms,
        )
        for each in audit.broadcasts
    ]


def map_gaps(stages: Sequence[str], entries: Mapping[str, Any]) -> list[str]:
    """Stages for which a map (state key -> the DGS's entry) has no row with a title in it."""
    return [key for key in stages if not any(row.get("titles") for row in (entries.get(key) or {}).get("rows") or ())]


def real_changes(before: RealEvent, after: RealEvent) -> int:
    """What changed in the real event meanwhile and is explained by nothing: no audited change, no stage due."""
    audited = after.audited - before.audited
    changed = max(after.revision - before.revision, after.version - before.version)
    sent = after.broadcasts - before.broadcasts - (after.due - before.due)
    return 0 if audited else max(0, changed) + max(0, sent)
