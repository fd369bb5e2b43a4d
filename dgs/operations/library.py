"""Which document a request means: the manifest's, one learnt by hash, or the text it brings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import strawberry

from contract.device_operations import DEVICE_OPERATIONS
from contract.errors import InvalidRequest
from dgs.operations.answers import NOT_FOUND, NOT_IN_MANIFEST, WRONG_HASH, WRONG_VERSION
from dgs.operations.apq import AutomaticOperations
from dgs.operations.documents import Document, Documents
from dgs.operations.manifest import parse_manifest, sha256_of, with_hashes
from dgs.operations.request import Body, named_hash
from dgs.serving import Answer
from dgs.settings import DgsSettings

__all__ = ["Library", "Mode", "load_library"]

Mode = Literal["any", "apq", "manifest"]
"""`manifest`: only its operations; `apq`: and those learnt by hash; `any`: whole documents, too."""
_SEEN_ONCE_MAX: Final = 4_096


class Library:
    """Finds documents; what it keeps is bounded."""

    def __init__(
        self,
        documents: Documents,
        manifest: Mapping[str, str],
        *,
        mode: Mode = "any",
        apq_entries: int = 1_000,
        apq_bytes: int = 4 << 20,
    ) -> None:
        """Raises InvalidRequest naming an operation of the manifest that the schema refuses."""
        self._documents = documents
        self._mode = mode
        self._automatic = AutomaticOperations(max_entries=apq_entries, max_bytes=apq_bytes)
        self._by_key: dict[str, Document] = {}
        self._by_text: dict[str, Document] = {}
        self._seen_once: set[int] = set()
        for key, text in with_hashes(manifest).items():
            document = self._by_text.get(text) or documents.compile(text)
            if document is None:
                raise InvalidRequest(f"operation {key!r}: {documents.errors(text)}", field="operations")
            self._by_key[key] = self._by_text[text] = document
        self.hits = 0
        self.not_found = 0
        self.refused = 0

    def find(self, body: Body) -> Document | str | Mapping[bytes, Answer]:
        """The compiled document; else its text, to be executed as it is; else the answer, by media type."""
        key = named_hash(body)
        text = body.query
        if key is None:
            return self._by_its_text(text)
        found = self._by_key.get(key)
        if found is not None:
            self.hits += 1
            if text is not None and text != found.text:
                return self._refuse(WRONG_HASH)
            return found
        asked = body.extensions.persistedQuery if body.extensions is not None else None
        if asked is not None and asked.version != 1:
            return self._refuse(WRONG_VERSION)
        return self._by_its_hash(key, text)

    def peek(self, body: Body) -> Document | None:
        """The document if it is at hand compiled; changes nothing and compiles nothing."""
        key = named_hash(body)
        if key is not None:
            found = self._by_key.get(key)
            if found is not None:
                return found
            text = self._automatic.peek(key)
        else:
            text = body.query
        if text is None:
            return None
        return self._by_text.get(text) or self._documents.peek(text)

    def stats(self) -> dict[str, int]:
        """Counts since the start, and what is held now."""
        return {
            "manifest_operations": len(self._by_text),
            "apq_entries": len(self._automatic),
            "apq_bytes": self._automatic.held_bytes,
            "apq_evicted": self._automatic.evicted,
            "documents_held": len(self._documents),
            "documents_compiled": self._documents.compiled,
            "documents_invalid": self._documents.invalid,
            "hits": self.hits,
            "not_found": self.not_found,
            "refused": self.refused,
        }

    def _by_its_hash(self, key: str, text: str | None) -> Document | str | Mapping[bytes, Answer]:
        if text is None:
            kept = self._automatic.get(key)
            document = self._documents.get(kept) if kept is not None else None
            if document is None:
                self.not_found += 1
                return NOT_FOUND
            self.hits += 1
            return document
        if self._mode == "manifest":
            return self._refuse(NOT_IN_MANIFEST)
        if sha256_of(text) != key:
            return self._refuse(WRONG_HASH)
        document = self._documents.get(text)
        if document is None:
            return text
        self._automatic.keep(key, text)
        return document

    def _by_its_text(self, text: str | None) -> Document | str | Mapping[bytes, Answer]:
        if text is None:
            return ""
        found = self._by_text.get(text)
        if found is not None:
            return found
        if self._mode != "any":
            return self._refuse(NOT_IN_MANIFEST)
        found = self._documents.known(text)
        if found is not None:
            return found
        # Compiled when it comes a second time: most of what comes once never comes again.
        mark = hash(text)
        if mark not in self._seen_once:
            if len(self._seen_once) >= _SEEN_ONCE_MAX:
                self._seen_once.clear()
            self._seen_once.add(mark)
            return text
        return self._documents.get(text) or text

    def _refuse(self, answer: Mapping[bytes, Answer]) -> Mapping[bytes, Answer]:
        self.refused += 1
        return answer


def load_library(settings: DgsSettings, schema: strawberry.Schema) -> Library:
    """As the settings say; reads the manifest's file now, blocking.

    The devices' own operations are known beside those of a manifest, unless that is all that may be served. Raises
    InvalidRequest naming the file and what is wrong with it.
    """
    manifest = dict(DEVICE_OPERATIONS)
    path = settings.operations_path
    if path is not None:
        try:
            given = parse_manifest(path.read_bytes(), path.name)
        except OSError as exc:
            raise InvalidRequest(f"{path}: {exc.strerror}", field="operations") from exc
        manifest = given if settings.operations_mode == "manifest" else manifest | given
    return Library(
        Documents(schema),
        manifest,
        mode=settings.operations_mode,
        apq_entries=settings.apq_entries,
        apq_bytes=settings.apq_bytes,
    )
