"""Operations known from the start: a JSON manifest, id -> document. Pure.

Two forms are read: Apollo's (`{"format": "apollo-persisted-query-manifest", "version": 1, "operations": [{"id", "name",
"type", "body"}]}`) and a plain object from ids to documents. Every operation is found by its id and by the SHA-256 of
its text, which are the same in Apollo's manifests.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import msgspec

from contract.errors import InvalidRequest

__all__ = ["MAX_ID", "parse_manifest", "sha256_of", "with_hashes"]

MAX_ID: Final = 128
_FORMAT: Final = "apollo-persisted-query-manifest"


class _Entry(msgspec.Struct, frozen=True):
    id: str
    body: str
    name: str = ""
    type: str = "query"


class _Apollo(msgspec.Struct, frozen=True):
    format: str
    version: int
    operations: tuple[_Entry, ...]


def sha256_of(document: str) -> str:
    """64 hex digits: what APQ and manifests call a document. Raises UnicodeEncodeError for a lone surrogate."""
    return sha256(document.encode()).hexdigest()


def parse_manifest(content: bytes, source: str) -> dict[str, str]:
    """Ids and documents of a manifest. Raises InvalidRequest naming `source` and what is wrong with it."""
    try:
        shape = msgspec.json.decode(content)
        if isinstance(shape, dict) and "operations" in shape:
            listed = msgspec.convert(shape, _Apollo)
            if listed.format != _FORMAT or listed.version != 1:
                raise _refusal(source, f"format {listed.format!r}, version {listed.version}: not {_FORMAT!r}, 1")
            others = [each.id for each in listed.operations if each.type != "query"]
            if others:
                raise _refusal(source, f"operation {others[0]!r} is no query")
            pairs = [(each.id, each.body) for each in listed.operations]
        else:
            pairs = list(msgspec.convert(shape, dict[str, str]).items())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _refusal(source, str(exc)) from exc
    found: dict[str, str] = {}
    for key, document in pairs:
        if not 1 <= len(key) <= MAX_ID:
            raise _refusal(source, f"id {key[:40]!r}: 1 to {MAX_ID} characters")
        if found.get(key, document) != document:
            raise _refusal(source, f"id {key!r} stands for two documents")
        found[key] = document
    return found


def with_hashes(operations: Mapping[str, str]) -> dict[str, str]:
    """The same operations, found by their SHA-256, too."""
    return dict(operations) | {sha256_of(document): document for document in operations.values()}


def _refusal(source: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{source}: {why}", field="operations")
