"""Keys are made once, kept privately, changed whole or not at all, and a broken file says what to do."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contract.clock import ManualClock
from contract.errors import Conflict, InvalidRequest, Unauthorized
from contract.token_rings import StoredKey, StoredRing
from contract.tokens import DeviceClaims, KeyRing, ProfileClaims
from stagecue.keys import (
    BrokenKeys,
    UnusableDataDir,
    change_ring,
    fresh_key,
    key_file,
    load_or_create_keys,
    operator_token,
    read_key_file,
    write_privately,
)


def _proof(ring: KeyRing) -> tuple[str, bytes, bytes]:
    kid, proof = ring.prove(b"hello")
    return kid, b"hello", proof


def test_keys_are_made_once_and_read_again(tmp_path):
    first, second = load_or_create_keys(tmp_path), load_or_create_keys(tmp_path)
    token = first.device.sign(DeviceClaims(sub="p", dev="d", exp=100))
    assert second.device.verify_device(token, now_s=1).sub == "p"
    assert second.link.check_proof(*_proof(first.link))
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_whoever_writes_the_keys_first_wins(tmp_path):
    write_privately(tmp_path / "keys.json", b"one", replace=False)
    write_privately(tmp_path / "keys.json", b"two", replace=False)
    assert (tmp_path / "keys.json").read_bytes() == b"one"
    assert len(list(tmp_path.iterdir())) == 1, "no draft is left behind"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"stagecue.device": {"keys": {"k1": "!"}}}'])
def test_a_broken_file_says_what_to_do(tmp_path, content):
    (tmp_path / "keys.json").write_text(content)
    with pytest.raises(BrokenKeys, match=r"keys\.json.*backup"):
        load_or_create_keys(tmp_path)


def test_a_directory_that_cannot_be_used_is_named_with_a_way_out(tmp_path):
    """A file in its place, and a place nobody may write to (not even root: a directory of the kernel's)."""
    (tmp_path / "letter").write_text("not a directory")
    for unusable in (tmp_path / "letter", tmp_path / "letter" / "below", Path("/proc/stagecue")):
        with pytest.raises(UnusableDataDir) as refused:
            load_or_create_keys(unusable)
        assert str(refused.value).startswith(f"the data directory {unusable} cannot be used: ")
        assert "--data-dir" in str(refused.value)


def test_a_token_that_cannot_be_written_names_the_directory(tmp_path):
    ring = load_or_create_keys(tmp_path).operator
    with pytest.raises(UnusableDataDir, match="No such file"):
        operator_token(tmp_path / "gone", ring, ManualClock())


def test_the_operator_token_is_kept_for_the_command_line(tmp_path):
    keys, clock = load_or_create_keys(tmp_path), ManualClock()
    token = operator_token(tmp_path, keys.operator, clock)
    assert (tmp_path / "operator.token").read_text().strip() == token
    claims = keys.operator.verify_operator(token, now_s=clock.now_ms() / 1000)
    assert claims.role == "operator"


def rotated(stored: StoredRing) -> StoredRing:
    return stored.rotated(f"k{len(stored.keys) + 1}", fresh_key(), now_s=time.time(), lead_s=0, keep_s=3600)


def test_a_changed_ring_is_in_the_file_and_the_others_as_they_were(tmp_path):
    before = load_or_create_keys(tmp_path)
    token = before.device.sign(DeviceClaims(sub="p", dev="d", exp=2**40))
    changed = change_ring(tmp_path, "stagecue.device", rotated)
    after = load_or_create_keys(tmp_path)
    assert after.device.kids == tuple(changed.keys) == ("k1", "k2")
    assert after.device.signing_kid == "k2"
    assert after.device.verify_device(token, now_s=time.time()).sub == "p"
    assert after.operator.kids == ("k1",)
    assert before.link.check_proof(*_proof(after.link))
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keys.lock", "keys.json"]


def test_a_change_that_fails_changes_nothing(tmp_path):
    load_or_create_keys(tmp_path)
    content = key_file(tmp_path).read_bytes()
    with pytest.raises(Conflict):
        change_ring(tmp_path, "stagecue.device", lambda stored: stored.retired("k1", now_s=time.time()))
    pair = StoredKey(alg="EdDSA", public=bytes(32))
    with pytest.raises(InvalidRequest, match="HS256 keys only"):
        change_ring(tmp_path, "stagecue.link", lambda stored: stored.trusted("e1", pair, now_s=time.time()))
    assert key_file(tmp_path).read_bytes() == content


def test_a_ring_that_is_not_there_cannot_be_changed(tmp_path):
    with pytest.raises(BrokenKeys, match="is not there"):
        change_ring(tmp_path, "stagecue.device", rotated)
    with pytest.raises(UnusableDataDir, match="--data-dir"):
        change_ring(tmp_path / "gone", "stagecue.device", rotated)
    assert not (tmp_path / "gone").exists()


def test_writers_take_turns(tmp_path):
    """Eight processes rotate the same ring at once: all eight keys are in the file."""
    load_or_create_keys(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from stagecue.keys import change_ring, fresh_key\n"
        "change_ring(Path(sys.argv[1]), 'stagecue.device', lambda stored: stored.rotated("
        "f'w{sys.argv[2]}', fresh_key(), now_s=time.time(), lead_s=0, keep_s=3600))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(number)]) for number in range(8)]
    assert [writer.wait(40) for writer in writers] == [0] * 8
    assert set(load_or_create_keys(tmp_path).device.kids) == {"k1", *(f"w{number}" for number in range(8))}


def test_a_writer_that_is_killed_leaves_a_whole_file_and_no_lock(tmp_path):
    """kill -9 at many moments of an endless rotation: the file is always rings, and the next writer is not kept out."""
    load_or_create_keys(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from stagecue.keys import change_ring, fresh_key\n"
        "print('on', flush=True)\n"
        "for turn in range(100_000):\n"
        "    change_ring(Path(sys.argv[1]), 'stagecue.device', lambda stored: stored.rotated("
        "f'{sys.argv[2]}-{turn}', fresh_key(), now_s=time.time(), lead_s=0, keep_s=0))\n"
    )
    for number in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "on\n"
        time.sleep(0.02 + 0.0137 * number)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait(10)
        writer.stdout.close()
        read_key_file(key_file(tmp_path))
    changed = change_ring(tmp_path, "stagecue.device", lambda stored: rotated(stored))
    assert load_or_create_keys(tmp_path).device.signing_kid == changed.signer(time.time())


def test_drafts_of_dead_writers_are_swept_away_and_those_of_living_ones_are_not(tmp_path):
    """A draft holds secrets, perhaps of a key that was retired since."""
    load_or_create_keys(tmp_path)
    old, new = tmp_path / ".keys.json.0001", tmp_path / ".keys.json.0002"
    for draft in (old, new):
        draft.write_bytes(b"secrets")
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    change_ring(tmp_path, "stagecue.device", rotated)
    assert not old.exists()
    assert new.exists()


def test_a_key_pair_signs_for_whoever_has_its_public_half(tmp_path):
    load_or_create_keys(tmp_path)

    def paired(stored: StoredRing) -> StoredRing:
        return stored.rotated("e1", fresh_key("EdDSA"), now_s=time.time(), lead_s=0, keep_s=3600)

    change_ring(tmp_path, "stagecue.device", paired)
    ring = load_or_create_keys(tmp_path).device
    assert ring.signing_kid == "e1"
    assert ring.verify_device(ring.sign(DeviceClaims(sub="p", dev="d", exp=2**40)), now_s=time.time()).sub == "p"


def without_profile_ring(data_dir: Path) -> bytes:
    """The installation's file as it was before there were profile tokens."""
    load_or_create_keys(data_dir)
    stored = json.loads(key_file(data_dir).read_bytes())
    del stored["stagecue.profile"]
    key_file(data_dir).write_bytes(json.dumps(stored).encode())
    return key_file(data_dir).read_bytes()


def test_a_ring_that_came_later_is_added_once_and_the_others_stay(tmp_path):
    before = without_profile_ring(tmp_path)
    first, second = load_or_create_keys(tmp_path), load_or_create_keys(tmp_path)
    token = first.profile.sign(ProfileClaims(sub="p", exp=100))
    assert second.profile.verify_profile(token, now_s=1).sub == "p"
    after = json.loads(key_file(tmp_path).read_bytes())
    assert {name: after[name] for name in json.loads(before)} == json.loads(before)
    assert stat.S_IMODE(key_file(tmp_path).stat().st_mode) == 0o600


def test_where_it_cannot_be_added_the_others_serve_all_the_same(tmp_path, monkeypatch):
    """A copy on a read-only mount: the process has a profile ring of its own, which nobody's tokens are of."""
    before = without_profile_ring(tmp_path)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("stagecue.keys.write_privately", refuse)
    with capture_logs() as lines:
        first, second = load_or_create_keys(tmp_path), load_or_create_keys(tmp_path)
    assert [line["event"] for line in lines] == ["key_ring_not_added"] * 2
    assert second.device.kids == ("k1",)
    with pytest.raises(Unauthorized):
        second.profile.verify_profile(first.profile.sign(ProfileClaims(sub="p", exp=100)), now_s=1)
    assert key_file(tmp_path).read_bytes() == before
