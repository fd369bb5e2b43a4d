"""Documents parsed and validated by the schema's own rules and limits, once each, bounded.

Rules and limits are read off the schema's extensions, so that nothing is let through here that its own execution would
refuse. A parsed and compiled document takes about a hundred times the memory of its text (tracemalloc): so texts in use
are bounded apart from texts that are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import strawberry
from graphql import DocumentNode, GraphQLError, GraphQLSchema, parse, specified_rules
from strawberry.extensions import AddValidationRules, MaxTokensLimiter, ParserCache, ValidationCache
from strawberry.schema.schema import validate_document

from dgs.operations.plan import Operation, find_operation

__all__ = ["Document", "Documents"]

_MAX_ENTRIES: Final = 256
_MAX_TEXT_BYTES: Final = 256 * 1024
_MAX_REFUSED: Final = 4_096


class Document:
    """One valid document and those of its operations that were asked for."""

    __slots__ = ("_operations", "_parsed", "_schema", "text")

    def __init__(self, schema: GraphQLSchema, text: str, parsed: DocumentNode) -> None:
        self.text = text
        self._schema = schema
        self._parsed = parsed
        self._operations: dict[str | None, Operation | None] = {}

    def operation(self, name: str | None) -> Operation | None:
        """The operation of this name, or the only one; None if that names none. Unknown names are not remembered."""
        try:
            return self._operations[name]
        except KeyError:
            node = find_operation(self._parsed, name)
            if node is None:
                return None
            found = self._operations[name] = Operation(self._schema, self._parsed, node)
            return found


class Documents:
    """Valid documents by their text, the longest unused forgotten first."""

    def __init__(self, schema: strawberry.Schema) -> None:
        self._schema: GraphQLSchema = schema._schema  # strawberry has no public way to it
        self._parse_options: dict[str, Any] = {}
        self._parse: Callable[..., DocumentNode] = parse
        self._validate: Callable[..., Sequence[GraphQLError]] = validate_document
        extra: list[Any] = []
        for extension in schema.get_extensions():
            if isinstance(extension, MaxTokensLimiter):
                self._parse_options["max_tokens"] = extension.max_token_count
            elif isinstance(extension, AddValidationRules):
                extra += extension.validation_rules
            # Its own execution remembers what it found: a text that comes again is not validated for us once more.
            elif isinstance(extension, ParserCache):
                self._parse = extension.cached_parse_document
            elif isinstance(extension, ValidationCache):
                self._validate = extension.cached_validate_document
        self._rules = (*specified_rules, *extra)
        self._kept: OrderedDict[str, Document] = OrderedDict()
        self._text_bytes = 0
        self._refused: set[int] = set()
        """Hashes of texts the schema refused: each is said by its own execution, without being validated here again."""
        self.compiled = 0
        self.invalid = 0

    def __len__(self) -> int:
        return len(self._kept)

    def known(self, text: str) -> Document | None:
        """The document if it was compiled before and is still kept."""
        found = self._kept.get(text)
        if found is not None:
            self._kept.move_to_end(text)
        return found

    def peek(self, text: str) -> Document | None:
        """The same, without counting as a use."""
        return self._kept.get(text)

    def get(self, text: str) -> Document | None:
        """The document, compiled now if need be; None for one the schema refuses. Takes milliseconds the first time."""
        found = self.known(text)
        if found is not None:
            return found
        found = self.compile(text)
        if found is not None:
            self._keep(found)
        return found

    def compile(self, text: str) -> Document | None:
        """Parse and validate, keeping nothing."""
        mark = hash(text)
        parsed = self._valid(text) if mark not in self._refused else None
        if parsed is None:
            self.invalid += 1
            if len(self._refused) >= _MAX_REFUSED:
                self._refused.clear()
            self._refused.add(mark)
            return None
        self.compiled += 1
        return Document(self._schema, text, parsed)

    def errors(self, text: str) -> str | None:
        """What is wrong with a document, in a line; None for nothing."""
        try:
            found = validate_document(self._schema, parse(text, **self._parse_options), self._rules)
        except GraphQLError as exc:
            found = [exc]
        return "; ".join(error.message for error in found) or None

    def _valid(self, text: str) -> DocumentNode | None:
        try:
            parsed = self._parse(text, **self._parse_options)
            return None if self._validate(self._schema, parsed, self._rules) else parsed
        except Exception:
            return None

    def _keep(self, document: Document) -> None:
        self._kept[document.text] = document
        self._text_bytes += len(document.text)
        while len(self._kept) > 1 and (len(self._kept) > _MAX_ENTRIES or self._text_bytes > _MAX_TEXT_BYTES):
            text, _ = self._kept.popitem(last=False)
            self._text_bytes -= len(text)
