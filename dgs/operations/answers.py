"""Answers of the fast path as bytes: heads, entity tags, and errors in Apollo's form. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final

import msgspec

from dgs.entity_tags import names_tag
from dgs.graphql_errors import INTERNAL_MESSAGE
from dgs.serving import Answer

__all__ = [
    "INTERNAL",
    "NOT_FOUND",
    "NOT_IN_MANIFEST",
    "WRONG_HASH",
    "WRONG_VERSION",
    "answered",
    "entity_tag",
    "holds",
    "media_type",
    "not_modified",
    "refusal",
]

_encode: Final = msgspec.json.encode
_GRAPHQL_JSON: Final = b"application/graphql-response+json"
_JSON: Final = b"application/json"
# What is answered depends on the token, and its form on what is accepted.
_VARY: Final = b"Vary: Accept, Accept-Encoding, Authorization\r\n"
_KEPT: Final = {
    media: b'Content-Type: %b; charset=utf-8\r\n%bCache-Control: private, max-age=%%d\r\nETag: W/"%%b"\r\n'
    % (media, _VARY)
    for media in (_JSON, _GRAPHQL_JSON)
}
_UNKEPT: Final = {
    media: b"Content-Type: %b; charset=utf-8\r\n%bCache-Control: no-store\r\n" % (media, _VARY)
    for media in (_JSON, _GRAPHQL_JSON)
}
_NOT_MODIFIED: Final = _VARY + b'Cache-Control: private, max-age=%d\r\nETag: W/"%b"\r\n'


def media_type(fields: Mapping[bytes, bytes]) -> bytes:
    """What the client accepts: `application/json` unless it names GraphQL's own."""
    accepted = fields.get(b"accept")
    return _GRAPHQL_JSON if accepted is not None and _GRAPHQL_JSON in accepted else _JSON


def entity_tag(digests: Iterable[bytes]) -> bytes:
    """16 hex digits: equal for answers that differ in nothing but the clock and the lifetime, in every process."""
    return blake2b(b"".join(digests), digest_size=8).hexdigest().encode()


def holds(fields: Mapping[bytes, bytes], tag: bytes) -> bool:
    """Whether If-None-Match names the tag, by weak comparison (RFC 9110, 13.1.2)."""
    return names_tag(fields.get(b"if-none-match"), tag)


def answered(body: bytes, media: bytes, max_age_s: int | None, tag: bytes) -> Answer:
    """200 with the body; `max_age_s` None: nobody may keep it."""
    head = _UNKEPT[media] if max_age_s is None else _KEPT[media] % (max_age_s, tag)
    return Answer(200, head, body)


def not_modified(max_age_s: int, tag: bytes) -> Answer:
    return Answer(304, _NOT_MODIFIED % (max_age_s, tag), b"")


def refusal(status: int, code: str, message: str, **facts: Any) -> dict[bytes, Answer]:
    """An answer that never became an operation, by media type."""
    body = _encode({"errors": [{"message": message, "extensions": {"code": code, **facts}}]})
    return {media: Answer(status, head, body) for media, head in _UNKEPT.items()}


# Code and message as Apollo's server says them: its clients look for either.
NOT_FOUND: Final = refusal(200, "PERSISTED_QUERY_NOT_FOUND", "PersistedQueryNotFound")
WRONG_HASH: Final = refusal(
    400,
    "invalid_request",
    "provided sha does not match query",
    field="extensions.persistedQuery.sha256Hash",
    rule="the SHA-256 of the document's UTF-8 text, 64 hex digits",
)
WRONG_VERSION: Final = refusal(
    400,
    "invalid_request",
    "unsupported persisted query version",
    field="extensions.persistedQuery.version",
    rule="version 1",
)
NOT_IN_MANIFEST: Final = refusal(
    403,
    "forbidden",
    "only persisted operations are served here",
    field="query",
    rule="send the id of an operation of the manifest",
)
INTERNAL: Final = refusal(500, "internal", INTERNAL_MESSAGE)
