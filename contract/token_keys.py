"""Keys of a ring: each knows its one algorithm, and none shows what it holds."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["ED25519_KEY_BYTES", "MIN_SECRET_BYTES", "Algorithm", "Ed25519Key", "Hs256Key", "RingKey"]

Algorithm = Literal["HS256", "EdDSA"]

MIN_SECRET_BYTES: Final = 32
"""RFC 7518, section 3.2: an HS256 key is at least as long as the hash."""
ED25519_KEY_BYTES: Final = 32
"""RFC 8032: private and public keys alike, as raw bytes."""
_BLOCK_BYTES: Final = 64
_INNER_PAD: Final = bytes(octet ^ 0x36 for octet in range(256))
_OUTER_PAD: Final = bytes(octet ^ 0x5C for octet in range(256))


class Hs256Key:
    """A shared secret: whoever verifies with it could also sign.

    `not_after_s` (seconds since the epoch) is when it stops verifying; the clock is the caller's.
    """

    __slots__ = ("_inner", "_outer", "_secret", "not_after_s")
    alg: ClassVar[Algorithm] = "HS256"
    signs: ClassVar[bool] = True

    def __init__(self, secret: bytes, *, not_after_s: float = math.inf) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"an HS256 key of {len(secret)} bytes: at least {MIN_SECRET_BYTES} are needed")
        self._secret = bytes(secret)
        self.not_after_s = not_after_s
        # RFC 2104 with both pads hashed once: a statement then costs half of what hmac.digest takes.
        block = (secret if len(secret) <= _BLOCK_BYTES else hashlib.sha256(secret).digest()).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(block.translate(_INNER_PAD))
        self._outer = hashlib.sha256(block.translate(_OUTER_PAD))

    def __repr__(self) -> str:
        return "Hs256Key(...)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hs256Key):
            return NotImplemented
        return self._secret == other._secret and self.not_after_s == other.not_after_s

    def __hash__(self) -> int:
        return hash((self._secret, self.not_after_s))

    @property
    def secret(self) -> bytes:
        return self._secret

    def sign(self, statement: bytes) -> bytes:
        """HMAC-SHA256 of the statement."""
        inner = self._inner.copy()
        inner.update(statement)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


class Ed25519Key:
    """A key pair, or the public half of one: then it verifies and cannot sign."""

    __slots__ = ("_private", "not_after_s", "public")
    alg: ClassVar[Algorithm] = "EdDSA"

    def __init__(
        self, *, private: bytes | None = None, public: bytes | None = None, not_after_s: float = math.inf
    ) -> None:
        # Imported here: only rings with such keys pay for the library.
        from cryptography.hazmat.primitives.asymmetric import ed25519

        if private is None and public is None:
            raise ValueError("an Ed25519 key needs its public or its private bytes")
        for part in (private, public):
            if part is not None and len(part) != ED25519_KEY_BYTES:
                raise ValueError(f"an Ed25519 key of {len(part)} bytes: it has {ED25519_KEY_BYTES}")
        self._private: Ed25519PrivateKey | None = None
        if private is not None:
            self._private = ed25519.Ed25519PrivateKey.from_private_bytes(private)
            derived = self._private.public_key()
            if public is not None and derived.public_bytes_raw() != public:
                raise ValueError("the public half of an Ed25519 key does not belong to its private half")
            self.public: Ed25519PublicKey = derived
        else:
            assert public is not None
            self.public = ed25519.Ed25519PublicKey.from_public_bytes(public)
        self.not_after_s = not_after_s

    def __repr__(self) -> str:
        return "Ed25519Key(...)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ed25519Key):
            return NotImplemented
        return self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash(self._facts())

    def _facts(self) -> tuple[Any, ...]:
        return self.public.public_bytes_raw(), self.signs, self.not_after_s

    @property
    def signs(self) -> bool:
        return self._private is not None

    def sign(self, statement: bytes) -> bytes:
        """The signature of the statement. Raises ValueError if only the public half is here."""
        if self._private is None:
            raise ValueError("only the public half of this key is here: it cannot sign")
        return self._private.sign(statement)


RingKey = Hs256Key | Ed25519Key
