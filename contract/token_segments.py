"""The three segments of a compact JWT, read strictly: one spelling for every byte string, one meaning for every header.

Base64url as in RFC 7515: no padding, no foreign characters, no stray low bits in the last character.
"""

from __future__ import annotations

import binascii
import json
from typing import Final, NamedTuple

__all__ = ["MalformedSegment", "TokenHeader", "decode_segment", "encode_segment", "header_segment", "parse_header"]


class MalformedSegment(ValueError):
    """A segment is not what a token may have there; the text says why and repeats none of it."""


class TokenHeader(NamedTuple):
    alg: str
    kid: str


_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
# The standard alphabet's own + and / become a character that strict decoding refuses.
_FROM_URL: Final = bytes.maketrans(b"-_+/", b"+/!!")
_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PADDING: Final = (b"", b"", b"==", b"=")
# By length modulo 4: last characters whose unused low bits are zero. A single left-over character encodes nothing.
_LAST: Final = (_ALPHABET, b"", b"AQgw", b"AEIMQUYcgkosw048")
# Header parameters that change what a token means: none of them is understood here (RFC 7515, 4.1.11; RFC 7797).
_CRITICAL: Final = ("crit", "b64")


def encode_segment(content: bytes) -> bytes:
    """Base64url without padding."""
    return binascii.b2a_base64(content, newline=False).translate(_TO_URL).rstrip(b"=")


def decode_segment(segment: bytes) -> bytes:
    """The bytes a segment spells. Raises MalformedSegment, also for a second spelling of the same bytes."""
    left_over = len(segment) & 3
    if not segment or segment[-1] not in _LAST[left_over]:
        raise MalformedSegment("not base64url in its one spelling")
    try:
        return binascii.a2b_base64(segment.translate(_FROM_URL) + _PADDING[left_over], strict_mode=True)
    except binascii.Error:
        raise MalformedSegment("not base64url in its one spelling") from None


def header_segment(header: TokenHeader) -> bytes:
    """The header this system writes, encoded."""
    fields = {"alg": header.alg, "kid": header.kid, "typ": "JWT"}
    return encode_segment(json.dumps(fields, separators=(",", ":")).encode())


def parse_header(segment: bytes) -> TokenHeader:
    """Algorithm and key id of an encoded header.

    A header that names a field twice, is of another type than JWT or demands an extension is refused.
    Raises MalformedSegment.
    """
    try:
        fields = json.loads(decode_segment(segment).decode("utf-8"), object_pairs_hook=_distinct)
    except MalformedSegment:
        raise
    except (ValueError, RecursionError) as exc:
        raise MalformedSegment("the header is not JSON") from exc
    if not isinstance(fields, dict):
        raise MalformedSegment("the header is no JSON object")
    if any(name in fields for name in _CRITICAL):
        raise MalformedSegment("the header demands an extension")
    kind = fields.get("typ", "JWT")
    if not isinstance(kind, str) or kind.upper() != "JWT":
        raise MalformedSegment("the header names another type than JWT")
    alg, kid = fields.get("alg"), fields.get("kid", "")
    if not isinstance(alg, str) or not isinstance(kid, str):
        raise MalformedSegment("the header names no algorithm, or no key id")
    return TokenHeader(alg, kid)


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MalformedSegment("the header names a field twice")
    return fields
