"""A GraphQL request over HTTP, by POST or GET: which document is meant, and its variables. Pure.

Anything that is not plainly one operation is None here, and told to the client by whoever answers full documents.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from dgs.serving import Ask

__all__ = ["Body", "Persisted", "named_hash", "read_request", "whole_request"]

_JSON: Final = b"application/json"
_PREFIX: Final = "sha256:"
_MAX_PARAMETERS: Final = 16


class Persisted(msgspec.Struct, frozen=True):
    """`extensions.persistedQuery`, as Apollo's clients send it."""

    sha256Hash: str  # noqa: N815 - the protocol's name
    version: int = 1


class _Extensions(msgspec.Struct, frozen=True):
    persistedQuery: Persisted | None = None  # noqa: N815 - the protocol's name


class Body(msgspec.Struct):
    """One operation: its document by text, by hash, or by the id of a manifest."""

    query: str | None = None
    variables: dict[str, Any] | None = None
    operationName: str | None = None  # noqa: N815 - GraphQL over HTTP's name
    extensions: _Extensions | None = None
    id: str | None = None
    documentId: str | None = None  # noqa: N815 - GraphQL over HTTP's name


_decode = msgspec.json.Decoder(Body).decode
_decode_variables = msgspec.json.Decoder(dict[str, Any] | None).decode
_decode_extensions = msgspec.json.Decoder(_Extensions | None).decode
_encode = msgspec.json.Encoder().encode


def read_request(ask: Ask) -> Body | None:
    """What is asked for; None if it is not one operation in JSON."""
    try:
        if ask.method == "POST":
            media_type = ask.fields.get(b"content-type", b"")
            if media_type != _JSON and media_type.partition(b";")[0].strip().lower() != _JSON:
                return None
            return _decode(ask.body)
        if ask.method in ("GET", "HEAD") and ask.query:
            return _from_query(ask.query)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    return None


def named_hash(body: Body) -> str | None:
    """The hash or id the document goes by, with hex digits in lower case; None if it comes as text alone."""
    if body.extensions is not None and body.extensions.persistedQuery is not None:
        return body.extensions.persistedQuery.sha256Hash.lower()
    key = body.documentId if body.documentId is not None else body.id
    if key is None or not key.startswith(_PREFIX):
        return key
    return key.removeprefix(_PREFIX).lower()


def whole_request(ask: Ask, body: Body, text: str) -> Ask:
    """The same request as if it had come by POST with the whole document: for who knows no hashes."""
    whole = {"query": text, "variables": body.variables, "operationName": body.operationName}
    fields = {**ask.fields, b"content-type": _JSON}
    return ask._replace(method="POST", query="", fields=fields, body=_encode(whole))


def _from_query(query: str) -> Body | None:
    parts = query.split("&", _MAX_PARAMETERS)
    if len(parts) > _MAX_PARAMETERS:
        return None
    found: dict[str, bytes] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name in found:
            return None
        found[name] = unquote_to_bytes(value.replace("+", " "))
    body = Body(
        query=_text(found, "query"),
        operationName=_text(found, "operationName"),
        id=_text(found, "id"),
        documentId=_text(found, "documentId"),
    )
    if found.get("variables"):
        body.variables = _decode_variables(found["variables"])
    if found.get("extensions"):
        body.extensions = _decode_extensions(found["extensions"])
    return body if body.query is not None or named_hash(body) is not None else None


def _text(found: dict[str, bytes], name: str) -> str | None:
    value = found.get(name)
    return value.decode() if value else None
