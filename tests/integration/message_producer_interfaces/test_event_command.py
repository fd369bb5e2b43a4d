"""`stagecue event` against a real producer: SQLite file, uvicorn, a loopback socket."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from contract.clock import ManualClock
from contract.runtime.asgi import AsgiService, listen_on
from contract.runtime.runner import Readiness
from contract.tokens import OperatorClaims, new_key_ring
from message_producer.api import create_app
from message_producer.api_requests import EventPatchIn
from message_producer.app import open_producer
from message_producer.model import WriteContext
from message_producer.settings import ProducerSettings
from stagecue.cli import cli

SCHEDULES = Path(__file__).parents[3] / "examples" / "schedules"
NOW = 1_731_000_000_000
ADD = ["add", "--id", "fight", "--title", "Fight", "--starts", "2024-11-15T20:00", "--tz", "America/New_York"]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """A data directory with an empty, migrated store: copied for each test, because migrating costs more than most."""
    path = tmp_path_factory.mktemp("migrated")

    async def migrate():
        async with open_producer(ProducerSettings(data_dir=path), clock=ManualClock(NOW), readiness=Readiness()):
            pass

    asyncio.run(migrate())
    return path


@pytest.fixture
async def stagecue(tmp_path, migrated):
    """`await stagecue("list", "--json")` runs the command in a thread against a running producer."""
    clock, readiness, ring = ManualClock(NOW), Readiness(), new_key_ring("stagecue.operator")
    shutil.copytree(migrated, tmp_path, dirs_exist_ok=True)
    (tmp_path / "operator.token").write_text(
        ring.sign(OperatorClaims(sub="ann", exp=NOW // 1000 + 60, role="operator")) + "\n"
    )
    async with open_producer(ProducerSettings(data_dir=tmp_path), clock=clock, readiness=readiness) as producer:
        app = create_app(producer.operations, operator_ring=ring, readiness=readiness, clock=clock)
        sock = listen_on("127.0.0.1", 0)
        ready, stop = asyncio.Event(), asyncio.Event()
        serving = asyncio.create_task(AsgiService("api", app, sock, drain_s=1).run(ready, stop))
        await ready.wait()
        environment = {
            "STAGECUE_URL": f"http://127.0.0.1:{sock.getsockname()[1]}",
            "STAGECUE_DATA_DIR": str(tmp_path),
        }

        async def run(*arguments, stdin=None, env=None):
            runner = CliRunner(env=environment | (env or {}))
            return await asyncio.to_thread(runner.invoke, cli, ["event", *arguments], input=stdin)

        async def change(event_id, body):
            patch = EventPatchIn.model_validate(body).to_patch()
            await producer.operations.change(event_id, patch, WriteContext(actor="ann"), if_revision=None)

        run.change = change
        yield run
        stop.set()
        await serving


async def answered(stagecue, *arguments, **kwargs):
    """The JSON of a successful command; standard error must be silent."""
    result = await stagecue(*arguments, "--json", **kwargs)
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


async def test_a_night_from_the_command_line(stagecue):
    event = await answered(stagecue, *ADD, "--stage", "soon=start-PT15M:Soon: it starts", "--stage", "live=start",
                           "--stage", "goal=manual", "--stage", "over=end+PT5M")  # fmt: skip
    assert event["starts_at"] == "2024-11-15T20:00:00-05:00"
    assert [(s["key"], s["anchor"], s["offset"], s["headline"]) for s in event["stages"]] == [
        ("soon", "start", "-PT15M", "Soon: it starts"),
        ("live", "start", "PT0S", ""),
        ("goal", "manual", "PT0S", ""),
        ("over", "end", "PT5M", ""),
    ]
    later = await answered(stagecue, "shift", "fight", "PT10M")
    assert later["starts_at"] == "2024-11-15T20:10:00-05:00"
    assert (await answered(stagecue, "shift", "fight", "-PT30S"))["starts_at"] == "2024-11-15T20:09:30-05:00"
    coming = (await answered(stagecue, "preview", "fight", "--until", "2024-11-16T01:00:00Z"))["items"]
    assert [item["due_at"] for item in coming if item["state_key"] == "soon"] == ["2024-11-15T19:54:30-05:00"]
    (sent,) = (await answered(stagecue, "cue", "fight", "goal"))["broadcasts"]
    assert sent["state_key"] == "goal"
    assert (await answered(stagecue, "reach", "fight"))["items"][0]["timestamp"] == sent["timestamp"]
    assert [e["action"] for e in (await answered(stagecue, "audit", "fight"))["items"]] == [
        "create", "shift", "shift", "cue"
    ]  # fmt: skip
    assert (await answered(stagecue, "cancel", "fight", "--yes"))["cancelled"] is True
    assert (await answered(stagecue, "show", "fight"))["cancelled"] is True


async def test_people_get_tables(stagecue):
    assert "Fight" in (await stagecue(*ADD)).stdout
    preview = (await stagecue("preview", "fight")).stdout
    assert "2024-11-15 19:45:00-05:00" in preview
    assert "Starting soon: Fight" in preview
    await stagecue("cue", "fight", "live")
    for command, words in {
        "list": ["fight", "America/New_York"],
        "show fight": ["event:fight", "starting_soon", "start -PT15M", "Coverage", "hold version 1"],
        "coverage fight": ["event:fight", "maps held"],
        "reach fight": ["subscribers", "live", "to nodes"],
        "audit fight": ["ann", "create"],
    }.items():
        result = await stagecue(*command.split())
        assert result.exit_code == 0, result.stderr
        for word in words:
            assert word in result.stdout, command


async def test_coverage_names_stages_added_late_and_the_refused_cue_names_the_way_round(stagecue, tmp_path):
    """Nobody is connected, so nobody can tell: the refusal says so, what is asked for, and the way round it."""
    event = tmp_path / "event.json"
    stages = [{"key": "live"}]
    fight = {"id": "fight", "title": "Fight", "starts_at": "2024-11-15T20:00:00Z", "coverage_threshold": 0.8}
    event.write_text(json.dumps(fight | {"stages": stages}))
    await answered(stagecue, "add", "--file", str(event))
    assert (await answered(stagecue, "coverage", "fight"))["items"][0]["late_stages"] == []
    await stagecue.change("fight", {"stages": [*stages, {"key": "overtime", "anchor": "manual"}]})
    found = await answered(stagecue, "coverage", "fight")
    (topic,) = found["items"]
    assert (found["version"], found["coverage_threshold"]) == (2, 0.8)
    assert (topic["subscribers"], topic["current"], topic["held"]) == (0, None, [])
    assert topic["late_stages"] == [{"stage": "overtime", "version": 2, "holders": 0, "share": None, "enough": False}]
    for command in ("show", "coverage"):
        shown = (await stagecue(command, "fight")).stdout
        assert "Stages added late" in shown
        assert "no: needs 80%, or --override-coverage" in shown
    refused = await stagecue("cue", "fight", "overtime")
    assert refused.exit_code == 1
    for words in ("stage: 'overtime' was added", "no device of event:fight", "at least 80%", "override_coverage"):
        assert words in refused.stderr
    (sent,) = (await answered(stagecue, "cue", "fight", "overtime", "--override-coverage"))["broadcasts"]
    assert sent["state_key"] == "overtime"


async def test_a_calendar_is_imported_and_what_was_refused_is_shown_by_line(stagecue):
    span = ["--from", "2024-01-01T00:00:00Z", "--until", "2026-12-31T00:00:00Z"]
    rough = str(SCHEDULES / "rough.ics")
    dry = await answered(stagecue, "import", rough, "--dry-run", *span)
    assert (len(dry["created"]), (await answered(stagecue, "list"))["items"]) == (5, [])
    result = await stagecue("import", rough, *span)
    assert result.exit_code == 0
    for words in ("Cup final", "Rejected", "Mars/Olympus_Mons", "an entry ends after it starts", "8 rejected"):
        assert words in result.stdout
    assert (await stagecue("import", rough, "--strict", *span)).exit_code == 1
    live = (SCHEDULES / "live-events.ics").read_bytes()
    assert len((await answered(stagecue, "import", "-", "--source", "night", *span, stdin=live))["created"]) == 6
    assert len((await answered(stagecue, "list", "--limit", "3", "--all"))["items"]) == 11


async def test_an_event_comes_from_a_file_and_options_win(stagecue, tmp_path):
    as_toml = tmp_path / "event.toml"
    as_toml.write_text(
        'id = "cup"\ntitle = "Cup"\nstarts_at = 2025-06-01T18:00:00Z\n[[stages]]\nkey = "live"\nheadline = "Live"\n'
    )
    assert (await answered(stagecue, "add", "--file", str(as_toml), "--title", "The Cup"))["title"] == "The Cup"
    as_json = tmp_path / "event.json"
    as_json.write_text(json.dumps({"id": "cup2", "title": "Cup", "starts_at": "2025-06-01T18:00:00Z"}))
    assert (await answered(stagecue, "add", "--file", str(as_json)))["id"] == "cup2"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["show", "nothing"], 1, ["id: no event", "not_found"]),
        (["add", "--id", "x", "--title", "X", "--starts", "2024-11-15T20:00:00"], 1, ["starts_at", "has no time zone"]),
        (["add", "--id", "x"], 2, ["--title", "--starts"]),
        ([*ADD, "--stage", "live@start"], 2, ["--stage", "key=anchor+offset"]),
        ([*ADD, "--stage", "live=start+15m"], 2, ["--stage"]),
        ([*ADD, "--stage", "live=start", "--stage", "soon=start-PT5M"], 1, ["stages[1].offset", "order"]),
        (["shift", "fight", "PT1Y"], 1, ["by:", "P"]),
        (["shift", "fight", "PT1M", "--if-revision", "9"], 1, ["at revision 1", "revision_conflict"]),
        (["cue", "fight", "nope"], 1, ["stage:", "unknown_stage"]),
        (["import", "no-such.ics"], 2, ["no-such.ics"]),
        (["import", __file__], 1, ["calendar:", "iCalendar"]),
        (["nonsense"], 2, ["nonsense"]),
        (["list", "--limit", "0"], 2, ["--limit"]),
        (["list", "--token", "forged"], 1, ["token", "unauthorized"]),
        (["list", "--url", "http://127.0.0.1:1"], 1, ["http://127.0.0.1:1", "stagecue up"]),
        (["list", "--url", "nonsense"], 2, ["--url"]),
    ],
)
async def test_an_error_says_what_to_change_on_standard_error(stagecue, arguments, exit_code, words):
    await stagecue(*ADD)
    result = await stagecue(*arguments)
    assert result.exit_code == exit_code
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr


async def test_without_a_token_both_ways_to_give_one_are_named(stagecue, tmp_path):
    result = await stagecue("list", env={"STAGECUE_DATA_DIR": str(tmp_path / "elsewhere")})
    assert result.exit_code == 1
    assert "STAGECUE_TOKEN" in result.stderr
    assert "--data-dir" in result.stderr


async def test_a_cancellation_asks_first(stagecue):
    await stagecue(*ADD)
    assert (await stagecue("cancel", "fight", stdin="n\n")).exit_code == 1
    assert (await answered(stagecue, "show", "fight"))["cancelled"] is False


async def test_a_hostile_title_cannot_paint_the_terminal(stagecue):
    added = await stagecue(*ADD, "--title", "\x1b[31mred[/] [bold]x[/bold]")
    assert added.exit_code == 0
    listed = (await stagecue("list")).stdout
    assert "\x1b" not in listed
    assert "[bold]x[/bold]" in listed


def test_help_is_quick_because_it_imports_no_http_and_no_tables():
    """Measured by what is imported, not by a watch: the heavy packages stay out until a command runs."""
    code = (
        "import sys; from stagecue.commands.event import event; "
        "print([m for m in ('httpx', 'rich', 'fastapi', 'icalendar', 'message_producer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
