"""`kill -9` at any instant loses no dispatched broadcast and never gives one a second timestamp (R1, R2, R8)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from contract.runtime.runner import Readiness, run_services
from contract.runtime.system_clock import SystemClock
from message_producer.app import open_producer
from message_producer.settings import ProducerSettings

SCRIPT = Path(__file__).with_name("producer_under_load.py")
FAILPOINTS = [
    "producer.dispatch.before_commit",
    "producer.dispatch.after_commit",
    "producer.schedule.before_commit",
    "producer.schedule.after_commit",
    "producer.publish.before_send",
    "producer.publish.after_send",
    "producer.publish.after_mark",
]
KILLS = int(os.environ.get("STAGECUE_KILLS", "2"))
"""Random instants; the nightly run asks for 50."""

pytestmark = pytest.mark.fault


def start(directory: Path, failpoint: str, skip: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(directory), failpoint, str(skip)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def run_until_killed(directory: Path, failpoint: str = "-", skip: int = 0, after_s: float | None = None) -> list[str]:
    """Lines the process printed before it died."""
    child = start(directory, failpoint, skip)
    limit = threading.Timer(after_s if after_s is not None else 15, child.kill)
    limit.start()
    try:
        out, _ = child.communicate(timeout=20)
        assert after_s is not None or limit.is_alive(), f"{failpoint} was never passed"
    finally:
        limit.cancel()
    assert child.returncode == -signal.SIGKILL, out
    # The last line may be cut off by the kill.
    return out.splitlines() if out.endswith("\n") else out.splitlines()[:-1]


def recover(directory: Path) -> None:
    """Live once more, until nothing is due and nothing waits to be published."""

    async def live() -> None:
        stop = asyncio.Event()
        settings = ProducerSettings(data_dir=directory)
        async with open_producer(settings, clock=SystemClock(), readiness=Readiness()) as producer:
            running = asyncio.create_task(run_services(producer.services, stop=stop))
            async with asyncio.timeout(10):
                while work_left(directory):  # noqa: ASYNC110 - another connection's view, on purpose
                    await asyncio.sleep(0.05)
            stop.set()
            await running

    asyncio.run(live())


def work_left(directory: Path) -> int:
    with contextlib.closing(sqlite3.connect(directory / "producer.db")) as database:
        counts = database.execute(
            "SELECT (SELECT count(*) FROM occurrences WHERE state = 'armed')"
            " + (SELECT count(*) FROM outbox WHERE published_at IS NULL)"
            " + (SELECT count(*) FROM schedule_outbox WHERE published_at IS NULL)"
        )
        return int(counts.fetchone()[0])


def check(directory: Path, lines: list[str]) -> int:
    """The log after recovery against what was said and heard before; returns how many broadcasts it holds."""
    with contextlib.closing(sqlite3.connect(directory / "producer.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = database.execute(
            "SELECT topic, timestamp, prev, state_key, arming, event_id, position FROM outbox ORDER BY timestamp, id"
        ).fetchall()
        events = {row[0] for row in database.execute("SELECT event_id FROM events")}
        waiting = database.execute("SELECT count(*) FROM schedule_outbox WHERE published_at IS NULL").fetchone()
        unsettled = database.execute(
            "SELECT count(*) FROM occurrences WHERE state = 'dispatched' AND NOT EXISTS"
            " (SELECT 1 FROM outbox o WHERE o.topic = occurrences.topic AND o.timestamp = occurrences.timestamp)"
        ).fetchone()
    assert waiting == (0,)
    assert unsettled == (0,), "an occurrence is marked dispatched without its broadcast"
    tails: dict[str, tuple[int, int]] = {}
    for topic, timestamp, prev, _, _, _, position in rows:
        assert position is not None, "a dispatched broadcast was not published"
        tail, at = tails.get(topic, (0, 0))
        assert prev == tail, "the chain is broken (R8)"
        assert position > at, "published out of order (R2)"
        tails[topic] = (timestamp, position)
    assert len({(row[5], row[1]) for row in rows}) == len(rows), "a timestamp was given out twice (R1)"
    assert len({(row[0], row[3], row[4]) for row in rows}) == len(rows), "an occurrence went out twice (R2)"
    known = {(row[0], row[1], row[3]) for row in rows}
    placed = {(row[6], row[0], row[1], row[3]) for row in rows}
    for line in lines:
        match line.split():
            case ["said", "created", event_id]:
                assert event_id in events
            case ["said", "broadcast", topic, timestamp, key]:
                assert (topic, int(timestamp), key) in known
            case ["heard", position, topic, timestamp, key]:
                assert (int(position), topic, int(timestamp), key) in placed
    return len(rows)


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_killed_at_a_failpoint(tmp_path: Path, failpoint: str) -> None:
    lines = run_until_killed(tmp_path, failpoint, 7)
    recover(tmp_path)
    assert check(tmp_path, lines) > 3


@pytest.mark.timeout(300)
def test_killed_at_random_instants(tmp_path: Path) -> None:
    rng = random.Random(20241115)
    lines: list[str] = []
    for _ in range(KILLS):  # each life meets what the one before left behind
        lines += run_until_killed(tmp_path, after_s=rng.uniform(0.5, 1.6))
    recover(tmp_path)
    check(tmp_path, lines)  # how many were dispatched depends on the instants; that none is lost does not
