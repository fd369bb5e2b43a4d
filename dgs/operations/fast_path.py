"""The fast path: persisted operations over picks in memory, answered by joining bytes.

It answers what it understands for certain and hands everything else, errors included, to the endpoint behind it, as a
whole document. So an operation, a variable or a title it cannot deal with costs time and never another answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NamedTuple

import structlog

from contract.clock import Clock
from contract.errors import BroadcastSystemError
from dgs.callers import Caller, check_profile
from dgs.catalogs import CatalogInUse
from dgs.default_picks import DefaultPicks
from dgs.model import DeviceContext, DeviceKind, ScreenClass
from dgs.operations.answers import INTERNAL, media_type
from dgs.operations.documents import Document
from dgs.operations.fragments import Fragments
from dgs.operations.joining import ConstantPart, Job, Joiner, MapPart, Part, UseCasePart
from dgs.operations.library import Library
from dgs.operations.looking import PATH, VERSION_FIELD, look
from dgs.operations.plan import NotFast, RootPlan
from dgs.operations.reading import Device, Reading, device_context
from dgs.operations.request import Body, read_request, whole_request
from dgs.operations.selection import NotPlain
from dgs.operations.topics import Dressing, Lifetimes, TopicViews
from dgs.operations.use_cases import write_use_case
from dgs.operations.waiting import Found, Waiting
from dgs.picks import Missing, Picks, Wanted
from dgs.ports import PicksSource, Place, ProfileSource, ScheduleReader
from dgs.prefetch import DEGRADED_LIFE, Prefetch, resolve_device
from dgs.serving import Answer, Ask, Endpoint, Reply, Seen
from dgs.settings import DgsSettings
from dgs.traces import Trace, enter, note_found, note_wanted, traced, tracing

__all__ = ["VERSION_FIELD", "FastPath"]

_log = structlog.get_logger(__name__)

_PRESUMED: Final = Place("", "en")
"""For a device that names its locale, of an event everybody sees alike: nobody looks at where the profile is."""
_MAX_DRESSINGS: Final = 4_096
_MAX_LOOKED_AT: Final = 1_024
_MAX_REASONS: Final = 64
_SHED: Final = "more is asked than can be served"

CallerOf = Callable[[Mapping[bytes, bytes]], Caller]
"""Header fields -> who asks; raises Unauthorized. See `dgs.callers`."""


class _Stale(NamedTuple):
    """The device was told of a newer version than is known here."""

    event_id: str
    version: int


_Outcome = Answer | Job | _Stale | None
"""The answer; what must be waited for; or None: it is left to the endpoint behind."""


class _Asked(NamedTuple):
    """A request while it is answered."""

    ask: Ask
    body: Body
    document: Document
    reply: Reply
    traces: tuple[Trace, ...]
    """Itself, if it is followed; its waiting ends where something else is done."""


class FastPath(Endpoint):
    """`/graphql` by POST and GET; everything else, and whatever it does not understand, goes to `fallback`."""

    def __init__(
        self,
        settings: DgsSettings,
        *,
        library: Library,
        fallback: Endpoint,
        catalogs: CatalogInUse,
        profiles: ProfileSource,
        place_of: Callable[[str], Place],
        schedules: ScheduleReader,
        picks: PicksSource,
        defaults: DefaultPicks,
        prefetch: Prefetch,
        caller_of: CallerOf,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        """`place_of`: see `dgs.places`. `draw` is uniform over [0, 1)."""
        self._library = library
        self._fallback = fallback
        self._profiles = profiles
        self._place_of = place_of
        self._schedules = schedules
        self._picks = picks
        self._defaults = defaults
        self._prefetch = prefetch
        self._caller_of = caller_of
        self._clock = clock
        self._max_maps = settings.max_maps_per_request
        self._timeout_s = settings.request_timeout_s
        self._fragments = Fragments(
            catalogs, max_bytes=settings.fragment_cache_bytes, base_url=settings.artwork_base_url
        )
        mean_ms = settings.ttl_mean_s * 1000
        lifetimes = Lifetimes(
            mean_ms,
            round(mean_ms * DEGRADED_LIFE),
            settings.ttl_spread,
            # A second more: the answer counts in whole seconds.
            settings.ttl_stage_guard_s * 1000 + 1000,
        )
        self._views = TopicViews(lifetimes, self._fragments)
        self._joiner = Joiner(
            self._views,
            catalogs,
            prefetch.clusters,
            clock,
            draw,
            max_maps=self._max_maps,
            guard_s=prefetch.stage_guard_s,
        )
        self._dressings: dict[tuple[str, str | None, str], Dressing] = {}
        self._waiting = Waiting(picks, clock, max_requests=settings.queue_max)
        self._tasks: set[asyncio.Task[_Outcome]] = set()
        self._looked_at: dict[int, tuple[Ask, Body]] = {}
        """Bodies read by `look` and not served yet, by the request's identity."""
        self.fast = 0
        """Answers given here, 304 among them."""
        self.left = 0
        """Requests of known documents handed on."""
        self.faults = 0
        """Of those, by an error nobody expected: none should be."""
        self.reasons: dict[str, int] = {}
        """Why operations are not compiled, by reason, bounded."""

    def look(self, ask: Ask) -> Seen:
        """What is asked for, as far as that is known without paying for it."""
        body = read_request(ask) if ask.path == PATH else None
        if body is not None:
            if len(self._looked_at) >= _MAX_LOOKED_AT:
                self._looked_at.clear()  # of requests that were turned away: others are read again
            self._looked_at[id(ask)] = ask, body
        return look(ask, body, self._library)

    def forget(self, ask: Ask) -> None:
        """It was turned away: what `look` read of it goes now, while it is in the processor's caches, for the next."""
        self._looked_at.pop(id(ask), None)

    def serve(self, ask: Ask, reply: Reply) -> None:
        """Answer at once, or when picks were found, or by the endpoint behind."""
        looked_at = self._looked_at.pop(id(ask), None)
        if looked_at is not None and looked_at[0] is ask:
            body: Body | None = looked_at[1]
        else:
            body = read_request(ask) if ask.path == PATH else None
        if body is None:
            enter(traced(), "executing")
            self._fallback.serve(ask, reply)
            return
        found = self._library.find(body)
        if isinstance(found, Document):
            outcome = self._attempt(ask, body, found)
            if isinstance(outcome, Answer):
                self.fast += 1
                reply(outcome)
            else:
                self._carry_on(outcome, _Asked(ask, body, found, reply, traced()))
        elif isinstance(found, str):
            enter(traced(), "executing")
            self._fallback.serve(whole_request(ask, body, found) if found else ask, reply)
        else:
            reply(found[media_type(ask.fields)])

    def default_map(self, ask: Ask) -> Answer | None:
        """Everyone's map instead of the profile's own, for a request that is shed too late to come again.

        Nothing is ranked or waited for. None for whatever is not one or more maps, or is refused anyway.
        """
        body = read_request(ask) if ask.path == PATH else None
        document = self._library.peek(body) if body is not None else None
        if body is None or document is None:
            return None
        try:
            job = self._understand(ask, body, document, newest=True)
            if not isinstance(job, Job) or not all(type(part) is MapPart for part in job.parts):
                return None
            schedules = [part.view.schedule for part in job.parts if isinstance(part, MapPart)]
            return self._joiner.join(job, [self._defaults.of(each, None, _SHED) for each in schedules])
        except (NotPlain, BroadcastSystemError):
            return None
        except Exception as exc:
            self._fault(exc)
            return None

    def stats(self) -> dict[str, int]:
        """Counts since the start, and what is held now."""
        return {
            "fast": self.fast,
            "not_modified": self._joiner.unmodified,
            "left": self.left,
            "faults": self.faults,
            "waiting": self._waiting.requests,
            "waiting_refused": self._waiting.refused,
            "picks_batches": self._waiting.batches,
            "folds": self._views.folds,
            "folded": self._views.folded,
            "fragment_bytes": self._fragments.held_bytes,
            "fragments_made": self._fragments.made,
            "fragment_tables_emptied": self._fragments.evicted,
        } | self._library.stats()

    async def close(self) -> None:
        """Give up on what waits; it is answered with what there is, or handed on."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._waiting.close()
        await asyncio.sleep(0)  # those that were cancelled are handed on by callbacks

    # Understanding
    def _attempt(self, ask: Ask, body: Body, document: Document, *, newest: bool = False) -> _Outcome:
        """As far as it goes without waiting. `newest`: the schedule was read anew for this request."""
        try:
            job = self._understand(ask, body, document, newest)
            if not isinstance(job, Job):
                return job
            traces = traced()
            if traces:
                enter(traces, "picks")
            found: list[Picks] = []
            for part in job.parts:
                if type(part) is MapPart:
                    picks = self._picks.at_once(part.wanted)
                    if picks is None:
                        return self._checked(job)
                    found.append(picks)
                elif type(part) is UseCasePart:
                    return self._checked(job)
            if traces and found:
                note_found(traces, "hit", degraded=any(picks.degraded for picks in found))
            return self._joiner.join(job, found)
        except (NotPlain, BroadcastSystemError):
            return None  # an error is said with a path and a location by the endpoint behind
        except Exception as exc:
            self._fault(exc)
            return None

    def _checked(self, job: Job) -> Job:
        """A profile nobody has fails its own request, not the batch it would wait in: raises what its source does."""
        for part in job.parts:
            if isinstance(part, MapPart):
                self._place_of(part.wanted.profile_id)
        return job

    def _understand(self, ask: Ask, body: Body, document: Document, newest: bool) -> Job | _Stale | None:
        operation = document.operation(body.operationName)
        if operation is None:
            return None
        reading = Reading(operation, body.variables or {})
        plan = reading.plan()
        if isinstance(plan, NotFast):
            self._count_reason(plan.why)
            return None
        if plan.maps > self._max_maps:
            return None
        caller = self._caller_of(ask.fields)
        parts: list[Part] = []
        for root in plan.roots:
            if root.definition is None:
                parts.append(ConstantPart(root, b'"%b"' % root.selection.type.encode()))
                continue
            target, profile_id, device = reading.arguments(root)
            if caller.profile_id != profile_id:
                check_profile(caller, profile_id)
            if root.name != "prefetchEvent":
                parts.append(UseCasePart(root, target, profile_id, device_context(device)))
                continue
            part = self._map(ask, root, target, profile_id, device, newest)
            if not isinstance(part, MapPart):
                return part
            parts.append(part)
        return Job(ask, plan, parts, media_type(ask.fields))

    def _map(
        self, ask: Ask, root: RootPlan, event_id: str, profile_id: str, device: Device, newest: bool
    ) -> MapPart | _Stale | None:
        schedules = self._schedules.topics_of(event_id)
        if not schedules:
            return None
        kind, screen, locale = device
        place = _PRESUMED
        if locale is None or len(schedules) > 1 or schedules[0].regions:
            place = self._place_of(profile_id)
            if locale is None:
                locale = place.locale
        dressing = self._dressings.get((kind, screen, locale))
        if dressing is None:
            dressing = self._dress(kind, screen, locale)
        view = self._views.of(schedules, place.region)
        if view is None:
            return None
        schedule = view.schedule
        told = ask.fields.get(VERSION_FIELD)
        if told is not None and not newest and told.isdigit() and len(told) < 12 and int(told) > schedule.version:
            return _Stale(event_id, int(told))
        return MapPart(root, view, dressing, Wanted(schedule.topic, schedule.revision, schedule.version, profile_id))

    def _dress(self, kind: str, screen: str | None, locale: str) -> Dressing:
        """Raises InvalidRequest for what is no locale."""
        asked = DeviceContext(kind=DeviceKind(kind), screen=ScreenClass(screen or ScreenClass.MEDIUM), locale=locale)
        device = resolve_device(asked, _PRESUMED)
        made = Dressing(device, repr((self._fragments.appearance(device), device.locale)).encode())
        if len(self._dressings) >= _MAX_DRESSINGS:
            self._dressings.clear()
        self._dressings[kind, screen, locale] = made
        return made

    # What is not answered at once
    def _carry_on(self, outcome: _Outcome, asked: _Asked) -> None:
        if isinstance(outcome, Answer):
            self.fast += 1
            asked.reply(outcome)
        elif outcome is None:
            self._leave(asked)
        elif isinstance(outcome, _Stale):
            self._spawn(self._read_anew(outcome, asked), asked)
        elif any(type(part) is UseCasePart for part in outcome.parts):
            self._spawn(self._with_use_cases(outcome), asked)
        else:
            wanted = [part.wanted for part in outcome.parts if isinstance(part, MapPart)]
            note_wanted(asked.traces, (each.profile_id for each in wanted))

            def resume(found: Found, why: str) -> None:
                with tracing(asked.traces):
                    self._end(self._join(outcome, found, why), asked)

            if not self._waiting.ask(wanted, self._until_s(asked.ask), resume):
                self._leave(asked)

    async def _with_use_cases(self, job: Job) -> Answer | None:
        """Ask for picks and for every use case, then join them."""
        async with asyncio.timeout(max(0.01, self._until_s(job.ask) - self._clock.monotonic_s())):
            found, why = await self._found(job)
            enter(traced(), "executing")
            written = {
                place: await write_use_case(self._prefetch, part, job.ask.fields)
                for place, part in enumerate(job.parts)
                if isinstance(part, UseCasePart)
            }
        return self._joiner.join(job, self._usable(job, found, why), written)

    async def _found(self, job: Job) -> tuple[Found, str]:
        wanted = [part.wanted for part in job.parts if isinstance(part, MapPart)]
        found: dict[Wanted, Picks | Missing] = {}
        for each in wanted:
            picks = self._picks.at_once(each)
            if picks is not None:
                found[each] = picks
        missing = [each for each in wanted if each not in found]
        if not missing:
            note_found(traced() if found else (), "hit", degraded=False)
            return found, ""
        note_wanted(traced(), (each.profile_id for each in missing))
        asked: asyncio.Future[tuple[Found, str]] = asyncio.get_running_loop().create_future()

        def resume(more: Found, why: str) -> None:
            if not asked.done():
                asked.set_result((found | dict(more), why))

        if not self._waiting.ask(missing, self._until_s(job.ask), resume):
            raise NotPlain("too many wait")
        return await asked

    async def _read_anew(self, stale: _Stale, asked: _Asked) -> _Outcome:
        """Read the schedule through to the store, then start over."""
        async with asyncio.timeout(max(0.01, self._until_s(asked.ask) - self._clock.monotonic_s())):
            await self._schedules.ensure(stale.event_id, version=stale.version)
        return self._attempt(asked.ask, asked.body, asked.document, newest=True)

    def _join(self, job: Job, found: Found, why: str) -> Answer | None:
        """The answer; None: leave it. Never raises."""
        try:
            return self._joiner.join(job, self._usable(job, found, why))
        except (NotPlain, BroadcastSystemError):
            return None
        except Exception as exc:
            self._fault(exc)
            return None

    def _usable(self, job: Job, found: Found, why: str) -> list[Picks]:
        """What was found for every map, or what its cohort is shown; raises for a profile that does not exist."""
        usable: list[Picks] = []
        for part in job.parts:
            if not isinstance(part, MapPart):
                continue
            picks = found.get(part.wanted, Missing(why))
            if isinstance(picks, Missing):
                profile = self._profiles.profile(part.wanted.profile_id)
                picks = self._defaults.of(part.view.schedule, profile, picks.why)
            usable.append(picks)
        traces = traced()
        if traces and usable:
            note_found(traces, "miss", degraded=any(picks.degraded for picks in usable))
        return usable

    def _end(self, answer: Answer | None, asked: _Asked) -> None:
        """Reply where nobody is above to mask what the endpoint behind raises."""
        if answer is not None:
            self.fast += 1
            asked.reply(answer)
            return
        try:
            self._leave(asked)
        except Exception:
            _log.exception("fallback_failed")
            asked.reply(INTERNAL[media_type(asked.ask.fields)])

    def _leave(self, asked: _Asked) -> None:
        self.left += 1
        ask, body, document, reply, traces = asked
        enter(traces, "executing")
        whole = ask if body.query is not None and ask.method == "POST" else whole_request(ask, body, document.text)
        self._fallback.serve(whole, reply)

    def _until_s(self, ask: Ask) -> float:
        """Half of a request's time, so that the other half is left to do without what was waited for."""
        return ask.arrived_s + self._timeout_s / 2

    def _spawn(self, work: Coroutine[Any, Any, _Outcome], asked: _Asked) -> None:
        task = asyncio.get_running_loop().create_task(work, name="dgs-fast-path")
        self._tasks.add(task)
        # Not in a `finally`: a task that is cancelled before its first step runs none.
        task.add_done_callback(lambda done: self._settle(done, asked))

    def _settle(self, done: asyncio.Task[_Outcome], asked: _Asked) -> None:
        self._tasks.discard(done)
        error = None if done.cancelled() else done.exception()
        if error is not None and not isinstance(error, (NotPlain, BroadcastSystemError, TimeoutError)):
            self._fault(error)
        outcome = None if done.cancelled() or error is not None else done.result()
        if outcome is None or isinstance(outcome, Answer):
            self._end(outcome, asked)
        else:
            self._carry_on(outcome, asked)

    def _count_reason(self, why: str) -> None:
        if why in self.reasons or len(self.reasons) < _MAX_REASONS:
            self.reasons[why] = self.reasons.get(why, 0) + 1

    def _fault(self, error: BaseException) -> None:
        """Counted, and logged the first time and then ever more seldom: it may be every request."""
        self.faults += 1
        if self.faults.bit_count() == 1:
            _log.error("fast_path_fault", faults=self.faults, exc_info=error)
