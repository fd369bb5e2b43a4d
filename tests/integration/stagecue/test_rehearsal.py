"""A rehearsal on a running system: every simulated device gets every stage, and no real one notices anything."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Any

import httpx
import pytest
from system_support import FAST, now_ms, operator, rfc3339

from loadtest.bench.report import Reporter
from loadtest.bench.system import EmbeddedSystem
from loadtest.gameday.rehearsal import Rehearsal, RehearsalPlan
from loadtest.report.files import read_record, write_report
from loadtest.report.record import RunRecord

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

HOME = '{ prefetchHome(profileId: "p-1", within: "P3D") { event { id title } version revision byKey } }'
FIGHT: dict[str, Any] = {
    "id": "fight",
    "title": "The fight",
    "stages": [
        {"key": "upcoming", "offset": "-P1D", "headline": "Tonight"},
        {"key": "soon", "offset": "-PT15M", "headline": "Starting soon"},
        {"key": "live", "headline": "Live now"},
        {"key": "extra", "anchor": "manual"},
        {"key": "ended", "anchor": "end"},
    ],
    "audiences": [{"name": "all"}, {"name": "west", "regions": ["US"], "offsets": {"live": "PT30M"}}],
}


async def create_fight(api: httpx.AsyncClient) -> None:
    starts = now_ms() + 3_600_000
    body = {**FIGHT, "starts_at": rfc3339(starts), "ends_at": rfc3339(starts + 7_200_000)}
    answer = await api.post("/v1/events", json=body)
    assert answer.status_code == 201, answer.text
    for _ in range(200):
        if len((await api.get("/v1/events/fight/broadcasts")).json()["items"]) == 2:  # upcoming, overdue
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the overdue stage did not go out")


async def home(system: EmbeddedSystem) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(trust_env=False) as device:
        answer = await device.post(system.addresses.dgs + "/graphql", json={"query": HOME})
        found: list[dict[str, Any]] = answer.json()["data"]["prefetchHome"]
        return found


def command(system: EmbeddedSystem, *words: str) -> list[str]:
    return [sys.executable, "-m", "stagecue", *words, "--dgs", system.addresses.dgs]


def rehearse_command(system: EmbeddedSystem, *words: str) -> list[str]:
    where = ("--producer", system.addresses.producer, "--data-dir", str(system.data_dir))
    return command(system, "gameday", "rehearse", "--event", "fight", *where, *words)


async def shadows(api: httpx.AsyncClient) -> list[dict[str, Any]]:
    listed = (await api.get("/v1/events?shadows=true")).json()["items"]
    return [event for event in listed if event["shadow_of"] is not None]


async def rehearsed(system: EmbeddedSystem, output: Path) -> RunRecord:
    plan = RehearsalPlan(
        event_id="fight",
        producer_url=system.addresses.producer,
        operator_token=system.addresses.operator_token,
        dgs_url=system.addresses.dgs,
        devices=24,
        over_ms=4_000,
        connect_over_s=0.5,
        lead_ms=1_000,
    )
    rehearsal = Rehearsal(plan, output=output, reporter=Reporter(as_json=True))
    await rehearsal.run()
    record = rehearsal.record(partial=False)
    write_report(record, output)
    return record


async def test_simulated_devices_get_every_stage_and_a_real_one_nothing(tmp_path: Path) -> None:
    async with EmbeddedSystem(tmp_path / "system", environment=FAST) as system, operator(system) as api:
        await create_fight(api)
        # One real device beside it: the command a device team starts.
        real = await asyncio.create_subprocess_exec(
            *command(system, "device", "--event", "fight", "--profile", "p-1", "--json"), stdout=PIPE, stdin=DEVNULL
        )
        assert real.stdout is not None
        try:
            told = [json.loads(await real.stdout.readline())]
            while told[-1].get("cause") != "continuity":
                told.append(json.loads(await real.stdout.readline()))
            before, home_before = (await api.get("/v1/events/fight")).json(), await home(system)
            rehearsing = asyncio.create_task(rehearsed(system, tmp_path / "report"))
            while not rehearsing.done():
                assert [each["event"] for each in await home(system)] == [{"id": "fight", "title": "The fight"}]
                await asyncio.wait({rehearsing}, timeout=0.5)
            record = await rehearsing
            coverage = (await api.get("/v1/events/fight/coverage")).json()["items"]
        finally:
            real.send_signal(signal.SIGINT)
            rest = [json.loads(line) for line in (await real.stdout.read()).splitlines()]
            assert await real.wait() == 0
        measured = {bar.name: bar.measured for bar in record.bars}
        last_s = measured.pop("last_s")
        assert measured == dict.fromkeys(measured, 0), record
        assert last_s is not None
        # `live` has two moments, one for each audience.
        assert [(each.state_key.partition(" ")[0], each.missed) for each in record.reach] == [
            ("upcoming", 0), ("upcoming", 0), ("soon", 0), ("soon", 0), ("live", 0), ("live", 0),
            ("ended", 0), ("ended", 0),
        ]  # fmt: skip
        assert {each.devices for each in record.reach if "@west" not in each.state_key}.isdisjoint({0})
        assert record.verdict == "held", record.envelope
        assert read_record(tmp_path / "report").answer == record.answer

        assert [line["what"] for line in rest] in (["window", "connection"], ["connection"]), rest
        after = (await api.get("/v1/events/fight")).json()
        assert after == before
        assert await home(system) == home_before or [each["revision"] for each in await home(system)] == [1]
        assert sorted(item["subscribers"] for item in coverage) == [0, 1]
        reach = (await api.get("/v1/events/fight/reach")).json()["items"]
        assert {item["state_key"] for item in reach} == {"upcoming"}
        assert sum(item["written"] + item["replayed"] for item in reach) <= 1
        assert [event["id"] for event in (await api.get("/v1/events")).json()["items"]] == ["fight"]
        assert [event["cancelled"] for event in await shadows(api)] == [True]


async def refused(system: EmbeddedSystem, words: str, told: str) -> None:
    given = [*rehearse_command(system), *words.split()]  # the last of an option repeated is the one that counts
    done = await asyncio.create_subprocess_exec(*given, stderr=PIPE, stdout=PIPE)
    out, err = await done.communicate()
    assert (done.returncode, out) == (2, b"")
    assert told in " ".join(err.decode().split())


async def test_what_cannot_be_leaves_nothing_behind_and_cut_short_it_ends_the_shadow_and_keeps_what_it_has(
    tmp_path: Path,
) -> None:
    async with EmbeddedSystem(tmp_path / "system", environment=FAST) as system, operator(system) as api:
        await create_fight(api)
        refusing = asyncio.gather(
            refused(system, "--event nobody", "no event 'nobody'"),
            refused(system, "--over 1s", "over: comes to 1 s"),
            refused(system, "--dgs http://127.0.0.1:1", "the DGS at http://127.0.0.1:1 serves no maps"),
        )
        output = tmp_path / "report"
        words = ("--devices", "4", "--over", "60s", "--output", str(output))
        playing = await asyncio.create_subprocess_exec(*rehearse_command(system, *words), stderr=PIPE, stdout=DEVNULL)
        killed = await asyncio.create_subprocess_exec(*rehearse_command(system, *words), stderr=PIPE, stdout=DEVNULL)
        assert playing.stderr is not None
        assert killed.stderr is not None
        while b"stages in" not in await playing.stderr.readline():
            pass
        playing.send_signal(signal.SIGINT)
        while b"shadow event" not in await killed.stderr.readline():
            pass
        killed.kill()
        await asyncio.gather(playing.communicate(), killed.communicate(), refusing)
        assert playing.returncode == 1
        record = read_record(output)
        assert record.verdict == "partial"
        assert "interrupted" in record.answer
        # Of those that were refused there is none.
        found = await shadows(api)
        assert sorted(event["cancelled"] for event in found) == [False, True]
        # What nobody could end is over by itself.
        (left,) = (event for event in found if not event["cancelled"])
        last_due = max(item["due_at_ms"] for item in left["occurrences"] if item["due_at_ms"])
        assert last_due <= now_ms() + 600_000 + 60_000
