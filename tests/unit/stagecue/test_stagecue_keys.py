"""Keys are made once, kept privately, and a broken file says what to do."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from contract.clock import ManualClock
from contract.tokens import DeviceClaims, KeyRing
from stagecue.keys import BrokenKeys, UnusableDataDir, load_or_create_keys, operator_token, write_privately


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
