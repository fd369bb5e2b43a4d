"""The first evening of a new operator: every `stagecue event` command, against the running system and its devices."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from system_support import FAST, fleet_of, follow

from loadtest.bench.system import EmbeddedSystem

pytestmark = pytest.mark.timeout(60)

DEVICES = 3
TOPIC = "event:opera"
LIVE_EVENTS = Path(__file__).parents[3] / "examples" / "schedules" / "live-events.ics"
OPERA = {
    "id": "opera",
    "title": "The opera",
    "starts_at": "2096-06-01T18:00:00+02:00",
    "ends_at": "2096-06-01T21:00:00+02:00",
    "stages": [{"key": "live"}, {"key": "encore", "anchor": "manual", "headline": "Encore!"}],
}
CUP = ("--id", "cup", "--title", "Cup final", "--starts", "2096-05-15T20:00", "--tz", "Europe/London")


class Terminal:
    """`stagecue event ...` as a person types it, beside the data directory of the running system."""

    def __init__(self, system: EmbeddedSystem) -> None:
        address, data_dir = system.addresses.producer, str(system.data_dir)
        self._environment = {**os.environ, "STAGECUE_URL": address, "STAGECUE_DATA_DIR": data_dir, "COLUMNS": "120"}

    async def run(self, *words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "stagecue", "event", *words, env=self._environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert (process.returncode, err) == (0, b""), (words, process.returncode, err)
        return out.decode()

    async def json(self, *words: str) -> Any:
        return json.loads(await self.run(*words, "--json"))


async def test_an_evening_at_the_terminal(tmp_path: Path) -> None:
    """Set up, look, move, cue, see who got it, call it off; devices hear each step and the audit has each one."""
    async with EmbeddedSystem(tmp_path / "s", environment=FAST) as system, fleet_of(DEVICES) as fleet:
        terminal = Terminal(system)
        assert "No events" in await terminal.run("list")
        file = tmp_path / "opera.json"
        await asyncio.to_thread(file.write_text, json.dumps(OPERA))
        await _set_up(terminal, file)

        follow(fleet, system, TOPIC, DEVICES)
        await fleet.connect_all()
        moved = await terminal.json("shift", "opera", "PT10M")
        assert (moved["starts_at_ms"], moved["revision"]) == (3_989_405_400_000, 2)
        assert "encore" in await terminal.run("show", "opera")
        cued = (await terminal.json("cue", "opera", "encore"))["broadcasts"][0]
        await fleet.wait_caught_up({TOPIC: cued["timestamp"]}, timeout_s=5)
        reach = await _reach(terminal, written=DEVICES)
        assert (reach["state_key"], reach["timestamp"], reach["nodes"]) == ("encore", cued["timestamp"], 1)
        assert "encore" in await terminal.run("reach", "opera")

        off = await terminal.json("cancel", "opera", "--yes")
        assert (off["cancelled"], off["last_timestamp"] > cued["timestamp"]) == (True, True)
        await fleet.wait_caught_up({TOPIC: off["last_timestamp"]}, timeout_s=5)
        assert "cancelled" in await terminal.run("show", "opera")
        audit = (await terminal.json("audit", "opera"))["items"]
        assert [item["action"] for item in audit] == ["create", "shift", "cue", "cancel"]
        assert "cancel" in await terminal.run("audit", "opera")


async def _set_up(terminal: Terminal, file: Path) -> None:
    """One event from options, one from a file, the rest from a calendar."""
    added = await terminal.run("add", *CUP, "--stage", "soon=start-PT15M:Soon", "--stage", "live=start")
    assert "2096-05-15 19:45:00+01:00" in added
    assert (await terminal.json("preview", "cup"))["items"][0]["state_key"] == "soon"
    assert "Soon" in await terminal.run("preview", "cup")
    assert (await terminal.json("add", "--file", str(file)))["id"] == "opera"
    taken = await terminal.json("import", str(LIVE_EVENTS), "--from", "2024-01-01T00:00:00Z", "--dry-run")
    assert len(taken["created"]) >= 4
    assert {item["id"] for item in (await terminal.json("list"))["items"]} == {"cup", "opera"}, "a dry run takes none"
    again = await terminal.json("import", str(LIVE_EVENTS), "--from", "2024-01-01T00:00:00Z")
    assert len(again["created"]) == len(taken["created"])
    assert len((await terminal.json("list", "--all"))["items"]) == 2 + len(taken["created"])


async def _reach(terminal: Terminal, *, written: int) -> dict[str, Any]:
    """The only broadcast's reach, once the node has reported it: nodes report about once a second."""
    async with asyncio.timeout(10):
        while True:
            (item,) = (await terminal.json("reach", "opera"))["items"]
            if item["written"] == written:
                found: dict[str, Any] = item
                return found
