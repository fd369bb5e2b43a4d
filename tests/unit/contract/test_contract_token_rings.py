"""Rings in a file: what signs and verifies when, what a rotation leaves behind, and which files are none."""

from __future__ import annotations

import base64
import json

import pytest

from contract.errors import Conflict, InvalidRequest, NotFound, Unauthorized
from contract.token_rings import MAX_KEYS, StoredKey, StoredRing, read_rings, written_rings
from contract.tokens import DeviceClaims, Ed25519Key

SECRET = b"0123456789abcdef0123456789abcdef"
PRIVATE = bytes(range(32))
PUBLIC = Ed25519Key(private=PRIVATE).public.public_bytes_raw()
AUDIENCES = ("stagecue.device", "stagecue.operator", "stagecue.link", "stagecue.profile")


def hs(letter: str = "k", **dates: int) -> StoredKey:
    return StoredKey(alg="HS256", secret=letter.encode() * 32, **dates)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def file_of(**device: object) -> bytes:
    plain = {"signing_kid": "k1", "keys": {"k1": b64(SECRET)}}
    return json.dumps(dict.fromkeys(AUDIENCES, plain) | ({"stagecue.device": device} if device else {})).encode()


RING = StoredRing(signing_kid="k1", keys={"k1": hs("1")})


def test_a_plain_file_is_read_and_written_as_it_was():
    """The file of an installation that never rotated: a secret is a string."""
    rings = read_rings(file_of())
    assert rings["stagecue.device"] == StoredRing(signing_kid="k1", keys={"k1": StoredKey(alg="HS256", secret=SECRET)})
    assert json.loads(written_rings(rings)) == json.loads(file_of())


def test_a_file_with_dates_and_key_pairs_is_read_and_written_as_it_was():
    content = file_of(
        signing_kid="k1",
        keys={
            "k1": {"alg": "HS256", "secret": b64(SECRET), "not_after_s": 200},
            "k2": {"alg": "HS256", "secret": b64(SECRET * 2), "signs_from_s": 100},
            "e1": {"alg": "EdDSA", "public": b64(PUBLIC)},
            "e2": {"alg": "EdDSA", "private": b64(PRIVATE), "signs_from_s": 150, "not_after_s": 180},
        },
    )
    ring = read_rings(content)["stagecue.device"]
    assert json.loads(written_rings(read_rings(content))) == json.loads(content)
    kids = {now_s: (ring.signer(now_s), ring.ring("stagecue.device", now_s).kids) for now_s in (99, 100, 150, 180, 200)}
    assert kids == {
        99: ("k1", ("k1", "k2", "e1", "e2")),
        100: ("k2", ("k1", "k2", "e1", "e2")),
        150: ("e2", ("k1", "k2", "e1", "e2")),
        180: ("k2", ("k1", "k2", "e1")),
        200: ("k2", ("k2", "e1")),
    }
    changes = [ring.next_change_s(now_s) for now_s in (0, 100, 150, 180, 200)]
    assert changes == [100, 150, 180, 200, float("inf")]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (file_of()[:-1], "truncated"),
        (b"[]", "Expected `object`"),
        (b"{}", "no ring for stagecue.device, stagecue.operator, stagecue.link, stagecue.profile"),
        (b'{"stagecue.device":\xff', "."),
        (file_of(signing_kid="k1"), "missing required field `keys`"),
        (file_of(signing_kid="k1", keys={"k1": "!!!"}), "base64"),
        (file_of(signing_kid="k1", keys={"k1": {"alg": "none", "secret": b64(SECRET)}}), "'none'"),
        (file_of(signing_kid="k1", keys={"k1": {"alg": "HS256", "secrets": b64(SECRET)}}), "unknown field"),
        (file_of(signing_kid="k1", keys={"k1": {"alg": "HS256", "secret": b64(SECRET), "not_after_s": "x"}}), "int"),
    ],
)
def test_what_is_no_file_of_rings_is_refused_without_its_secrets(content, why):
    with pytest.raises(ValueError, match=why) as refused:
        read_rings(content)
    assert b64(SECRET)[:20] not in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"k2": hs()}, "not in the ring"),
        ({"k1": StoredKey(alg="HS256", secret=b"short")}, "at least 32"),
        ({"k1": StoredKey(alg="HS256")}, "has a `secret`"),
        ({"k1": StoredKey(alg="HS256", secret=SECRET, public=PUBLIC)}, "has a `secret`"),
        ({"k1": StoredKey(alg="EdDSA", secret=SECRET)}, "has no `secret`"),
        ({"k1": StoredKey(alg="EdDSA", public=PUBLIC)}, "cannot sign"),
        ({"k1": StoredKey(alg="EdDSA", public=PRIVATE, private=PRIVATE)}, "does not belong"),
        ({"k1": hs(not_after_s=50)}, "not in the ring"),
    ],
)
def test_a_ring_that_cannot_work_is_refused(keys, why):
    with pytest.raises(ValueError, match=why):
        StoredRing(signing_kid="k1", keys=keys).ring("stagecue.device", 100)


def test_a_rotation_lets_everybody_read_before_it_signs_and_keeps_what_was_signed():
    """The new key verifies at once and signs after the lead; the old one ends after its last token."""
    rotated = RING.rotated("k2", hs("2"), now_s=1000.5, lead_s=10, keep_s=60)
    assert [rotated.signer(now_s) for now_s in (1000.5, 1010.9, 1011)] == ["k1", "k1", "k2"]
    claims = DeviceClaims(sub="p", dev="d", exp=10_000)
    old = RING.ring("stagecue.device", 1000).sign(claims)
    new = rotated.ring("stagecue.device", 1011).sign(claims)
    at_once = rotated.ring("stagecue.device", 1000.5)
    assert at_once.verify_device(new, now_s=1000.5) == at_once.verify_device(old, now_s=1000.5) == claims
    assert rotated.ring("stagecue.device", 1070).verify_device(old, now_s=1070.9) == claims
    with pytest.raises(Unauthorized, match="retired"):
        rotated.ring("stagecue.device", 1070).verify_device(old, now_s=1071)
    with pytest.raises(Unauthorized, match="does not know"):
        rotated.ring("stagecue.device", 1071).verify_device(old, now_s=1071)


def test_a_second_rotation_sweeps_away_what_is_over_and_prolongs_nothing():
    once = RING.rotated("k2", hs("2"), now_s=0, lead_s=10, keep_s=60)
    twice = once.rotated("k3", hs("3"), now_s=20, lead_s=10, keep_s=600)
    assert {kid: key.not_after_s for kid, key in twice.keys.items()} == {"k1": 70, "k2": 630, "k3": None}
    assert [twice.signer(now_s) for now_s in (20, 29, 30)] == ["k2", "k2", "k3"]
    thrice = twice.rotated("k4", hs("4"), now_s=70, lead_s=0, keep_s=0)
    assert list(thrice.keys) == ["k2", "k3", "k4"]
    assert thrice.signer(70) == "k4"
    assert thrice.ring("stagecue.device", 70).kids == ("k4",), "nothing is kept: the others ended with the change"


def test_a_rotation_outruns_one_that_still_waits():
    """In a hurry: the newest key signs first, and nothing it replaced signs after it."""
    waiting = RING.rotated("k2", hs("2"), now_s=0, lead_s=300, keep_s=60)
    hurried = waiting.rotated("k3", hs("3"), now_s=10, lead_s=0, keep_s=60)
    assert [hurried.signer(now_s) for now_s in (10, 300, 10_000)] == ["k3"] * 3
    assert hurried.ring("stagecue.device", 10).kids == ("k1", "k2", "k3")


def test_a_foreign_key_is_trusted_and_survives_rotations():
    """Another issuer's public key is not ours to end; whatever comes with it, it never signs."""
    given = StoredKey(alg="EdDSA", public=PUBLIC, private=PRIVATE, signs_from_s=1)
    trusting = RING.trusted("partner", given, now_s=5)
    assert trusting.keys["partner"] == StoredKey(alg="EdDSA", public=PUBLIC)
    rotated = trusting.rotated("k2", hs("2"), now_s=10, lead_s=0, keep_s=5)
    assert rotated.signer(20) == "k2"
    assert rotated.ring("stagecue.device", 20).kids == ("partner", "k2")
    assert list(rotated.retired("partner", now_s=20).keys) == ["k2"]


def test_a_stolen_key_is_replaced_and_gone_at_once():
    replaced = RING.rotated("k2", hs("2"), now_s=1000.9, lead_s=0, keep_s=3600)
    gone = replaced.retired("k1", now_s=1000.9)
    assert gone == StoredRing(signing_kid="k2", keys={"k2": hs("2")})


def test_a_key_may_be_given_a_while():
    rotated = RING.rotated("k2", hs("2"), now_s=0, lead_s=0, keep_s=3600)
    assert rotated.retired("k1", now_s=10, after_s=100).keys["k1"].not_after_s == 110
    assert rotated.retired("k1", now_s=10, after_s=9000).keys["k1"].not_after_s == 3600, "never longer than it had"
    assert list(rotated.retired("k1", now_s=3600).keys) == ["k2"], "it ended by itself"


def test_what_signs_is_not_taken_away():
    """At no moment may a ring be left without a key that signs."""
    with pytest.raises(Conflict, match="nothing would sign"):
        RING.retired("k1", now_s=0)
    with pytest.raises(Conflict, match="nothing would sign"):
        RING.retired("k1", now_s=0, after_s=1e6)
    waiting = RING.rotated("k2", hs("2"), now_s=0, lead_s=100, keep_s=50)
    for kid, after_s in (("k1", 0), ("k1", 50), ("k2", 0), ("k2", 140)):
        with pytest.raises(Conflict, match="nothing would sign"):
            waiting.retired(kid, now_s=10, after_s=after_s)
    assert waiting.retired("k1", now_s=10, after_s=90).signer(100) == "k2"
    with pytest.raises(NotFound, match="one of: k1, k2"):
        waiting.retired("k9", now_s=10)


def test_new_keys_are_checked():
    for kid in ("", "a b", "ä", "x" * 65, "k/1"):
        with pytest.raises(InvalidRequest, match="no key id"):
            RING.rotated(kid, hs(), now_s=0, lead_s=0, keep_s=0)
    with pytest.raises(Conflict, match="already"):
        RING.rotated("k1", hs(), now_s=0, lead_s=0, keep_s=0)
    with pytest.raises(InvalidRequest, match="at least 32"):
        RING.rotated("k2", StoredKey(alg="HS256", secret=b"short"), now_s=0, lead_s=0, keep_s=0)
    with pytest.raises(InvalidRequest, match="cannot sign"):
        RING.rotated("k2", StoredKey(alg="EdDSA", public=PUBLIC), now_s=0, lead_s=0, keep_s=0)
    with pytest.raises(InvalidRequest, match="31 bytes"):
        RING.trusted("p", StoredKey(alg="EdDSA", public=PUBLIC[1:]), now_s=0)


def test_a_ring_does_not_grow_without_end():
    ring = RING
    for number in range(2, MAX_KEYS + 1):
        ring = ring.rotated(f"k{number}", hs(), now_s=number, lead_s=0, keep_s=1000)
    with pytest.raises(Conflict, match="at most"):
        ring.rotated("one-more", hs(), now_s=100, lead_s=0, keep_s=1000)
    assert len(ring.rotated("one-more", hs(), now_s=1010, lead_s=0, keep_s=1000).keys) < MAX_KEYS, "some were over"


def test_nothing_shows_a_secret():
    for shown in (hs("s"), StoredRing(signing_kid="k", keys={"k": hs("s")}), StoredKey(alg="EdDSA", private=PRIVATE)):
        for text in (repr(shown), str(shown), f"{shown}"):
            assert "ssss" not in text
            assert "x01" not in text


def test_a_file_may_lack_a_ring_that_came_later():
    """And no other."""
    content = json.loads(file_of())
    del content["stagecue.profile"]
    raw = json.dumps(content).encode()
    assert set(read_rings(raw, may_lack=("stagecue.profile",))) == set(AUDIENCES[:3])
    with pytest.raises(ValueError, match=r"no ring for stagecue\.profile"):
        read_rings(raw)
    del content["stagecue.link"]
    with pytest.raises(ValueError, match=r"no ring for stagecue\.link$"):
        read_rings(json.dumps(content).encode(), may_lack=("stagecue.profile",))
