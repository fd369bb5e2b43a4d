"""How `stagecue device` looks: within the terminal's width, cards where they fit, nothing from elsewhere but text."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from contract.frames import ContinuityFrame, WelcomeFrame
from device_sim.client import now_ms
from device_sim.device import Device, DeviceOptions
from device_sim.stage_map import stage_map_from_answer
from stagecue.device_screen import DeviceScreen, device_panel
from stagecue.device_screen_changes import Change
from stagecue.device_session import DevicePlan, DeviceSession, entry_of

TOPIC = "event:night"
HOUR = 3_600_000


def entry(key: str, at: int | None, *, rows: int = 1, name: str = "A film") -> dict[str, Any]:
    title = {"name": name, "year": 2007, "maturity": "PG", "runtimeMinutes": 96, "artwork": []}
    return {"key": key, "startsAt": at, "headline": f"It is {key}",
            "rows": [{"heading": f"Row {number}", "titles": [title] * 4} for number in range(rows)]}  # fmt: skip


def session(*, name: str = "A film", connected: bool = True) -> DeviceSession:
    """One whose device was told by hand."""
    now = now_ms()
    times = {"soon": now - HOUR, "live": now - 60_000, "ended": now + HOUR}
    by_key = {key: entry(key, at, rows=2, name=name) for key, at in times.items()}
    by_key |= {"cancelled": entry("cancelled", None), "default": entry("default", None)}
    device = Device("d", DeviceOptions(), token="no token to speak of")
    device.follow(now, TOPIC)
    answer = {"event": {"id": "night"}, "version": 3, "revision": 7, "ttlSeconds": 7200, "serverTime": now,
              "byKey": by_key}  # fmt: skip
    device.map_fetched(now, TOPIC, stage_map_from_answer(answer), 0.5)
    if connected:
        device.start(now)
        device.opened(now, 1)
        device.received(now, 1, WelcomeFrame("n", now, 3600.0, 30.0, 10_000, 60_000), 0.5)
        device.received(now, 1, ContinuityFrame(TOPIC, "complete", "live", now - 60_000), 0.5)
    found = DeviceSession(DevicePlan(event_id="night", dgs_url="http://127.0.0.1", context={}), lambda change: None)
    found.topic = TOPIC
    found.client = SimpleNamespace(device=device)  # type: ignore[assignment]
    assert device.renders
    found.shown = device.renders[-1]
    return found


def drawn(found: DeviceSession, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(device_panel(found, width=width, height=height))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 50), (100, 40), (120, 40), (40, 20)])
def test_it_fits_and_says_what_is_on_the_screen(width: int, height: int) -> None:
    lines = drawn(session(), width, height)
    assert max(map(len, lines)) <= width
    whole = "\n".join(lines)
    for said in ("It is live", "Row 0", "Row 1", "A film", "said by the node", "version 3", "revision 7", "connected"):
        assert said in whole, said
    assert "cancelled" not in whole
    assert [line.split()[1] for line in lines if line.startswith(("✓", "▶"))] == ["soon", "live"]


def test_cards_where_the_terminal_is_high_enough_and_names_where_not() -> None:
    assert sum("2007" in line for line in drawn(session(), 80, 50)) == 2
    low = drawn(session(), 80, 24)
    assert sum("A film · A film" in line for line in low) == 2
    assert len(low) <= 24


def test_a_provisional_screen_says_so() -> None:
    assert any("PROVISIONAL: not connected, by the clock" in line for line in drawn(session(connected=False), 80, 24))


@pytest.mark.parametrize(("offset_ms", "said"), [(2_000, "2.0 s ahead of ours"), (-2_000, "2.0 s behind ours")])
def test_a_clock_that_differs_is_told_with_its_direction(offset_ms: int, said: str) -> None:
    found = session()
    found.device.clock_offset_ms = offset_ms
    assert said in "\n".join(drawn(found, 80, 50))


def test_names_from_elsewhere_bring_no_control_characters() -> None:
    whole = "\n".join(drawn(session(name="\x1b[31mred\x07"), 80, 50))
    assert "\x1b" not in whole
    assert "\x07" not in whole
    assert "[31mred" in whole


def test_a_change_is_a_line_and_a_changed_screen_is_drawn_where_nothing_is_redrawn() -> None:
    console = Console(file=io.StringIO(), width=80)
    with DeviceScreen(console) as screen:
        screen.tell(Change(0, "token", "renewed\x1b[2J by the node"))
        screen.session = session()
        screen.tell(Change(0, "screen", "live: a broadcast"))
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert "renewed[2J by the node" in written
    assert written.index("live: a broadcast") < written.index("It is live")


def test_without_a_map_there_is_nothing_to_show() -> None:
    assert entry_of(None, "live") == {}
