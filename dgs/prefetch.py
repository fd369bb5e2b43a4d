"""The use cases behind the schema: a stage map for a profile, the channel its broadcasts come through.

Reads the schedule view, never the producer's database. Everything here is quick but for those reads; nothing is
written, so every call may be cancelled or repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import cycle
from typing import Final

import msgspec

from contract.clock import Clock
from contract.errors import InvalidRequest, NotFound
from contract.kv.ports import ReplayLogReader, ScheduleViewReader
from contract.names import check_event_id
from contract.schedule import TopicSchedule
from contract.tokens import DeviceClaims, KeyRing
from dgs.artwork import art_language, artwork_for
from dgs.audience import choose_audience, window_end_ms
from dgs.model import DeviceContext, EventInfo, Profile, ShownTitle, StageContent, StageMap, Title
from dgs.ports import ProfileSource, RecommendationSource
from dgs.settings import DgsSettings
from dgs.shelf import catalog_digest, make_picks, stage_content
from dgs.stage_map import reasons_needed, titles_needed
from dgs.ttl import jittered_ttl_ms

__all__ = [
    "SUBPROTOCOL",
    "Channel",
    "ChannelTopicState",
    "Prefetch",
    "check_device_id",
    "derived_device_id",
    "resolve_device",
]

SUBPROTOCOL: Final = "stagecue.v1"
_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,4}")
_DEVICE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_SPARE_REASONS: Final = 1
"""A watched title too like the one before it may have no neighbours left to show."""
_BECAUSE_TITLES: Final = 24


class ChannelTopicState(msgspec.Struct, frozen=True, kw_only=True):
    """A topic to follow, and where its log stood; both from one log entry."""

    event_id: str
    topic: str
    state_key: str | None
    last_broadcast_at: int
    """0 before the first broadcast. A cursor only once the device has applied `state_key`."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """Where and with what a device connects."""

    url: str
    subprotocol: str
    token: str
    topics: tuple[ChannelTopicState, ...]
    connect_window_ms: int


class Prefetch:
    """Errors of every method: InvalidRequest, NotFound, Forbidden (field named), StoreUnavailable (retryable)."""

    def __init__(
        self,
        settings: DgsSettings,
        *,
        titles: Sequence[Title],
        profiles: ProfileSource,
        recommendations: RecommendationSource,
        schedule_view: ScheduleViewReader,
        replay_log: ReplayLogReader,
        device_ring: KeyRing,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._push_urls = cycle(settings.push_urls)
        self._titles = {title.id: title for title in titles}
        self._all = tuple(titles)
        self._index_of = {title.id: index for index, title in enumerate(titles)}
        self._catalog = catalog_digest(self._all)
        self._profile = lru_cache(maxsize=settings.profile_cache_entries)(profiles.profile)
        self._recommendations = recommendations
        self._schedule_view = schedule_view
        self._replay_log = replay_log
        self._device_ring = device_ring
        self._clock = clock
        self._draw = draw
        self._shown = lru_cache(maxsize=settings.title_cache_entries)(self._dress)
        self._content = lru_cache(maxsize=settings.map_cache_entries)(self._build)

    async def stage_map(self, event_id: str, profile_id: str, device: DeviceContext) -> StageMap:
        """What every stage of the event shows this profile on this device."""
        profile = self._profile(profile_id)
        device = resolve_device(device, profile)
        schedule = await self._schedule_for(event_id, profile, field="eventId")
        return self._map(schedule, profile, device)

    async def home(self, profile_id: str, device: DeviceContext, within_ms: int) -> tuple[StageMap, ...]:
        """Maps of the events now running or starting within `within_ms`, soonest first, bounded by the settings."""
        profile = self._profile(profile_id)
        device = resolve_device(device, profile)
        now = self._clock.now_ms()
        topics = [topic for event_id in await self._schedule_view.events() for topic in await self._topics(event_id)]
        by_event: dict[str, list[TopicSchedule]] = {}
        for schedule in (await self._schedule_view.schedules(topics)).values():
            by_event.setdefault(schedule.event_id, []).append(schedule)
        near: list[TopicSchedule] = []
        for schedules in by_event.values():
            if not any(profile.region in each.regions or not each.regions for each in schedules):
                continue
            schedule = choose_audience(schedules, profile.region)
            over = window_end_ms(schedule, open_ended_ms=self._settings.open_ended_event_s * 1000)
            if not schedule.cancelled and schedule.starts_at <= now + within_ms and now < over:
                near.append(schedule)
        near.sort(key=lambda schedule: (schedule.starts_at, schedule.topic))
        return tuple(self._map(schedule, profile, device) for schedule in near[: self._settings.max_home_events])

    async def broadcast_channel(
        self, event_ids: Sequence[str], profile_id: str, device: DeviceContext, device_id: str | None
    ) -> Channel:
        """Topics of these events for this profile, and a token for them that outlives the events' windows."""
        limit = self._settings.max_event_ids
        if not 1 <= len(event_ids) <= limit:
            raise InvalidRequest(f"{len(event_ids)} events", field="eventIds", rule=f"1 to {limit} at a time")
        profile = self._profile(profile_id)
        device = resolve_device(device, profile)
        found: dict[str, TopicSchedule] = {}
        for index, event_id in enumerate(event_ids):
            if event_id not in found:
                found[event_id] = await self._schedule_for(event_id, profile, field=f"eventIds[{index}]")
        states = tuple([await self._topic_state(schedule) for schedule in found.values()])
        claims = DeviceClaims(
            sub=profile.id,
            dev=check_device_id(device_id) if device_id else derived_device_id(profile, device),
            exp=self._token_expiry_s(tuple(found.values())),
            topics=tuple(state.topic for state in states),
        )
        return Channel(
            url=next(self._push_urls),
            subprotocol=SUBPROTOCOL,
            token=self._device_ring.sign(claims),
            topics=states,
            connect_window_ms=self._settings.connect_window_ms,
        )

    def title(self, title_id: str) -> ShownTitle | None:
        """One title as a default device would see it, for a federation gateway; None if there is none."""
        title = self._titles.get(title_id)
        return self._shown(title, DeviceContext()) if title else None

    async def event(self, event_id: str) -> EventInfo | None:
        """The event as everyone sees it, for a federation gateway; None if there is none."""
        found = await self._schedule_view.schedules(await self._topics(event_id))
        if not found:
            return None
        everyone = [schedule for schedule in found.values() if not schedule.regions] or list(found.values())
        return _event_info(min(everyone, key=lambda schedule: schedule.topic))

    async def _topics(self, event_id: str) -> tuple[str, ...]:
        return await self._schedule_view.topics_of(event_id)

    async def _schedule_for(self, event_id: str, profile: Profile, *, field: str) -> TopicSchedule:
        check_event_id(event_id, field)
        schedules = await self._schedule_view.schedules(await self._topics(event_id))
        if not schedules:
            raise NotFound(f"no event {event_id!r}", field=field)
        return choose_audience(schedules.values(), profile.region, field=field)

    async def _topic_state(self, schedule: TopicSchedule) -> ChannelTopicState:
        entries = (await self._replay_log.read(schedule.topic)).entries
        return ChannelTopicState(
            event_id=schedule.event_id,
            topic=schedule.topic,
            state_key=entries[-1].state_key if entries else None,
            last_broadcast_at=entries[-1].timestamp if entries else 0,
        )

    def _map(self, schedule: TopicSchedule, profile: Profile, device: DeviceContext) -> StageMap:
        settings = self._settings
        now = self._clock.now_ms()
        content = self._content(schedule, profile, device)
        ttl_ms = jittered_ttl_ms(
            now_ms=now,
            mean_ms=settings.ttl_mean_s * 1000,
            spread=settings.ttl_spread,
            stage_times=[stage.due_at for stage in schedule.stages if stage.due_at is not None],
            # A second more: the answer counts in whole seconds.
            guard_ms=settings.ttl_stage_guard_s * 1000 + 1000,
            draw=self._draw(),
        )
        return StageMap(
            event=_event_info(schedule),
            version=schedule.version,
            revision=schedule.revision,
            ttl_seconds=max(1, ttl_ms // 1000),
            server_time=now,
            stages=content.stages,
            by_key=content.by_key(),
            default=content.default,
        )

    def _build(self, schedule: TopicSchedule, profile: Profile, device: DeviceContext) -> StageContent:
        per_row = self._settings.titles_per_row
        recommendations = self._recommendations.recommend(
            profile,
            titles_needed(schedule, per_row),
            because=reasons_needed(schedule) + _SPARE_REASONS,
            per_because=_BECAUSE_TITLES,
        )
        picks = make_picks(
            schedule,
            recommendations,
            index_of=self._index_of,
            per_row=per_row,
            catalog=self._catalog,
            now_ms=self._clock.now_ms(),
            source="catalog",
        )
        return stage_content(
            schedule,
            picks,
            lambda index: self._shown(self._all[index], device),
            name_of=lambda index: self._all[index].name,
        )

    def _dress(self, title: Title, device: DeviceContext) -> ShownTitle:
        return ShownTitle(
            id=title.id,
            name=title.name,
            synopsis=title.synopsis,
            year=title.year,
            maturity=title.maturity,
            genres=title.genres,
            runtime_minutes=title.runtime_minutes,
            artwork=artwork_for(title, device, base_url=self._settings.artwork_base_url),
        )

    def _token_expiry_s(self, schedules: Sequence[TopicSchedule]) -> int:
        settings = self._settings
        ends = (window_end_ms(each, open_ended_ms=settings.open_ended_event_s * 1000) for each in schedules)
        earliest = max(max(ends), self._clock.now_ms()) // 1000 + settings.token_min_lifetime_s
        return earliest + round(self._draw() * settings.token_jitter_s)


def resolve_device(device: DeviceContext, profile: Profile) -> DeviceContext:
    """The device with its locale checked and reduced to the language drawn: what caches are keyed by."""
    locale = device.locale if device.locale is not None else profile.locale
    if not _LOCALE.fullmatch(locale):
        raise InvalidRequest(f"{locale[:40]!r} is not a locale", field="device.locale", rule="BCP 47, e.g. en or de-AT")
    return DeviceContext(kind=device.kind, screen=device.screen, locale=art_language(locale))


def check_device_id(value: str) -> str:
    """Return `value`, or raise InvalidRequest naming the header it comes in."""
    if not _DEVICE_ID.fullmatch(value):
        raise InvalidRequest("not a device id", field="X-Device-Id", rule="1-64 of letters, digits and . _ : -")
    return value


def derived_device_id(profile: Profile, device: DeviceContext) -> str:
    """For a device that names none: the same for all devices of a profile that look alike."""
    facts = f"{profile.id}\x00{device.kind}\x00{device.screen}\x00{device.locale}"
    return f"d-{blake2b(facts.encode(), digest_size=8).hexdigest()}"


def _event_info(schedule: TopicSchedule) -> EventInfo:
    return EventInfo(
        id=schedule.event_id,
        title=schedule.title,
        topic=schedule.topic,
        starts_at=schedule.starts_at,
        ends_at=schedule.ends_at,
        cancelled=schedule.cancelled,
    )
