"""A fast path over values in memory beside the schema's own execution over the same: two answers to every request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import strawberry

from contract.clock import ManualClock
from contract.errors import NotFound, Unauthorized
from contract.kv.memory import MemoryReplayLog
from contract.schedule import TopicSchedule
from contract.tokens import KeyRing
from dgs.callers import ANYBODY, Caller
from dgs.catalog_picks import CatalogPicks
from dgs.catalogs import CatalogIndex, CatalogInUse
from dgs.default_picks import DefaultPicks
from dgs.model import Profile, Title
from dgs.operations.documents import Documents
from dgs.operations.fast_path import FastPath
from dgs.operations.library import Library
from dgs.picks import Missing, Picks, Wanted
from dgs.places import places_of
from dgs.prefetch import Prefetch
from dgs.schema import RequestContext, build_schema
from dgs.serving import Answer, Ask, Reply
from dgs.settings import DgsSettings
from dgs.sharding.choice import ClusterChoice
from dgs.sharding.clusters import Clusters
from tests.support.read_through import ReadThroughNewest

__all__ = ["FastWorld", "Profiles", "ask_for"]

POSTED = {b"content-type": b"application/json"}


def ask_for(body: object, **fields: str) -> Ask:
    """A POST of `body`, encoded unless it is bytes."""
    head = POSTED | {name.replace("_", "-").encode(): value.encode() for name, value in fields.items()}
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Ask("POST", "/graphql", "", head, raw, "127.0.0.1", 0.0)


class Profiles:
    """A few profiles; others do not exist."""

    def __init__(self, profiles: Sequence[Profile]) -> None:
        self.by_id = {profile.id: profile for profile in profiles}

    def profile(self, profile_id: str) -> Profile:
        if profile_id not in self.by_id:
            raise NotFound(f"no profile {profile_id!r}", field="profileId")
        return self.by_id[profile_id]


class Schedules:
    """A ScheduleReader over a dict; `newer` is what the store has beyond it."""

    def __init__(self) -> None:
        self.by_event: dict[str, tuple[TopicSchedule, ...]] = {}
        self.newer: dict[str, tuple[TopicSchedule, ...]] = {}
        self.ensured: list[tuple[str, int]] = []

    def topics_of(self, event_id: str) -> tuple[TopicSchedule, ...] | None:
        return self.by_event.get(event_id)

    async def ensure(self, event_id: str, *, version: int = 0) -> tuple[TopicSchedule, ...]:
        self.ensured.append((event_id, version))
        if event_id in self.newer:
            self.by_event[event_id] = self.newer.pop(event_id)
        return self.by_event.get(event_id, ())

    def schedule(self, topic: str) -> TopicSchedule | None:
        return next((each for found in self.by_event.values() for each in found if each.topic == topic), None)

    async def events(self) -> tuple[str, ...]:
        return tuple(sorted(self.by_event))


class PicksOf:
    """Ranked picks, remembered but for those of `cold` profiles; all `fails` when it is set."""

    def __init__(self, world: FastWorld) -> None:
        self.world = world
        self.cold: set[str] = set()
        self.asked: list[tuple[Wanted, ...]] = []
        self.fails: Exception | None = None
        self.missing = False
        self.degraded = False

    def at_once(self, wanted: Wanted) -> Picks | None:
        if wanted.profile_id in self.cold or wanted.profile_id not in self.world.profiles.by_id:
            return None
        return self._make(wanted)

    async def find(self, wanted: Sequence[Wanted], deadline_s: float) -> Mapping[Wanted, Picks | Missing]:
        assert deadline_s > 0
        self.asked.append(tuple(wanted))
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        return {each: Missing("lost") if self.missing else self._make(each) for each in wanted}

    def _make(self, wanted: Wanted) -> Picks:
        schedule = self.world.schedules.schedule(wanted.topic)
        assert schedule is not None
        picks = self.world.ranked.pick(schedule, self.world.profiles.profile(wanted.profile_id))
        return picks._replace(degraded=True, source="http", why="stale %s") if self.degraded else picks


class FastWorld:
    """Frozen clock and draw. `answer` asks the fast path, `oracle` the schema; `left` counts what was handed on."""

    def __init__(
        self,
        titles: Sequence[Title],
        profiles: Sequence[Profile],
        schedules: Sequence[TopicSchedule],
        *,
        manifest: Mapping[str, str] | None = None,
        draw: float = 0.5,
        now_ms: int = 1_731_700_000_000,
        schema: strawberry.federation.Schema | None = None,
        clusters: Clusters | None = None,
        **settings: Any,
    ) -> None:
        self.settings = DgsSettings(**settings)
        self.catalogs = CatalogInUse(CatalogIndex(titles, cohorts=4))
        self.profiles = Profiles(profiles)
        self.clock = ManualClock(now_ms)
        self.log = MemoryReplayLog()
        self.schedules = Schedules()
        self.planned = tuple(schedules)
        for schedule in schedules:
            self.schedules.by_event[schedule.event_id] = tuple(
                each for each in schedules if each.event_id == schedule.event_id
            )
        per_row = self.settings.titles_per_row
        self.ranked = CatalogPicks(self.catalogs, self.profiles, self.schedules.schedule, self.clock, per_row=per_row)
        self.picks = PicksOf(self)
        defaults = DefaultPicks(self.catalogs, per_row=per_row, now_ms=self.clock.now_ms)
        self.prefetch = Prefetch(
            self.settings,
            catalogs=self.catalogs,
            profiles=self.profiles,
            picks=self.picks,
            defaults=defaults,
            schedules=self.schedules,
            newest=ReadThroughNewest(self.log),
            device_ring=KeyRing("stagecue.device", {"k1": b"d" * 32}, "k1"),
            clock=self.clock,
            draw=lambda: draw,
            clusters=ClusterChoice(clusters, open_ended_ms=self.settings.open_ended_event_s * 1000)
            if clusters
            else None,
        )
        self.schema = schema or build_schema(self.settings)
        self.left: list[Ask] = []
        self.callers: list[Mapping[bytes, bytes]] = []
        self.library = Library(
            Documents(self.schema),
            manifest or {},
            mode=self.settings.operations_mode,
            apq_entries=self.settings.apq_entries,
            apq_bytes=self.settings.apq_bytes,
        )
        self.fast = FastPath(
            self.settings,
            library=self.library,
            fallback=self,
            catalogs=self.catalogs,
            profiles=self.profiles,
            place_of=places_of(self.profiles, entries=10),
            schedules=self.schedules,
            picks=self.picks,
            defaults=defaults,
            prefetch=self.prefetch,
            caller_of=self._caller_of,
            clock=self.clock,
            draw=lambda: draw,
        )

    def serve(self, ask: Ask, reply: Reply) -> None:
        """As the endpoint behind the fast path."""
        self.left.append(ask)
        reply(Answer(599, b"", b""))

    async def answer(self, ask: Ask) -> Answer:
        """The fast path's answer; status 599 where it left the request."""
        reply: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.fast.serve(ask, reply.set_result)
        return await asyncio.wait_for(reply, 5)

    async def oracle(self, ask: Ask) -> Answer:
        """What the schema's own execution answers to a POST."""
        operation = msgspec.json.decode(ask.body)
        said = ask.fields.get(b"x-device-id")
        context = RequestContext(
            self.prefetch,
            device_id=said.decode("latin-1") if said else None,
            max_maps=self.settings.max_maps_per_request,
        )
        result = await self.schema.execute(
            operation["query"],
            variable_values=operation.get("variables"),
            context_value=context,
            operation_name=operation.get("operationName"),
        )
        answer: dict[str, Any] = {"data": result.data}
        if result.errors:
            answer["errors"] = [error.message for error in result.errors]
        if context.extensions:
            answer["extensions"] = context.extensions
        kept_s = None if result.errors else context.max_age_s
        kept = "no-store" if kept_s is None else f"private, max-age={kept_s}"
        return Answer(200, f"Cache-Control: {kept}\r\n".encode(), msgspec.json.encode(answer))

    def picks_wanted(self, event_id: str, profile_id: str) -> Wanted:
        """What the fast path asks for of the event's first topic."""
        schedule = self.schedules.by_event[event_id][0]
        return Wanted(schedule.topic, schedule.revision, schedule.version, profile_id)

    def _caller_of(self, fields: Mapping[bytes, bytes]) -> Caller:
        """Whose token it is says the token itself."""
        self.callers.append(fields)
        token = fields.get(b"authorization")
        if token == b"bad":
            raise Unauthorized("no good token")
        return ANYBODY if token is None else Caller(token.decode())
