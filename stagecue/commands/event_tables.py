"""Answers of the operator API as tables for people. Takes the JSON, prints with Rich."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "show_audit",
    "show_broadcasts",
    "show_change",
    "show_coverage",
    "show_event",
    "show_events",
    "show_import",
    "show_preview",
    "show_reach",
]

_PIPED_WIDTH: Final = 200
_STATE_STYLES: Final = {"armed": "cyan", "dispatched": "green", "superseded": "dim", "cancelled": "red", "planned": ""}


def show_events(page: dict[str, Any]) -> None:
    rows = [
        (event["id"], event["title"], _when(event["starts_at"]), event["time_zone"], _status(event), event["revision"])
        for event in page["items"]
    ]
    _table("Events", ("id", "title", "starts", "time zone", "status", "revision"), rows, none="No events yet.")
    if page.get("next"):
        _console().print("[dim]There are more: use --all, or --after with the last id.[/]")


def show_event(event: dict[str, Any]) -> None:
    out = _console()
    out.print(f"[bold]{_plain(event['title'])}[/]  ({_plain(event['id'])}, revision {event['revision']})")
    ends = f" until {_when(event['ends_at'])}" if event["ends_at"] else ", end not known"
    out.print(f"{_when(event['starts_at'])}{ends}, {event['time_zone']}; {_status(event)}; from {event['source']}")
    anchors = {stage["key"]: stage for stage in event["stages"]}
    rows = [
        (
            item["topic"],
            item["stage"],
            _anchor(anchors.get(item["stage"])),
            _when(item["due_at"]),
            _state(item["state"]),
            item["timestamp"] or "",
        )
        for item in event["occurrences"]
    ]
    _table("Stages", ("topic", "stage", "anchor", "due", "state", "broadcast"), rows, none="No stages.")


def show_change(event: dict[str, Any], broadcasts: Sequence[dict[str, Any]]) -> None:
    """The event after a change, and what the change itself broadcast: a rewind, or its cancellation (R4)."""
    show_event(event)
    for item in broadcasts:
        if item["timestamp"] >= event["updated_at_ms"] and item["cause"] in ("rewind", "cancelled"):
            why = "what was announced is no longer true" if item["cause"] == "rewind" else "the event is off"
            _console().print(f"Broadcast on {_plain(item['topic'])}: [bold]{_plain(item['state_key'])}[/] ({why})")


def show_preview(answer: dict[str, Any]) -> None:
    rows = [
        (
            _when(item["due_at"]) or "when cued",
            item["topic"],
            item["state_key"],
            _state(item["state"]),
            item["headline"],
        )
        for item in answer["items"]
    ]
    _table("What would go out", ("when", "topic", "stage", "state", "headline"), rows, none="Nothing would go out.")


def show_broadcasts(items: Sequence[dict[str, Any]]) -> None:
    rows = [(i["topic"], i["state_key"], i["timestamp"], i["prev"], i["cause"]) for i in items]
    _table("Broadcast", ("topic", "stage", "timestamp", "prev", "cause"), rows, none="Nothing went out.")


def show_reach(answer: dict[str, Any]) -> None:
    names = ("subscribers", "written", "replayed", "coalesced", "acked", "told", "nodes")
    rows = [
        (
            item["topic"],
            item["state_key"],
            item["cause"],
            "" if item["dispatch_lag_ms"] is None else f"{item['dispatch_lag_ms']} ms",
            _to_nodes(item),
            *(item[name] for name in names),
        )
        for item in answer["items"]
    ]
    _table("Reach", ("topic", "stage", "cause", "dispatch lag", "to nodes", *names), rows, none="Nothing went out yet.")


def show_coverage(answer: dict[str, Any]) -> None:
    rows = [
        (item["topic"], item["subscribers"], item["nodes"], _share(item["current"]), _held(item["held"]))
        for item in answer["items"]
    ]
    columns = ("topic", "connected", "nodes", f"hold version {answer['version']}", "maps held")
    _table("Coverage", columns, rows, none="No topics.")
    refusal = f"no: needs {_share(answer['coverage_threshold'])}, or --override-coverage"
    late = [
        (
            item["topic"],
            stage["stage"],
            f"v{stage['version']}",
            stage["holders"],
            _share(stage["share"]),
            "yes" if stage["enough"] else refusal,
        )
        for item in answer["items"]
        for stage in item["late_stages"]
    ]
    if late:
        _table("Stages added late", ("topic", "stage", "since", "held by", "share", "can be cued"), late, none="")


def _held(versions: Sequence[dict[str, Any]]) -> str:
    names = {one["version"]: f"v{one['version']}" if one["version"] else "none" for one in versions}
    return ", ".join(f"{names[one['version']]}: {one['subscribers']}" for one in versions)


def _share(share: float | None) -> str:
    """Down to a tenth of a percent, as the refusal of a cue has it; a dash while nobody is connected."""
    return "-" if share is None else f"{math.floor(share * 1000 + 1e-9) / 10:g}%"


def _to_nodes(item: dict[str, Any]) -> str:
    """From the due time, or a cue's dispatch, to the first push node; empty until one reported it."""
    routed, due = item["routed_at_ms"], item["due_at_ms"]
    since = item["dispatched_at_ms"] if due is None else due
    return "" if routed is None or since is None else f"{routed - since} ms"


def show_audit(answer: dict[str, Any]) -> None:
    rows = [
        (item["sequence"], item["at"], item["actor"], item["action"], _difference(item["before"], item["after"]))
        for item in answer["items"]
    ]
    _table("Audit", ("#", "at", "who", "what", "before -> after"), rows, none="No entries.")


def show_import(report: dict[str, Any]) -> None:
    out = _console()
    rows = [
        (f"[{style}]{kind}[/]", item["line"], item["id"], item["title"], _when(item["starts_at"]), _moved(item))
        for kind, style in (("created", "green"), ("moved", "cyan"), ("changed", "cyan"), ("cancelled", "red"))
        for item in report[kind]
    ]
    title = "Would be taken (dry run)" if report["dry_run"] else "Taken"
    _table(title, ("", "line", "event", "title", "starts", "changed"), rows, none="Nothing to change.", markup=(0,))
    rejected = [(i["line"], i["uid"] or "", i["field"], i["message"], i["rule"]) for i in report["rejected"]]
    if rejected:
        _table("Rejected", ("line", "uid", "field", "problem", "rule"), rejected, none="")
    if report["rejected_unlisted"]:
        out.print(f"[red]and {report['rejected_unlisted']} more rejected[/]")
    if report["missing"]:
        out.print(f"Not in the calendar any more, left as they are: {', '.join(map(_plain, report['missing']))}")
    out.print(
        f"{report['unchanged']} unchanged, {report['outside_horizon']} outside {_when(report['from'])} to "
        f"{_when(report['until'])}, {len(rejected) + report['rejected_unlisted']} rejected"
    )


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, none: str, markup: Sequence[int] = ()
) -> None:
    from rich import box
    from rich.table import Table

    if not rows:
        _console().print(none)
        return
    states = columns.index("state") if "state" in columns else -1
    table = Table(title=title, box=box.SIMPLE, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        styled = (states, *markup)
        table.add_row(*(str(v) if i in styled else _plain(v) for i, v in enumerate(row)))
    _console().print(table)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False, soft_wrap=False)


def _plain(value: object) -> str:
    """Text that came from elsewhere: no markup, no control characters reach the terminal."""
    from rich.markup import escape

    return escape("".join(char for char in str(value) if char.isprintable()))


def _when(moment: str | None) -> str:
    return moment.replace("T", " ") if moment else ""


def _status(event: dict[str, Any]) -> str:
    if event["cancelled"]:
        return "cancelled"
    sent = [item for item in event["occurrences"] if item["timestamp"]]
    return max(sent, key=lambda item: int(item["timestamp"]))["stage"] if sent else "planned"


def _anchor(stage: dict[str, Any] | None) -> str:
    if stage is None:
        return ""
    if stage["anchor"] in ("manual", "absolute"):
        return str(stage["anchor"])
    return f"{stage['anchor']} {stage['offset']}" if stage["offset_ms"] else str(stage["anchor"])


def _state(state: str) -> str:
    style = _STATE_STYLES.get(state, "")
    return f"[{style}]{state}[/]" if style else state


def _moved(item: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {item['before'].get(name)} -> {value}" for name, value in item["after"].items())


def _difference(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    """What changed, `old -> new`; what only one side tells is shown as it is."""
    old, new = before or {}, after or {}
    told = []
    for name in [name for name in {**old, **new} if old.get(name) != new.get(name)][:8]:
        values = [_short(name, side[name]) for side in (old, new) if name in side]
        told.append(f"{name}: {' -> '.join(values)}")
    return ", ".join(told)


def _short(name: str, value: object) -> str:
    if name.endswith("_at") and isinstance(value, int):
        return datetime.fromtimestamp(value / 1000, UTC).isoformat(" ", "seconds")
    text = _told(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _told(value: object) -> str:
    """A stored value for a person: names of stages and audiences, topics with what they say, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        named = value.get("key") or value.get("name")
        return str(named) if named else ", ".join(f"{key} {_told(each)}" for key, each in value.items()) or "all"
    if isinstance(value, list):
        return ", ".join(map(_told, value)) or "none"
    return str(value)
