"""Goal: a machine too small says how many devices would fit and exactly what to set; nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.machine import MachineFacts, Shape, fit, read_machine
from loadtest.machine.kernel_settings import kernel_settings

GIB = 1 << 30
LARGE = MachineFacts(
    cores=2,
    memory_bytes=24 * GIB,
    memory_available_bytes=22 * GIB,
    files_per_process=20_000,
    files_max=2_466_183,
    processes_max=32_768,
    port_range=(32_768, 60_999),
    tracked_max=2_300_000,
    tcp_pages_max=1_200_000,
    backlog_max=4_096,
    epoll_watches_max=5_491_533,
)


def changed(**settings: object) -> MachineFacts:
    return msgspec.structs.replace(LARGE, **settings)


def test_a_million_devices_fit_a_machine_set_for_them() -> None:
    found = fit(LARGE, 1_000_000)
    assert found.held
    assert found.lines() == []
    assert found.sysctls == []
    assert found.fits >= 1_000_000


def test_a_million_devices_take_so_many_nodes_that_one_may_die() -> None:
    shape = Shape()
    nodes = shape.nodes(1_000_000, 20_000)
    assert (nodes - 1) * shape.per_node(20_000) >= 1_000_000
    assert shape.fleets(1_000_000, 20_000) * shape.per_fleet(20_000) >= 1_000_000


def test_a_table_of_tracked_connections_left_as_it_was_says_what_to_set() -> None:
    """The default of 262,144 holds 119,156 devices, and the line printed is the one to type."""
    found = fit(changed(tracked_max=262_144), 1_000_000)
    assert not found.held
    assert found.fits == 119_156
    assert found.sysctls == ["net.netfilter.nf_conntrack_max=2300000"]
    assert "  sysctl -w net.netfilter.nf_conntrack_max=2300000" in found.lines()
    assert "119156 would" in found.lines()[0]


def test_where_connections_are_not_tracked_nothing_is_asked_for() -> None:
    assert fit(changed(tracked_max=None), 1_000_000).held


def test_listeners_inside_the_range_of_outgoing_ports_are_refused_at_any_number() -> None:
    found = fit(changed(port_range=(1_024, 60_999)), 100)
    assert not found.held
    assert found.fits == 0
    assert '  sysctl -w net.ipv4.ip_local_port_range="32768 60999"' in found.lines()


def test_a_narrow_range_of_ports_bounds_a_client_process_by_its_addresses() -> None:
    narrow = changed(port_range=(40_000, 40_999))
    assert not fit(narrow, 50_000, Shape(addresses_per_fleet=10)).held
    assert fit(narrow, 50_000, Shape(addresses_per_fleet=20)).held


def test_a_value_of_several_numbers_stands_in_quotes() -> None:
    (line,) = [line for line in fit(changed(tcp_pages_max=100_000), 1_000_000).lines() if "sysctl" in line]
    assert line == '  sysctl -w net.ipv4.tcp_mem="250000 312500 375000"'


def test_few_files_make_more_processes_rather_than_no_run() -> None:
    few = changed(files_per_process=1_024)
    shape = Shape()
    assert shape.per_node(1_024) < 824
    assert shape.nodes(10_000, 1_024) == -(-10_000 // shape.per_node(1_024)) + 1
    assert fit(few, 10_000).held


def test_memory_that_others_use_is_not_there() -> None:
    found = fit(changed(memory_available_bytes=4 * GIB), 1_000_000)
    (line,) = [line for line in found.lines() if "memory:" in line]
    assert "4.0 GiB available" in line
    assert 0 < found.fits < 300_000


def test_no_devices_are_no_question() -> None:
    with pytest.raises(ValueError, match="at least one"):
        fit(LARGE, 0)


@given(
    devices=st.integers(1, 5_000_000),
    tracked=st.integers(10_000, 10_000_000),
    pages=st.integers(1_000, 5_000_000),
    files=st.integers(50_000, 10_000_000),
    watches=st.integers(10_000, 10_000_000),
    available_gib=st.integers(1, 256),
    per_process=st.integers(1_024, 1_000_000),
)
def test_what_would_fit_does_fit_and_one_more_process_of_them_does_not(
    devices: int, tracked: int, pages: int, files: int, watches: int, available_gib: int, per_process: int
) -> None:
    """`fits` is honest both ways: that many hold, give or take the rounding to whole processes, far more do not."""
    facts = changed(
        tracked_max=tracked,
        tcp_pages_max=pages,
        files_max=files,
        epoll_watches_max=watches,
        memory_available_bytes=available_gib * GIB,
        files_per_process=per_process,
    )
    found = fit(facts, devices)
    if found.held:
        assert found.fits >= devices * 0.99 - 100
    if found.fits > 0:
        assert fit(facts, max(1, int(found.fits * 0.98) - 400)).held or found.fits < 1_000
        assert not fit(facts, int(found.fits * 1.02) + 20_000).held


def test_this_machine_says_what_it_has() -> None:
    found = read_machine()
    assert found.cores >= 1
    assert 0 < found.memory_available_bytes <= found.memory_bytes
    assert found.port_range[0] < found.port_range[1]
    assert found.files_per_process > 0


def test_settings_are_put_back_however_a_run_ends(tmp_path: Path) -> None:
    first, second = tmp_path / "net" / "core" / "somaxconn", tmp_path / "net" / "ipv4" / "tcp_mem"
    for path, value in ((first, "128\n"), (second, "1 2 3\n")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)

    def run_and_fail() -> None:
        with kernel_settings(["net.core.somaxconn=4096", "net.ipv4.tcp_mem=4 5 6"], root=tmp_path):
            assert first.read_text() == "4096"
            assert second.read_text() == "4 5 6"
            raise RuntimeError("the run failed")

    with pytest.raises(RuntimeError, match="the run failed"):
        run_and_fail()
    assert first.read_text() == "128\n"
    assert second.read_text() == "1 2 3\n"


def test_a_setting_that_is_not_there_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")

    def enter() -> None:
        with kernel_settings(["a=2", "b.c=3"], root=tmp_path):
            raise AssertionError("entered")

    with pytest.raises(OSError, match="No such file"):
        enter()
    assert path.read_text() == "1"


def test_a_value_the_kernel_does_not_take_is_told_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("1")

    def refuse(path: Path, text: str) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(OSError, match="Invalid argument") as caught, kernel_settings(["a=much"], root=tmp_path):
        raise AssertionError("entered")
    assert caught.value.filename == str(tmp_path / "a")
