"""Who asks, and for whom: a caller's token against the profile a request names. Pure.

A token is looked at once per request, what it allows once per root field. In mode `off` nobody is asked; in `optional`
whoever shows a token is held to it; in `required` a field that names a profile is for that profile alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple, Protocol

from contract.errors import Forbidden, Unauthorized

__all__ = ["ANYBODY", "Caller", "Callers", "Claims", "ProfileRing", "TokenMode", "Verify", "caller_of", "check_profile"]

TokenMode = Literal["required", "optional", "off"]


class Claims(Protocol):
    """What is asked of a token's claims; see contract.tokens.ProfileClaims."""

    @property
    def sub(self) -> str: ...


class ProfileRing(Protocol):
    """What is asked of a contract.tokens.KeyRing."""

    def verify_profile(self, token: str, *, now_s: float) -> Claims: ...


Verify = Callable[[str], Claims]
"""Claims of a token that is good now; raises Unauthorized."""

_SCHEME: Final = b"Bearer "
_HEADER: Final = "Authorization"
_RULE: Final = "send Authorization: Bearer <token>"


class Caller(NamedTuple):
    profile_id: str | None
    """Whose token it showed; None: nobody's."""
    must_be_known: bool = False
    """Without a token it gets nothing that is somebody's."""


ANYBODY: Final = Caller(None)
_STRANGER: Final = Caller(None, must_be_known=True)


def caller_of(fields: Mapping[bytes, bytes], *, verify: Verify, mode: TokenMode) -> Caller:
    """The caller, by the header fields of its request (lower-case names).

    Raises Unauthorized for a header that holds no good token, whatever is asked for: a client that shows one wants to
    know. Without a header see `check_profile`.
    """
    if mode == "off":
        return ANYBODY
    shown = fields.get(b"authorization")
    if shown is None:
        return _STRANGER if mode == "required" else ANYBODY
    if shown[:7] != _SCHEME and shown[:7].lower() != b"bearer ":  # schemes have no case (RFC 9110, 11.1)
        raise Unauthorized("not a bearer token", field=_HEADER, rule=_RULE)
    return Caller(verify(shown[7:].decode("latin-1")).sub)


def check_profile(caller: Caller, profile_id: str, *, field: str = "profileId") -> None:
    """Raises Unauthorized if a token is demanded and there is none, Forbidden if it is somebody else's."""
    own = caller.profile_id
    if own == profile_id:
        return
    if own is not None:
        raise Forbidden("the token is for another profile", field=field, rule="a token is for its own profile alone")
    if caller.must_be_known:
        raise Unauthorized("no token", field=_HEADER, rule=_RULE)


class Callers:
    """The callers of one service: its ring, its mode and its clock. Without a ring there are no tokens to read.

    Raises ValueError if tokens are demanded that nothing can read.
    """

    __slots__ = ("_mode", "_now_ms", "_ring")

    def __init__(self, ring: ProfileRing | None, mode: TokenMode, now_ms: Callable[[], int]) -> None:
        if ring is None and mode == "required":
            raise ValueError("tokens are required, and there is no profile ring to read them with")
        self._ring = ring
        self._mode: TokenMode = mode if ring is not None else "off"
        self._now_ms = now_ms

    def caller(self, fields: Mapping[bytes, bytes]) -> Caller:
        """See `caller_of`."""
        return caller_of(fields, verify=self._verify, mode=self._mode)

    def check(self, fields: Mapping[bytes, bytes], profile_id: str) -> None:
        """A whole request's fields against one profile; raises Unauthorized or Forbidden."""
        check_profile(self.caller(fields), profile_id)

    def _verify(self, token: str) -> Claims:
        assert self._ring is not None
        return self._ring.verify_profile(token, now_s=self._now_ms() / 1000)
