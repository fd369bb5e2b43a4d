"""Goal: what peers are sent and configured with is what ours gets, and what is missing is said with what to install."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from websockets.frames import Frame
from websockets.streams import StreamReader

from contract.frames import AckRequest, SubscribeFrame, decode_client_frame, decode_server_frame
from device_sim.wire import TEXT
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.peers.floor import FloorPeer
from loadtest.bench.peers.frames import server_frame
from loadtest.bench.peers.nchan import NchanPeer, nginx_configuration
from loadtest.bench.peers.programs import compiled
from loadtest.bench.push.chain import TOPICS, Chain
from loadtest.bench.push.dialect import EVENTS, GRAPHQL, STREAM, bare
from loadtest.bench.push.load import device_tokens, write_requests
from loadtest.bench.push.rings import new_rings
from stagecue.commands.bench import bench

NOW_MS = 1_700_000_000_000


def parsed(data: bytes) -> list[Frame]:
    """Frames of a client, by the websockets package."""
    reader, found = StreamReader(), []
    reader.feed_data(data)
    while len(reader.buffer):
        parsing = Frame.parse(reader.read_exact, mask=True)
        with pytest.raises(StopIteration) as done:
            next(parsing)
        found.append(done.value.value)
    return found


def chain() -> Chain:
    return Chain(lambda: NOW_MS, ack=AckRequest(100, 30_000))


@pytest.mark.parametrize("size", [0, 125, 126, 1000])
def test_a_servers_frame_reads_as_one(size: int) -> None:
    reader = StreamReader()
    reader.feed_data(server_frame(TEXT, b"x" * size))
    with pytest.raises(StopIteration) as done:
        next(Frame.parse(reader.read_exact, mask=False))
    assert (done.value.value.data, done.value.value.fin) == (b"x" * size, True)


def test_the_chain_has_no_hole_even_when_the_clock_stands() -> None:
    one = chain()
    first, second = one.next(), one.next()
    assert first.prev == max(each.timestamp for each in one.history if each.topic == TOPICS[0])
    assert second.prev == first.timestamp < second.timestamp
    assert one.marker(second).encode() in one.payload(second)
    assert one.marker(first).encode() not in one.payload(second)
    assert decode_server_frame(one.payload(second)).ack == AckRequest(100, 30_000)  # type: ignore[union-attr]


def test_a_device_that_comes_lacks_exactly_one_broadcast() -> None:
    one = chain()
    last = one.next()
    (frame,) = parsed(STREAM.opening(one))
    asked = decode_client_frame(bytes(frame.data))
    assert isinstance(asked, SubscribeFrame)
    assert asked.topics[TOPICS[0]] == last.prev
    assert asked.topics[TOPICS[1]] == max(each.timestamp for each in one.history if each.topic == TOPICS[1])
    assert {held.revision for held in asked.held.values()} == {schedule.revision for schedule in one.schedules}


def test_other_protocols_ask_for_the_same() -> None:
    one = chain()
    last = one.next()
    init, subscribe = (json.loads(bytes(frame.data)) for frame in parsed(GRAPHQL.opening(one)))
    assert init == {"type": "connection_init"}
    topics = {each["topic"]: each["cursor"] for each in subscribe["payload"]["variables"]["topics"]}
    assert topics[TOPICS[0]] == last.prev
    request = EVENTS.request("h", "t", one).decode()
    assert f"Last-Event-ID: {last.prev}\r\n" in request
    assert EVENTS.opening(one) == b""
    assert b"Authorization" not in bare("/x").request("h", "t", one)


def test_every_device_has_a_token_of_its_own_in_every_series(tmp_path: Path) -> None:
    ring = new_rings().device_ring()
    tokens = [
        *device_tokens(ring, 50, now_s=NOW_MS / 1000, topics=TOPICS, series=1),
        *device_tokens(ring, 50, now_s=NOW_MS / 1000, topics=TOPICS, series=2),
    ]
    assert len(set(tokens)) == 100
    assert ring.verify_device(tokens[-1], now_s=NOW_MS / 1000).topics == TOPICS
    path = tmp_path / "requests"
    write_requests(path, [token.encode() for token in tokens])
    data, found = path.read_bytes(), []
    while data:
        (size,) = struct.unpack_from("<I", data)
        found.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    assert found == tokens
    assert path.stat().st_mode & 0o077 == 0


def test_eddsa_tokens_are_verified_by_a_ring_that_cannot_make_them() -> None:
    rings = new_rings().with_eddsa()
    (token,) = device_tokens(rings.eddsa_ring(), 1, now_s=NOW_MS / 1000, topics=TOPICS, series=1)
    assert rings.device_ring().verify_device(token, now_s=NOW_MS / 1000).dev == "d-1-0"
    assert rings.device_ring().signing_kid != rings.eddsa_ring().signing_kid


def test_nginx_loads_the_module_only_where_it_is_a_file() -> None:
    with_module = nginx_configuration(Path("/d"), port=8080, module=Path("/m.so"))
    assert with_module.startswith("load_module /m.so;")
    assert "load_module" not in nginx_configuration(Path("/d"), port=8080, module=None)
    assert "worker_processes 1;" in with_module
    assert "listen 127.0.0.1:8080" in with_module


async def test_a_missing_server_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("loadtest.bench.peers.nchan._FOLDERS", (tmp_path,))
    with pytest.raises(CouldNotRun, match=r"nchan.*apt-get install nginx libnginx-mod-nchan"):
        await NchanPeer(tmp_path, core=0).start()


async def test_a_missing_compiler_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(CouldNotRun, match="apt-get install gcc"):
        await FloorPeer(tmp_path, core=0).start()


async def test_a_program_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = await compiled("floor")
    assert os.access(first, os.X_OK)
    stamp = first.stat().st_mtime_ns
    assert await compiled("floor") == first
    assert first.stat().st_mtime_ns == stamp
    with pytest.raises(CouldNotRun, match=r"nonesuch\.c missing"):
        await compiled("nonesuch")


@pytest.mark.parametrize("command", ["fanout", "connect", "node-kill"])
def test_a_usage_error_is_exit_code_2(command: str) -> None:
    from click.testing import CliRunner

    runner = CliRunner()
    assert runner.invoke(bench, [command, "--devices", "0"]).exit_code == 2
    assert "Examples:" in runner.invoke(bench, [command, "--help"]).output
    if command != "node-kill":
        assert runner.invoke(bench, [command, "--peers", "nonesuch"]).exit_code == 2
