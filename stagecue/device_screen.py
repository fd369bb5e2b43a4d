"""One device in a terminal: what it shows as its screen, what it holds beneath, and every change as a line above."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from rich.align import Align
from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from contract.close_codes import may_reconnect
from contract.names import CANCELLED, DEFAULT_STATE
from device_sim.client import now_ms
from device_sim.device import Device
from device_sim.topic import TopicState
from stagecue.device_screen_changes import Change, length, token_expiry_ms
from stagecue.device_session import DeviceSession, entry_of

__all__ = ["DeviceScreen", "device_panel"]

_WIDTH_MAX: Final = 110
_CARD_LINES: Final = 4
_CARD_WIDTH_MIN: Final = 16
_HOLDS_LINES: Final = 8
_WIDE_ENOUGH: Final = 100
"""From this width on what the device holds stands beside the stages, not below them."""
_STAGE_STYLES: Final = ("blue", "yellow", "red", "green", "magenta", "cyan")
"""By a stage's place among the event's; they begin again after the last."""
_CHANGE_STYLES: Final = {
    "screen": "bold",
    "broadcast": "red",
    "continuity": "green",
    "schedule": "yellow",
    "hole": "bold red",
    "gap": "bold red",
    "error": "bold red",
    "network": "magenta",
    "reconnect": "magenta",
    "connection": "cyan",
    "end": "bold red",
}
_CAUSES: Final = {
    "live": "broadcast",
    "replayed": "caught up",
    "continuity": "said by the node",
    "provisional": "PROVISIONAL: not connected, by the clock",
    "default": "default row",
    "refreshed": "new map",
}


class DeviceScreen:
    """Lines of changes, and on a terminal the device itself beneath them, redrawn four times a second."""

    def __init__(self, console: Console) -> None:
        self.session: DeviceSession | None = None
        """Whose device is drawn; set by whoever made both."""
        self._console = console
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=4)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def tell(self, change: Change) -> None:
        """One line; where nothing is redrawn, a changed screen is drawn below its line."""
        line = Table.grid(padding=(0, 2))
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True, width=10)
        line.add_column(overflow="fold")
        style = _CHANGE_STYLES.get(change.what, "")
        line.add_row(
            Text(_clock(change.at_ms, fine=True), "grey50"),
            Text(change.what, style),
            Text(_printable(change.text), overflow="fold"),
        )
        self._console.print(line)
        if self._live is None and change.what == "screen":
            self._console.print(self._draw())

    def _draw(self) -> RenderableType:
        session = self.session
        if session is None or session.client is None:
            return Text("prefetching ...", "grey50")
        return device_panel(session, width=self._console.width, height=self._console.height)


def device_panel(session: DeviceSession, *, width: int, height: int) -> RenderableType:
    """All there is to see of a device that holds a map."""
    width = min(width, _WIDTH_MAX)
    beneath = _beneath(session, width)
    stage_map = session.state.stage_map
    entry = entry_of(stage_map, session.state.shown_key)
    rows = entry.get("rows") or []
    # Cards where the terminal is high enough for them and for what stands beneath.
    stages = len(session.state.times or {}) + 3
    lines = 5 + len(rows) * (_CARD_LINES + 2) + max(stages, _HOLDS_LINES)
    as_cards = lines + (stages if width < _WIDE_ENOUGH else 0) <= height
    return Group(_television(session, entry, rows, width, as_cards=as_cards), beneath)


def _television(
    session: DeviceSession, entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], width: int, *, as_cards: bool
) -> Panel:
    state = session.state
    style = _style_of(state, state.shown_key)
    shown: list[RenderableType] = []
    if state.shown_key is None:
        shown.append(Align.center(Text("nothing on the screen yet", "grey50")))
    else:
        shown.append(Text(_printable(entry.get("headline") or state.shown_key), f"bold {style}"))
    for row in rows:
        shown.append(Text())
        shown.append(Text(_printable(row.get("heading") or ""), "bold"))
        titles = row.get("titles") or ()
        shown.append(_cards(titles, width - 4) if as_cards else _names(titles))
    return Panel(
        Group(*shown),
        title=Text(f" {state.shown_key or 'dark'} ", f"bold reverse {style}"),
        title_align="left",
        subtitle=_because(session),
        subtitle_align="left",
        box=ROUNDED,
        border_style=style,
        width=width,
        padding=(0, 1),
    )


def _cards(titles: Sequence[Mapping[str, Any]], width: int) -> Table:
    """As many as fit, each with its name and what else a card tells."""
    fitting = max(1, min(len(titles), width // _CARD_WIDTH_MIN))
    row = Table.grid(expand=True)
    for _ in range(fitting):
        row.add_column(ratio=1)
    row.add_row(*(_card(title, width // fitting) for title in titles[:fitting]))
    return row


def _card(title: Mapping[str, Any], width: int) -> Panel:
    said = (_printable(title[name]) for name in ("year", "maturity") if title.get(name))
    minutes = f"{title['runtimeMinutes']} min" if title.get("runtimeMinutes") and width >= 27 else ""
    lines = Text(no_wrap=True, overflow="ellipsis")
    lines.append(_printable(title.get("name") or "?"))
    lines.append("\n" + " · ".join([*said, *([minutes] if minutes else [])]), "grey50")
    return Panel(lines, box=ROUNDED, border_style="grey35", padding=(0, 1))


def _names(titles: Sequence[Mapping[str, Any]]) -> Text:
    names = " · ".join(_printable(title.get("name") or "?") for title in titles)
    return Text(names, "grey70", overflow="ellipsis", no_wrap=True)


def _because(session: DeviceSession) -> Text | None:
    render = session.shown
    if render is None:
        return None
    style = "bold magenta" if render.cause == "provisional" else "grey50"
    return Text(f" {_CAUSES[render.cause]} · since {_clock(render.at_ms, fine=True)} ", style)


def _beneath(session: DeviceSession, width: int) -> RenderableType:
    stages, holds = _stages(session), _holds(session)
    if width < _WIDE_ENOUGH:
        return Group(stages, holds)
    beside = Table.grid(padding=(0, 4, 0, 0))
    beside.add_row(stages, holds)
    return beside


def _stages(session: DeviceSession) -> Table:
    state = session.state
    now = now_ms() + session.device.clock_offset_ms
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "stage", "when", ""):
        table.add_column(name, no_wrap=True, justify="right" if not name and table.columns else "left")
    held = state.stage_map.entries if state.stage_map else {}
    for key, at in (state.times or {}).items():
        if key == CANCELLED:
            continue
        shown = key == state.shown_key
        passed = at is not None and at <= now
        mark = "▶" if shown else "✓" if passed else ""
        style = f"bold {_style_of(state, key)}" if shown else "grey50" if passed else ""
        table.add_row(
            Text(mark, style),
            Text(key if key in held else f"{key} (not in the map)", style),
            Text("when cued" if at is None else _clock(at), style),
            Text("" if at is None else f"in {length(at - now)}" if not passed else f"{length(now - at)} ago", "grey50"),
        )
    if state.shown_key in (CANCELLED, DEFAULT_STATE):
        table.add_row(Text("▶", "bold"), Text(state.shown_key, "bold"), "", "")
    return table


def _holds(session: DeviceSession) -> Table:
    device, state = session.device, session.state
    now = now_ms()
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="grey50", no_wrap=True)
    table.add_column(overflow="fold")
    stage_map = state.stage_map
    if stage_map is not None:
        kept_bytes = sum(len(entry.content) for entry in (*stage_map.entries.values(), stage_map.default))
        outdated = f", version {state.version} is out" if state.version > stage_map.version else ""
        table.add_row("map", f"version {stage_map.version}, {kept_bytes / 1024:.1f} KB{outdated}")
        left = "" if state.refetch_at is None else f"{length(max(0, state.refetch_at - now))} left "
        table.add_row("lifetime", f"{left}(the server's: {length(stage_map.ttl_s * 1000)})")
        have = len(stage_map.artwork & device.artwork)
        table.add_row("artwork", f"{have} of {len(stage_map.artwork)} pictures")
    table.add_row("schedule", f"revision {max(0, state.revision)}")
    cursor = "null: never told anything" if state.cursor is None else f"{state.cursor} ({state.state_key})"
    table.add_row("cursor", cursor)
    table.add_row("node", _node(session, device, now))
    until = token_expiry_ms(device.token)
    table.add_row("token", "unreadable" if until is None else f"good for {length(until - now)}")
    if abs(device.clock_offset_ms) >= 100:
        way = "ahead of" if device.clock_offset_ms > 0 else "behind"
        table.add_row("clock", f"the server's is {length(abs(device.clock_offset_ms))} {way} ours")
    return table


def _node(session: DeviceSession, device: Device, now: int) -> Text:
    window = f"window {length(device.connection.window_ms)}"
    if device.online:
        return Text(f"connected; {window}", "green")
    if not session.network_up:
        return Text("no network", "magenta")
    at = device.reconnect_at_ms
    if at is not None:
        return Text(f"away; next try in {length(max(0, at - now))}, {window}", "yellow")
    if device.ended_by is None:
        return Text("connecting", "yellow")
    return Text("left" if may_reconnect(device.ended_by) else "not to come back", "yellow")


def _style_of(state: TopicState, key: str | None) -> str:
    keys = list(state.times or {})
    return _STAGE_STYLES[keys.index(key) % len(_STAGE_STYLES)] if key in keys else "white"


def _clock(at_ms: float, *, fine: bool = False) -> str:
    """Local time; with the date where it is not today."""
    moment = datetime.fromtimestamp(at_ms / 1000).astimezone()
    day = "" if moment.date() == datetime.fromtimestamp(time.time()).astimezone().date() else f"{moment:%d %b }"
    return f"{day}{moment:%H:%M:%S}" + (f".{int(at_ms) % 1000:03}" if fine else "")


def _printable(said: object) -> str:
    """Text from elsewhere: no control characters reach the terminal."""
    return "".join(char for char in str(said) if char.isprintable())
