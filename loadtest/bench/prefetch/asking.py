"""How a server is asked for a stage map: the requests' bytes, with a token of its own for each profile. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from contract.token_segments import TokenHeader, encode_segment, header_segment
from loadtest.bench.prefetch.night import EVENT_ID, OPERATION, OPERATION_HASH

__all__ = ["AUDIENCE", "DOCUMENT", "FORMS", "HASH", "PREPARED", "Form", "Secret", "request_of", "requests_of"]

AUDIENCE: Final = "stagecue.profile"
_DEVICE: Final = {"kind": "TV", "screen": "LARGE", "locale": "en-US"}
_encode: Final = msgspec.json.Encoder().encode


class Form(NamedTuple):
    """What the body names the operation by."""

    name: str
    body: Mapping[str, Any]
    """All but the variables."""


DOCUMENT: Final = Form("document", {"query": OPERATION})
HASH: Final = Form("persisted", {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": OPERATION_HASH}}})
"""As Apollo clients send it."""
PREPARED: Final = Form("persisted", {"persisted": True, "query": OPERATION_HASH})
"""As mercurius calls the same."""
FORMS: Final = {"hash": HASH, "document": DOCUMENT}


class Secret(msgspec.Struct, frozen=True):
    """What profile tokens are signed with."""

    kid: str
    key: bytes

    def signer(self) -> Callable[[str, int], bytes]:
        """(profile id, expiry in seconds) -> an HS256 token for that profile."""
        head = header_segment(TokenHeader("HS256", self.kid)) + b"."

        def sign(profile: str, exp_s: int) -> bytes:
            claims = encode_segment(_encode({"sub": profile, "exp": exp_s, "aud": AUDIENCE}))
            return head + claims + b"." + encode_segment(hmac.digest(self.key, head + claims, "sha256"))

        return sign


def request_of(form: Form, port: int, profile: str, token: bytes | None, fields: str = "") -> bytes:
    """One POST, with further header fields, each ended by CRLF."""
    body = _encode({**form.body, "variables": {"eventId": EVENT_ID, "profileId": profile, "device": _DEVICE}})
    shown = b"Authorization: Bearer " + token + b"\r\n" if token is not None else b""
    head = (
        f"POST /graphql HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{fields}"
    )
    return head.encode() + shown + b"\r\n" + body


def requests_of(
    form: Form, port: int, profiles: Iterator[str], *, secret: Secret | None, exp_s: int
) -> Iterator[tuple[int, bytes]]:
    """(tag 0, request) of each profile; tokens differ from those of any other `exp_s`."""
    sign = secret.signer() if secret is not None else None
    for profile in profiles:
        yield 0, request_of(form, port, profile, sign(profile, exp_s) if sign is not None else None)
