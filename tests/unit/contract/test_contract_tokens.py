"""Tokens: rings are separate, the algorithm is pinned, expiry is judged by the given clock, nothing leaks."""

from __future__ import annotations

import base64
import json

import jwt
import pytest

from contract.errors import Forbidden, Unauthorized
from contract.tokens import (
    DeviceClaims,
    KeyRing,
    OperatorClaims,
    new_key_ring,
    require_role,
)

NOW_S = 1_000_000
CLAIMS = DeviceClaims(sub="p-1", dev="tv", exp=NOW_S + 60, topics=("event:a",))


def test_what_is_signed_is_what_is_read():
    ring = new_key_ring("stagecue.device")
    assert ring.verify_device(ring.sign(CLAIMS), now_s=NOW_S) == CLAIMS


def test_a_rotated_ring_still_reads_the_old_key():
    old = new_key_ring("stagecue.device", "k1")
    token = old.sign(CLAIMS)
    both = KeyRing("stagecue.device", {**old._keys, "k2": b"n" * 32}, "k2")
    assert both.verify_device(token, now_s=NOW_S) == CLAIMS
    assert jwt.get_unverified_header(both.sign(CLAIMS))["kid"] == "k2"


def test_expired_forged_foreign_and_missing_tokens_are_refused():
    """Each refusal says why and never repeats the token."""
    ring, other = new_key_ring("stagecue.device"), new_key_ring("stagecue.device")
    good = ring.sign(CLAIMS)
    head, body, signature = good.split(".")
    richer = json.loads(base64.urlsafe_b64decode(body + "=="))
    richer["sub"] = "someone-else"
    forged = ".".join([head, base64.urlsafe_b64encode(json.dumps(richer).encode()).decode().rstrip("="), signature])
    cases = {
        "": "no token",
        "nonsense": "not a valid token",
        "a\udc80.b.c": "not a valid token",  # a raw byte of a header, as some parsers hand it on
        forged: "not a valid token",
        other.sign(CLAIMS): "not a valid token",
        ring.sign(DeviceClaims(sub="p", dev="d", exp=NOW_S - 60)): "expired 60 s ago",
        jwt.encode({"sub": "p", "dev": "d", "exp": NOW_S + 60}, "k" * 32, headers={"kid": "nobody"}): "does not know",
    }
    for token, why in cases.items():
        with pytest.raises(Unauthorized, match=why) as caught:
            ring.verify_device(token, now_s=NOW_S)
        assert not token or token not in str(caught.value)


def test_the_algorithm_is_pinned():
    """RFC 8725, 3.1: neither `none` nor another HMAC may slip in through the header."""
    ring = new_key_ring("stagecue.device")
    payload = {"sub": "p", "dev": "d", "exp": NOW_S + 60, "aud": "stagecue.device"}
    for token in (
        jwt.encode(payload, "", algorithm="none", headers={"kid": "k1"}),
        jwt.encode(payload, ring._keys["k1"] * 2, algorithm="HS512", headers={"kid": "k1"}),
    ):
        with pytest.raises(Unauthorized):
            ring.verify_device(token, now_s=NOW_S)


def test_a_ring_never_reads_another_rings_token():
    """Even with the very same secret: the audience differs."""
    secret = {"k1": b"s" * 32}
    device = KeyRing("stagecue.device", secret, "k1")
    operator = KeyRing("stagecue.operator", secret, "k1")
    link = KeyRing("stagecue.link", secret, "k1")
    with pytest.raises(Unauthorized):
        operator.verify_operator(device.sign(CLAIMS), now_s=NOW_S)
    with pytest.raises(Unauthorized):
        link.verify_operator(operator.sign(OperatorClaims(sub="o", exp=NOW_S + 60)), now_s=NOW_S)
    assert not link.check_proof("k1", b"hello", operator.prove(b"hello")[1])


def test_rings_refuse_weak_keys_and_show_no_secret():
    with pytest.raises(ValueError, match="at least 32"):
        KeyRing("stagecue.device", {"k1": b"short"}, "k1")
    with pytest.raises(ValueError, match="not in the ring"):
        KeyRing("stagecue.device", {"k1": b"s" * 32}, "k2")
    assert "sss" not in repr(KeyRing("stagecue.device", {"k1": b"s" * 32}, "k1"))


def test_roles():
    require_role(OperatorClaims(sub="o", exp=1, role="operator"), "viewer")
    with pytest.raises(Forbidden, match="needs role operator"):
        require_role(OperatorClaims(sub="o", exp=1), "operator")
