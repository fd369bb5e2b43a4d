"""The broker of a local cluster: its class path is kept, its settings are the shipped ones, what is missing is said."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.kafka import SHIPPED, KafkaBroker, cluster_id, kafka_jars


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty cache and these programs alone; yields the folder they are looked for in."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return programs


def install(programs: Path, name: str, script: str) -> None:
    path = programs / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("there", "missing"), [((), "java"), (("java",), "mvn")])
def test_a_missing_program_is_named_with_its_package(machine: Path, there: tuple[str, ...], missing: str) -> None:
    """Before anything is downloaded."""
    for name in there:
        install(machine, name, "exit 0")
    with pytest.raises(CouldNotRun, match=rf"{missing} is not on PATH; install it, .*apt-get install"):
        asyncio.run(kafka_jars())


def test_a_class_path_is_resolved_once(machine: Path, tmp_path: Path) -> None:
    """Also by several at a time; afterwards Maven is not needed any more."""
    install(machine, "java", "exit 0")
    install(
        machine, "mvn", 'for word; do case $word in -DoutputDirectory=*) echo jar > "${word#*=}/kafka.jar";; esac; done'
    )

    async def several() -> list[Path]:
        return list(await asyncio.gather(*(kafka_jars() for _ in range(3))))

    first, second, third = asyncio.run(several())
    assert first == second == third == tmp_path / "cache" / "stagecue" / "kafka-4.3.0"
    assert [path.name for path in first.iterdir()] == ["kafka.jar"]
    assert [path.name for path in first.parent.iterdir() if path.is_dir()] == ["kafka-4.3.0"]
    (machine / "mvn").unlink()
    assert asyncio.run(kafka_jars()) == first


def test_a_failing_resolution_shows_what_maven_said(machine: Path, tmp_path: Path) -> None:
    """And leaves nothing behind that looks like a class path."""
    install(machine, "java", "exit 0")
    install(machine, "mvn", "echo '[ERROR] no such artifact'; exit 1")
    with pytest.raises(CouldNotRun, match="no such artifact"):
        asyncio.run(kafka_jars())
    assert not [path for path in (tmp_path / "cache" / "stagecue").iterdir() if path.is_dir()]


def test_it_runs_on_the_shipped_settings(machine: Path, tmp_path: Path) -> None:
    """With what is this place's own appended, and formats its data before the first start only."""
    install(machine, "mvn", "exit 0")
    install(
        machine,
        "java",
        f'echo "$@" >> {tmp_path}/calls; mkdir -p {tmp_path}/kafka/data; :> {tmp_path}/kafka/data/meta.properties',
    )
    install(machine, "mkdir", '/bin/mkdir "$@"')
    broker = KafkaBroker(tmp_path / "kafka", 12_340, properties=("log.segment.bytes=1048576",))
    broker.directory.mkdir()
    asyncio.run(broker.prepare())
    asyncio.run(broker.prepare())
    written = (broker.directory / "server.properties").read_text()
    assert written.startswith((SHIPPED / "server.properties").read_text())
    for line in (
        f"log.dirs={tmp_path}/kafka/data",
        "listeners=PLAINTEXT://127.0.0.1:12340,CONTROLLER://127.0.0.1:12341",
        "log.segment.bytes=1048576",
    ):
        assert line in written.splitlines()
    assert (tmp_path / "calls").read_text().count("StorageTool format") == 1
    assert broker.bootstrap_servers == "127.0.0.1:12340"
    assert "kafka.Kafka" in broker.command()


def test_the_shipped_settings_bound_recovery() -> None:
    """Those the figures of recovery rest on."""
    lines = (SHIPPED / "server.properties").read_text().splitlines()
    for wanted in (
        "broker.session.timeout.ms=2000",
        "broker.heartbeat.interval.ms=500",
        "group.initial.rebalance.delay.ms=0",
        "auto.create.topics.enable=false",
        "unclean.leader.election.enable=false",
    ):
        assert wanted in lines
    assert int(next(line for line in lines if line.startswith("group.min.session")).partition("=")[2]) <= 6000


def test_a_cluster_is_never_named_like_an_option() -> None:
    """One name in 64 would begin with a dash, and the broker's tool would ask for the name it was given."""
    drawn = iter([b"\xfb" + bytes(15), b"\xf8" + bytes(15), b"\x01" * 16])
    assert cluster_id(lambda: next(drawn)) == "AQEBAQEBAQEBAQEBAQEBAQ"
