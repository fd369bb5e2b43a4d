"""cluster.json, what a killed cluster left behind, and what status says: no server needed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.requirements import missing_programs
from loadtest.cluster.status import ClusterStatus, MemberAddress, MemberStatus, ask_members, shown
from stagecue.cli import cli
from stagecue.cluster.screen import status_view
from stagecue.cluster.state import ClusterState, claim, read_state, write_state


def state_of(directory: Path, *pids: int, supervisor_pid: int = 1) -> ClusterState:
    members = tuple(
        MemberAddress(name=f"push-{n}", role="push", url="http://127.0.0.1:9", pid=pid) for n, pid in enumerate(pids)
    )
    return ClusterState(
        supervisor_pid=supervisor_pid, directory=str(directory), members=members, operator_token_file="t"
    )


def test_the_file_is_the_owners_alone_and_read_as_written(tmp_path: Path) -> None:
    state = state_of(tmp_path, 7)
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    assert (tmp_path / "cluster.json").stat().st_mode & 0o777 == 0o600


def test_no_cluster_and_a_damaged_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CouldNotRun, match="no cluster was started"):
        read_state(tmp_path)
    (tmp_path / "cluster.json").write_text("{")
    with pytest.raises(CouldNotRun, match="cannot be read"):
        read_state(tmp_path)
    assert claim(tmp_path) == 0


def test_only_a_member_that_works_in_the_directory_is_ended(tmp_path: Path) -> None:
    """Process ids are given out again: a stranger with a remembered id is left alone, wherever it works."""
    inside, outside = tmp_path / "night", tmp_path / "elsewhere"
    inside.mkdir()
    outside.mkdir()
    member_like = [sys.executable, "-c", "import time; time.sleep(60)", "stagecue"]
    stranger = [sys.executable, "-c", "import time; time.sleep(60)"]
    started = [
        subprocess.Popen(member_like, cwd=inside),
        subprocess.Popen(stranger, cwd=inside),
        subprocess.Popen(member_like, cwd=outside),
    ]
    try:
        write_state(inside, state_of(inside, *(one.pid for one in started), supervisor_pid=started[1].pid))
        assert claim(inside) == 1
        assert started[0].wait(5) == -9
        assert [one.poll() for one in started[1:]] == [None, None]
    finally:
        for one in started:
            one.kill()
            one.wait()


def test_a_cluster_that_runs_is_not_taken_over(tmp_path: Path) -> None:
    running = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "cluster", "up"])
    try:
        until_s = time.monotonic() + 10
        while not Path(f"/proc/{running.pid}/cmdline").read_bytes() and time.monotonic() < until_s:
            time.sleep(0.001)  # for a moment after its exec a process has no command line
        write_state(tmp_path, state_of(tmp_path, supervisor_pid=running.pid))
        with pytest.raises(CouldNotRun, match=f"process {running.pid}"):
            claim(tmp_path)
    finally:
        running.kill()
        running.wait()


def member(name: str, *, answers: bool = True, ready: bool = True, **detail: object) -> MemberStatus:
    role = name.partition("-")[0]
    failing = {} if ready else {"kv": "away"}
    return MemberStatus(
        name=name, role=role, url=f"http://{name}:1", answers=answers, ready=ready, failing=failing, detail=detail
    )


@pytest.mark.parametrize(
    ("members", "problems"),
    [
        ([member("producer-0", leads=True), member("producer-1", leads=False)], []),
        ([member("producer-0", leads=False)], ["no producer says it leads"]),
        ([member("producer-0", leads=True), member("producer-1", leads=True)],
         ["producer-0 and producer-1 says it leads"]),
        ([member("push-0", answers=False)], ["push-0 does not answer at http://push-0:1"]),
        ([member("push-0", ready=False)], ["push-0 is not ready: kv: away"]),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_is_a_line_each(members: list[MemberStatus], problems: list[str]) -> None:
    status = ClusterStatus(members=tuple(members))
    assert list(status.problems) == problems
    assert status.healthy is (problems == [])


def test_the_table_says_who_leads_lags_and_holds_what() -> None:
    partitions = {str(number): {"committed": 1, "in_flight": 0} for number in (0, 1, 2, 5, 1_000_000)}
    status = ClusterStatus(
        members=(
            member("producer-0", leads=True, epoch=7),
            member("router-0", partitions=partitions, lag=12, links=3, behind=["push-2"], interest={"topics": 20}),
            member("push-0", connections=500, topics=20, routers=2, open_holes=1),
        )
    )
    out = StringIO()
    Console(file=out, width=120).print(status_view(status))
    for words in ("leads, epoch 7", "partitions 0-2,5,", "lag 12", "behind: push-2", "500 connections", "1 open holes"):
        assert words in out.getvalue()


async def test_members_that_do_not_answer_are_said_to_be_silent_not_waited_for() -> None:
    nobody = [
        MemberAddress(name="push-0", role="push", url="http://127.0.0.1:9"),
        MemberAddress(name="redis", role="redis", url="redis://:sesame@127.0.0.1:9"),
        MemberAddress(name="postgres", role="postgres", url="postgresql+psycopg://me:sesame@127.0.0.1:9/x"),
    ]
    async with asyncio.timeout(15):
        status = await ask_members(nobody, within_s=2.0)
    assert not any(one.ready for one in status.members)
    assert "sesame" not in json.dumps([one.url for one in status.members])


def test_addresses_are_shown_without_their_passwords() -> None:
    assert shown("postgresql+psycopg://me:sesame@h:5/x") == "postgresql+psycopg://h:5/x"
    assert shown("http://127.0.0.1:8400") == "http://127.0.0.1:8400"


def test_status_without_a_cluster_says_how_to_start_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["cluster", "status", "--directory", str(tmp_path)])
    assert result.exit_code == 2
    assert f"stagecue cluster up --directory {tmp_path}" in result.output


def test_everything_missing_is_named_at_once_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started, nothing written."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert any("apt-get install openjdk-17-jre-headless" in line for line in missing_programs())
    ended = subprocess.run(
        [sys.executable, "-m", "stagecue", "cluster", "up", "--directory", str(tmp_path / "night")],
        capture_output=True, text=True, timeout=30, env={**os.environ, "PATH": str(tmp_path)},
    )  # fmt: skip
    assert ended.returncode == 2
    assert "java is missing" in ended.stderr
    assert "redis-server is missing" in ended.stderr
    assert not (tmp_path / "night").exists()
