"""Push workers without a process: when one is started again, whose room they know, which ports they get."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from push_proxy.siblings import NO_SIBLINGS
from stagecue.apart.lifecycle import ServiceAddress, WorkerAddress
from stagecue.apart.restarts import (
    ATTEMPTS,
    CAP_S,
    EXPLAINED_CODE,
    FIRST_S,
    PROVEN_AFTER_S,
    GiveUp,
    RestartAfter,
    Restarts,
)
from stagecue.apart.siblings import SharedRoom
from stagecue.apart.worker_talk import (
    STOP,
    WorkerEnded,
    WorkerOrder,
    WorkerReady,
    decode_report,
    encode_order,
    encode_report,
    read_order,
)
from stagecue.cli import cli
from stagecue.settings import InstallationSettings

ROOT = Path(__file__).parents[3]


def longest() -> float:
    """A draw that makes every pause its longest."""
    return 1.0


# When a worker is started again.


def pauses(restarts: Restarts, count: int, *, lived_s: float = 0.1) -> list[float]:
    found = [restarts.ended(-9, lived_s=lived_s, ever_served=True) for _ in range(count)]
    return [each.pause_s for each in found if isinstance(each, RestartAfter)]


def test_a_worker_that_served_is_brought_back_for_ever_with_growing_pauses() -> None:
    found = pauses(Restarts(longest), 200)
    assert len(found) == 200
    assert found[:4] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]
    assert found == sorted(found)
    assert found[-1] == CAP_S


def test_a_worker_that_lived_a_while_is_brought_back_soon() -> None:
    restarts = Restarts(longest)
    assert pauses(restarts, 6)[-1] == CAP_S
    assert pauses(restarts, 1, lived_s=PROVEN_AFTER_S - 1) == [CAP_S]
    assert pauses(restarts, 2, lived_s=PROVEN_AFTER_S) == [FIRST_S, FIRST_S]


def test_what_a_person_must_mend_is_not_tried_twice() -> None:
    assert isinstance(Restarts(longest).ended(EXPLAINED_CODE, lived_s=0.5, ever_served=False), GiveUp)


def test_settings_that_were_good_once_are_tried_on() -> None:
    """A worker that served, and now finds a port taken: others serve, and the port may be free again."""
    assert isinstance(Restarts(longest).ended(EXPLAINED_CODE, lived_s=0.5, ever_served=True), RestartAfter)


@pytest.mark.parametrize("code", [1, -11])
def test_a_worker_that_dies_at_every_start_is_given_up(code: int) -> None:
    restarts = Restarts(longest)
    verdicts = [restarts.ended(code, lived_s=0.2, ever_served=False) for _ in range(ATTEMPTS)]
    assert [type(verdict) for verdict in verdicts] == [RestartAfter] * (ATTEMPTS - 1) + [GiveUp]
    assert str(code) in str(verdicts[-1])


# Whose room they know.


class Time:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def rooms(workers: int, time: Time) -> Iterator[tuple[SharedRoom, list[SharedRoom]]]:
    """The supervisor's mapping and every worker's, of one file."""
    fd = SharedRoom.create_file(workers)
    supervisor = SharedRoom(fd, workers=workers, index=None, monotonic_s=time)
    own = [SharedRoom(fd, workers=workers, index=index, monotonic_s=time) for index in range(workers)]
    os.close(fd)
    try:
        yield supervisor, own
    finally:
        for room in (supervisor, *own):
            room.close()


def test_a_worker_knows_the_room_of_the_others_and_not_its_own() -> None:
    with rooms(3, Time()) as (_, (one, two, three)):
        assert [room.room() for room in (one, two, three)] == [False] * 3, "nobody has said anything"
        two.publish(10, 100)
        assert [room.room() for room in (one, two, three)] == [True, False, True]
        two.publish(100, 100)
        assert not one.room(), "full"
        three.publish(0, 0)
        assert not one.room(), "draining"
        three.publish(99, 100)
        assert [room.room() for room in (one, two, three)] == [True, True, False]


def test_who_is_not_heard_of_has_no_room() -> None:
    """A frozen worker still holds its listener: nobody is sent to try it."""
    time = Time()
    with rooms(2, time) as (_, (one, two)):
        two.publish(0, 100)
        time.now_s += 2.9
        assert one.room()
        time.now_s += 0.2
        assert not one.room()
        two.publish(0, 100)
        assert one.room()


def test_the_dead_have_no_room() -> None:
    with rooms(2, Time()) as (supervisor, (one, two)):
        two.publish(0, 100)
        assert one.room()
        supervisor.clear(1)
        assert not one.room()


def test_no_number_of_connections_breaks_a_slot() -> None:
    with rooms(2, Time()) as (_, (one, two)):
        two.publish(2**40, 2**50)
        assert not one.room()
        two.publish(0, -5)
        assert not one.room()


def test_a_node_alone_has_no_siblings() -> None:
    NO_SIBLINGS.publish(1, 100)
    assert not NO_SIBLINGS.room()


# What supervisor and worker say to each other.


def order() -> WorkerOrder:
    return WorkerOrder(
        index=1,
        workers=2,
        siblings_fd=7,
        kv_url="redis://:sesame@kv:6379",
        settings={"data_dir": "x", "port_base": 9000},
    )


def test_an_order_arrives_whole_and_leaves_what_comes_after_it() -> None:
    """A stop may stand right behind it in the pipe."""
    reading, writing = os.pipe()
    try:
        os.write(writing, encode_order(order()) + STOP)
        assert read_order(reading) == order()
        assert os.read(reading, 100) == STOP
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("cut", [0, 3, 20])
def test_an_order_that_breaks_off_is_none(cut: int) -> None:
    """The supervisor died while it spoke."""
    reading, writing = os.pipe()
    os.write(writing, encode_order(order())[:cut])
    os.close(writing)
    try:
        assert read_order(reading) is None
    finally:
        os.close(reading)


def test_an_order_carries_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was given wins over the environment that the worker inherits."""
    monkeypatch.setenv("STAGECUE_PORT_BASE", "7000")
    assert order().installation().port_base == 9000


def test_reports_are_lines_and_other_lines_are_none() -> None:
    address = ServiceAddress(service="push", address="ws://x", data_dir="d", node="n-w0", pages="http://x", link="l")
    for report in (WorkerReady(address), WorkerEnded(("one\nthing", "another"))):
        line = encode_report(report)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert decode_report(line) == report
    assert decode_report(b"hello from a library\n") is None


# Ports and settings.


def test_workers_have_ports_of_their_own() -> None:
    settings = InstallationSettings(port_base=8400, push_workers=3)
    ports = [(settings.worker_pages_port(index), settings.worker_link_port(index)) for index in range(3)]
    assert ports == [(8500, 8501), (8502, 8503), (8504, 8505)]
    elsewhere = InstallationSettings(port_base=8400, push_workers=2, worker_port_base=9100)
    assert [elsewhere.worker_pages_port(1), elsewhere.worker_link_port(1)] == [9102, 9103]


def test_what_leases_tell_rises_with_the_ports() -> None:
    settings = InstallationSettings(push_workers=3, link_told="10.0.0.7:9001")
    assert [settings.worker_link_told(index) for index in range(3)] == [
        "10.0.0.7:9001",
        "10.0.0.7:9003",
        "10.0.0.7:9005",
    ]
    assert InstallationSettings(push_workers=3).worker_link_told(1) is None


@pytest.mark.parametrize("base", [8397, 8399, 8404])
def test_ports_that_meet_are_refused(base: int) -> None:
    """Of the workers, with the producer's, the DGS's, the devices' or the router's."""
    with pytest.raises(ValueError, match="worker_port_base: ports"):
        InstallationSettings(port_base=8400, push_workers=2, worker_port_base=base)


def test_the_highest_ports_exist() -> None:
    highest = InstallationSettings(port_base=65_000, push_workers=128)
    assert highest.worker_link_port(127) == 65_355
    with pytest.raises(ValueError, match="worker_port_base"):
        InstallationSettings(worker_port_base=65_001)


def test_one_worker_needs_none_of_these_ports() -> None:
    assert InstallationSettings(port_base=8400, push_workers=1, worker_port_base=8404).push_workers == 1


@pytest.mark.parametrize("count", ["0", "129", "two"])
def test_a_wrong_count_is_one_line(count: str) -> None:
    result = CliRunner().invoke(cli, ["push", "--kv", "redis://x", "--workers", count])
    assert result.exit_code == 2
    assert "--workers" in result.output


def test_a_wrong_count_in_the_environment_names_the_setting() -> None:
    result = CliRunner().invoke(cli, ["push", "--kv", "redis://x"], env={"STAGECUE_PUSH_WORKERS": "0"})
    assert result.exit_code == 2
    assert "push_workers: " in result.output


def test_the_supervisor_loads_no_service() -> None:
    """It is there for the workers' sake and holds no memory for what it does not do."""
    code = "import sys, stagecue.apart.push_workers; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    loaded = set(out.split())
    assert loaded.isdisjoint(
        {"push_proxy", "redis", "websockets", "httptools", "prometheus_client", "jwt", "starlette"}
    )


def test_the_ready_line_lists_workers_only_where_there_are_some() -> None:
    import msgspec

    one = ServiceAddress(service="push", address="ws://x", data_dir="d", link="l")
    assert "workers" not in msgspec.to_builtins(one)
    workers = (WorkerAddress(node="n-w0", pages="http://x:1", link="x:2"),)
    two = ServiceAddress(service="push", address="ws://x", data_dir="d", workers=workers)
    assert list(msgspec.to_builtins(two)["workers"]) == [{"node": "n-w0", "pages": "http://x:1", "link": "x:2"}]
