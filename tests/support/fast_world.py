"""A fast path over values in memory beside the schema's own execution over the same: two answers to every request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from contract.clock import ManualClock
from contract.errors import Forbidden, NotFound
from contract.kv.memory import MemoryReplayLog, MemoryScheduleView
from contract.schedule import TopicSchedule
from contract.tokens import KeyRing
from dgs.http_api import GraphQLEndpoint
from dgs.metrics import DgsMetrics
from dgs.model import Profile, Title
from dgs.operations.documents import Documents
from dgs.operations.fast_path import FastPath
from dgs.operations.fragments import Fragments
from dgs.operations.library import Library
from dgs.picks import Missing, Picks, Wanted
from dgs.prefetch import Prefetch
from dgs.recommend import ContentRecommendations
from dgs.request_log import RequestLog
from dgs.schema import build_schema
from dgs.serving import Answer, Ask, Reply
from dgs.settings import DgsSettings
from dgs.shelf import catalog_digest, make_picks
from dgs.stage_map import reasons_needed, titles_needed

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
    """Picks made as the slow path makes them; `cold` profiles have none in memory."""

    def __init__(self, world: FastWorld) -> None:
        self.world = world
        self.cold: set[str] = set()
        self.asked: list[tuple[Wanted, ...]] = []
        self.fails: Exception | None = None
        self.degraded = False
        self._made: dict[Wanted, Picks] = {}

    def at_once(self, wanted: Wanted) -> Picks | None:
        if wanted.profile_id in self.cold or wanted.profile_id not in self.world.profiles.by_id:
            return None
        if wanted not in self._made:
            self._made[wanted] = self._make(wanted)
        return self._made[wanted]

    async def find(self, wanted: Sequence[Wanted], deadline_s: float) -> Mapping[Wanted, Picks | Missing]:
        assert deadline_s > 0
        self.asked.append(tuple(wanted))
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        known = self.world.profiles.by_id
        return {each: self._make(each) if each.profile_id in known else Missing("unknown") for each in wanted}

    def _make(self, wanted: Wanted) -> Picks:
        world = self.world
        schedule = world.schedules.schedule(wanted.topic)
        assert schedule is not None
        per_row = world.settings.titles_per_row
        found = world.recommendations.recommend(
            world.profiles.profile(wanted.profile_id),
            titles_needed(schedule, per_row),
            because=reasons_needed(schedule) + 1,
            per_because=24,
        )
        picks = make_picks(
            schedule,
            found,
            index_of={title.id: index for index, title in enumerate(world.titles)},
            per_row=per_row,
            catalog=world.catalog,
            now_ms=world.clock.now_ms(),
            source="catalog",
        )
        return picks._replace(degraded=self.degraded)


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
        channels: bool = True,
        max_fragment_bytes: int = 1 << 20,
        **settings: Any,
    ) -> None:
        self.settings = DgsSettings(**settings)
        self.titles = tuple(titles)
        self.catalog = catalog_digest(self.titles)
        self.profiles = Profiles(profiles)
        self.clock = ManualClock(now_ms)
        self.view = MemoryScheduleView()
        self.log = MemoryReplayLog()
        self.recommendations = ContentRecommendations(self.titles)
        self.schedules = Schedules()
        self.planned = tuple(schedules)
        for schedule in schedules:
            self.schedules.by_event[schedule.event_id] = tuple(
                each for each in schedules if each.event_id == schedule.event_id
            )
        self.prefetch = Prefetch(
            self.settings,
            titles=self.titles,
            profiles=self.profiles,
            recommendations=self.recommendations,
            schedule_view=self.view,
            replay_log=self.log,
            device_ring=KeyRing("stagecue.device", {"k1": b"d" * 32}, "k1"),
            clock=self.clock,
            draw=lambda: draw,
        )
        self.schema = build_schema(self.settings)
        self.slow = GraphQLEndpoint(
            self.schema,
            self.prefetch,
            DgsMetrics(),
            RequestLog(window_ms=1_000, max_entries=1_000, started_ms=0),
            self.clock,
            settings=self.settings,
            draw=lambda: draw,
        )
        self.picks = PicksOf(self)
        self.checked: list[str] = []
        self.refused_profiles: set[str] = set()
        self.left: list[Ask] = []
        self.library = Library(
            Documents(self.schema),
            manifest or {},
            mode=self.settings.operations_mode,
            apq_entries=self.settings.apq_entries,
            apq_bytes=self.settings.apq_bytes,
        )
        self.fragments = Fragments(self.titles, max_bytes=max_fragment_bytes, base_url=self.settings.artwork_base_url)
        self.fast = FastPath(
            self.settings,
            library=self.library,
            fragments=self.fragments,
            catalog=self.catalog,
            fallback=self,
            schedules=self.schedules,
            picks=self.picks,
            profile_of=self.profiles.profile,
            check=self._check,
            channels=self.prefetch if channels else None,
            clock=self.clock,
            draw=lambda: draw,
        )

    async def plan(self) -> None:
        """Put the schedules into the view that the slow path reads."""
        for schedule in self.planned:
            await self.view.put(schedule)

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
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": ask.body}

        async def send(message: Any) -> None:
            sent.append(message)

        scope: Any = {"type": "http", "method": ask.method, "headers": list(ask.fields.items())}
        await self.slow(scope, receive, send)
        head = b"".join(b"%b: %b\r\n" % (name, value) for name, value in sent[0]["headers"])
        return Answer(sent[0]["status"], head, sent[1]["body"])

    def _check(self, fields: Mapping[bytes, bytes], profile_id: str) -> None:
        self.checked.append(profile_id)
        if profile_id in self.refused_profiles:
            raise Forbidden("another profile's token", field="profileId")


def run(coroutine_of: Callable[[], Any]) -> Any:
    """Run in a loop of its own."""
    return asyncio.run(coroutine_of())
