"""Running rings follow their file and the clock; a file that is none changes nothing and is said once."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contract.clock import ManualClock
from contract.errors import Unauthorized
from contract.token_rings import StoredRing
from contract.tokens import DeviceClaims, ProfileClaims
from stagecue import ring_watch
from stagecue.keys import Keys, change_ring, fresh_key, key_file, load_or_create_keys, operator_token
from stagecue.ring_watch import RingWatch

CLAIMS = DeviceClaims(sub="p", dev="d", exp=2**40)


class Running:
    """An installation with its rings and the watch over them; time moves when told to."""

    def __init__(self, data_dir: Path, *, renews_operator_token: bool = False) -> None:
        self.data_dir = data_dir
        # About now: what is written to the file is checked by the system's clock, too.
        self.clock = ManualClock(4_000_000_000_000)
        self.keys: Keys = load_or_create_keys(data_dir, self.clock)
        self.watch = RingWatch(self.keys, data_dir, self.clock, renews_operator_token=renews_operator_token)

    @property
    def now_s(self) -> float:
        return self.clock.now_ms() / 1000

    def rotate(self, kid: str, *, ring: str = "stagecue.device", lead_s: float = 0, keep_s: float = 100) -> None:
        def change(stored: StoredRing) -> StoredRing:
            return stored.rotated(kid, fresh_key(), now_s=self.now_s, lead_s=lead_s, keep_s=keep_s)

        change_ring(self.data_dir, ring, change)  # type: ignore[arg-type]


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running(tmp_path)


async def test_a_rotation_reaches_whoever_holds_the_ring(running: Running) -> None:
    """Begin, end and change of hands, each at its time; the same objects throughout."""
    device = running.keys.device
    old = device.sign(CLAIMS)
    await running.watch.look()
    running.rotate("k2", lead_s=10)
    await running.watch.look()
    assert (device.signing_kid, device.kids) == ("k1", ("k1", "k2")), "it verifies before anybody signs with it"
    running.clock.advance_ms(10_000)
    await running.watch.look()
    assert device.signing_kid == "k2"
    new = device.sign(CLAIMS)
    assert device.verify_device(new, now_s=running.now_s) == device.verify_device(old, now_s=running.now_s) == CLAIMS
    running.clock.advance_ms(100_000)
    await running.watch.look()
    assert device.kids == ("k2",)
    with pytest.raises(Unauthorized, match="does not know"):
        device.verify_device(old, now_s=running.now_s)
    assert device.verify_device(new, now_s=running.now_s) == CLAIMS


async def test_a_retired_key_is_refused_after_the_next_look(running: Running) -> None:
    device = running.keys.device
    stolen = device.sign(CLAIMS)
    running.rotate("k2")
    change_ring(running.data_dir, "stagecue.device", lambda stored: stored.retired("k1", now_s=running.now_s))
    await running.watch.look()
    with pytest.raises(Unauthorized, match="does not know"):
        device.verify_device(stolen, now_s=running.now_s)


@pytest.mark.parametrize("what", ["half", "empty", "gone", "no signer", "directory"])
async def test_a_file_that_is_none_changes_nothing_and_is_said_once(running: Running, what: str) -> None:
    """Whoever writes it by hand may be interrupted: the rings in use stay until the file is whole again."""
    await running.watch.look()
    running.rotate("k2", lead_s=50)
    whole = key_file(running.data_dir).read_bytes()
    await running.watch.look()
    path = key_file(running.data_dir)
    if what in ("gone", "directory"):
        path.unlink()
    if what == "directory":
        path.mkdir()
    elif what != "gone":
        broken = {"half": whole[: len(whole) // 2], "empty": b"", "no signer": whole.replace(b'"k1"', b'"k9"', 1)}
        path.write_bytes(broken[what])
    with capture_logs() as logs:
        for _ in range(5):
            await running.watch.look()
    assert [entry["event"] for entry in logs] == ["keys_not_exchanged"]
    assert "keys.json" in logs[0]["why"]
    assert running.keys.device.kids == ("k1", "k2")
    running.clock.advance_ms(50_000)
    await running.watch.look()
    assert running.keys.device.signing_kid == "k2", "keys begin by the clock, whatever became of the file"
    if what == "directory":
        path.rmdir()
    path.write_bytes(whole)
    running.rotate("k3")
    with capture_logs() as logs:
        await running.watch.look()
    assert [entry["event"] for entry in logs] == ["keys_changed"]
    assert running.keys.device.signing_kid == "k3"


async def test_trouble_that_returns_is_said_again(running: Running) -> None:
    await running.watch.look()
    whole = key_file(running.data_dir).read_bytes()
    with capture_logs() as logs:
        for content in (b"{", whole, b"{", whole):
            key_file(running.data_dir).write_bytes(content)
            await running.watch.look()
            await running.watch.look()
    assert [entry["event"] for entry in logs] == ["keys_not_exchanged"] * 2


async def test_the_log_names_keys_and_shows_none(running: Running) -> None:
    running.rotate("k2")
    with capture_logs() as logs:
        await running.watch.look()
    assert [(entry["ring"], entry["signs"], entry["verify"]) for entry in logs] == [
        ("stagecue.device", "k2", ["k1", "k2"])
    ]


async def test_the_operators_token_follows_the_operators_ring(tmp_path: Path) -> None:
    """Whoever uses `stagecue event` notices nothing of a rotation, even if the old key is retired at once."""
    running = Running(tmp_path, renews_operator_token=True)
    first = operator_token(tmp_path, running.keys.operator, running.clock)
    await running.watch.look()
    assert (tmp_path / "operator.token").read_text().strip() == first, "no rotation, no other token"
    running.rotate("k2", ring="stagecue.operator")
    await running.watch.look()
    second = (tmp_path / "operator.token").read_text().strip()
    assert second != first
    assert running.keys.operator.verify_operator(second, now_s=running.now_s).role == "operator"


async def test_a_disk_that_hangs_costs_one_thread_and_no_time(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks end in their time, and all of them wait for the same attempt."""
    release, attempts = threading.Event(), []

    def hangs(path: Path, **options: object) -> tuple[bytes, dict[str, StoredRing]]:
        attempts.append(path)
        release.wait(30)
        return reads(path)

    reads = ring_watch.read_key_file
    monkeypatch.setattr(ring_watch, "read_key_file", hangs)
    monkeypatch.setattr(ring_watch, "_READ_WITHIN_S", 0.02)
    running.rotate("k2")
    with capture_logs() as logs:
        for _ in range(4):
            await running.watch.look()
    assert len(attempts) == 1
    assert [entry["why"] for entry in logs] == ["no answer in time"]
    release.set()
    monkeypatch.setattr(ring_watch, "_READ_WITHIN_S", 20.0)
    await running.watch.look()
    assert running.keys.device.signing_kid == "k2"


async def test_it_looks_again_and_again_until_it_is_stopped(tmp_path: Path) -> None:
    running = Running(tmp_path)
    watch = RingWatch(running.keys, tmp_path, running.clock, every_s=0.01)
    ready, stop = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(watch.run(ready, stop), name="test.watch")
    await asyncio.wait_for(ready.wait(), 20)
    for kid in ("k2", "k3"):
        await asyncio.to_thread(running.rotate, kid)
        async with asyncio.timeout(20):
            while running.keys.device.signing_kid != kid:  # noqa: ASYNC110 - the watch tells nobody
                await asyncio.sleep(0.01)
    stop.set()
    await asyncio.wait_for(task, 20)


async def test_the_profile_ring_follows_too_and_stays_when_a_file_from_before_lacks_it(running: Running) -> None:
    """A copy of another host's file, which no service there has completed yet: the other rings follow it."""
    token = running.keys.profile.sign(ProfileClaims(sub="p", exp=2**40))
    await running.watch.look()
    running.rotate("k2", ring="stagecue.profile")
    await running.watch.look()
    assert (running.keys.profile.signing_kid, running.keys.profile.kids) == ("k2", ("k1", "k2"))
    running.rotate("k2")
    stored = json.loads(key_file(running.data_dir).read_bytes())
    del stored["stagecue.profile"]
    key_file(running.data_dir).write_bytes(json.dumps(stored).encode())
    await running.watch.look()
    assert running.keys.device.signing_kid == "k2"
    assert running.keys.profile.kids == ("k1", "k2")
    assert running.keys.profile.verify_profile(token, now_s=running.now_s).sub == "p"
