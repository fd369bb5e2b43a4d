"""GraphQL documents made into forms: parsed and validated once per distinct text, compiled to exactly what they select.

graphql-core parses, validates and coerces variables; what a document selects is then a plan, and the plan a form. Two
documents that select the same share one form, and so share the bytes of every frame. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

import msgspec
from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLIncludeDirective,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLSkipDirective,
    GraphQLUnionType,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionNode,
    SelectionSetNode,
    VariableNode,
    build_schema,
    get_argument_values,
    get_directive_values,
    get_named_type,
    get_variable_values,
    parse,
    validate,
)
from graphql.execution.values import VariableValues

from contract.cursor import Cursor
from contract.errors import InvalidRequest, Overloaded
from contract.frames import (
    BroadcastFrame,
    ContinuityFrame,
    ErrorFrame,
    GoawayFrame,
    ScheduleFrame,
    ServerFrame,
    StaleFrame,
    TokenFrame,
    WelcomeFrame,
    WindowFrame,
)

__all__ = [
    "MAX_ALIASES",
    "MAX_DEPTH",
    "MAX_FIELDS",
    "MAX_QUERY_CHARS",
    "MAX_SELECTIONS",
    "MAX_TOKENS",
    "NEW_DOCUMENTS_BURST",
    "NEW_DOCUMENTS_PER_S",
    "Documents",
    "GraphqlForm",
    "OperationRefused",
    "Prepared",
    "TopicCursor",
    "stream_item",
    "stream_schema",
]

MAX_QUERY_CHARS: Final = 8_192
MAX_TOKENS: Final = 400
"""A document that selects everything of every member has about 90."""
MAX_SELECTIONS: Final = 96
"""Fields and fragments written in one document: validation compares many of them with many."""
MAX_DEPTH: Final = 12
"""Selection sets within each other; the schema's own fields go 3 deep."""
MAX_ALIASES: Final = 16
"""Fields renamed in one document: each makes a frame longer by what it selects once more."""
MAX_FIELDS: Final = 128
"""Fields of all members together once fragments are filled in; the schema has 40."""
NEW_DOCUMENTS_BURST: Final = 32.0
NEW_DOCUMENTS_PER_S: Final = 8.0
"""Documents read per node: a whole fleet sends a handful, and the worst one takes about 20 ms of the loop."""
_MAX_FRAGMENTS: Final = 16
_MAX_DIRECTIVES: Final = 32
_MAX_COMMENTS: Final = 100
_MAX_ERRORS: Final = 5
_MAX_PLANS_PER_OPERATION: Final = 16
_ROOT_FIELD: Final = "broadcasts"

_encode = msgspec.json.Encoder().encode


class OperationRefused(InvalidRequest):
    """What was asked for cannot be executed; `errors` is the payload of an `error` message."""

    def __init__(self, errors: Sequence[Mapping[str, Any]], *, field: str) -> None:
        super().__init__(str(errors[0]["message"]), field=field)
        self.errors = tuple(errors)


class TopicCursor(NamedTuple):
    topic: str
    cursor: Cursor


class Step(NamedTuple):
    """One field of a result: its key, what it is taken from, and the plan of what lies below it."""

    key: str
    field: str
    below: Plan | None


Plan: TypeAlias = tuple[Step, ...]


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
        return _encode({"data": {self.root: _project(self._plans[item["__typename"]], item)}})

    def error(self, frame: ErrorFrame) -> dict[str, Any]:
        """An error of one topic: a field error of one event, after which the stream goes on."""
        extensions = {"code": frame.code}
        if frame.topic is not None:
            extensions["topic"] = frame.topic
        return {"message": frame.message, "path": [self.root], "extensions": extensions}


class Prepared(NamedTuple):
    """An operation that may be executed."""

    form: GraphqlForm
    topics: tuple[TopicCursor, ...]


def stream_schema(sdl: str) -> GraphQLSchema:
    """The schema of `contract/broadcasts.graphql`, with a Timestamp that takes integers only."""
    schema = build_schema(sdl)
    timestamp = schema.type_map["Timestamp"]
    assert isinstance(timestamp, GraphQLScalarType)
    timestamp.coerce_input_value = _timestamp
    return schema


def stream_item(frame: ServerFrame) -> dict[str, Any]:
    """A frame as the schema's StreamItem, every field of its member there."""
    return _ITEMS[type(frame)](frame)


class Documents:
    """Parsed documents, bounded by number and by the length of all texts together; the ones unused longest go first."""

    def __init__(self, schema: GraphQLSchema, *, max_documents: int = 256, max_chars: int = 131_072) -> None:
        assert schema.subscription_type is not None
        self._schema = schema
        self._max_documents = max_documents
        self._max_chars = max_chars
        self._documents: OrderedDict[str, _Document | OperationRefused] = OrderedDict()
        self._chars = 0
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
    ) -> Prepared:
        """The form and the arguments of one subscription, or OperationRefused.

        Overloaded where too many new documents came in a short time: reading one may take as long as a fan-out.
        """
        document = self._document(query, now_s)
        operation = document.operation(operation_name)
        try:
            values = operation.variables(variables or {})
            return Prepared(self._form(operation, values), operation.topics(values))
        except GraphQLError as exc:
            raise _refused([exc], "variables") from exc

    def _document(self, query: str, now_s: float) -> _Document:
        known = self._documents.get(query)
        if known is None:
            self._spend(now_s)
            try:
                known = _Document(self._schema, _checked(self._schema, query))
            except OperationRefused as exc:
                known = exc.with_traceback(None)
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
        if len(query) > MAX_QUERY_CHARS:
            return
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
            _Operation(schema, node, fragments)
            for node in document.definitions
            if isinstance(node, OperationDefinitionNode)
        ]

    def operation(self, name: str | None) -> _Operation:
        if name is None:
            if len(self._operations) != 1:
                raise _refusal("several operations, and no operationName that says which", "operationName")
            operation = self._operations[0]
        else:
            named = [operation for operation in self._operations if operation.name == name]
            if not named:
                raise _refusal(f"no operation named {name[:80]!r} in the document", "operationName")
            operation = named[0]
        if operation.kind is not OperationType.SUBSCRIPTION:
            raise _refusal(f"a {operation.kind.value} is not served here: subscribe to broadcasts", "query")
        return operation


class _Operation:
    """One operation of a valid document; only a subscription may be asked for its plans and topics."""

    def __init__(
        self, schema: GraphQLSchema, node: OperationDefinitionNode, fragments: Mapping[str, FragmentDefinitionNode]
    ) -> None:
        self.name = node.name.value if node.name else None
        self.kind = node.operation
        self._schema = schema
        self._node = node
        self._fragments = fragments
        self._switches = _switches(node, fragments)
        self._plans: dict[tuple[Any, ...], tuple[str, dict[str, Plan]]] = {}

    def variables(self, inputs: Mapping[str, Any]) -> VariableValues:
        values = get_variable_values(
            self._schema, self._node.variable_definitions or (), dict(inputs), max_errors=_MAX_ERRORS
        )
        if isinstance(values, list):
            raise _refused(values, "variables")
        return values

    def topics(self, values: VariableValues) -> tuple[TopicCursor, ...]:
        root_type = self._schema.subscription_type
        assert root_type is not None
        field = self._root_fields(values)[1][0]
        arguments = get_argument_values(root_type.fields[field.name.value], field, values)
        return tuple(TopicCursor(entry["topic"], entry.get("cursor")) for entry in arguments["topics"])

    def plans(self, values: VariableValues) -> tuple[str, dict[str, Plan]]:
        """The key of results, and what to take of each member of StreamItem; kept per value of @skip and @include."""
        key = tuple(values.coerced.get(name) for name in self._switches)
        made = self._plans.get(key)
        if made is None:
            root, fields = self._root_fields(values)
            union = self._schema.type_map["StreamItem"]
            assert isinstance(union, GraphQLUnionType)
            collector = _Collector(self._schema, self._fragments, values)
            made = root, {member.name: collector.plan(fields, member) for member in union.types}
            if len(self._plans) >= _MAX_PLANS_PER_OPERATION:
                self._plans.clear()
            self._plans[key] = made
        return made

    def _root_fields(self, values: VariableValues) -> tuple[str, list[FieldNode]]:
        root_type = self._schema.subscription_type
        assert root_type is not None
        found = _Collector(self._schema, self._fragments, values).collect([self._node.selection_set], root_type)
        # Validation let one root field through; the directives that could take it away are not allowed on it.
        ((key, fields),) = found.items()
        return key, fields


class _Collector:
    """CollectFields and what follows from it (GraphQL specification, section 6.3), for plans in place of values."""

    def __init__(
        self, schema: GraphQLSchema, fragments: Mapping[str, FragmentDefinitionNode], values: VariableValues
    ) -> None:
        self._schema = schema
        self._fragments = fragments
        self._values = values
        self._fields_left = MAX_FIELDS

    def plan(self, fields: Sequence[FieldNode], of: GraphQLObjectType) -> Plan:
        """Steps for what `fields` select below themselves, of an object of type `of`."""
        sets = [field.selection_set for field in fields if field.selection_set is not None]
        steps = []
        for key, chosen in self.collect(sets, of).items():
            self._fields_left -= 1
            if self._fields_left < 0:
                raise _refusal(f"more than {MAX_FIELDS} fields, counted with what fragments bring", "query")
            name = chosen[0].name.value
            below: Plan | None = None
            if chosen[0].selection_set is not None:
                kind = get_named_type(of.fields[name].type)
                assert isinstance(kind, GraphQLObjectType)
                below = self.plan(chosen, kind)
            steps.append(Step(key, name, below))
        return tuple(steps)

    def collect(self, sets: Sequence[SelectionSetNode], of: GraphQLObjectType) -> dict[str, list[FieldNode]]:
        """Response key -> the fields that share it, in the order keys first appear."""
        found: dict[str, list[FieldNode]] = {}
        seen: set[str] = set()
        for selection_set in sets:
            self._collect(selection_set, of, found, seen)
        return found

    def _collect(
        self,
        selection_set: SelectionSetNode,
        of: GraphQLObjectType,
        found: dict[str, list[FieldNode]],
        seen: set[str],
    ) -> None:
        for selection in selection_set.selections:
            if not self._included(selection):
                continue
            if isinstance(selection, FieldNode):
                key = (selection.alias or selection.name).value
                found.setdefault(key, []).append(selection)
            elif isinstance(selection, InlineFragmentNode):
                condition = selection.type_condition
                if condition is None or self._applies(condition.name.value, of):
                    self._collect(selection.selection_set, of, found, seen)
            elif isinstance(selection, FragmentSpreadNode):
                name = selection.name.value
                fragment = self._fragments[name]
                if name not in seen and self._applies(fragment.type_condition.name.value, of):
                    seen.add(name)
                    self._collect(fragment.selection_set, of, found, seen)

    def _included(self, selection: SelectionNode) -> bool:
        if not selection.directives:
            return True
        skip = get_directive_values(GraphQLSkipDirective, selection, self._values)
        if skip is not None and skip["if"] is True:
            return False
        include = get_directive_values(GraphQLIncludeDirective, selection, self._values)
        return include is None or include["if"] is True

    def _applies(self, condition: str, of: GraphQLObjectType) -> bool:
        if condition == of.name:
            return True
        kind = self._schema.type_map[condition]
        return isinstance(kind, GraphQLUnionType) and of in kind.types


# Documents: what is let in.


def _checked(schema: GraphQLSchema, query: str) -> DocumentNode:
    """A parsed document that is valid and within every limit."""
    if len(query) > MAX_QUERY_CHARS:
        raise _refusal(f"{len(query)} characters (at most {MAX_QUERY_CHARS})", "query")
    try:
        document = parse(query, max_lexical_tokens=MAX_TOKENS, max_comments=_MAX_COMMENTS)
    except GraphQLError as exc:
        raise _refused([exc], "query") from exc
    _check_limits(document)
    errors = validate(schema, document, max_errors=_MAX_ERRORS)
    if errors:
        raise _refused(errors, "query")
    return document


def _check_limits(document: DocumentNode) -> None:
    """Before validation, some of whose rules compare every field with every other."""
    aliases = directives = selections = 0
    fragments = sum(isinstance(node, FragmentDefinitionNode) for node in document.definitions)
    if fragments > _MAX_FRAGMENTS:
        raise _refusal(f"{fragments} fragments (at most {_MAX_FRAGMENTS})", "query")
    waiting: list[tuple[SelectionSetNode, int]] = [
        (node.selection_set, 1)
        for node in document.definitions
        if isinstance(node, OperationDefinitionNode | FragmentDefinitionNode)
    ]
    while waiting:
        selection_set, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _refusal(f"selections nested more than {MAX_DEPTH} deep", "query")
        selections += len(selection_set.selections)
        for selection in selection_set.selections:
            directives += len(selection.directives or ())
            aliases += isinstance(selection, FieldNode) and selection.alias is not None
            below: SelectionSetNode | None = getattr(selection, "selection_set", None)
            if below is not None:
                waiting.append((below, depth + 1))
    if selections > MAX_SELECTIONS:
        raise _refusal(f"{selections} fields and fragments (at most {MAX_SELECTIONS})", "query")
    if aliases > MAX_ALIASES:
        raise _refusal(f"{aliases} aliases (at most {MAX_ALIASES})", "query")
    if directives > _MAX_DIRECTIVES:
        raise _refusal(f"{directives} directives (at most {_MAX_DIRECTIVES})", "query")


def _switches(operation: OperationDefinitionNode, fragments: Mapping[str, FragmentDefinitionNode]) -> tuple[str, ...]:
    """Variables that decide what is selected: those of the operation that stand in any directive."""
    names: dict[str, None] = {}
    waiting = [operation.selection_set, *(fragment.selection_set for fragment in fragments.values())]
    while waiting:
        for selection in waiting.pop().selections:
            for directive in selection.directives or ():
                for argument in directive.arguments or ():
                    if isinstance(argument.value, VariableNode):
                        names[argument.value.name.value] = None
            below: SelectionSetNode | None = getattr(selection, "selection_set", None)
            if below is not None:
                waiting.append(below)
    return tuple(names)


def _refused(errors: Sequence[GraphQLError], field: str) -> OperationRefused:
    told = []
    for error in errors:
        formatted: dict[str, Any] = {"message": error.message[:400]}
        if error.locations:
            formatted["locations"] = [{"line": at.line, "column": at.column} for at in error.locations]
        formatted["extensions"] = {"code": InvalidRequest.code, "field": field}
        told.append(formatted)
    return OperationRefused(told, field=field)


def _refusal(message: str, field: str) -> OperationRefused:
    told = {"message": message, "extensions": {"code": InvalidRequest.code, "field": field}}
    return OperationRefused([told], field=field)


def _timestamp(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise GraphQLError("a Timestamp is an integer number of milliseconds since the epoch")
    return value


# Frames: what they hold.


def _project(plan: Plan, item: Mapping[str, Any]) -> dict[str, Any]:
    result = {}
    for key, field, below in plan:
        value = item[field]
        if below is None or value is None:
            result[key] = value
        elif isinstance(value, list):
            result[key] = [_project(below, entry) for entry in value]
        else:
            result[key] = _project(below, value)
    return result


def _broadcast(frame: BroadcastFrame) -> dict[str, Any]:
    ack = frame.ack
    return {
        "__typename": "Broadcast",
        "topic": frame.topic,
        "stateKey": frame.state_key,
        "timestamp": frame.timestamp,
        "prev": frame.prev,
        "replayed": frame.replayed,
        "skipped": list(frame.skipped),
        "ack": None if ack is None else {"__typename": "AckRequest", "oneIn": ack.one_in, "withinMs": ack.within_ms},
    }


def _continuity(frame: ContinuityFrame) -> dict[str, Any]:
    return {
        "__typename": "Continuity",
        "topic": frame.topic,
        "verdict": frame.verdict.upper(),
        "stateKey": frame.state_key,
        "latest": frame.latest,
    }


def _schedule(frame: ScheduleFrame) -> dict[str, Any]:
    return {
        "__typename": "ScheduleChange",
        "topic": frame.topic,
        "revision": frame.revision,
        "version": frame.version,
        "times": [{"__typename": "StageTime", "key": key, "dueAt": due_at} for key, due_at in frame.times.items()],
    }


_SESSION: Final[Mapping[str, Any]] = {
    "__typename": "Session",
    "kind": "",
    "node": None,
    "serverTime": None,
    "lifetimeS": None,
    "pingS": None,
    "reconnectWindowMs": None,
    "refetchWindowMs": None,
    "token": None,
    "reason": None,
    "reconnectAfterMs": None,
}


def _welcome(frame: WelcomeFrame) -> dict[str, Any]:
    return {
        **_SESSION,
        "kind": "WELCOME",
        "node": frame.node,
        "serverTime": frame.server_time,
        "lifetimeS": frame.lifetime_s,
        "pingS": frame.ping_s,
        "reconnectWindowMs": frame.reconnect_window_ms,
        "refetchWindowMs": frame.refetch_window_ms,
    }


def _window(frame: WindowFrame) -> dict[str, Any]:
    return {
        **_SESSION,
        "kind": "WINDOW",
        "reconnectWindowMs": frame.reconnect_window_ms,
        "refetchWindowMs": frame.refetch_window_ms,
    }


def _token(frame: TokenFrame) -> dict[str, Any]:
    return {**_SESSION, "kind": "TOKEN", "token": frame.token}


def _stale(frame: StaleFrame) -> dict[str, Any]:
    return {**_SESSION, "kind": "STALE"}


def _goaway(frame: GoawayFrame) -> dict[str, Any]:
    return {
        **_SESSION,
        "kind": "GOAWAY",
        "reason": frame.reason,
        "reconnectAfterMs": frame.reconnect_after_ms,
        "reconnectWindowMs": frame.window_ms,
    }


_ITEMS: Final[Mapping[type, Callable[[Any], dict[str, Any]]]] = {
    BroadcastFrame: _broadcast,
    ContinuityFrame: _continuity,
    ScheduleFrame: _schedule,
    WelcomeFrame: _welcome,
    WindowFrame: _window,
    TokenFrame: _token,
    StaleFrame: _stale,
    GoawayFrame: _goaway,
}
