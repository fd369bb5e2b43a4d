"""PyJWT is the oracle: what a ring accepts, PyJWT accepts with the same options, and reads the same from it."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

import jwt
import pytest
from hypothesis import currently_in_test_context, event, example, given, settings
from hypothesis import strategies as st

from contract.errors import Unauthorized
from contract.token_keys import RingKey
from contract.token_segments import MalformedSegment, decode_segment, encode_segment
from contract.tokens import LEEWAY_S, DeviceClaims, Ed25519Key, Hs256Key, KeyRing

NOW_S = 1_731_722_400
K1, K2 = b"first secret of this ring, 32 bytes.", b"second secret, which is longer than one block of its hash" * 2
PRIVATE = bytes(range(1, 33))
PAIR = Ed25519Key(private=PRIVATE)
PUBLIC = PAIR.public.public_bytes_raw()
KEYS: dict[str, RingKey] = {"k1": Hs256Key(K1), "k2": Hs256Key(K2), "e1": Ed25519Key(public=PUBLIC)}
FOREIGN = b"a secret of somebody else entirely.."
AUDIENCE = "stagecue.device"
ALGORITHMS = ["HS256", "HS384", "HS512", "none", "RS256", "ES256", "EdDSA", "hs256", "", None, 1]


class _FrozenDatetime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(NOW_S, tz or UTC)


@pytest.fixture(scope="module", autouse=True)
def oracles_clock() -> Iterator[None]:
    """PyJWT reads the system's clock: here it reads ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jwt.api_jwt.datetime", _FrozenDatetime)
        yield


def oracle(token: str) -> dict[str, Any] | None:
    """PyJWT's claims with the key the header names and that key's algorithm, or None."""
    try:
        key = KEYS[jwt.get_unverified_header(token)["kid"]]
        found: dict[str, Any] = jwt.decode(
            token,
            key.secret if isinstance(key, Hs256Key) else key.public,
            algorithms=[key.alg],
            audience=AUDIENCE,
            leeway=LEEWAY_S,
            options={"require": ["sub", "dev", "exp", "aud"]},
        )
    except (jwt.PyJWTError, KeyError, UnicodeError):
        return None
    return found


def ours(token: str) -> DeviceClaims | None:
    """A fresh ring's claims, read three times: the first token of a header, a known header, and by the other method."""
    ring = KeyRing(AUDIENCE, KEYS, "k1")
    readings: list[DeviceClaims | None] = []
    for _ in range(2):
        try:
            readings.append(ring.verify_device(token, now_s=NOW_S))
        except Unauthorized as exc:
            readings.append(None)
            told = str(exc)
            if len(token) > 20 and token in told:
                pytest.fail("an error repeats the token")
    try:
        claims, expired = ring.verify_device_within(token, now_s=NOW_S, grace_s=0)
        assert not expired
        readings.append(claims)
    except Unauthorized:
        readings.append(None)
    assert readings[0] == readings[1] == readings[2]
    return readings[0]


def agree(token: str) -> bool:
    """Ours accepts only what the oracle accepts, with equal claims; whether it did."""
    mine, theirs = ours(token), oracle(token)
    if currently_in_test_context():
        event(f"ours {'accepts' if mine else 'refuses'}, PyJWT {'accepts' if theirs else 'refuses'}")
    if mine is None:
        return False
    assert theirs is not None, "accepted what PyJWT refuses"
    assert (mine.sub, mine.dev, mine.exp) == (theirs["sub"], theirs["dev"], int(theirs["exp"]))
    assert mine.topics == (None if theirs.get("topics") is None else tuple(theirs["topics"]))
    return True


def signature(signing_input: bytes, key: str) -> bytes:
    """By a key's name; `none` is no signature, `public` uses the verifier's public bytes as a secret."""
    if key == "e1":
        return PAIR.sign(signing_input)
    if key == "none":
        return b""
    secret, hash_name = {
        "k1": (K1, "sha256"),
        "k2": (K2, "sha256"),
        "foreign": (FOREIGN, "sha256"),
        "public": (PUBLIC, "sha256"),
        "hs512": (K1, "sha512"),
        "hs384": (K1, "sha384"),
    }[key]
    return hmac.digest(secret, signing_input, hash_name)


def assembled(header: bytes, payload: bytes, key: str) -> str:
    signing_input = encode_segment(header) + b"." + encode_segment(payload)
    return (signing_input + b"." + encode_segment(signature(signing_input, key))).decode("ascii")


def spelled(pairs: Sequence[tuple[str, Any]]) -> bytes:
    """A JSON object of these pairs, also of names that occur twice."""
    return ("{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}").encode()


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
dates = st.integers(NOW_S - 20, NOW_S + 20) | st.floats(NOW_S - 20, NOW_S + 20)
audiences = st.one_of(
    st.just(AUDIENCE), st.lists(st.sampled_from([AUDIENCE, "stagecue.operator", ""]), max_size=3), st.just("stagecue")
)
CLAIMS: dict[str, st.SearchStrategy[Any]] = {
    "sub": text,
    "dev": text,
    "exp": st.just(NOW_S + 600) | dates,
    "aud": st.just(AUDIENCE) | audiences,
    "topics": st.none() | st.lists(text, max_size=3),
    "nbf": dates,
    "iat": dates,
    "jti": text,
    "scope": anything,
}
REQUIRED = ("sub", "dev", "exp", "aud")
header_pairs = st.lists(
    st.one_of(
        st.tuples(st.just("alg"), st.sampled_from(ALGORITHMS)),
        st.tuples(st.just("kid"), st.sampled_from(["k1", "k2", "e1", "k3", "", None, 1])),
        st.tuples(st.just("typ"), st.sampled_from(["JWT", "jwt", "at+jwt", "", None, 1])),
        st.tuples(st.just("crit"), st.sampled_from([[], ["b64"], ["exp"], None])),
        st.tuples(st.just("b64"), st.booleans() | st.none()),
        st.tuples(text, anything),
    ),
    max_size=4,
)
plain_header = st.sampled_from([("k1", "HS256"), ("k2", "HS256"), ("e1", "EdDSA")])


@st.composite
def well_formed(draw: st.DrawFn) -> str:
    """An authentic token with claims of the right types: only times and audiences may be wrong."""
    chosen = draw(st.sets(st.sampled_from(sorted(CLAIMS.keys() - set(REQUIRED)))))
    names = draw(st.permutations([*REQUIRED, *sorted(chosen)]))
    payload = spelled([(name, draw(CLAIMS[name])) for name in names])
    kid, alg = draw(plain_header)
    return assembled(spelled([("alg", alg), ("kid", kid), ("typ", "JWT")]), payload, kid)


@st.composite
def any_token(draw: st.DrawFn) -> str:
    """Any header and payload, any type of claim, names twice, signed by anybody."""
    pairs = [(name, draw(CLAIMS[name] | anything)) for name in draw(st.permutations(list(REQUIRED)))]
    pairs += [
        (name, draw(CLAIMS[name] | anything)) for name in draw(st.lists(st.sampled_from(list(CLAIMS)), max_size=3))
    ]
    payload = draw(st.just(spelled(pairs)) | st.binary(max_size=20))
    kid, alg = draw(plain_header)
    more = draw(header_pairs)
    header = spelled(draw(st.permutations([("alg", alg), ("kid", kid), *more])))
    signer = st.just(kid) | st.sampled_from(["k1", "k2", "e1", "foreign", "public", "hs512", "hs384", "none"])
    return assembled(header, payload, draw(signer))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A well-formed token with a few edits, such as an attacker or a broken proxy makes."""
    token = draw(well_formed())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(token)))
        edit = draw(st.sampled_from(["flip", "insert", "cut", "truncate", "pad", "swap", "repeat", "case", "bits"]))
        odd = draw(st.sampled_from([*"Aa0_-+/=. \n\x00é\udc80\u2028"]))
        parts = token.split(".")
        if edit == "flip":
            token = token[:at] + odd + token[at + 1 :]
        elif edit == "insert":
            token = token[:at] + odd + token[at:]
        elif edit == "cut":
            token = token[:at] + token[at + draw(st.integers(1, 5)) :]
        elif edit == "truncate":
            token = token[:at]
        elif edit == "pad":
            parts[at % len(parts)] += "=" * (1 + at % 3)
            token = ".".join(parts)
        elif edit == "swap":
            token = ".".join(draw(st.permutations(parts)))
        elif edit == "repeat":
            token = ".".join([*parts, parts[at % len(parts)]])
        elif edit == "case":
            token = token[:at] + token[at:].swapcase()
        elif parts[at % len(parts)]:  # the low bits of a segment's last character
            part = parts[at % len(parts)]
            parts[at % len(parts)] = part[:-1] + chr(ord(part[-1]) ^ draw(st.integers(1, 3)))
            token = ".".join(parts)
    return token


@st.composite
def signed_after_edits(draw: st.DrawFn) -> str:
    """The bytes of the claims or the header edited, then signed by the right key: only their reading is at stake."""
    kid, alg = draw(plain_header)
    parts = [
        bytearray(spelled([("alg", alg), ("kid", kid), ("typ", "JWT")])),
        bytearray(spelled([(name, draw(CLAIMS[name])) for name in draw(st.permutations(sorted(CLAIMS)))])),
    ]
    part = parts[draw(st.sampled_from([1, 1, 1, 0]))]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(part)))
        odd = draw(st.sampled_from([*b'{}[]",:\\u0123456789.eE+-ntf \n\t\x00\x1f\x7f', 0x80, 0xC0, 0xED, 0xFF]))
        part[at : at + draw(st.integers(0, 1))] = bytes([odd])
    return assembled(bytes(parts[0]), bytes(parts[1]), kid)


@settings(max_examples=300, deadline=None)
@given(well_formed())
def test_well_formed_tokens_get_the_same_verdict(token):
    """Both ways: also nothing that PyJWT accepts is refused."""
    assert agree(token) == (oracle(token) is not None)


@settings(max_examples=400, deadline=None)
@given(any_token())
def test_of_odd_tokens_only_those_pyjwt_accepts_are_accepted(token):
    agree(token)


@settings(max_examples=400, deadline=None)
@given(signed_after_edits())
def test_of_authentic_nonsense_only_what_pyjwt_reads_is_read_and_alike(token):
    agree(token)


@settings(max_examples=400, deadline=None)
@given(mutated())
@example(
    assembled(b'{"alg":"none","kid":"k1"}', b'{"sub":"p","dev":"d","exp":9999999999,"aud":"stagecue.device"}', "none")
)
@example(
    assembled(b'{"alg":"HS512","kid":"k1"}', b'{"sub":"p","dev":"d","exp":9999999999,"aud":"stagecue.device"}', "hs512")
)
@example(
    assembled(
        b'{"alg":"HS256","kid":"e1"}', b'{"sub":"p","dev":"d","exp":9999999999,"aud":"stagecue.device"}', "public"
    )
)
@example(
    assembled(b'{"alg":"EdDSA","kid":"e1"}', b'{"sub":"p","dev":"d","exp":9999999999,"aud":"stagecue.device"}', "k1")
)
@example("eyJhbGciOiJIUzI1NiJ9..")
@example("")
def test_of_mutated_tokens_only_those_pyjwt_accepts_are_accepted(token):
    agree(token)


def test_an_rsa_key_pair_never_gets_in():
    """RS256 by a key of the attacker's, and HS256 with that key's public text as the secret, under each key id."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    shown = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    claims = {"sub": "p", "dev": "d", "exp": NOW_S + 600, "aud": AUDIENCE}
    for kid in KEYS:
        assert not agree(jwt.encode(claims, private, algorithm="RS256", headers={"kid": kid}))
        signing_input = b".".join(
            encode_segment(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": kid}, claims)
        )
        mac = encode_segment(hmac.digest(shown, signing_input, "sha256"))
        assert not agree((signing_input + b"." + mac).decode())


@settings(deadline=None)
@given(text, text, st.integers(NOW_S, 2**53), st.none() | st.lists(text, max_size=5).map(tuple))
def test_what_any_key_signs_pyjwt_reads(sub, dev, exp, topics):
    """Both ways of signing, any text: the oracle reads what was meant, and so do we."""
    claims = DeviceClaims(sub=sub, dev=dev, exp=exp, topics=topics)
    for kid, key in (KEYS | {"e1": PAIR}).items():
        token = KeyRing(AUDIENCE, {kid: key}, kid).sign(claims)
        assert agree(token)
        assert ours(token) == claims


@given(st.binary(min_size=32, max_size=200), st.binary(max_size=300))
def test_a_mac_is_what_hmac_says(secret, statement):
    """RFC 2104, for secrets shorter and longer than a block."""
    assert Hs256Key(secret).sign(statement) == hmac.digest(secret, statement, "sha256")


@given(st.binary(min_size=1, max_size=64))
def test_a_segment_is_read_as_it_was_spelled(content):
    assert decode_segment(encode_segment(content)) == content


@settings(max_examples=500)
@given(st.text("AQZgwz019+/-_=! \n", min_size=1, max_size=9).map(str.encode) | st.binary(min_size=1, max_size=6))
def test_a_byte_string_has_one_spelling(segment):
    """Whatever decodes at all is what encoding its bytes gives again."""
    try:
        content = decode_segment(segment)
    except MalformedSegment:
        return
    assert encode_segment(content) == segment


# Profile tokens: an identity service's own claims are read over.

PROFILE_AUDIENCE = "stagecue.profile"
profile_audiences = st.just(PROFILE_AUDIENCE) | st.lists(st.sampled_from([PROFILE_AUDIENCE, "x"]), max_size=2)
PROFILE: dict[str, st.SearchStrategy[Any]] = {
    "sub": text,
    "exp": st.just(NOW_S + 600) | dates,
    "aud": st.just(PROFILE_AUDIENCE) | profile_audiences,
    "iss": text,
    "iat": dates | st.just(NOW_S - 100),
    "nbf": dates,
    "scope": anything,
    "dev": anything,
    "topics": anything,
}


@st.composite
def identity_token(draw: st.DrawFn) -> str:
    """As identity services sign them, some with bytes of the claims edited before."""
    more = draw(st.lists(st.sampled_from(sorted(PROFILE)), max_size=4))
    names = draw(st.permutations(["sub", "exp", "aud", *more]))
    payload = bytearray(spelled([(name, draw(PROFILE[name])) for name in names]))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(payload)))
        odd = draw(st.sampled_from([*b'{}[]",:\\u0123.eE+-n \n\x00\x7f', 0x80, 0xC0, 0xED, 0xFF]))
        payload[at : at + draw(st.integers(0, 1))] = bytes([odd])
    kid, alg = draw(plain_header)
    header = spelled([("alg", alg), ("typ", "JWT"), ("kid", kid), *draw(st.just([]) | st.just([("jku", "https://x")]))])
    return assembled(header, bytes(payload), draw(st.just(kid) | st.sampled_from(["k1", "foreign", "none"])))


@settings(max_examples=500, deadline=None)
@given(identity_token())
@example(
    assembled(b'{"alg":"HS256","kid":"k1"}', b'{"sub":"p","exp":9999999999,"aud":"stagecue.profile","x":"\xff"}', "k1")
)
@example(
    assembled(
        b'{"alg":"HS256","kid":"k1"}',
        b'{"sub":"p","exp":9999999999,"aud":"stagecue.profile","x":' + b"[" * 2500 + b"]" * 2500 + b"}",
        "k1",
    )
)
def test_of_profile_tokens_only_those_pyjwt_accepts_are_accepted(token):
    """Whatever else an identity service says of the person."""
    try:
        mine = KeyRing(PROFILE_AUDIENCE, KEYS, "k1").verify_profile(token, now_s=NOW_S)
    except Unauthorized:
        event("refused")
        return
    event("accepted")
    kid = jwt.get_unverified_header(token)["kid"]
    key = KEYS[kid]
    theirs = jwt.decode(
        token,
        key.secret if isinstance(key, Hs256Key) else key.public,
        algorithms=[key.alg],
        audience=PROFILE_AUDIENCE,
        leeway=LEEWAY_S,
        options={"require": ["sub", "exp", "aud"]},
    )
    assert (mine.sub, mine.exp) == (theirs["sub"], int(theirs["exp"]))
