"""GraphQL documents made into forms: parsed and validated once per distinct text, compiled to exactly what they select.

graphql-core parses, validates and coerces variables; what a document selects is then a plan, and the plan a form. Two
documents that select the same share one form, and so share the bytes of every frame. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, Protocol
from weakref import WeakValueDictionary

import msgspec
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLUnionType,
    OperationDefinitionNode,
    OperationType,
    build_schema,
    execute_sync,
    get_argument_values,
    get_variable_values,
    parse,
    validate,
)
from graphql.execution.values import VariableValues

from contract.cursor import Cursor
from contract.errors import BroadcastSystemError, Overloaded
from contract.frames import AckFrame, ErrorFrame, Held, HoleFrame, ServerFrame
from push_proxy.graphql_items import stream_item
from push_proxy.graphql_selection import (
    Collector,
    OperationRefused,
    Plan,
    check_limits,
    project,
    refusal,
    refused,
    switches,
)

__all__ = [
    "MAX_QUERY_CHARS",
    "MAX_TOKENS",
    "NEW_DOCUMENTS_BURST",
    "NEW_DOCUMENTS_PER_S",
    "Documents",
    "GraphqlForm",
    "Prepared",
    "Report",
    "Told",
    "TopicCursor",
    "stream_schema",
]

MAX_QUERY_CHARS: Final = 8_192
MAX_TOKENS: Final = 400
"""A document that selects everything of every member has about 90."""
NEW_DOCUMENTS_BURST: Final = 32.0
NEW_DOCUMENTS_PER_S: Final = 8.0
"""Documents read per node: a whole fleet sends a handful, and the worst one takes about 20 ms of the loop."""
_MAX_COMMENTS: Final = 100
_MAX_ERRORS: Final = 5
_MAX_PLANS_PER_OPERATION: Final = 16
_MAX_PREPARED: Final = 256
_MAX_KEPT_VARIABLES_BYTES: Final = 512
_ROOT_FIELD: Final = "broadcasts"

_encode = msgspec.json.Encoder().encode


class TopicCursor(NamedTuple):
    topic: str
    cursor: Cursor = None
    held: Held | None = None


class GraphqlForm:
    """A form: a frame as the `payload` of a `next` message, holding what one selection asks for.

    Compared and hashed by identity; `Documents` makes one per distinct plan.
    """

    __slots__ = ("__weakref__", "_plans", "root")

    def __init__(self, root: str, plans: Mapping[str, Plan]) -> None:
        self.root = root
        """The key under which results stand: `broadcasts`, or its alias."""
        self._plans = plans

    def __call__(self, frame: ServerFrame) -> bytes:
        """An execution result (GraphQL specification, section 7.1) as JSON."""
        if isinstance(frame, ErrorFrame):
            return _encode({"data": None, "errors": [self.error(frame)]})
        item = stream_item(frame)
        return _encode({"data": {self.root: project(self._plans[item["__typename"]], item)}})

    def error(self, frame: ErrorFrame) -> dict[str, Any]:
        """An error of one topic: a field error of one event, after which the stream goes on."""
        extensions = {"code": frame.code}
        if frame.topic is not None:
            extensions["topic"] = frame.topic
        return {"message": frame.message, "path": [self.root], "extensions": extensions}


class Prepared(NamedTuple):
    """A subscription that may begin."""

    form: GraphqlForm
    topics: tuple[TopicCursor, ...]


class Told(Protocol):
    """Takes what a device reports; raises a BroadcastSystemError for what it does not take."""

    def __call__(self, frame: AckFrame | HoleFrame, /) -> None: ...


class Report(NamedTuple):
    """A mutation: what a device reports. `execute` calls `told` for each of its fields, and returns the payload."""

    execute: Callable[[Told], bytes]


def stream_schema(sdl: str) -> GraphQLSchema:
    """The schema of `contract/broadcasts.graphql`, with a Timestamp that takes integers only."""
    schema = build_schema(sdl)
    timestamp = schema.type_map["Timestamp"]
    assert isinstance(timestamp, GraphQLScalarType)
    timestamp.coerce_input_value = _timestamp
    return schema


class Documents:
    """Parsed documents, bounded by number and by the length of all texts together; the ones unused longest go first."""

    def __init__(self, schema: GraphQLSchema, *, max_documents: int = 256, max_chars: int = 65_536) -> None:
        assert schema.subscription_type is not None
        self._schema = schema
        self._max_documents = max_documents
        self._max_chars = max_chars
        self._documents: OrderedDict[str, _Document | OperationRefused] = OrderedDict()
        self._chars = 0
        self._prepared: dict[tuple[str, str | None, bytes], Prepared] = {}
        self._budget = NEW_DOCUMENTS_BURST
        self._budget_at_s: float | None = None
        self._forms: WeakValueDictionary[tuple[str, tuple[tuple[str, Plan], ...]], GraphqlForm] = WeakValueDictionary()

    @property
    def known(self) -> int:
        """Documents kept, refused ones included."""
        return len(self._documents)

    def is_known(self, query: str) -> bool:
        """Whether it was parsed already, and preparing it again costs little."""
        return query in self._documents

    def prepare(
        self, query: str, operation_name: str | None, variables: Mapping[str, Any] | None, *, now_s: float
    ) -> Prepared | Report:
        """A subscription with its form and its arguments, or a mutation; OperationRefused for anything else.

        Overloaded where too many new documents came in a short time: reading one may take as long as a fan-out.
        """
        key = (query, operation_name, _encode(variables))
        known = self._prepared.get(key)
        if known is not None:
            return known
        document = self._document(query, now_s)
        operation = document.operation(operation_name)
        try:
            values = operation.variables(variables or {})
            if operation.kind is OperationType.MUTATION:
                return Report(partial(operation.report, variables or {}))
            prepared = Prepared(self._form(operation, values), operation.topics(values))
        except GraphQLError as exc:
            raise refused([exc], "variables") from exc
        if len(key[2]) <= _MAX_KEPT_VARIABLES_BYTES:
            # Many devices come back at the same cursors: for them everything was done before.
            if len(self._prepared) >= _MAX_PREPARED:
                self._prepared.clear()
            self._prepared[key] = prepared
        return prepared

    def _document(self, query: str, now_s: float) -> _Document:
        known = self._documents.get(query)
        if known is None:
            if len(query) > MAX_QUERY_CHARS:
                raise refusal(f"{len(query)} characters (at most {MAX_QUERY_CHARS})", "query")
            self._spend(now_s)
            try:
                known = _Document(self._schema, _checked(self._schema, query))
            except OperationRefused as exc:
                known = OperationRefused(exc.errors, field="query")  # without the frames of the failure
            self._keep(query, known)
        else:
            self._documents.move_to_end(query)
        if isinstance(known, OperationRefused):
            raise OperationRefused(known.errors, field="query")
        return known

    def _spend(self, now_s: float) -> None:
        earned = (now_s - self._budget_at_s) * NEW_DOCUMENTS_PER_S if self._budget_at_s is not None else 0.0
        self._budget = min(NEW_DOCUMENTS_BURST, self._budget + earned)
        self._budget_at_s = now_s
        if self._budget < 1:
            raise Overloaded(
                "this node reads too many new documents at the moment",
                field="query",
                rule="send documents others send too, with variables",
                retry_after_s=(1 - self._budget) / NEW_DOCUMENTS_PER_S,
            )
        self._budget -= 1

    def _keep(self, query: str, document: _Document | OperationRefused) -> None:
        self._documents[query] = document
        self._chars += len(query)
        while len(self._documents) > self._max_documents or self._chars > self._max_chars:
            oldest, _ = self._documents.popitem(last=False)
            self._chars -= len(oldest)

    def _form(self, operation: _Operation, values: VariableValues) -> GraphqlForm:
        root, plans = operation.plans(values)
        key = (root, tuple(plans.items()))
        form = self._forms.get(key)
        if form is None:
            form = self._forms[key] = GraphqlForm(root, plans)
        return form


class _Document:
    """One valid document and its operations."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        fragments = {n.name.value: n for n in document.definitions if isinstance(n, FragmentDefinitionNode)}
        self._operations = [
            _Operation(schema, document, node, fragments)
            for node in document.definitions
            if isinstance(node, OperationDefinitionNode)
        ]

    def operation(self, name: str | None) -> _Operation:
        if name is None:
            if len(self._operations) != 1:
                raise refusal("several operations, and no operationName that says which", "operationName")
            operation = self._operations[0]
        else:
            named = [operation for operation in self._operations if operation.name == name]
            if not named:
                raise refusal(f"no operation named {name[:80]!r} in the document", "operationName")
            operation = named[0]
        if operation.kind is OperationType.QUERY:
            raise refusal("a query is not served here: subscribe to broadcasts", "query")
        return operation


class _Operation:
    """One operation of a valid document: a subscription has plans and topics, a mutation reports."""

    def __init__(
        self,
        schema: GraphQLSchema,
        document: DocumentNode,
        node: OperationDefinitionNode,
        fragments: Mapping[str, FragmentDefinitionNode],
    ) -> None:
        self.name = node.name.value if node.name else None
        self.kind = node.operation
        self._schema = schema
        self._document = document
        self._node = node
        self._fragments = fragments
        self._switches = switches(node, fragments)
        self._plans: dict[tuple[Any, ...], tuple[str, dict[str, Plan]]] = {}

    def variables(self, inputs: Mapping[str, Any]) -> VariableValues:
        values = get_variable_values(
            self._schema, self._node.variable_definitions or (), dict(inputs), max_errors=_MAX_ERRORS
        )
        if isinstance(values, list):
            raise refused(values, "variables")
        return values

    def topics(self, values: VariableValues) -> tuple[TopicCursor, ...]:
        root_type = self._schema.subscription_type
        assert root_type is not None
        field = self._root_fields(values)[1][0]
        arguments = get_argument_values(root_type.fields[field.name.value], field, values)
        return tuple(
            TopicCursor(entry["topic"], entry.get("cursor"), _held(entry, place))
            for place, entry in enumerate(arguments["topics"])
        )

    def report(self, variables: Mapping[str, Any], told: Told) -> bytes:
        """Execute a mutation, which is rare: graphql-core does all of it."""

        def acknowledge(info: object, topic: str, timestamp: int) -> bool:
            return _tell(told, AckFrame(topic, timestamp))

        def report_hole(info: object, topic: str, cursor: int, prev: int, timestamp: int) -> bool:
            return _tell(told, HoleFrame(topic, cursor, prev, timestamp))

        result = execute_sync(
            self._schema,
            self._document,
            {"acknowledge": acknowledge, "reportHole": report_hole},
            variable_values=dict(variables),
            operation_name=self.name,
        )
        return _encode(result.formatted)

    def plans(self, values: VariableValues) -> tuple[str, dict[str, Plan]]:
        """The key of results, and what to take of each member of StreamItem; kept per value of @skip and @include."""
        key = tuple(values.coerced.get(name) for name in self._switches)
        made = self._plans.get(key)
        if made is None:
            root, fields = self._root_fields(values)
            union = self._schema.type_map["StreamItem"]
            assert isinstance(union, GraphQLUnionType)
            collector = Collector(self._schema, self._fragments, values)
            made = root, {member.name: collector.plan(fields, member) for member in union.types}
            if len(self._plans) >= _MAX_PLANS_PER_OPERATION:
                self._plans.clear()
            self._plans[key] = made
        return made

    def _root_fields(self, values: VariableValues) -> tuple[str, list[FieldNode]]:
        root_type = self._schema.subscription_type
        assert root_type is not None
        found = Collector(self._schema, self._fragments, values).collect([self._node.selection_set], root_type)
        # Validation let one root field through; the directives that could take it away are not allowed on it.
        ((key, fields),) = found.items()
        return key, fields


# Documents: what is let in.


def _checked(schema: GraphQLSchema, query: str) -> DocumentNode:
    """A parsed document that is valid and within every limit."""
    try:
        document = parse(query, max_lexical_tokens=MAX_TOKENS, max_comments=_MAX_COMMENTS)
    except GraphQLError as exc:
        raise refused([exc], "query") from exc
    check_limits(document)
    errors = validate(schema, document, max_errors=_MAX_ERRORS)
    if errors:
        raise refused(errors, "query")
    return document


def _held(entry: Mapping[str, Any], place: int) -> Held | None:
    version, revision = entry.get("heldVersion"), entry.get("heldRevision")
    if version is None and revision is None:
        return None
    if version is None or revision is None:
        raise refusal("heldVersion and heldRevision come together", f"topics[{place}]")
    return Held(version, revision)


def _tell(told: Told, frame: AckFrame | HoleFrame) -> bool:
    try:
        told(frame)
    except BroadcastSystemError as exc:
        raise GraphQLError(str(exc), extensions={"code": exc.code}) from exc
    return True


def _timestamp(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise GraphQLError("a Timestamp is an integer number of milliseconds since the epoch")
    return value
