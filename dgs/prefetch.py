"""The use cases behind the schema: stage maps for a profile, the channel its broadcasts come through.

Reads schedules and picks from memory where they are there, never the producer's database. Nothing is written, so every
call may be cancelled or repeated.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec
import structlog

from contract.clock import Clock
from contract.errors import BroadcastSystemError, Forbidden, InvalidRequest, NotFound
from contract.names import check_event_id
from contract.schedule import TopicSchedule
from contract.tokens import DeviceClaims, KeyRing
from dgs.audience import choose_audience, window_end_ms
from dgs.catalogs import CatalogInUse
from dgs.default_picks import DefaultPicks
from dgs.dressing import Wardrobe, dress
from dgs.model import DeviceContext, EventInfo, Profile, ShownTitle, StageMap
from dgs.picks import Missing, Picks, Wanted
from dgs.places import places_of
from dgs.ports import NewestReader, PicksSource, Place, ProfileSource, ScheduleReader
from dgs.settings import DgsSettings
from dgs.sharding.choice import ClusterChoice
from dgs.sharding.clusters import single_cluster
from dgs.shelf import fits, stage_content
from dgs.traces import traced
from dgs.ttl import jittered_ttl_ms
from dgs.words import language_of

__all__ = [
    "DEGRADED_LIFE",
    "SUBPROTOCOL",
    "Channel",
    "ChannelTopicState",
    "Degraded",
    "Prefetch",
    "Served",
    "check_device_id",
    "derived_device_id",
    "event_info",
    "resolve_device",
]

_log = structlog.get_logger(__name__)
SUBPROTOCOL: Final = "stagecue.v1"
DEGRADED_LIFE: Final = 0.1
"""Of the mean lifetime: how long a map is kept that is not what was asked for."""
_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,4}")
_DEVICE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_TITLE_EVENT_WITHIN_MS: Final = 31 * 86_400_000
_NOBODY: Final = "nobody could choose"
_MAX_ENDS: Final = 10_000


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


class Degraded(msgspec.Struct, frozen=True, rename="camel"):
    """What of an answer is not what was asked for, and why: an entry of `extensions.degraded`."""

    what: str
    """`picks`: others' titles, or older ones."""
    event_id: str
    source: str
    """Who chose instead."""
    why: str


class Served(NamedTuple):
    """A map, and what is wrong with it, if anything."""

    stage_map: StageMap
    degraded: Degraded | None
    stage_times: Sequence[int] = ()
    """Due times its lifetime keeps clear of, ms."""


class Prefetch:
    """Errors of every method: InvalidRequest, NotFound, Forbidden (field named), StoreUnavailable (retryable).

    Picks that cannot be had are no error: maps are then the cohort's, and say so.
    """

    def __init__(
        self,
        settings: DgsSettings,
        *,
        catalogs: CatalogInUse,
        profiles: ProfileSource,
        picks: PicksSource,
        defaults: DefaultPicks,
        schedules: ScheduleReader,
        newest: NewestReader,
        device_ring: KeyRing,
        clock: Clock,
        draw: Callable[[], float],
        clusters: ClusterChoice | None = None,
    ) -> None:
        """`clusters` says which URLs a profile goes to; without it, to the settings' push nodes in turn."""
        self._settings = settings
        self.stage_guard_s = settings.ttl_stage_guard_s
        """No answer expires this close to a stage of an event in it."""
        self.clusters = clusters or ClusterChoice(
            single_cluster(settings.push_urls), open_ended_ms=settings.open_ended_event_s * 1000
        )
        self._catalogs = catalogs
        self._profiles = profiles
        self._place = places_of(profiles, entries=settings.profile_cache_entries)
        self._picks = picks
        self._defaults = defaults
        self._schedules = schedules
        self._newest = newest
        self._device_ring = device_ring
        self._clock = clock
        self._draw = draw
        self._wardrobe = Wardrobe(entries=settings.title_cache_entries, base_url=settings.artwork_base_url)
        self._ends: dict[str, tuple[TopicSchedule, int]] = {}
        # Half of a request's time, so that the other half is left to do without them.
        self._picks_deadline_s = settings.request_timeout_s / 2

    async def stage_map(self, event_id: str, profile_id: str, device: DeviceContext) -> Served:
        """What every stage of the event shows this profile on this device."""
        place = self._place(profile_id)
        device = resolve_device(device, place)
        schedule = await self._schedule_for(event_id, place, field="eventId")
        (served,) = await self._serve([schedule], profile_id, device)
        return served

    async def home(self, profile_id: str, device: DeviceContext, within_ms: int) -> tuple[Served, ...]:
        """Maps of the events now running or starting within `within_ms`, soonest first, bounded by the settings."""
        place = self._place(profile_id)
        device = resolve_device(device, place)
        near = await self._near(place, within_ms)
        return await self._serve(near[: self._settings.max_home_events], profile_id, device)

    async def title_map(self, title_id: str, profile_id: str, device: DeviceContext) -> Served | None:
        """The map of the live event that a title is: the one of the title's id, else the soonest of its name.

        None without such an event for this profile, running or within 31 days, or without such a title.
        """
        place = self._place(profile_id)
        device = resolve_device(device, place)
        title = self._catalogs.current.title(title_id)
        if title is None:
            return None
        name = title.name.casefold()
        near = await self._near(place, _TITLE_EVENT_WITHIN_MS)
        found = [each for each in near if each.event_id == title_id or each.title.casefold() == name]
        if not found:
            return None
        chosen = next((each for each in found if each.event_id == title_id), found[0])
        (served,) = await self._serve([chosen], profile_id, device)
        return served

    async def broadcast_channel(
        self, event_ids: Sequence[str], profile_id: str, device: DeviceContext, device_id: str | None
    ) -> Channel:
        """Topics of these events for this profile, and a token for them that outlives the events' windows."""
        limit = self._settings.max_event_ids
        if not 1 <= len(event_ids) <= limit:
            raise InvalidRequest(f"{len(event_ids)} events", field="eventIds", rule=f"1 to {limit} at a time")
        place = self._place(profile_id)
        device = resolve_device(device, place)
        found: dict[str, TopicSchedule] = {}
        for index, event_id in enumerate(event_ids):
            if event_id not in found:
                found[event_id] = await self._schedule_for(event_id, place, field=f"eventIds[{index}]")
        states = tuple([await self._topic_state(schedule) for schedule in found.values()])
        claims = DeviceClaims(
            sub=profile_id,
            dev=check_device_id(device_id) if device_id else derived_device_id(profile_id, device),
            exp=self._token_expiry_s(tuple(found.values())),
            topics=tuple(state.topic for state in states),
        )
        return Channel(
            url=self.clusters.urls(profile_id, found.values(), self._clock.now_ms()).push,
            subprotocol=SUBPROTOCOL,
            token=self._device_ring.sign(claims),
            topics=states,
            connect_window_ms=self._settings.connect_window_ms,
        )

    def titles(self, title_ids: Sequence[str]) -> list[ShownTitle | None]:
        """Titles as a default device would see them, for a federation gateway; None where there is none."""
        index = self._catalogs.current
        found = (index.title(title_id) for title_id in title_ids)
        device, base_url = DeviceContext(), self._settings.artwork_base_url
        return [dress(title, device, base_url=base_url) if title else None for title in found]

    async def events(self, event_ids: Sequence[str]) -> list[EventInfo | None]:
        """Events as everyone sees them, for a federation gateway; None where there is none."""
        return [_everyones(await self._topics_of(event_id)) for event_id in event_ids]

    async def _topics_of(self, event_id: str) -> tuple[TopicSchedule, ...]:
        found = self._schedules.topics_of(event_id)
        return await self._schedules.ensure(event_id) if found is None else found

    async def _schedule_for(self, event_id: str, place: Place, *, field: str) -> TopicSchedule:
        check_event_id(event_id, field)
        schedules = await self._topics_of(event_id)
        if not schedules:
            raise NotFound(f"no event {event_id!r}", field=field)
        return choose_audience(schedules, place.region, field=field)

    async def _near(self, place: Place, within_ms: int) -> list[TopicSchedule]:
        """This profile's topics of all events that run or start within, soonest first."""
        now = self._clock.now_ms()
        near: list[TopicSchedule] = []
        for event_id in await self._schedules.events():
            schedules = self._schedules.topics_of(event_id) or await self._topics_of(event_id)
            # Whose audience it is comes last: most events of a long list are over, or far.
            if any(self._is_near(schedule, now, within_ms) for schedule in schedules):
                try:
                    schedule = choose_audience(schedules, place.region)
                except Forbidden:
                    continue
                if not schedule.cancelled and self._is_near(schedule, now, within_ms):
                    near.append(schedule)
        near.sort(key=lambda schedule: (schedule.starts_at, schedule.topic))
        return near

    def _is_near(self, schedule: TopicSchedule, now_ms: int, within_ms: int) -> bool:
        return schedule.starts_at <= now_ms + within_ms and now_ms < self._over_ms(schedule)

    def _over_ms(self, schedule: TopicSchedule) -> int:
        """When the topic's window ends; reckoned once for each schedule."""
        held = self._ends.get(schedule.topic)
        if held is None or held[0] is not schedule:
            if len(self._ends) >= _MAX_ENDS:
                self._ends.clear()
            over = window_end_ms(schedule, open_ended_ms=self._settings.open_ended_event_s * 1000)
            held = self._ends[schedule.topic] = (schedule, over)
        return held[1]

    async def _topic_state(self, schedule: TopicSchedule) -> ChannelTopicState:
        newest = await self._newest.latest(schedule.topic)
        return ChannelTopicState(
            event_id=schedule.event_id,
            topic=schedule.topic,
            state_key=newest.state_key,
            last_broadcast_at=newest.timestamp,
        )

    async def _serve(
        self, schedules: Sequence[TopicSchedule], profile_id: str, device: DeviceContext
    ) -> tuple[Served, ...]:
        """A map of each schedule; those whose picks are not in memory are asked for together."""
        wanted = [Wanted(each.topic, each.revision, each.version, profile_id) for each in schedules]
        at_once = [self._picks.at_once(each) for each in wanted]
        cold = [each for each, picks in zip(wanted, at_once, strict=True) if picks is None]
        found, why = await self._find(cold) if cold else ({}, "")
        traces = traced()
        served: list[Served] = []
        for schedule, each, picks in zip(schedules, wanted, at_once, strict=True):
            usable = self._usable(schedule, profile_id, picks or found.get(each) or Missing(why))
            served.append(self._show(schedule, usable, profile_id, device))
            for trace in traces:
                trace.cache = "miss" if cold else "hit"
                trace.degraded |= usable.degraded
        return tuple(served)

    async def _find(self, wanted: Sequence[Wanted]) -> tuple[Mapping[Wanted, Picks | Missing], str]:
        """What the source found, and why it found no more."""
        try:
            async with asyncio.timeout(self._picks_deadline_s):
                return await self._picks.find(wanted, self._picks_deadline_s), _NOBODY
        except BroadcastSystemError as exc:
            return {}, exc.code  # its message may name an address of ours
        except TimeoutError:
            return {}, f"{_NOBODY} in time"
        except Exception:
            # A plug-in may raise anything, and none of it is the device's trouble.
            _log.exception("picks_failed", wanted=len(wanted))
            return {}, _NOBODY

    def _usable(self, schedule: TopicSchedule, profile_id: str, found: Picks | Missing) -> Picks:
        """Picks of a catalog in use that fit the schedule: those found, or the default of the profile's cohort."""
        if isinstance(found, Missing):
            why = found.why
        elif self._catalogs.of(found.layout.catalog) is None or not fits(found, schedule, found.layout.catalog):
            why = "made for other stages or another catalog"
        else:
            return found
        try:
            profile = self._profiles.profile(profile_id)
        except BroadcastSystemError:
            profile = None
        return self._defaults.of(schedule, profile, why)

    def _show(self, schedule: TopicSchedule, picks: Picks, profile_id: str, device: DeviceContext) -> Served:
        index = self._catalogs.of(picks.layout.catalog)
        assert index is not None
        titles = index.titles
        content = stage_content(
            schedule,
            picks,
            self._wardrobe.shower(index, device),
            name_of=lambda place: titles[place].name,
            language=language_of(device.locale),
        )
        now = self._clock.now_ms()
        stage_times = tuple(stage.due_at for stage in schedule.stages if stage.due_at is not None)
        stage_map = StageMap(
            event=event_info(schedule),
            version=schedule.version,
            revision=schedule.revision,
            ttl_seconds=self._ttl_s(stage_times, now, degraded=picks.degraded),
            server_time=now,
            stages=content.stages,
            by_key=content.by_key(),
            default=content.default,
            refresh_url=self.clusters.refresh_url(profile_id, schedule, now),
        )
        return Served(
            stage_map,
            Degraded("picks", schedule.event_id, picks.source, picks.why) if picks.degraded else None,
            stage_times,
        )

    def _ttl_s(self, stage_times: Sequence[int], now_ms: int, *, degraded: bool) -> int:
        settings = self._settings
        ttl_ms = jittered_ttl_ms(
            now_ms=now_ms,
            mean_ms=round(settings.ttl_mean_s * 1000 * (DEGRADED_LIFE if degraded else 1)),
            spread=settings.ttl_spread,
            stage_times=stage_times,
            # A second more: the answer counts in whole seconds.
            guard_ms=settings.ttl_stage_guard_s * 1000 + 1000,
            draw=self._draw(),
        )
        return max(1, ttl_ms // 1000)

    def _token_expiry_s(self, schedules: Sequence[TopicSchedule]) -> int:
        settings = self._settings
        ends = (window_end_ms(each, open_ended_ms=settings.open_ended_event_s * 1000) for each in schedules)
        earliest = max(max(ends), self._clock.now_ms()) // 1000 + settings.token_min_lifetime_s
        return earliest + round(self._draw() * settings.token_jitter_s)


def resolve_device(device: DeviceContext, owner: Place | Profile) -> DeviceContext:
    """The device with its locale, else its owner's, checked and reduced to the language worded."""
    locale = device.locale if device.locale is not None else owner.locale
    if not _LOCALE.fullmatch(locale):
        raise InvalidRequest(f"{locale[:40]!r} is not a locale", field="device.locale", rule="BCP 47, e.g. en or de-AT")
    return DeviceContext(kind=device.kind, screen=device.screen, locale=language_of(locale))


def check_device_id(value: str) -> str:
    """Return `value`, or raise InvalidRequest naming the header it comes in."""
    if not _DEVICE_ID.fullmatch(value):
        raise InvalidRequest("not a device id", field="X-Device-Id", rule="1-64 of letters, digits and . _ : -")
    return value


def derived_device_id(profile_id: str, device: DeviceContext) -> str:
    """For a device that names none: the same for all devices of a profile that look alike."""
    facts = f"{profile_id}\x00{device.kind}\x00{device.screen}\x00{device.locale}"
    return f"d-{blake2b(facts.encode(), digest_size=8).hexdigest()}"


def event_info(schedule: TopicSchedule) -> EventInfo:
    """The event as those who follow this topic see it."""
    return EventInfo(
        id=schedule.event_id,
        title=schedule.title,
        topic=schedule.topic,
        starts_at=schedule.starts_at,
        ends_at=schedule.ends_at,
        cancelled=schedule.cancelled,
    )


def _everyones(schedules: Iterable[TopicSchedule]) -> EventInfo | None:
    found = list(schedules)
    everyone = [schedule for schedule in found if not schedule.regions] or found
    return event_info(min(everyone, key=lambda schedule: schedule.topic)) if everyone else None
