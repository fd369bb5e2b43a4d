"""Tokens: JWT, HS256, with key ids and separate rings for devices and operators; links prove, and send no token.

A key of one ring never verifies another's token: each ring has its own secrets and its own audience.
The algorithm is pinned; a header that names another is refused (RFC 8725, section 3.1).
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from typing import Final, Literal, TypeVar

import jwt
import msgspec

from contract.errors import Forbidden, Unauthorized

__all__ = [
    "MIN_SECRET_BYTES",
    "DeviceClaims",
    "KeyRing",
    "OperatorClaims",
    "OperatorRole",
    "new_key_ring",
    "require_role",
]

MIN_SECRET_BYTES: Final = 32
"""RFC 7518, section 3.2: an HS256 key is at least as long as the hash."""
LEEWAY_S: Final = 5
"""Clock difference forgiven between the service that issued a token and the one that reads it."""

Audience = Literal["stagecue.device", "stagecue.operator", "stagecue.link"]
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


_Claims = TypeVar("_Claims", DeviceClaims, OperatorClaims)


class KeyRing:
    """Secrets by key id; one of them signs, all of them verify, so that keys rotate without an outage."""

    __slots__ = ("_audience", "_keys", "_signing_kid")

    def __init__(self, audience: Audience, keys: Mapping[str, bytes], signing_kid: str) -> None:
        if signing_kid not in keys:
            raise ValueError(f"signing key {signing_kid!r} is not in the ring")
        for kid, secret in keys.items():
            if len(secret) < MIN_SECRET_BYTES:
                raise ValueError(f"key {kid!r} has {len(secret)} bytes, at least {MIN_SECRET_BYTES} are needed")
        self._audience = audience
        self._keys = dict(keys)
        self._signing_kid = signing_kid

    def __repr__(self) -> str:
        return f"KeyRing({self._audience}, kids={sorted(self._keys)})"

    @property
    def audience(self) -> Audience:
        return self._audience

    def sign(self, claims: DeviceClaims | OperatorClaims) -> str:
        payload = msgspec.to_builtins(claims)
        payload["aud"] = self._audience
        return jwt.encode(payload, self._keys[self._signing_kid], algorithm="HS256", headers={"kid": self._signing_kid})

    def prove(self, statement: bytes) -> tuple[str, bytes]:
        """(key id, proof) that whoever made `statement` holds a key of this ring; the key itself is never sent."""
        return self._signing_kid, self._mac(self._signing_kid, statement)

    def check_proof(self, kid: str, statement: bytes, proof: bytes) -> bool:
        """Whether `proof` was made by `prove` of a ring that shares key `kid`; takes the same time either way."""
        return kid in self._keys and hmac.compare_digest(self._mac(kid, statement), proof)

    def _mac(self, kid: str, statement: bytes) -> bytes:
        return hmac.digest(self._keys[kid], self._audience.encode() + b"\0proof\0" + statement, "sha256")

    def verify_device(self, token: str, *, now_s: float) -> DeviceClaims:
        return self._verify(token, DeviceClaims, now_s)

    def verify_operator(self, token: str, *, now_s: float) -> OperatorClaims:
        return self._verify(token, OperatorClaims, now_s)

    def _verify(self, token: str, kind: type[_Claims], now_s: float) -> _Claims:
        """Claims of a valid token, else Unauthorized that says why without repeating the token."""
        if not token:
            raise Unauthorized("no token", field="token", rule="send Authorization: Bearer <token>")
        try:
            kid = jwt.get_unverified_header(token).get("kid", "")
            secret = self._keys.get(kid)
            if secret is None:
                raise Unauthorized("signed with a key this service does not know", field="token")
            # Expiry is judged below, against the caller's clock: PyJWT reads the system's.
            payload = jwt.decode(
                token, secret, algorithms=["HS256"], audience=self._audience, options={"verify_exp": False}
            )
            claims = msgspec.convert(payload, kind)
        except (jwt.PyJWTError, msgspec.ValidationError) as exc:
            raise Unauthorized(f"not a valid token: {exc}", field="token") from exc
        except UnicodeError as exc:  # its text would repeat the token
            raise Unauthorized("not a valid token: not ASCII", field="token") from exc
        if claims.exp + LEEWAY_S <= now_s:
            raise Unauthorized(f"expired {int(now_s - claims.exp)} s ago", field="token", rule="ask for a new one")
        return claims


def new_key_ring(audience: Audience, kid: str = "k1") -> KeyRing:
    """A ring with one fresh random key."""
    return KeyRing(audience, {kid: secrets.token_bytes(MIN_SECRET_BYTES)}, kid)


def require_role(claims: OperatorClaims, role: OperatorRole) -> None:
    """Raise Forbidden unless the token's role is at least `role`."""
    if _ROLE_RANK[claims.role] < _ROLE_RANK[role]:
        raise Forbidden(f"role {claims.role} may not do this", rule=f"needs role {role}")
