"""Goal: `bench prefetch` asks every server the same for the same profiles, finds one changed byte, and computes and
judges what it says; no server needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from graphql import parse, validate

from contract.runtime.system_clock import SystemClock
from contract.tokens import KeyRing, ProfileClaims
from dgs.adapters.materialised_file import FileMaterialised
from dgs.schema import build_schema
from dgs.shelf import catalog_digest
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.peers import mercurius_peer
from loadtest.bench.peers.http_load import LoadRun, Slots, TagTally
from loadtest.bench.prefetch.arena import COLD, OURS, WITHOUT_TOKENS, Asked, check_peers, fresh_profile
from loadtest.bench.prefetch.asking import AUDIENCE, DOCUMENT, HASH, PREPARED, Secret, requests_of
from loadtest.bench.prefetch.command import PrefetchFigures
from loadtest.bench.prefetch.judge import Bounds, NotAlike, canonical, compare, first_difference
from loadtest.bench.prefetch.night import OPERATION, OPERATION_HASH, profile_id, schedule_of
from loadtest.bench.prefetch.peer_night import ttl_range_s, write_night
from loadtest.bench.prefetch.picked import PickedProfiles, demo_catalog, pick_for_all
from stagecue.commands.bench import bench

NOW_MS = 1_731_700_000_000
BOUNDS = Bounds((NOW_MS, NOW_MS + 1_000), (100, 200))
SECRET = Secret("k1", b"s" * 32)


def answer(**changes: object) -> bytes:
    found = {"serverTime": NOW_MS + 5, "ttlSeconds": 150, "stages": [{"key": "live", "rows": []}], **changes}
    body = json.dumps({"data": {"prefetchEvent": found}}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture(scope="module")
def picked(tmp_path_factory: pytest.TempPathFactory) -> PickedProfiles:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        first = pick_for_all(schedule_of(NOW_MS), 40)
        again = pick_for_all(schedule_of(NOW_MS + 5), 40)
    assert (first.cells == again.cells).all()
    assert list(first.digests) == list(again.digests)
    assert list(first.layouts) == list(again.layouts), "what was kept is what was chosen"
    return first


def test_the_operation_is_one_of_our_schema() -> None:
    assert validate(build_schema()._schema, parse(OPERATION)) == []


def test_requests_are_whole_and_carry_a_token_of_their_profile() -> None:
    ids = [profile_id(number) for number in range(3)]
    made = list(requests_of(HASH, 8080, iter(ids), secret=SECRET, exp_s=2_000_000_000))
    for profile, (tag, request) in zip(ids, made, strict=True):
        head, _, body = request.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        assert tag == 0
        assert int(fields[b"Content-Length"]) == len(body)
        said = json.loads(body)
        assert said["variables"]["profileId"] == profile
        assert said["extensions"]["persistedQuery"]["sha256Hash"] == OPERATION_HASH
        header, claims, _ = fields[b"Authorization"].removeprefix(b"Bearer ").split(b".")
        assert json.loads(_decoded(claims)) == {"sub": profile, "exp": 2_000_000_000, "aud": AUDIENCE}
        assert json.loads(_decoded(header)) == {"alg": "HS256", "kid": "k1", "typ": "JWT"}
    assert len({request for _, request in made}) == 3
    (other,) = requests_of(HASH, 8080, iter(ids[:1]), secret=SECRET, exp_s=2_000_000_001)
    assert other != made[0], "another round has other tokens"
    (bare,) = requests_of(DOCUMENT, 8080, iter(ids[:1]), secret=None, exp_s=0)
    assert b"Authorization" not in bare[1]
    assert json.loads(bare[1].partition(b"\r\n\r\n")[2])["query"] == OPERATION
    assert PREPARED.body == {"persisted": True, "query": OPERATION_HASH}


def test_tokens_are_those_a_dgs_accepts() -> None:
    token = SECRET.signer()("p-1", 2_000_000_000).decode()
    ring = KeyRing(AUDIENCE, {"k1": SECRET.key}, "k1")
    assert ring.verify_profile(token, now_s=NOW_MS / 1000).sub == "p-1"
    assert ring.sign(ProfileClaims(sub="p-1", exp=2_000_000_000)) == token


def _decoded(segment: bytes) -> bytes:
    import base64

    return base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))


def test_answers_alike_but_for_clock_and_lifetime_are_equal() -> None:
    one = canonical(answer(), BOUNDS)
    assert canonical(answer(serverTime=NOW_MS, ttlSeconds=200), BOUNDS) == one
    assert compare({"a": {1: one, 2: one}, "b": {2: one, 3: one}}) == 1


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (answer(serverTime=NOW_MS - 1), "serverTime"),
        (answer(ttlSeconds=201), "ttlSeconds is 201"),
        (answer(ttlSeconds="150"), "ttlSeconds"),
        (answer().replace(b"200 OK", b"503 Busy"), "status 503"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"data":null,"errors":[{"message":"no"}]}', "no map"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "no map"),
        (answer().replace(b'{"data"', b'{"errors":[1],"data"'), "no map"),
    ],
)
def test_what_is_no_credible_map_is_said(bad: bytes, says: str) -> None:
    with pytest.raises(NotAlike, match=says):
        canonical(bad, BOUNDS)


def test_one_changed_letter_is_found_and_named() -> None:
    one = canonical(answer(), BOUNDS)
    other = canonical(answer(stages=[{"key": "livE", "rows": []}]), BOUNDS)
    with pytest.raises(NotAlike, match=r'a and b differ in request 7 at \$.stages\[0\].key: "live" and "livE"'):
        compare({"a": {7: one}, "b": {7: other}})
    assert first_difference({"x": [1, 2]}, {"x": [1]}) == "$.x: [1, 2] and [1]"


def test_picks_are_those_of_the_production_code_and_become_picks_again(picked: PickedProfiles) -> None:
    assert len(picked) == 40
    digest = catalog_digest(demo_catalog().titles)
    for number in (0, 17, 39):
        found = picked.picks(number, now_ms=NOW_MS)
        assert found.layout.catalog == digest
        assert len(found.cells) == found.layout.cells
        assert max(found.cells) < len(demo_catalog().titles)
        assert len(found.digest) == 8
    assert len(set(picked.digests)) > 30


async def test_a_dgs_reads_back_what_was_materialised(picked: PickedProfiles, tmp_path: Path) -> None:
    schedule = schedule_of(NOW_MS)
    await picked.materialise(tmp_path / "picks", schedule)
    store = FileMaterialised(tmp_path / "picks", SystemClock(), catalog=lambda: picked.layouts[0].catalog)
    ids = [profile_id(number) for number in range(41)]
    try:
        found = await store.read(schedule.topic, schedule.version, ids)
    finally:
        await store.aclose()
    assert sorted(found) == sorted(ids[:40])
    for number, profile in enumerate(ids[:40]):
        mine = picked.picks(number, now_ms=0)
        assert (found[profile].layout, found[profile].cells, found[profile].digest) == mine[:3]


def test_distinct_answers_are_counted_stage_by_stage(picked: PickedProfiles) -> None:
    counted = picked.distinct_answers()
    keys = [key for key, _ in picked.layouts[0].stages]
    assert list(counted) == keys
    for key in keys:
        seen = set()
        for number in range(len(picked)):
            start = 0
            layout = picked.layouts[int(picked.which[number])]
            for name, rows in layout.stages:
                width = sum(row.titles + row.because for row in rows)
                if name == key:
                    seen.add(tuple(picked.cells[number, start : start + width].tolist()))
                start += width
        assert counted[key] == len(seen)


def test_a_peers_files_say_what_our_schema_would(picked: PickedProfiles, tmp_path: Path) -> None:
    night = write_night(tmp_path, schedule_of(NOW_MS), picked, SECRET)
    assert night.path.stat().st_mode & 0o077 == 0
    said = json.loads(night.path.read_bytes())
    cells = np.fromfile(tmp_path / said["cells"], dtype="<u4")
    assert cells.size == said["profiles"] * said["width"]
    for layout, ours in zip(said["layouts"], picked.layouts, strict=True):
        assert [stage["key"] for stage in layout] == [key for key, _ in ours.stages][:-1]
        for stage in layout:
            assert all((row["heading"] is None) == row["because"] for row in stage["rows"])
    low, high = said["ttl_s"]
    assert (low, high) == ttl_range_s() == (10_800, 32_400)


def test_fresh_profiles_are_nobody_elses() -> None:
    first, second = fresh_profile(0), fresh_profile(1)
    assert len({first(0), first(1), second(0), profile_id(0)}) == 4


def test_a_peer_nobody_knows_is_named() -> None:
    assert check_peers("mercurius, strawberry,mercurius") == ("mercurius", "strawberry")
    with pytest.raises(CouldNotRun, match="nonesuch is none of mercurius, strawberry"):
        check_peers("nonesuch")


async def test_missing_node_and_npm_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    peer = mercurius_peer.MercuriusPeer(tmp_path, core=0, night=None)  # type: ignore[arg-type]
    with pytest.raises(CouldNotRun, match="apt-get install nodejs"):
        await peer.prepare()
    (tmp_path / "node").write_text("#!/bin/sh\n")
    (tmp_path / "node").chmod(0o755)
    with pytest.raises(CouldNotRun, match="apt-get install npm"):
        await peer.prepare()
    (tmp_path / "npm").write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    with pytest.raises(CouldNotRun, match="npm ci failed"):
        await peer.prepare()
    assert not list((tmp_path / "stagecue" / "bench").iterdir()), "nothing half installed is kept"


def test_the_lock_names_no_registry() -> None:
    lock = json.loads((Path(mercurius_peer.__file__).parent / "mercurius" / "package-lock.json").read_text())
    packages = [each for name, each in lock["packages"].items() if name]
    assert packages
    assert all("resolved" not in each and each["integrity"] for each in packages)


def test_the_judge_of_figures_needs_no_server_installed() -> None:
    """What the command needs of the DGS is imported when it runs: `stagecue bench --help` is quick."""
    code = "import sys, stagecue.commands.bench; sys.exit('strawberry' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def asked(rps: float, *, p99_ms: int = 8, load_cores: float = 0.5, refused: int = 0) -> Asked:
    run = LoadRun(
        wall_s=2.0, idle_s=2.0 * (1 - load_cores), sent=1_000, answered=1_000, failed=0, waited=0, waiting_max=0,
        late=Slots(), bytes=2_300_000, body_bytes=2_000_000, connects=64,
        tags={0: TagTally({200: 1_000}, 0, Slots({64: 980, _slot(p99_ms): 20}), Slots())}, error="",
    )  # fmt: skip
    return Asked(
        rps_per_core=rps, rps=rps * 0.9, p99_ms=p99_ms, bytes=2_000.0, load_cores=load_cores, refused=refused, run=run
    )


def _slot(latency_ms: int) -> int:
    """That of the last microsecond below `latency_ms`."""
    us = latency_ms * 1_000 - 1
    shift = us.bit_length() - 8
    return (shift + 1) * 128 + (us >> shift) - 128


def figures(**changes: list[Asked]) -> PrefetchFigures:
    rounds = {
        OURS: [asked(16_000), asked(18_000), asked(17_000)],
        WITHOUT_TOKENS: [asked(20_000)] * 3,
        COLD: [asked(2_000)] * 3,
        "mercurius": [asked(10_000), asked(12_000), asked(12_000)],
        **{name.replace("_", "-"): found for name, found in changes.items()},
    }
    return PrefetchFigures(
        profiles=50_000,
        rounds=rounds,
        does=dict.fromkeys(rounds, "something"),
        forms=dict.fromkeys(rounds, "persisted"),
        compared=3_000,
        distinct_answers={"live": 7},
        others_cores=0.0,
        cores_shared=False,
    )


def test_rates_are_medians_and_ratios_are_of_rounds() -> None:
    keys = figures().keys()
    assert keys["rps_per_core"] == 17_000
    assert keys["cold_rps_per_core"] == 2_000
    assert keys["rps_per_core_without_tokens"] == 20_000
    assert keys["bytes"] == 2_000
    assert keys["p99_ms"] == pytest.approx(8.0, rel=0.01)
    assert keys["distinct_answers"] == {"live": 7}
    assert list(keys["peers"]) == ["mercurius"]
    assert keys["peers"]["mercurius"]["rps_per_core"] == 12_000
    assert keys["peers"]["mercurius"]["ratio"]["median"] == 1.5
    assert figures().shortfalls() == []


def test_each_promise_falls_short_by_itself() -> None:
    assert "15,999 requests/s per core, promised >= 16,000" in figures(stagecue=[asked(15_999)] * 3).shortfalls()[0]
    assert "1,999 requests/s per core of cold" in figures(cold=[asked(1_999)] * 3).shortfalls()[0]
    assert "1.31 times mercurius" in figures(mercurius=[asked(13_000)] * 3).shortfalls()[0]
    assert "p99 1" in figures(stagecue=[asked(17_000, p99_ms=11)] * 3).shortfalls()[0]


def test_refusals_of_requests_that_come_one_after_another_fall_short() -> None:
    assert figures(stagecue=[asked(17_000, refused=1)] * 3).shortfalls() == []
    assert "cold refused 0.20% of the requests" in figures(cold=[asked(2_000, refused=2)] * 3).shortfalls()[0]
    assert figures(stagecue=[asked(17_000, refused=1)] * 3).keys()["refused_share"] == 0.001


def test_a_busy_client_and_too_few_comparisons_do_not_count() -> None:
    assert figures().invalid_because() == []
    busy = {name: [asked(20_000, load_cores=0.95)] * 3 for name in (OURS, "without_tokens", COLD, "mercurius")}
    assert "0.95 cores" in figures(**busy).invalid_because()[0]
    few = msgspec.structs.replace(figures(), compared=999)
    assert "only 999 answers" in few.invalid_because()[0]


def test_a_usage_error_is_exit_code_2() -> None:
    runner = CliRunner()
    assert runner.invoke(bench, ["prefetch", "--profiles", "0"]).exit_code == 2
    assert runner.invoke(bench, ["prefetch", "--profiles", "5", "--peers", "nonesuch"]).exit_code == 2
    assert "Examples:" in runner.invoke(bench, ["prefetch", "--help"]).output
