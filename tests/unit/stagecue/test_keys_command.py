"""`stagecue keys`: what it shows, what it changes, and what it says to slips of the finger."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from contract.errors import Unauthorized
from contract.tokens import DeviceClaims, Ed25519Key, KeyRing
from stagecue.cli import cli
from stagecue.keys import load_or_create_keys

PRIVATE = bytes(range(32))
PUBLIC = Ed25519Key(private=PRIVATE).public.public_bytes_raw()
JWK_X = base64.urlsafe_b64encode(PUBLIC).decode().rstrip("=")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    load_or_create_keys(tmp_path)
    return tmp_path


def run(data_dir: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *words, "--data-dir", str(data_dir)])


def listed(data_dir: Path, ring: str) -> dict[str, dict[str, object]]:
    result = run(data_dir, "list", "--json")
    assert result.exit_code == 0, result.output
    return {key["kid"]: key for key in json.loads(result.stdout)[ring]["keys"]}


def test_a_new_installation_has_one_key_a_ring_and_shows_none(data_dir: Path) -> None:
    for ring in ("device", "operator", "link", "profile"):
        assert listed(data_dir, ring) == {
            "k1": {
                "kid": "k1",
                "alg": "HS256",
                "signs": True,
                "verifies": True,
                "signs_from_s": None,
                "not_after_s": None,
            }
        }
    table = run(data_dir, "list").output
    assert "signs, verifies" in table
    stored = json.loads((data_dir / "keys.json").read_text())
    for ring in stored.values():
        assert ring["keys"]["k1"][:12] not in table + run(data_dir, "list", "--json").output


def test_a_rotation_waits_its_lead_and_keeps_the_old_key(data_dir: Path) -> None:
    result = run(data_dir, "rotate", "device", "--lead", "3600", "--keep", "7200")
    assert result.exit_code == 0, result.output
    assert "k2 signs in 3600 s" in result.output
    keys = listed(data_dir, "device")
    assert [(key["signs"], key["verifies"]) for key in keys.values()] == [(True, True), (False, True)]
    begins_s, ends_s = keys["k2"]["signs_from_s"], keys["k1"]["not_after_s"]
    assert isinstance(begins_s, int)
    assert ends_s == begins_s + 7200
    assert "signs from" in " ".join(run(data_dir, "list").output.split())
    assert list(listed(data_dir, "operator")) == ["k1"]


def test_keys_are_kept_as_long_as_tokens_of_their_ring_live(data_dir: Path) -> None:
    kept_s = {}
    for ring in ("device", "operator", "link", "profile"):
        run(data_dir, "rotate", ring, "--lead", "3600")
        keys = listed(data_dir, ring)
        kept_s[ring] = keys["k1"]["not_after_s"] - keys["k2"]["signs_from_s"]  # type: ignore[operator]
    assert kept_s == {"device": 7 * 86400, "operator": 31 * 86400, "link": 3600, "profile": 86400}


def test_a_stolen_key_is_replaced_and_gone_in_two_commands(data_dir: Path) -> None:
    assert run(data_dir, "rotate", "device", "--lead", "0").exit_code == 0
    assert run(data_dir, "retire", "device", "k1").exit_code == 0
    assert [(kid, key["signs"]) for kid, key in listed(data_dir, "device").items()] == [("k2", True)]
    assert load_or_create_keys(data_dir).device.kids == ("k2",)


def test_ids_are_given_or_counted_on(data_dir: Path) -> None:
    for words in (["--kid", "k3"], [], []):
        assert run(data_dir, "rotate", "device", *words).exit_code == 0
    assert list(listed(data_dir, "device")) == ["k1", "k3", "k4", "k5"]


def test_a_key_pair_signs_if_asked_for(data_dir: Path) -> None:
    assert run(data_dir, "rotate", "device", "--alg", "EdDSA", "--lead", "0").exit_code == 0
    assert listed(data_dir, "device")["k2"]["alg"] == "EdDSA"
    ring = load_or_create_keys(data_dir).device
    assert ring.verify_device(ring.sign(DeviceClaims(sub="p", dev="d", exp=2**40)), now_s=2**39).sub == "p"


def test_another_issuers_tokens_are_accepted_once_it_is_trusted(data_dir: Path) -> None:
    issuer = KeyRing("stagecue.device", {"partner-1": Ed25519Key(private=PRIVATE)}, "partner-1")
    assert run(data_dir, "trust", "device", "partner-1", JWK_X).exit_code == 0
    token = issuer.sign(DeviceClaims(sub="p", dev="d", exp=2**40))
    assert load_or_create_keys(data_dir).device.verify_device(token, now_s=2**39).sub == "p"
    assert listed(data_dir, "device")["partner-1"]["signs"] is False


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["retire", "device", "k1"], "nothing would sign"),
        (["retire", "device", "k9"], "one of: k1"),
        (["rotate", "device", "--kid", "k1"], "in the ring already"),
        (["rotate", "device", "--kid", "a b"], "no key id"),
        (["rotate", "link", "--alg", "EdDSA"], "HS256 keys only"),
        (["rotate", "everything"], "'everything' is not one of"),
        (["rotate", "device", "--lead", "-1"], "--lead"),
        (["trust", "device", "p", "not!base64"], "PUBLIC"),
        (["trust", "device", "p", "AAAA"], "3 bytes"),
        (["trust", "link", "p", JWK_X], "HS256 keys only"),
    ],
)
def test_a_slip_changes_nothing_and_is_explained(data_dir: Path, words: list[str], why: str) -> None:
    before = (data_dir / "keys.json").read_bytes()
    result = run(data_dir, *words)
    assert result.exit_code == 2
    assert why in result.output
    assert "Traceback" not in result.output
    assert (data_dir / "keys.json").read_bytes() == before


def test_a_directory_without_keys_is_named(tmp_path: Path) -> None:
    for words in (["list"], ["rotate", "device"]):
        result = run(tmp_path, *words)
        assert result.exit_code == 2
        assert f"{tmp_path}/keys.json is not there" in result.output


def test_a_token_for_a_profile_is_one_until_its_end(data_dir: Path) -> None:
    result = run(data_dir, "token", "--profile", "p-1", "--lifetime", "60")
    assert result.exit_code == 0, result.output
    ring, now_s = load_or_create_keys(data_dir).profile, time.time()
    assert ring.verify_profile(result.stdout.strip(), now_s=now_s).sub == "p-1"
    with pytest.raises(Unauthorized, match="expired"):
        ring.verify_profile(result.stdout.strip(), now_s=now_s + 70)


def test_a_token_needs_keys_that_services_know(tmp_path: Path) -> None:
    result = run(tmp_path, "token", "--profile", "p-1")
    assert (result.exit_code, "keys.json" in result.output) == (2, True)
    assert not (tmp_path / "keys.json").exists()


def test_a_file_from_before_lists_what_it_has(data_dir: Path) -> None:
    """And a change of one of its rings adds what it lacks."""
    stored = json.loads((data_dir / "keys.json").read_text())
    del stored["stagecue.profile"]
    (data_dir / "keys.json").write_text(json.dumps(stored))
    assert list(json.loads(run(data_dir, "list", "--json").stdout)) == ["device", "operator", "link"]
    assert run(data_dir, "rotate", "device").exit_code == 0
    assert list(listed(data_dir, "profile")) == ["k1"]
