"""The GraphQL schema: a federation v2 subgraph. Its text is snapshot-tested as `subgraph.graphql`.

Resolvers hand out the structs of `dgs.model`, whose attributes carry the fields' names; only the root fields do work.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NewType, cast

import msgspec
import strawberry
from graphql import ASTValidationRule, GraphQLError, NoSchemaIntrospectionCustomRule, OperationDefinitionNode
from strawberry.extensions import (
    AddValidationRules,
    MaxTokensLimiter,
    ParserCache,
    SchemaExtension,
    ValidationCache,
)
from strawberry.federation.schema import FederationAny
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.exceptions import CannotGetOperationTypeError
from strawberry.types import ExecutionContext
from strawberry.types.scalar import ScalarDefinition

from contract.durations import parse_duration
from contract.errors import InvalidRequest
from dgs import model
from dgs.document_limits import limiting_rule
from dgs.loaders import EntityLoaders
from dgs.model import ArtworkKind, DeviceKind, ScreenClass
from dgs.prefetch import Degraded, Prefetch, Served
from dgs.settings import DgsSettings
from dgs.ttl import shared_ttl_s

__all__ = [
    "OperationNotNamedError",
    "RequestContext",
    "Timestamp",
    "build_schema",
    "parse_representation",
    "parse_timestamp",
    "parse_within_ms",
]

Timestamp = NewType("Timestamp", int)
Duration = NewType("Duration", str)
StageMapJSON = NewType("StageMapJSON", object)
_DOCUMENTS_KEPT: Final = 256

_DEFAULT_WITHIN_MS: Final = 86_400_000
_MAX_WITHIN_MS: Final = 31 * 86_400_000


class RequestContext:
    """What resolvers know of one request, and what it has cost so far."""

    __slots__ = ("_degraded", "_maps_left", "_maps_limit", "_secret", "_served", "device_id", "entities", "prefetch")

    def __init__(self, prefetch: Prefetch, *, device_id: str | None = None, max_maps: int = 20) -> None:
        self.prefetch = prefetch
        self.entities = EntityLoaders(prefetch)
        self.device_id = device_id
        """The `X-Device-Id` header, not yet checked."""
        self._served: list[Served] = []
        self._degraded: list[Degraded] = []
        self._secret = False
        self._maps_left = self._maps_limit = max_maps

    def spend(self, maps: int = 1) -> None:
        """Called before a map is built, and again for the rest of a list; refuses a document that asks for too many."""
        self._maps_left -= maps
        if self._maps_left < 0:
            limit = self._maps_limit
            raise InvalidRequest("too many stage maps in one request", rule=f"at most {limit}; send several requests")

    def answer_map(self, served: Served) -> model.StageMap:
        """Let the answer be kept no longer than this map, and say what is wrong with it."""
        self._served.append(served)
        if served.degraded is not None and served.degraded not in self._degraded:
            self._degraded.append(served.degraded)
        return served.stage_map

    @property
    def extensions(self) -> dict[str, Any]:
        """What goes into the answer's `extensions`; empty: nothing does."""
        return {"degraded": msgspec.to_builtins(self._degraded)} if self._degraded else {}

    def answer_secret(self) -> None:
        """The answer carries a token: nobody may keep it."""
        self._secret = True

    @property
    def max_age_s(self) -> int | None:
        """For how long a private cache may keep the answer; None: not at all."""
        if self._secret or not self._served:
            return None
        least = min(self._served, key=lambda each: each.stage_map.ttl_seconds).stage_map
        if len(self._served) == 1:
            return least.ttl_seconds
        return shared_ttl_s(
            now_ms=least.server_time,
            smallest_s=least.ttl_seconds,
            stage_times=[at for each in self._served for at in each.stage_times],
            guard_s=self.prefetch.stage_guard_s,
        )


def parse_timestamp(value: object) -> int:
    """A Timestamp from a client: an integer, nothing else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise GraphQLError(f"{value!r} is not a Timestamp: integer milliseconds since the epoch")
    return value


def parse_representation(value: object) -> dict[str, str]:
    """An entity a federation gateway asks for: `{"__typename": "Title", "id": "..."}`."""
    if isinstance(value, dict):
        typename, key = value.get("__typename"), value.get("id")
        if typename in ("Title", "LiveEvent") and isinstance(key, str) and len(key) <= 128:
            return {"__typename": typename, "id": key}
    raise GraphQLError("a representation is an object with __typename (Title or LiveEvent) and id")


def parse_within_ms(value: str) -> int:
    """Milliseconds of `within`, an ISO 8601 duration such as `PT6H`. Raises InvalidRequest: negative, over 31 days."""
    within_ms = parse_duration(value, "within")
    if not 0 <= within_ms <= _MAX_WITHIN_MS:
        raise InvalidRequest(f"{value[:40]!r} is out of range", field="within", rule="from PT0S to P31D")
    return within_ms


# Registers the enums; the fields below name the classes themselves.
strawberry.enum(DeviceKind, description="What a device is: decides the shape of artwork.")
strawberry.enum(ScreenClass, description="How large its screen is: decides the size of artwork.")
strawberry.enum(ArtworkKind, description="Shape of a picture: 2:3, 16:9 or 1:1.")


@strawberry.input(description="What a map's artwork depends on.")
class DeviceContext:
    kind: DeviceKind = strawberry.field(description="What the device is.")
    screen: ScreenClass | None = strawberry.field(default=None, description="MEDIUM when not said.")
    locale: str | None = strawberry.field(default=None, description="BCP 47, e.g. de-AT; the profile's when not said.")

    def value(self) -> model.DeviceContext:
        return model.DeviceContext(kind=self.kind, screen=self.screen or model.ScreenClass.MEDIUM, locale=self.locale)


@strawberry.type(description="One picture of a title, under a URL whose content never changes.")
class Artwork:
    kind: ArtworkKind = strawberry.field(description="Its shape.")
    url: str = strawberry.field(description="Absolute, or relative to this service. Safe to cache for ever.")
    width: int = strawberry.field(description="Pixels.")
    height: int = strawberry.field(description="Pixels.")


@strawberry.federation.type(keys=["id"], description="A film or series of the catalog.")
class Title:
    id: strawberry.ID = strawberry.field(description="Stable: does not depend on the row's place in the catalog.")
    name: str = strawberry.field(description="As the catalog has it.")
    synopsis: str | None = strawberry.field(description="Null when the catalog has none.")
    year: int | None = strawberry.field(description="Year of release.")
    maturity: str | None = strawberry.field(description="Age rating as the catalog gives it, e.g. PG-13.")
    genres: list[str] = strawberry.field(description="Most fitting first; may be empty.")
    runtime_minutes: int | None = strawberry.field(description="Null when unknown.")
    artwork: list[Artwork] = strawberry.field(description="Pictures in the shape and size the device needs.")

    @classmethod
    async def resolve_reference(cls, info: strawberry.Info[RequestContext, None], id: strawberry.ID) -> Title | None:
        return cast("Title | None", await info.context.entities.titles.load(str(id)))

    @classmethod
    def is_type_of(cls, obj: Any, info: Any) -> bool:
        return isinstance(obj, cls | model.ShownTitle)


@strawberry.type(description="A heading and the titles under it.")
class Row:
    heading: str = strawberry.field(description="Shown above the titles.")
    titles: list[Title] = strawberry.field(description="4 to 6, best first; fewer only in a tiny catalog.")


@strawberry.type(description="What a device shows once a stage is announced.")
class StageEntry:
    key: str = strawberry.field(description="Stage key: what a broadcast's state key names.")
    order: int = strawberry.field(description="Rises from stage to stage.")
    starts_at: Timestamp | None = strawberry.field(
        description="When it is due, ms; null for a manual stage, `cancelled` and `default`. Schedule frames move it."
    )
    headline: str = strawberry.field(description="The line above the rows.")
    rows: list[Row] = strawberry.field(description="Different in every stage.")


@strawberry.federation.type(keys=["id"], description="A live event as one profile sees it.")
class LiveEvent:
    id: strawberry.ID = strawberry.field(description="The operator's id of the event.")
    title: str = strawberry.field(description="Its name, for people.")
    topic: str = strawberry.field(description="The one topic of this event the profile follows; opaque.")
    starts_at: Timestamp = strawberry.field(description="Planned start for this audience, ms.")
    ends_at: Timestamp | None = strawberry.field(description="Planned end, ms; null while nobody knows.")
    cancelled: bool = strawberry.field(description="Whether it was called off.")

    @classmethod
    async def resolve_reference(
        cls, info: strawberry.Info[RequestContext, None], id: strawberry.ID
    ) -> LiveEvent | None:
        return cast("LiveEvent | None", await info.context.entities.events.load(str(id)))

    @classmethod
    def is_type_of(cls, obj: Any, info: Any) -> bool:
        return isinstance(obj, cls | model.EventInfo)


@strawberry.type(description="All a device shows of an event, for every stage: prefetched once, applied offline.")
class StageMap:
    event: LiveEvent = strawberry.field(description="The event it is for.")
    version: int = strawberry.field(
        description="Rises when content changed: fetch anew. Goes into `held` on subscribe."
    )
    revision: int = strawberry.field(description="Rises with every change of the schedule.")
    ttl_seconds: int = strawberry.field(
        description="Refresh after this long; jittered, never due near a stage. An expired map is still applied."
    )
    server_time: Timestamp = strawberry.field(description="This service's clock, to correct the device's by.")
    stages: list[StageEntry] = strawberry.field(description="The event's stages in order, then `cancelled`.")
    by_key: StageMapJSON = strawberry.field(
        description="`stages` and `default` as one JSON object: stage key -> entry, every field, same names."
    )
    default: StageEntry = strawberry.field(description="Shown for a state key the map does not have.")
    refresh_url: str | None = strawberry.field(
        description="GraphQL endpoint to refresh this map at from now on: that of the profile's cluster, which changes "
        "as an event's audience moves. Null: where it was asked for."
    )


@strawberry.type(description="A topic to follow. `stateKey` and `lastBroadcastAt` come from one log entry.")
class ChannelTopic:
    event_id: strawberry.ID = strawberry.field(description="The event it belongs to.")
    topic: str = strawberry.field(description="Subscribe to exactly this; never build or parse it.")
    state_key: str | None = strawberry.field(
        description="The current stage: the newest announced state; null before the first broadcast."
    )
    last_broadcast_at: Timestamp = strawberry.field(
        description="Its timestamp, 0 before the first. Becomes the cursor only once that state is applied."
    )


@strawberry.type(description="Where and with what a device connects for broadcasts.")
class BroadcastChannel:
    url: str = strawberry.field(description="WebSocket URL.")
    subprotocol: str = strawberry.field(description="WebSocket subprotocol to offer.")
    token: str = strawberry.field(description="Device token; outlives the events' windows, renewed in-band.")
    topics: list[ChannelTopic] = strawberry.field(description="One per event, chosen by the profile's region.")
    connect_window_ms: int = strawberry.field(description="Connect at a uniformly random moment of this window.")


_Info = strawberry.Info[RequestContext, None]


async def _prefetch_event(
    info: _Info, event_id: strawberry.ID, profile_id: strawberry.ID, device: DeviceContext | None = None
) -> StageMap:
    info.context.spend()
    served = await info.context.prefetch.stage_map(str(event_id), str(profile_id), _device(device))
    return cast("StageMap", info.context.answer_map(served))


async def _prefetch_home(
    info: _Info, profile_id: strawberry.ID, device: DeviceContext | None = None, within: Duration | None = None
) -> list[StageMap]:
    info.context.spend()
    within_ms = parse_within_ms(within) if within is not None else _DEFAULT_WITHIN_MS
    found = await info.context.prefetch.home(str(profile_id), _device(device), within_ms)
    info.context.spend(max(0, len(found) - 1))
    return cast("list[StageMap]", [info.context.answer_map(served) for served in found])


async def _prefetch_title(
    info: _Info, title_id: strawberry.ID, profile_id: strawberry.ID, device: DeviceContext | None = None
) -> StageMap | None:
    info.context.spend()
    served = await info.context.prefetch.title_map(str(title_id), str(profile_id), _device(device))
    return None if served is None else cast("StageMap", info.context.answer_map(served))


async def _broadcast_channel(
    info: _Info, event_ids: list[strawberry.ID], profile_id: strawberry.ID, device: DeviceContext
) -> BroadcastChannel:
    context = info.context
    context.answer_secret()
    found = await context.prefetch.broadcast_channel(
        [str(event_id) for event_id in event_ids], str(profile_id), device.value(), context.device_id
    )
    return cast("BroadcastChannel", found)


@strawberry.type(description="What devices prefetch; nothing here is asked for at the moment of a broadcast.")
class Query:
    prefetch_event: StageMap = strawberry.field(
        resolver=_prefetch_event, description="The stage map of one event for one profile."
    )
    prefetch_home: list[StageMap] = strawberry.field(
        resolver=_prefetch_home,
        description="Stage maps of events that run now or start within the duration (default P1D), soonest first.",
    )
    prefetch_title: StageMap | None = strawberry.field(
        resolver=_prefetch_title,
        description="The stage map of the live event that a title is: the event with the title's id, else the soonest "
        "with its name that runs now or starts within 31 days. Null when there is none for this profile.",
    )
    broadcast_channel: BroadcastChannel = strawberry.field(
        resolver=_broadcast_channel,
        description="Where to connect for these events, with a token for exactly their topics.",
    )


def _device(given: DeviceContext | None) -> model.DeviceContext:
    return given.value() if given is not None else model.DeviceContext()


class _Schema(strawberry.federation.Schema):
    """Leaves it to the HTTP layer what of an error is logged: most are a client's own."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        pass

    def entities_resolver(self, info: strawberry.Info, representations: list[FederationAny]) -> list[FederationAny]:
        """On copies: strawberry empties what it is given, and a variable is given to every field that names it."""
        copies = [dict(cast("dict[str, str]", each)) for each in representations]
        return super().entities_resolver(info, cast("list[FederationAny]", copies))


class OperationNotNamedError(CannotGetOperationTypeError):
    """Several operations, and nobody said which: strawberry would take the first."""


class _NamedOperation(SchemaExtension):
    """Refuses to choose. Raises OperationNotNamedError out of `execute`."""

    def on_validate(self) -> Iterator[None]:
        context = self.execution_context
        document = context.graphql_document
        if context._provided_operation_name is None and document is not None:
            operations = sum(isinstance(each, OperationDefinitionNode) for each in document.definitions)
            named = any(isinstance(each, OperationDefinitionNode) and each.name for each in document.definitions)
            if operations > 1 and named:
                raise OperationNotNamedError(None)
        yield


def build_schema(settings: DgsSettings | None = None) -> strawberry.federation.Schema:
    """The schema with its limits; without settings, with the default limits."""
    settings = settings or DgsSettings()
    depth, aliases, tokens = settings.max_query_depth, settings.max_query_aliases, settings.max_query_tokens
    # Made once: the validation cache is keyed by the rules.
    rules: list[type[ASTValidationRule]] = [limiting_rule(max_depth=depth, max_aliases=aliases)]
    if not (settings.introspection or settings.graphiql):
        rules.append(NoSchemaIntrospectionCustomRule)
    scalars: dict[object, ScalarDefinition] = {
        Timestamp: strawberry.scalar(
            name="Timestamp",
            description="Milliseconds since the Unix epoch, as a JSON number.",
            parse_value=parse_timestamp,
        ),
        Duration: strawberry.scalar(name="Duration", description="ISO 8601 duration, e.g. PT6H.", parse_value=str),
        StageMapJSON: strawberry.scalar(
            name="StageMapJSON",
            description="A JSON object: stage key -> StageEntry with all its fields.",
            serialize=msgspec.to_builtins,
        ),
    }
    return _Schema(
        query=Query,
        federation_version="2.11",
        config=StrawberryConfig(scalar_map=scalars),
        # Instead of strawberry's own, which lets anything through to the entity resolver.
        scalar_overrides={FederationAny: strawberry.scalar(name="_Any", parse_value=parse_representation)},
        extensions=[
            lambda: MaxTokensLimiter(max_token_count=tokens),
            lambda: ParserCache(maxsize=_DOCUMENTS_KEPT),
            _NamedOperation,
            lambda: AddValidationRules(rules),
            lambda: ValidationCache(maxsize=_DOCUMENTS_KEPT),
        ],
    )
