"""Tokens: JWT with key ids and separate rings for devices, profiles and operators; links prove, and send no token.

A key of one ring never verifies another's token: each ring has its own keys and its own audience. A key id pins its
algorithm; a header that names another is refused (RFC 8725, section 3.1). HS256 tokens as this system writes them are
read by a path of few steps; whatever else may be authentic (EdDSA, claims we do not know, dates with fractions) is
PyJWT's to read. Profile tokens come from an identity service, whose own claims that path reads over.
"""

from __future__ import annotations

import hmac
import math
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Final, Generic, Literal, NoReturn, Protocol, TypeVar

import jwt
import msgspec

from contract.errors import Forbidden, Unauthorized
from contract.token_keys import MIN_SECRET_BYTES, Ed25519Key, Hs256Key, RingKey
from contract.token_segments import (
    MalformedSegment,
    TokenHeader,
    decode_segment,
    encode_segment,
    header_segment,
    parse_header,
)

__all__ = [
    "MAX_TOKEN_BYTES",
    "MIN_SECRET_BYTES",
    "Audience",
    "DeviceClaims",
    "Ed25519Key",
    "Hs256Key",
    "KeyRing",
    "LiveKeyRing",
    "OperatorClaims",
    "OperatorRole",
    "ProfileClaims",
    "RingKey",
    "new_key_ring",
    "require_role",
]

LEEWAY_S: Final = 5
"""Clock difference forgiven between the service that issued a token and the one that reads it."""
MAX_TOKEN_BYTES: Final = 8192
"""Longer ones are refused unread; a token of a hundred topics has about 4,000."""
_MAX_KNOWN_HEADERS: Final = 64

Audience = Literal["stagecue.device", "stagecue.operator", "stagecue.link", "stagecue.profile"]
OperatorRole = Literal["viewer", "operator"]
_ROLE_RANK: Final[Mapping[OperatorRole, int]] = {"viewer": 0, "operator": 1}


class DeviceClaims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    sub: str
    """Profile id."""
    dev: str
    """Device id, chosen by the device; distinguishes two devices of one profile."""
    exp: int
    """Expiry, seconds since the epoch."""
    topics: tuple[str, ...] | None = None
    """Topics it may subscribe to; None: any."""


class OperatorClaims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    sub: str
    exp: int
    role: OperatorRole = "viewer"


class ProfileClaims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    sub: str
    """Profile id: whose maps may be asked for."""
    exp: int


_Claims = TypeVar("_Claims", DeviceClaims, OperatorClaims, ProfileClaims)
_Claims_co = TypeVar("_Claims_co", DeviceClaims, OperatorClaims, ProfileClaims, covariant=True)
# Seconds since the epoch that a float and JavaScript hold exactly; no later expiry means anything.
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Optional = _Seconds | msgspec.UnsetType


class _Payload(Protocol[_Claims_co]):
    """What is signed: claims, for whom, and from when."""

    aud: str | list[str]
    nbf: int | msgspec.UnsetType
    iat: int | msgspec.UnsetType

    def claims(self) -> _Claims_co:
        """What the rest of the system is told."""
        ...


# Fields are written in this order. Unknown ones are refused here, so that the short path reads only what it knows.
class _DevicePayload(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    sub: str
    dev: str
    exp: _Seconds
    topics: tuple[str, ...] | None = None
    aud: str | list[str]
    nbf: _Optional = msgspec.UNSET
    iat: _Optional = msgspec.UNSET

    def claims(self) -> DeviceClaims:
        return DeviceClaims(sub=self.sub, dev=self.dev, exp=self.exp, topics=self.topics)


class _OperatorPayload(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    sub: str
    exp: _Seconds
    role: OperatorRole = "viewer"
    aud: str | list[str]
    nbf: _Optional = msgspec.UNSET
    iat: _Optional = msgspec.UNSET

    def claims(self) -> OperatorClaims:
        return OperatorClaims(sub=self.sub, exp=self.exp, role=self.role)


class _ProfilePayload(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Unknown fields are an identity service's own."""

    sub: str
    exp: _Seconds
    aud: str | list[str]
    nbf: _Optional = msgspec.UNSET
    iat: _Optional = msgspec.UNSET

    def claims(self) -> ProfileClaims:
        return ProfileClaims(sub=self.sub, exp=self.exp)


class _Kind(Generic[_Claims]):
    """How tokens of one kind of claims are read."""

    __slots__ = ("convert", "decode", "fields", "reads_over")

    def __init__(self, payload: type[Any], *, reads_over: bool = False) -> None:
        self.reads_over = reads_over
        """Fields it does not know are skipped, whatever bytes they have: only ASCII is surely text."""
        self.decode: Callable[[bytes], _Payload[_Claims]] = msgspec.json.Decoder(payload).decode
        self.convert: Callable[[object], _Payload[_Claims]] = partial(msgspec.convert, type=payload)
        self.fields = frozenset(payload.__struct_fields__)


_DEVICE: Final = _Kind[DeviceClaims](_DevicePayload)
_OPERATOR: Final = _Kind[OperatorClaims](_OperatorPayload)
_PROFILE: Final = _Kind[ProfileClaims](_ProfilePayload, reads_over=True)
_encode_payload: Final = msgspec.json.Encoder().encode


class KeyRing:
    """Keys by id; one of them signs, all of them verify, so that keys rotate without an outage. Immutable.

    Plain bytes are an HS256 secret. Raises ValueError for keys too weak, and for a signing key that is missing or
    cannot sign.
    """

    __slots__ = ("_audience", "_headers", "_keys", "_signing_head", "_signing_kid")

    def __init__(self, audience: Audience, keys: Mapping[str, bytes | RingKey], signing_kid: str) -> None:
        if signing_kid not in keys:
            raise ValueError(f"signing key {signing_kid!r} is not in the ring")
        self._audience = audience
        self._keys: dict[str, RingKey] = {}
        for kid, given in keys.items():
            try:
                self._keys[kid] = Hs256Key(given) if isinstance(given, bytes) else given
            except ValueError as exc:
                raise ValueError(f"key {kid!r}: {exc}") from exc
        if not self._keys[signing_kid].signs:
            raise ValueError(f"signing key {signing_kid!r} is the public half of a key: it cannot sign")
        if audience == "stagecue.link" and any(key.alg != "HS256" for key in self._keys.values()):
            raise ValueError("links prove that they share a secret: their ring holds HS256 keys only")
        self._signing_kid = signing_kid
        self._signing_head = header_segment(TokenHeader(self._keys[signing_kid].alg, signing_kid)) + b"."
        # Headers seen on authentic tokens, so that nobody else can fill it; ours are known from the start.
        self._headers: dict[bytes, RingKey] = {
            header_segment(TokenHeader(key.alg, kid)): key for kid, key in list(self._keys.items())[:_MAX_KNOWN_HEADERS]
        }

    def __repr__(self) -> str:
        return f"KeyRing({self._audience}, kids={sorted(self._keys)})"

    @property
    def audience(self) -> Audience:
        return self._audience

    @property
    def signing_kid(self) -> str:
        """Id of the key that signs."""
        return self._signing_kid

    @property
    def kids(self) -> tuple[str, ...]:
        """Ids of the keys that verify."""
        return tuple(self._keys)

    def sign(self, claims: DeviceClaims | OperatorClaims | ProfileClaims) -> str:
        """A token of these claims for this ring's audience, by its signing key."""
        payload: _DevicePayload | _OperatorPayload | _ProfilePayload
        if isinstance(claims, DeviceClaims):
            payload = _DevicePayload(
                sub=claims.sub, dev=claims.dev, exp=claims.exp, topics=claims.topics, aud=self._audience
            )
        elif isinstance(claims, OperatorClaims):
            payload = _OperatorPayload(sub=claims.sub, exp=claims.exp, role=claims.role, aud=self._audience)
        else:
            payload = _ProfilePayload(sub=claims.sub, exp=claims.exp, aud=self._audience)
        signing_input = self._signing_head + encode_segment(_encode_payload(payload))
        signature = self._keys[self._signing_kid].sign(signing_input)
        return (signing_input + b"." + encode_segment(signature)).decode("ascii")

    def prove(self, statement: bytes) -> tuple[str, bytes]:
        """(key id, proof) that whoever made `statement` holds a key of this ring; the key itself is never sent."""
        return self._signing_kid, self._mac(self._keys[self._signing_kid], statement)

    def check_proof(self, kid: str, statement: bytes, proof: bytes) -> bool:
        """Whether `proof` was made by `prove` of a ring that shares key `kid`; takes the same time either way."""
        key = self._keys.get(kid)
        return isinstance(key, Hs256Key) and hmac.compare_digest(self._mac(key, statement), proof)

    def _mac(self, key: RingKey, statement: bytes) -> bytes:
        if not isinstance(key, Hs256Key):
            raise TypeError("only a shared secret proves a statement")
        return key.sign(self._audience.encode() + b"\0proof\0" + statement)

    def verify_device(self, token: str, *, now_s: float) -> DeviceClaims:
        """A device's claims. Raises Unauthorized, which says why and never repeats the token."""
        claims = self._read(token, _DEVICE, now_s)
        if claims.exp + LEEWAY_S <= now_s:
            _refuse_expired(claims.exp, now_s)
        return claims

    def verify_device_within(self, token: str, *, now_s: float, grace_s: float) -> tuple[DeviceClaims, bool]:
        """A device's claims, and whether they have expired, by less than `grace_s`: then the token is to be renewed.

        Raises Unauthorized as `verify_device` does, for an expiry longer ago too.
        """
        claims = self._read(token, _DEVICE, now_s)
        late_s = now_s - claims.exp - LEEWAY_S
        if late_s < 0:
            return claims, False
        if late_s >= grace_s:
            _refuse_expired(claims.exp, now_s)
        return claims, True

    def verify_operator(self, token: str, *, now_s: float) -> OperatorClaims:
        """An operator's claims. Raises Unauthorized, which says why and never repeats the token."""
        claims = self._read(token, _OPERATOR, now_s)
        if claims.exp + LEEWAY_S <= now_s:
            _refuse_expired(claims.exp, now_s)
        return claims

    def verify_profile(self, token: str, *, now_s: float) -> ProfileClaims:
        """A profile's claims. Raises Unauthorized, which says why and never repeats the token."""
        claims = self._read(token, _PROFILE, now_s)
        if claims.exp + LEEWAY_S <= now_s:
            _refuse_expired(claims.exp, now_s)
        return claims

    def _read(self, token: str, kind: _Kind[_Claims], now_s: float) -> _Claims:
        """The claims of an authentic token of this ring and its audience; its expiry is not judged yet."""
        try:
            raw = token.encode("ascii")
            head, body, signature = raw.split(b".")
        except UnicodeError:  # chained, its text would repeat the token
            raise _refusal("not ASCII") from None
        except ValueError:
            raise _refusal("not three segments" if token else "") from None
        if len(raw) > MAX_TOKEN_BYTES:
            raise _refusal(f"longer than {MAX_TOKEN_BYTES} bytes")
        known = self._headers.get(head)
        key = known or self._key_of(head)
        if key.not_after_s <= now_s:
            raise Unauthorized("signed with a key that is retired", field="token", rule="ask for a new one")
        if not isinstance(key, Hs256Key):
            return self._read_at_length(token, key, kind, now_s)
        # Ours is spelled and compared, so that theirs has no second spelling.
        if not hmac.compare_digest(encode_segment(key.sign(raw[: -len(signature) - 1])), signature):
            raise _refusal("its signature is not by that key")
        if known is None and len(self._headers) < _MAX_KNOWN_HEADERS:
            self._headers[head] = key
        try:
            content = decode_segment(body)
            payload = kind.decode(content)
        except MalformedSegment as exc:
            raise _refusal(f"its claims are {exc}") from exc
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return self._read_at_length(token, key, kind, now_s)
        if kind.reads_over and not content.isascii():
            return self._read_at_length(token, key, kind, now_s)
        if payload.aud != self._audience or payload.nbf is not msgspec.UNSET or payload.iat is not msgspec.UNSET:
            self._judge(payload, now_s)
        return payload.claims()

    def _key_of(self, head: bytes) -> RingKey:
        """The key a header names, whose algorithm the header must name too."""
        try:
            header = parse_header(head)
        except MalformedSegment as exc:
            raise _refusal(str(exc)) from exc
        key = self._keys.get(header.kid)
        if key is None:
            raise Unauthorized("signed with a key this service does not know", field="token")
        if header.alg != key.alg:
            raise _refusal("that key is not for the algorithm its header names")
        return key

    def _read_at_length(self, token: str, key: RingKey, kind: _Kind[_Claims], now_s: float) -> _Claims:
        """The same by PyJWT: for EdDSA, and for authentic payloads that are not spelled as we spell them."""
        try:
            found = jwt.decode(
                token,
                key.secret if isinstance(key, Hs256Key) else key.public,
                algorithms=[key.alg],
                audience=self._audience,
                # Times are judged below, by the caller's clock: PyJWT reads the system's.
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
            payload = kind.convert({name: _whole(found[name]) for name in kind.fields & found.keys()})
            self._judge(payload, now_s)
            claims = payload.claims()
            _encode_payload(claims)  # text that is no text (a lone surrogate) would fail later, in a log or a query
        except (jwt.PyJWTError, msgspec.ValidationError) as exc:
            raise _refusal(str(exc)) from exc
        except UnicodeError:
            raise _refusal("its claims are not text") from None
        except (RecursionError, ValueError):  # nested without end; a number of thousands of digits
            raise _refusal("its claims are beyond reading") from None
        return claims

    def _judge(self, payload: _Payload[Any], now_s: float) -> None:
        """For us, and valid by now."""
        audience, begins = payload.aud, payload.nbf
        if audience != self._audience and (isinstance(audience, str) or self._audience not in audience):
            raise _refusal("it is for another audience")
        if begins is not msgspec.UNSET and begins > now_s + LEEWAY_S:
            raise _refusal("it is not valid yet")
        if payload.iat is not msgspec.UNSET and payload.iat > now_s + LEEWAY_S:
            raise _refusal("it was issued in the future")


class LiveKeyRing(KeyRing):
    """A ring whose keys are exchanged while it is in use; whoever holds it needs not know."""

    __slots__ = ()

    @classmethod
    def of(cls, ring: KeyRing) -> LiveKeyRing:
        """One that begins equal to `ring`."""
        live = cls.__new__(cls)
        live._audience = ring._audience
        live.adopt(ring)
        return live

    def adopt(self, ring: KeyRing) -> None:
        """Become equal to a ring of the same audience. Call it from the thread that verifies and signs."""
        assert ring.audience == self._audience, "a ring keeps its audience"
        self._keys = dict(ring._keys)
        self._headers = dict(ring._headers)
        self._signing_head = ring._signing_head
        self._signing_kid = ring._signing_kid


def _whole(value: object) -> object:
    """Dates may have fractions of a second (RFC 7519, section 2): they are dropped."""
    return int(value) if isinstance(value, float) and math.isfinite(value) else value


def _refusal(why: str) -> Unauthorized:
    if not why:
        return Unauthorized("no token", field="token", rule="send Authorization: Bearer <token>")
    return Unauthorized(f"not a valid token: {why}", field="token")


def _refuse_expired(exp: int, now_s: float) -> NoReturn:
    raise Unauthorized(f"expired {int(now_s - exp)} s ago", field="token", rule="ask for a new one")


def new_key_ring(audience: Audience, kid: str = "k1") -> KeyRing:
    """A ring with one fresh random key."""
    return KeyRing(audience, {kid: secrets.token_bytes(MIN_SECRET_BYTES)}, kid)


def require_role(claims: OperatorClaims, role: OperatorRole) -> None:
    """Raise Forbidden unless the token's role is at least `role`."""
    if _ROLE_RANK[claims.role] < _ROLE_RANK[role]:
        raise Forbidden(f"role {claims.role} may not do this", rule=f"needs role {role}")
