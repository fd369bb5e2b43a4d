"""The supervisor of push workers with real processes that are no nodes: what it does when they die, fail and dawdle."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from contract.errors import InvalidRequest
from contract.runtime.runner import StopIncomplete
from loadtest.bench.system import free_port_base
from stagecue.apart import push_workers, restarts
from stagecue.apart.lifecycle import ServiceAddress
from stagecue.apart.push_workers import run_push_workers
from stagecue.settings import InstallationSettings

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]

PROLOGUE = """
import os, sys, time
from stagecue.apart.lifecycle import ServiceAddress
from stagecue.apart.worker_talk import WorkerEnded, WorkerReady, encode_report, read_order
order = read_order(0)
def say(report): os.write(1, encode_report(report))
def ready():
    say(WorkerReady(ServiceAddress(service="push", address="ws://x", data_dir="d", node=f"n-w{order.index}", pages="p",
        link="l")))
def stopped(): return os.read(0, 64)
"""


class Supervisor:
    """`run_push_workers` as a task, with a script in place of a worker; `starts` names who was started, in order."""

    def __init__(self, folder: Path, script: str, *, workers: int = 2, stop_deadline_s: float = 5.0) -> None:
        self.stop = asyncio.Event()
        self.announced: list[ServiceAddress] = []
        self._starts = folder / "starts"
        self._starts.touch()
        noted = f"open({str(self._starts)!r}, 'a').write(f'{{order.index}} {{os.getpid()}}\\n')\n"
        worker = folder / "worker.py"
        worker.write_text(PROLOGUE + noted + textwrap.dedent(script))
        self.settings = InstallationSettings(
            data_dir=folder,
            port_base=free_port_base(),
            worker_port_base=20_000,
            push_workers=workers,
            stop_deadline_s=stop_deadline_s,
        )
        self._command = (sys.executable, str(worker))

    def begin(self) -> asyncio.Task[None]:
        async def announce(address: ServiceAddress) -> None:
            self.announced.append(address)

        return asyncio.create_task(
            run_push_workers(self.settings, "redis://nobody", self.stop, announce, command=self._command)
        )

    @property
    def starts(self) -> list[tuple[int, int]]:
        """(worker, process) of every start so far."""
        lines = self._starts.read_text().splitlines()
        return [(int(index), int(pid)) for index, pid in (line.split() for line in lines)]


@pytest.fixture(autouse=True)
def _from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts elsewhere import what the tests import; pauses are short."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setattr(restarts, "FIRST_S", 0.02)
    monkeypatch.setattr(restarts, "CAP_S", 0.1)
    monkeypatch.setattr(push_workers, "_STOP_MARGIN_S", 0.2)


async def until(condition: Callable[[], object | Awaitable[object]], what: str, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        if await found if isinstance(found, Awaitable) else found:
            return
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_dead_worker_is_replaced_and_the_others_are_left_alone(tmp_path: Path) -> None:
    """Announced once, when all were ready; a kill -9 costs one process; a stop ends all."""
    one = Supervisor(tmp_path, "ready(); stopped()")
    running = one.begin()
    await until(lambda: one.announced, "all are ready")
    assert sorted(index for index, _ in one.starts) == [0, 1]
    assert [worker.node for worker in one.announced[0].workers] == ["n-w0", "n-w1"]
    first = dict(one.starts)
    os.kill(first[0], signal.SIGKILL)
    await until(lambda: len(one.starts) == 3, "it is replaced")
    assert one.starts[2][0] == 0
    assert alive(first[1])
    one.stop.set()
    await running
    assert len(one.announced) == 1
    assert not any(alive(pid) for _, pid in one.starts)


async def test_a_worker_that_ends_again_and_again_is_tried_on_while_it_served_once(tmp_path: Path) -> None:
    """More often than a worker that never served would be."""
    one = Supervisor(tmp_path, "ready(); stopped() if order.index else time.sleep(0.01)")
    running = one.begin()
    await until(lambda: len(one.starts) > restarts.ATTEMPTS + 3, "it is tried on")
    assert [index for index, _ in one.starts].count(1) == 1
    one.stop.set()
    await running


async def test_a_stop_does_not_wait_for_a_worker_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its end and its next start: a clean stop, since nothing is left undrained."""
    monkeypatch.setattr(restarts, "FIRST_S", 600.0)
    monkeypatch.setattr(restarts, "CAP_S", 600.0)
    one = Supervisor(tmp_path, "ready(); stopped()")
    running = one.begin()
    await until(lambda: one.announced, "all are ready")
    said: list[str] = []
    monkeypatch.setattr(push_workers, "_log", SimpleNamespace(error=lambda event, **_: said.append(event)))
    os.kill(dict(one.starts)[0], signal.SIGKILL)
    await until(lambda: said == ["worker_ended"], "its end is known")
    one.stop.set()
    await running
    assert len(one.starts) == 2


async def test_a_worker_that_dies_at_every_start_ends_all_with_code_1(tmp_path: Path) -> None:
    """StopIncomplete is exit code 1; the worker that could be started is not left behind."""
    one = Supervisor(tmp_path, "sys.exit(7) if order.index else (ready(), stopped())")
    with pytest.raises(StopIncomplete, match=f"worker 1 ended with code 7: {restarts.ATTEMPTS} starts"):
        await one.begin()
    indexes = [index for index, _ in one.starts]
    assert (indexes.count(0), indexes.count(1)) == (1, restarts.ATTEMPTS)
    assert not one.announced
    assert not any(alive(pid) for _, pid in one.starts)


async def test_what_a_person_must_mend_is_told_once_in_the_workers_words(tmp_path: Path) -> None:
    """InvalidRequest is exit code 2, and there is no second start."""
    one = Supervisor(tmp_path, "say(WorkerEnded(('ping_s: too small', 'drain_s: too large'))); sys.exit(2)")
    with pytest.raises(InvalidRequest, match="ping_s: too small; drain_s: too large"):
        await one.begin()
    assert len({index for index, _ in one.starts}) == len(one.starts)
    assert not any(alive(pid) for _, pid in one.starts)


async def test_noise_on_a_workers_output_is_ignored(tmp_path: Path) -> None:
    """Whatever a library prints, and more than a line may hold, neither is a report nor blocks the worker."""
    one = Supervisor(tmp_path, "os.write(1, b'hello\\n' + b'x' * 300_000 + b'\\n'); ready(); stopped()")
    running = one.begin()
    await until(lambda: one.announced, "the reports behind it are heard")
    one.stop.set()
    await running


async def test_a_worker_that_does_not_stop_is_cut_off(tmp_path: Path) -> None:
    """After its deadline and a margin: SIGKILL, and the end is not called a clean one."""
    one = Supervisor(tmp_path, "ready(); time.sleep(60)", workers=2, stop_deadline_s=0.1)
    running = one.begin()
    await until(lambda: one.announced, "all are ready")
    one.stop.set()
    with pytest.raises(StopIncomplete, match="worker 0 was killed by signal 9, worker 1 was killed by signal 9"):
        await running
    assert not any(alive(pid) for _, pid in one.starts)


async def test_a_stop_before_anybody_is_ready_is_a_clean_end(tmp_path: Path) -> None:
    one = Supervisor(tmp_path, "stopped()")
    running = one.begin()
    await until(lambda: len(one.starts) == 2, "all were started")
    one.stop.set()
    await running
    assert not one.announced


async def test_a_taken_device_port_is_told_before_anything_starts(tmp_path: Path) -> None:
    """By somebody who does not share it."""
    one = Supervisor(tmp_path, "stopped()")
    taken = f"cannot listen on 127.0.0.1:{one.settings.push_port}"
    with socket.create_server(("127.0.0.1", one.settings.push_port)), pytest.raises(OSError, match=taken):
        await one.begin()
    assert one.starts == []
