"""Key rings as they are kept in a file: when each key begins to sign and stops to verify, and how a ring is rotated.

    {"stagecue.device": {"signing_kid": "k1", "keys": {
        "k1": "<base64 of an HS256 secret>",
        "k2": {"alg": "HS256", "secret": "<base64>", "signs_from_s": 1731722400, "not_after_s": 1732327200},
        "e1": {"alg": "EdDSA", "public": "<base64>", "private": "<base64, if it signs here>"}}}, ...}

A ring is rotated in one step that needs no order among services: the new key verifies at once and signs after a lead,
in which every service has read the file; the old one verifies for as long as tokens it signed may live. Times are
seconds since the epoch, by the caller's clock. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import ceil
from typing import Any, Final, get_args

import msgspec

from contract.errors import Conflict, InvalidRequest, NotFound
from contract.token_keys import Algorithm, Ed25519Key, Hs256Key, RingKey
from contract.tokens import Audience, KeyRing

__all__ = ["MAX_KEYS", "StoredKey", "StoredRing", "read_rings", "written_rings"]

MAX_KEYS: Final = 32
"""Of one ring; a rotation a day, each kept for a month."""
_KID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class StoredKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    alg: Algorithm
    secret: bytes | None = None
    """HS256."""
    private: bytes | None = None
    """EdDSA, raw; without it the key only verifies."""
    public: bytes | None = None
    """EdDSA, raw; may be left out beside `private`."""
    signs_from_s: int | None = None
    """From then on it signs, unless a key signs from later on. None: only as the ring's `signing_kid`."""
    not_after_s: int | None = None
    """From then on it is not in the ring."""

    def __repr__(self) -> str:
        return f"StoredKey({self.alg}, signs_from_s={self.signs_from_s}, not_after_s={self.not_after_s})"

    __str__ = __repr__

    def __rich_repr__(self) -> Any:
        yield self.alg

    @property
    def signs(self) -> bool:
        """Whether it could: whether its secret half is here."""
        return self.secret is not None or self.private is not None

    def expired(self, now_s: float) -> bool:
        return self.not_after_s is not None and self.not_after_s <= now_s

    def ring_key(self) -> RingKey:
        """The key itself. Raises ValueError for one that is none."""
        until_s = float("inf") if self.not_after_s is None else float(self.not_after_s)
        if self.alg == "EdDSA":
            if self.secret is not None:
                raise ValueError("an EdDSA key has no `secret`, but `private` and `public`")
            return Ed25519Key(private=self.private, public=self.public, not_after_s=until_s)
        if self.secret is None or self.private is not None or self.public is not None:
            raise ValueError("an HS256 key has a `secret`, and neither `private` nor `public`")
        return Hs256Key(self.secret, not_after_s=until_s)


class StoredRing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One audience's keys, in the order they were added."""

    signing_kid: str
    """Signs until a key's `signs_from_s`."""
    keys: dict[str, StoredKey]

    def ring(self, audience: Audience, now_s: float) -> KeyRing:
        """What verifies and signs at `now_s`. Raises ValueError if nothing can sign, or for keys that are none."""
        live = {kid: key.ring_key() for kid, key in self.keys.items() if not key.expired(now_s)}
        return KeyRing(audience, live, self.signer(now_s))

    def signer(self, now_s: float) -> str:
        """Id of the key that signs at `now_s`: the last that was to begin by then."""
        begun = [
            (key.signs_from_s, order, kid)
            for order, (kid, key) in enumerate(self.keys.items())
            if key.signs_from_s is not None and key.signs_from_s <= now_s and key.signs and not key.expired(now_s)
        ]
        return max(begun)[2] if begun else self.signing_kid

    def next_change_s(self, now_s: float) -> float:
        """When the ring of this moment is another one although nobody touched the file; infinity: never."""
        times = [at for key in self.keys.values() for at in (key.signs_from_s, key.not_after_s) if at is not None]
        return min((at for at in times if at > now_s), default=float("inf"))

    def rotated(self, kid: str, key: StoredKey, *, now_s: float, lead_s: float, keep_s: float) -> StoredRing:
        """With a new key that signs after `lead_s`; those that signed so far verify for `keep_s` more.

        Raises InvalidRequest or Conflict.
        """
        if not key.signs:
            raise InvalidRequest("a key without its secret half cannot sign", field="key", rule="trust it instead")
        begins_s = ceil(now_s + lead_s) if lead_s > 0 else int(now_s)
        ends_s = begins_s + ceil(keep_s)
        tidy = self._tidied(now_s)
        kept = {
            # A foreign issuer's public key is not ours to end.
            name: _until(_outrun(old, begins_s), ends_s) if old.signs else old
            for name, old in tidy.keys.items()
        }
        return tidy._with(kept, kid, msgspec.structs.replace(key, signs_from_s=begins_s))

    def trusted(self, kid: str, key: StoredKey, *, now_s: float) -> StoredRing:
        """With one more key that only verifies: another issuer's. Raises InvalidRequest or Conflict."""
        tidy = self._tidied(now_s)
        return tidy._with(tidy.keys, kid, msgspec.structs.replace(key, signs_from_s=None, private=None))

    def retired(self, kid: str, *, now_s: float, after_s: float = 0.0) -> StoredRing:
        """Without a key, from now or after a while: its tokens are refused then. Raises NotFound or Conflict."""
        if kid not in self.keys:
            raise NotFound(f"no key {kid!r} in this ring", field="kid", rule=f"one of: {', '.join(self.keys)}")
        tidy = self._tidied(now_s)
        kept = dict(tidy.keys)
        ending = kept.pop(kid, None)
        if ending is not None and after_s > 0:
            kept[kid] = _until(ending, ceil(now_s + after_s))
        left = StoredRing(signing_kid=tidy.signing_kid, keys=kept)
        if not left.always_signs(now_s):
            raise Conflict(f"without {kid!r} nothing would sign", field="kid", rule="rotate the ring, then retire it")
        return left

    def always_signs(self, now_s: float) -> bool:
        """Whether at every moment from `now_s` on there is a key that signs."""
        moment_s = now_s
        while moment_s < float("inf"):
            signer = self.keys.get(self.signer(moment_s))
            if signer is None or not signer.signs or signer.expired(moment_s):
                return False
            moment_s = self.next_change_s(moment_s)
        return True

    def _with(self, kept: Mapping[str, StoredKey], kid: str, key: StoredKey) -> StoredRing:
        if not _KID.fullmatch(kid):
            raise InvalidRequest(f"{kid!r} is no key id", field="kid", rule="1 to 64 of A-Z a-z 0-9 . _ -")
        if kid in self.keys:
            raise Conflict(f"key {kid!r} is in the ring already", field="kid", rule="give another id")
        if len(kept) >= MAX_KEYS:
            raise Conflict(f"{len(kept)} keys in the ring", field="kid", rule=f"at most {MAX_KEYS}: retire some")
        try:
            key.ring_key()
        except ValueError as exc:
            raise InvalidRequest(str(exc), field="key") from exc
        return StoredRing(signing_kid=self.signing_kid, keys={**kept, kid: key})

    def _tidied(self, now_s: float) -> StoredRing:
        """The same ring, without what is over."""
        return StoredRing(
            signing_kid=self.signer(now_s),
            keys={kid: _begun(key, now_s) for kid, key in self.keys.items() if not key.expired(now_s)},
        )


def _until(key: StoredKey, ends_s: int) -> StoredKey:
    if key.not_after_s is not None and key.not_after_s <= ends_s:
        return key
    return msgspec.structs.replace(key, not_after_s=ends_s)


def _outrun(key: StoredKey, begins_s: int) -> StoredKey:
    """A key that was to sign from a moment at which a newer one signs already: it never does."""
    if key.signs_from_s is None or key.signs_from_s < begins_s:
        return key
    return msgspec.structs.replace(key, signs_from_s=None)


def _begun(key: StoredKey, now_s: float) -> StoredKey:
    if key.signs_from_s is None or key.signs_from_s > now_s:
        return key
    return msgspec.structs.replace(key, signs_from_s=None)


class _FileRing(msgspec.Struct, frozen=True, kw_only=True):
    signing_kid: str
    keys: dict[str, bytes | StoredKey]


_file: Final = msgspec.json.Decoder(dict[str, _FileRing])


def read_rings(content: bytes, *, may_lack: Collection[Audience] = ()) -> dict[str, StoredRing]:
    """The rings of a file, each whole, and of every audience of ours but those it `may_lack`.

    Raises ValueError, which repeats no secret.
    """
    try:
        found = _file.decode(content)
    except (msgspec.DecodeError, UnicodeError) as exc:
        raise ValueError(str(exc)) from None
    missing = [audience for audience in get_args(Audience) if audience not in found and audience not in may_lack]
    if missing:
        raise ValueError(f"no ring for {', '.join(missing)}")
    return {
        audience: StoredRing(
            signing_kid=ring.signing_kid,
            keys={
                kid: StoredKey(alg="HS256", secret=key) if isinstance(key, bytes) else key
                for kid, key in ring.keys.items()
            },
        )
        for audience, ring in found.items()
    }


def written_rings(rings: Mapping[str, StoredRing]) -> bytes:
    """The file of these rings; a secret without dates is a plain string."""
    plain = {
        audience: _FileRing(
            signing_kid=ring.signing_kid,
            keys={
                kid: key.secret if key.secret is not None and key == StoredKey(alg="HS256", secret=key.secret) else key
                for kid, key in ring.keys.items()
            },
        )
        for audience, ring in rings.items()
    }
    return msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"
