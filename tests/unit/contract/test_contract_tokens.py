"""Tokens: rings are separate, the algorithm is pinned, expiry is judged by the given clock, nothing leaks."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

import jwt
import pytest

from contract.errors import Forbidden, Unauthorized
from contract.token_segments import encode_segment
from contract.tokens import (
    LEEWAY_S,
    MAX_TOKEN_BYTES,
    DeviceClaims,
    Ed25519Key,
    Hs256Key,
    KeyRing,
    OperatorClaims,
    ProfileClaims,
    new_key_ring,
    require_role,
)

NOW_S = 1_000_000
SECRET = b"0123456789abcdef0123456789abcdef"
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
    ring = KeyRing("stagecue.device", {"k1": SECRET}, "k1")
    payload = {"sub": "p", "dev": "d", "exp": NOW_S + 60, "aud": "stagecue.device"}
    for token in (
        jwt.encode(payload, "", algorithm="none", headers={"kid": "k1"}),
        jwt.encode(payload, SECRET * 2, algorithm="HS512", headers={"kid": "k1"}),
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


def made(
    payload: dict[str, Any] | bytes, *, header: dict[str, Any] | bytes | None = None, secret: bytes = SECRET
) -> str:
    """A token of any header and payload, authentic by `secret`."""
    head = header if isinstance(header, bytes) else json.dumps({"alg": "HS256", "kid": "k1"} | (header or {})).encode()
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    signing_input = encode_segment(head) + b"." + encode_segment(body)
    return (signing_input + b"." + encode_segment(Hs256Key(secret).sign(signing_input))).decode()


ASKED: dict[str, Any] = {"sub": "p-1", "dev": "tv", "exp": NOW_S + 60, "topics": ["event:a"], "aud": "stagecue.device"}
RING = KeyRing("stagecue.device", {"k1": SECRET}, "k1")


@pytest.mark.parametrize(
    "payload",
    [
        ASKED,
        ASKED | {"aud": ["others", "stagecue.device"]},
        ASKED | {"exp": NOW_S + 60.75, "nbf": NOW_S - 0.5, "iat": 0.0},
        ASKED | {"nbf": NOW_S + LEEWAY_S, "iat": NOW_S + LEEWAY_S},
        ASKED | {"iss": "https://issuer.example", "scope": {"deep": [1, 2.5, None]}, "jti": "1"},
        b'{"sub":"x","sub":"p-1","dev":"tv","exp":1,"exp":%d,"topics":["event:a"],"aud":"stagecue.device"}'
        % (NOW_S + 60),
    ],
)
def test_every_spelling_of_valid_claims_is_read_alike(payload):
    """Audience lists, dates with fractions, claims we do not know, and the last of a claim named twice."""
    assert RING.verify_device(made(payload), now_s=NOW_S) == CLAIMS


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (ASKED | {"aud": "stagecue.operator"}, "audience"),
        (ASKED | {"aud": []}, "aud"),
        (ASKED | {"aud": ["stagecue.device", 7]}, "claim format"),
        ({name: ASKED[name] for name in ASKED if name != "aud"}, "aud"),
        ({name: ASKED[name] for name in ASKED if name != "exp"}, "`exp`"),
        (ASKED | {"exp": "soon"}, "exp"),
        (ASKED | {"exp": True}, "exp"),
        (ASKED | {"exp": 10**400}, "exp"),
        (b'{"sub":"p","dev":"d","aud":"stagecue.device","exp":1e999}', "exp"),
        (ASKED | {"exp": -1}, "exp"),
        (ASKED | {"nbf": NOW_S + LEEWAY_S + 1}, "not valid yet"),
        (ASKED | {"iat": NOW_S + LEEWAY_S + 1}, "issued in the future"),
        (ASKED | {"nbf": None}, "nbf"),
        (ASKED | {"sub": 7}, "[sS]ub"),
        (ASKED | {"topics": ["event:a", 1]}, "topics"),
        (ASKED | {"jti": 7}, "JWT ID"),
        (b"{", "payload"),
        (b"[]", "object"),
        (b"\xff", "payload"),
        (b"[" * 3000, "payload"),
        (b'{"sub":"\\ud800","dev":"d","exp":9999999,"aud":"stagecue.device"}', "not text"),
    ],
)
def test_authentic_nonsense_is_refused(payload, why):
    """Whoever holds a key may still sign what is no token of ours."""
    with pytest.raises(Unauthorized, match=f"not a valid token: .*{why}"):
        RING.verify_device(made(payload), now_s=NOW_S)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"crit": ["exp"]}, "extension"),
        ({"b64": True}, "extension"),
        ({"typ": "at+jwt"}, "type"),
        ({"typ": 1}, "type"),
        ({"alg": "none"}, "not for the algorithm"),
        ({"alg": "hs256"}, "not for the algorithm"),
        ({"alg": "EdDSA"}, "not for the algorithm"),
        ({"alg": None}, "no algorithm"),
        ({"kid": 1}, "no key id"),
        ({"kid": "k2"}, "does not know"),
        (b'{"alg":"none","alg":"HS256","kid":"k1"}', "twice"),
        (b'"HS256"', "no JSON object"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 3000, "not JSON"),
    ],
)
def test_headers_are_read_strictly(header, why):
    """RFC 8725, 3.1 and 3.10: what is not understood is refused, however authentic."""
    with pytest.raises(Unauthorized, match=why):
        RING.verify_device(made(ASKED, header=header), now_s=NOW_S)


def test_a_type_may_be_spelled_as_it_likes_or_left_out():
    for header in ({"typ": "jwt"}, {"typ": "JWT"}, {}, {"x5u": "https://key.example"}):
        assert RING.verify_device(made(ASKED, header=header), now_s=NOW_S) == CLAIMS


def test_only_headers_of_authentic_tokens_are_remembered_and_not_many():
    """Neither strangers nor issuers can make a ring grow."""
    ring = KeyRing("stagecue.device", {"k1": SECRET}, "k1")
    for number in range(200):
        with pytest.raises(Unauthorized):
            ring.verify_device(made(ASKED, header={"n": number}, secret=b"f" * 32), now_s=NOW_S)
    assert len(ring._headers) == 1
    for number in range(200):
        assert ring.verify_device(made(ASKED, header={"n": number}), now_s=NOW_S) == CLAIMS
    assert len(ring._headers) == 64


def test_a_second_spelling_of_a_token_is_none():
    """Padding, foreign characters, white space and stray low bits would be another string of the same claims."""
    good = RING.sign(CLAIMS)
    head, body, signature = good.split(".")
    assert len(signature) % 4 == 3, "its last character has two unused bits"
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    stray = signature[:-1] + alphabet[alphabet.index(signature[-1]) + 1]
    assert base64.urlsafe_b64decode(stray + "=") == base64.urlsafe_b64decode(signature + "=")
    others = [f"{head}.{body}.{stray}", f"{good}=", f" {good}", f"{good}\n", f"{good}.", f"{head}.{body}", f".{good}"]
    others += [f"{head}..{signature}", f".{body}.{signature}", f"{head}.{body}.", "..", "a.b.c", "é.b.c"]
    for token in others:
        with pytest.raises(Unauthorized, match="not a valid token"):
            RING.verify_device(token, now_s=NOW_S)


def test_a_stray_bit_or_a_foreign_character_in_authentic_claims_is_refused():
    """Signed as they stand, so that only the spelling of the claims is wrong."""
    body = encode_segment(json.dumps(ASKED | {"sub": "p-1?"}).encode())
    head = encode_segment(b'{"alg":"HS256","kid":"k1"}')
    for wrong in (body + b"=", body[:-1] + b"+", body[:-1] + b"/", body[:-1] + b"!", b"", b"A"):
        signing_input = head + b"." + wrong
        token = (signing_input + b"." + encode_segment(Hs256Key(SECRET).sign(signing_input))).decode()
        with pytest.raises(Unauthorized, match="one spelling"):
            RING.verify_device(token, now_s=NOW_S)


def test_a_token_without_measure_is_refused_unread():
    with pytest.raises(Unauthorized, match=f"longer than {MAX_TOKEN_BYTES} bytes"):
        RING.verify_device(made(ASKED | {"sub": "p" * MAX_TOKEN_BYTES}), now_s=NOW_S)


def test_an_expired_token_is_good_within_the_grace_and_says_so():
    """Reconnects are renewed in-band; the plain check forgives no more than clocks that differ."""
    token = RING.sign(CLAIMS)
    expiry_s = CLAIMS.exp
    for late_s, grace_s, expected in (
        (-60, 0, False),
        (LEEWAY_S - 0.01, 0, False),
        (LEEWAY_S, 30, True),
        (LEEWAY_S + 29.9, 30, True),
    ):
        claims, expired = RING.verify_device_within(token, now_s=expiry_s + late_s, grace_s=grace_s)
        assert (claims, expired) == (CLAIMS, expected), late_s
    for late_s, grace_s in ((LEEWAY_S, 0), (LEEWAY_S, -10), (LEEWAY_S + 30, 30)):
        with pytest.raises(Unauthorized, match=f"expired {late_s} s ago"):
            RING.verify_device_within(token, now_s=expiry_s + late_s, grace_s=grace_s)
    with pytest.raises(Unauthorized, match="signature"):
        RING.verify_device_within(made(ASKED, secret=b"f" * 32), now_s=NOW_S, grace_s=1e9)


def test_a_key_stops_verifying_when_it_is_retired():
    """Whatever its tokens say, and within any grace."""
    token = KeyRing("stagecue.device", {"k1": SECRET}, "k1").sign(CLAIMS)
    keys = {"k1": Hs256Key(SECRET, not_after_s=NOW_S + 10), "k2": b"n" * 32}
    ring = KeyRing("stagecue.device", keys, "k2")
    assert ring.verify_device(token, now_s=NOW_S + 9.9) == CLAIMS
    for verify in (ring.verify_device, lambda token, now_s: ring.verify_device_within(token, now_s=now_s, grace_s=99)):
        with pytest.raises(Unauthorized, match="retired"):
            verify(token, now_s=NOW_S + 10)


PRIVATE = bytes(range(32))
PUBLIC = Ed25519Key(private=PRIVATE).public.public_bytes_raw()


def test_a_public_key_verifies_what_its_private_half_signed():
    issuer = KeyRing("stagecue.device", {"e1": Ed25519Key(private=PRIVATE)}, "e1")
    token = issuer.sign(CLAIMS)
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": "e1", "typ": "JWT"}
    reader = KeyRing("stagecue.device", {"e1": Ed25519Key(public=PUBLIC), "k1": SECRET}, "k1")
    assert reader.verify_device(token, now_s=NOW_S) == issuer.verify_device(token, now_s=NOW_S) == CLAIMS
    head, body, signature = token.split(".")
    forged = f"{head}.{body}.{signature[:-8]}AAAAAAA{signature[-1]}"
    for wrong, why in ((forged, "verification failed"), (made(ASKED, header={"kid": "e1"}), "not for the algorithm")):
        with pytest.raises(Unauthorized, match=why):
            reader.verify_device(wrong, now_s=NOW_S)
    with pytest.raises(Unauthorized, match="expired"):
        reader.verify_device(token, now_s=CLAIMS.exp + LEEWAY_S)


def test_a_public_key_is_no_shared_secret():
    """The classic confusion: the verifier's public bytes, used as an HMAC secret by whoever read them."""
    reader = KeyRing("stagecue.device", {"e1": Ed25519Key(public=PUBLIC), "k1": SECRET}, "k1")
    for header in ({"kid": "e1"}, {"kid": "e1", "alg": "EdDSA"}):
        with pytest.raises(Unauthorized):
            reader.verify_device(made(ASKED, header=header, secret=PUBLIC), now_s=NOW_S)


def test_rings_refuse_keys_that_cannot_do_their_work():
    with pytest.raises(ValueError, match="cannot sign"):
        KeyRing("stagecue.device", {"e1": Ed25519Key(public=PUBLIC)}, "e1")
    with pytest.raises(ValueError, match="HS256 keys only"):
        KeyRing("stagecue.link", {"e1": Ed25519Key(private=PRIVATE)}, "e1")
    for given in ({}, {"private": b"short"}, {"public": b"s" * 31}, {"private": PRIVATE, "public": PRIVATE}):
        with pytest.raises(ValueError, match="Ed25519 key"):
            Ed25519Key(**given)
    with pytest.raises(ValueError, match="cannot sign"):
        Ed25519Key(public=PUBLIC).sign(b"x")


def test_nothing_shows_a_secret():
    for shown in (Hs256Key(SECRET), Ed25519Key(private=PRIVATE), RING, KeyRing("stagecue.device", {"k": SECRET}, "k")):
        assert repr(SECRET)[2:10] not in repr(shown) + str(shown)
        assert repr(PRIVATE)[2:10] not in repr(shown) + str(shown)


def test_operators_are_read_as_strictly():
    ring = KeyRing("stagecue.operator", {"k1": SECRET}, "k1")
    for claims in (OperatorClaims(sub="o", exp=NOW_S + 9), OperatorClaims(sub="o", exp=NOW_S + 9, role="operator")):
        assert ring.verify_operator(ring.sign(claims), now_s=NOW_S) == claims
    with pytest.raises(Unauthorized, match="role"):
        ring.verify_operator(made({"sub": "o", "exp": NOW_S + 9, "role": "admin", "aud": ring.audience}), now_s=NOW_S)
    with pytest.raises(Unauthorized, match="expired 6 s ago"):
        ring.verify_operator(ring.sign(OperatorClaims(sub="o", exp=NOW_S - 6)), now_s=NOW_S)


def test_roles():
    require_role(OperatorClaims(sub="o", exp=1, role="operator"), "viewer")
    with pytest.raises(Forbidden, match="needs role operator"):
        require_role(OperatorClaims(sub="o", exp=1), "operator")


PROFILE_RING = KeyRing("stagecue.profile", {"k1": SECRET, "e1": Ed25519Key(public=PUBLIC)}, "k1")


def test_a_profile_token_names_its_profile():
    token = PROFILE_RING.sign(ProfileClaims(sub="p-1", exp=NOW_S + 60))
    assert PROFILE_RING.verify_profile(token, now_s=NOW_S) == ProfileClaims(sub="p-1", exp=NOW_S + 60)
    with pytest.raises(Unauthorized, match="expired 20 s ago"):
        PROFILE_RING.verify_profile(token, now_s=NOW_S + 80)


def test_an_identity_services_own_claims_are_read_over_by_the_short_path(monkeypatch):
    """Issuer, id, scopes, times: without PyJWT, which costs ten times as much."""
    claims = {
        "iss": "https://id.example",
        "sub": "p-1",
        "aud": ["app", "stagecue.profile"],
        "exp": NOW_S + 60,
        "iat": NOW_S - 60,
        "nbf": NOW_S - 60,
        "jti": "b2f1",
        "scope": ["a", {"b": None}],
        "amr": 1.5,
    }
    token = jwt.encode(claims, SECRET, algorithm="HS256", headers={"kid": "k1"})
    monkeypatch.setattr(jwt, "decode", lambda *args, **kwargs: pytest.fail("read by PyJWT"))
    for _ in range(2):
        assert PROFILE_RING.verify_profile(token, now_s=NOW_S).sub == "p-1"


def test_an_identity_service_may_sign_with_its_own_key_pair():
    claims = {"sub": "p-1", "aud": "stagecue.profile", "exp": NOW_S + 60, "iss": "id"}
    token = KeyRing("stagecue.profile", {"e1": Ed25519Key(private=PRIVATE)}, "e1").sign(
        ProfileClaims(sub="p-1", exp=NOW_S + 60)
    )
    assert PROFILE_RING.verify_profile(token, now_s=NOW_S).sub == "p-1"
    private = Ed25519Key(private=PRIVATE)._private
    token = jwt.encode(claims, private, algorithm="EdDSA", headers={"kid": "e1"})
    assert PROFILE_RING.verify_profile(token, now_s=NOW_S).sub == "p-1"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"aud": "stagecue.device"}, "audience"),
        ({"aud": None}, "aud"),
        ({"sub": None}, "sub"),
        ({"exp": None}, "exp"),
        ({"exp": NOW_S - 60}, "expired"),
        ({"exp": -1}, "exp"),
        ({"nbf": NOW_S + 60}, "not valid yet"),
        ({"iat": NOW_S + 60}, "issued in the future"),
        ({"sub": 7}, ""),
    ],
)
def test_profile_tokens_that_are_none(change, why):
    claims = {"sub": "p-1", "aud": "stagecue.profile", "exp": NOW_S + 60, "iss": "id"} | change
    present = {name: value for name, value in claims.items() if value is not None}
    header = {"alg": "HS256", "kid": "k1"}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, present)]
    mac = base64.urlsafe_b64encode(hmac.digest(SECRET, b".".join(parts), "sha256")).rstrip(b"=")
    with pytest.raises(Unauthorized) as refused:
        PROFILE_RING.verify_profile(b".".join([*parts, mac]).decode(), now_s=NOW_S)
    assert why in str(refused.value)


def test_a_profile_token_opens_no_stream_and_a_device_token_no_prefetch():
    """Even with one secret for both rings: the audience tells them apart."""
    device = KeyRing("stagecue.device", {"k1": SECRET}, "k1")
    profile_token = PROFILE_RING.sign(ProfileClaims(sub="p", exp=NOW_S + 60))
    device_token = device.sign(DeviceClaims(sub="p", dev="d", exp=NOW_S + 60))
    with pytest.raises(Unauthorized):
        device.verify_device(profile_token, now_s=NOW_S)
    with pytest.raises(Unauthorized, match="audience"):
        PROFILE_RING.verify_profile(device_token, now_s=NOW_S)
