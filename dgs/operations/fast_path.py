"""The fast path: persisted operations over picks in memory, answered by joining bytes.

It answers what it understands for certain and hands everything else, errors included, to the endpoint behind it, as a
whole document. So an operation, a variable or a title it cannot deal with costs time and never another answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple, get_args

import structlog

from contract.clock import Clock
from contract.errors import BroadcastSystemError
from dgs import words
from dgs.model import DeviceContext, DeviceKind, Profile, ScreenClass
from dgs.operations.answers import INTERNAL, answered, entity_tag, holds, media_type, not_modified
from dgs.operations.channels import ChannelSource, channel_json
from dgs.operations.documents import Document
from dgs.operations.fold import Look
from dgs.operations.fragments import Fragments
from dgs.operations.library import Library
from dgs.operations.plan import NotFast, Operation, Plan, RootPlan
from dgs.operations.reading import Device, Reading, device_context
from dgs.operations.request import Body, read_request, whole_request
from dgs.operations.selection import NotPlain
from dgs.operations.topics import Dressing, Lifetimes, TopicView, TopicViews
from dgs.operations.waiting import Found, Waiting
from dgs.picks import Missing, Picks, Wanted
from dgs.ports import PicksSource, ScheduleReader
from dgs.prefetch import resolve_device
from dgs.serving import Answer, Ask, Class, Endpoint, Reply, Seen
from dgs.settings import DgsSettings

__all__ = ["VERSION_FIELD", "FastPath"]

_log = structlog.get_logger(__name__)

PATH: Final = "/graphql"
VERSION_FIELD: Final = b"x-stagecue-version"
"""The content version a device was told of: it gets no older one."""
_PRESUMED: Final = Profile(id="", region="", locale="en")
"""For a device that names its locale: the profile's is not looked at."""
_CLASSES: Final[Mapping[bytes, Class]] = {name.encode(): name for name in get_args(Class)}
_MAX_DRESSINGS: Final = 4_096
_MAX_REASONS: Final = 64

CheckProfile = Callable[[Mapping[bytes, bytes], str], None]
"""(header fields, profile id): raises what the caller is told if the token does not name the profile."""


class _Leave(Exception):
    """This one is the endpoint's behind."""


class _Map(NamedTuple):
    """One stage map of an answer."""

    root: RootPlan
    view: TopicView
    dressing: Dressing
    wanted: Wanted


class _Channel(NamedTuple):
    """One broadcast channel of an answer."""

    root: RootPlan
    event_ids: Sequence[str]
    profile_id: str
    device: DeviceContext


class _Job(NamedTuple):
    """A request that is understood whole."""

    ask: Ask
    plan: Plan
    parts: Sequence[_Map | _Channel]
    media: bytes


class _Stale(NamedTuple):
    """The device was told of a newer version than is known here."""

    event_id: str
    version: int


class FastPath(Endpoint):
    """`/graphql` by POST and GET; everything else, and whatever it does not understand, goes to `fallback`."""

    def __init__(
        self,
        settings: DgsSettings,
        *,
        library: Library,
        fragments: Fragments,
        catalog: str,
        fallback: Endpoint,
        schedules: ScheduleReader,
        picks: PicksSource,
        profile_of: Callable[[str], Profile],
        check: CheckProfile,
        channels: ChannelSource | None,
        clock: Clock,
        draw: Callable[[], float],
        language_of: Callable[[str | None], str] = words.language_of,
    ) -> None:
        """`catalog`: digest of the titles `fragments` is over. `profile_of` and `check` raise what clients are told."""
        self._library = library
        self._fallback = fallback
        self._schedules = schedules
        self._picks = picks
        self._profile_of = profile_of
        self._check = check
        self._channels = channels
        self._clock = clock
        self._draw = draw
        self._language_of = language_of
        self._max_maps = settings.max_maps_per_request
        self._timeout_s = settings.request_timeout_s
        self._lifetimes = Lifetimes(
            settings.ttl_mean_s * 1000,
            settings.ttl_spread,
            # A second more: the answer counts in whole seconds.
            settings.ttl_stage_guard_s * 1000 + 1000,
        )
        self._dressings: dict[tuple[str, str | None, str], Dressing] = {}
        self._waiting = Waiting(picks, clock, max_requests=settings.queue_max)
        self._tasks: set[asyncio.Task[None]] = set()
        self.use_catalog(fragments, catalog)
        self.fast = 0
        """Answers given here, 304 among them."""
        self.unmodified = 0
        self.left = 0
        """Requests of known documents handed on."""
        self.faults = 0
        """Of those, by an error nobody expected: none should be."""
        self.reasons: dict[str, int] = {}
        """Why operations are not compiled, by reason, bounded."""

    def use_catalog(self, fragments: Fragments, catalog: str) -> None:
        """Answer from another catalog from now on; picks of the old one are left to the endpoint behind."""
        self._fragments = fragments
        self._catalog = catalog
        self._views = TopicViews(self._lifetimes, fragments)
        self._dressings.clear()

    def look(self, ask: Ask) -> Seen:
        """What is asked for, as far as that is known without paying for it."""
        if ask.path != PATH:
            return Seen("page")
        fields = ask.fields
        asked = _CLASSES.get(fields.get(b"x-stagecue-class", b""))
        has_map = b"if-none-match" in fields or VERSION_FIELD in fields
        body = read_request(ask)
        document = self._library.peek(body) if body is not None else None
        operation = document.operation(body.operationName) if document is not None and body is not None else None
        if operation is None or body is None:
            return Seen("", asked, None, None, has_map)
        event_id, kind = _named(operation, body.variables or {})
        return Seen(operation.label, asked, kind, event_id, has_map)

    def serve(self, ask: Ask, reply: Reply) -> None:
        """Answer at once, or when picks were found, or by the endpoint behind."""
        body = read_request(ask) if ask.path == PATH else None
        if body is None:
            self._fallback.serve(ask, reply)
            return
        found = self._library.find(body)
        if not isinstance(found, Document):
            if isinstance(found, str):
                self._fallback.serve(whole_request(ask, body, found) if found else ask, reply)
            else:
                reply(found[media_type(ask.fields)])
            return
        outcome = self._attempt(ask, body, found)
        if isinstance(outcome, Answer):
            reply(outcome)
        else:
            self._take(outcome, ask, body, found, reply)

    def stats(self) -> dict[str, int]:
        """Counts since the start, and what is held now."""
        return {
            "fast": self.fast,
            "not_modified": self.unmodified,
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
        """Give up on what waits; it is handed on."""
        await self._waiting.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _attempt(
        self, ask: Ask, body: Body, document: Document, *, newest: bool = False
    ) -> Answer | _Job | _Stale | None:
        """The answer; what must be waited for; or None: leave it. `newest`: the schedule was read anew for it."""
        try:
            job = self._understand(ask, body, document, newest)
            if isinstance(job, _Stale):
                return job
            found: list[Picks] = []
            for part in job.parts:
                picks = self._picks.at_once(part.wanted) if isinstance(part, _Map) else None
                if picks is None:
                    return job
                found.append(picks)
            return self._finish(job, found)
        except (_Leave, NotPlain, BroadcastSystemError):
            return None  # an error is said with a path and a location by the endpoint behind
        except Exception:
            self._fault()
            return None

    def _understand(self, ask: Ask, body: Body, document: Document, newest: bool) -> _Job | _Stale:
        operation = document.operation(body.operationName)
        if operation is None:
            raise _Leave
        variables = body.variables or {}
        reading = Reading(operation, variables)
        plan = reading.plan()
        if isinstance(plan, NotFast):
            self._count_reason(plan.why)
            raise _Leave
        if plan.maps > self._max_maps:
            raise _Leave
        parts: list[_Map | _Channel] = []
        checked: str | None = None
        for root in plan.roots:
            target, profile_id, device = reading.arguments(root)
            if profile_id != checked:
                self._check(ask.fields, profile_id)
                checked = profile_id
            if root.name == "broadcastChannel":
                parts.append(_Channel(root, tuple(target), profile_id, device_context(device)))
                continue
            found = self._map(ask, root, target, profile_id, device, newest)
            if isinstance(found, _Stale):
                return found
            parts.append(found)
        if plan.secret and self._channels is None:
            raise _Leave
        return _Job(ask, plan, parts, media_type(ask.fields))

    def _map(
        self, ask: Ask, root: RootPlan, event_id: str, profile_id: str, device: Device, newest: bool
    ) -> _Map | _Stale:
        schedules = self._schedules.topics_of(event_id)
        if not schedules:
            raise _Leave
        kind, screen, locale = device
        if locale is None or len(schedules) > 1 or schedules[0].regions:
            profile = self._profile_of(profile_id)
            if locale is None:
                locale = profile.locale
        else:
            profile = _PRESUMED
        dressing = self._dressings.get((kind, screen, locale))
        if dressing is None:
            dressing = self._dress(kind, screen, locale)
        view = self._views.of(schedules, profile.region)
        if view is None:
            raise _Leave
        schedule = view.schedule
        told = ask.fields.get(VERSION_FIELD)
        if told is not None and not newest and told.isdigit() and len(told) < 12 and int(told) > schedule.version:
            return _Stale(event_id, int(told))
        wanted = Wanted(schedule.topic, schedule.revision, schedule.version, profile_id)
        return _Map(root, view, dressing, wanted)

    def _dress(self, kind: str, screen: str | None, locale: str) -> Dressing:
        """Raises InvalidRequest for what is no locale."""
        device = DeviceContext(kind=DeviceKind(kind), screen=ScreenClass(screen or ScreenClass.MEDIUM), locale=locale)
        look = Look(resolve_device(device, _PRESUMED), self._language_of(locale))
        made = Dressing(look, repr((self._fragments.appearance(look.device), look.words)).encode())
        if len(self._dressings) >= _MAX_DRESSINGS:
            self._dressings.clear()
        self._dressings[kind, screen, locale] = made
        return made

    def _finish(self, job: _Job, found: Sequence[Picks], channels: Mapping[int, bytes] | None = None) -> Answer:
        """The answer of maps with picks, and of channels by their place among the parts."""
        ask, plan, parts, media = job
        now_ms = self._clock.now_ms()
        digests = [plan.digest]
        made: list[tuple[Any, Picks, int] | None] = []
        max_age_s = None
        degraded = False
        taken = iter(found)
        for part in parts:
            if isinstance(part, _Channel):
                made.append(None)
                continue
            picks = next(taken)
            if picks.layout.catalog != self._catalog:
                raise _Leave
            fold = self._views.fold(part.view, part.root, part.dressing, picks.layout)
            ttl_s = part.view.ttl_s(now_ms, self._draw())
            digests += (fold.digest, picks.digest)
            degraded = degraded or picks.degraded
            made.append((fold, picks, ttl_s))
            if max_age_s is None or ttl_s < max_age_s:
                max_age_s = ttl_s
        if degraded:
            raise _Leave
        if plan.secret or max_age_s is None:
            max_age_s, tag = None, b""
        else:
            tag = entity_tag(digests)
            if ask.method == "GET" and holds(ask.fields, tag):
                self.unmodified += 1
                self.fast += 1
                return not_modified(max_age_s, tag)
        pieces = []
        for place, part in enumerate(parts):
            pieces.append(part.root.lead if place == 0 else b"," + part.root.lead)
            rendering = made[place]
            if rendering is None:
                assert channels is not None
                pieces.append(channels[place])
            else:
                fold, picks, ttl_s = rendering
                pieces.append(fold.render(picks.cells, ttl_s, now_ms))
        self.fast += 1
        return answered(b'{"data":{%b}}' % b"".join(pieces), media, max_age_s, tag)

    def _take(
        self, outcome: _Job | _Stale | Answer | None, ask: Ask, body: Body, document: Document, reply: Reply
    ) -> None:
        """Carry on with what was not answered at once."""
        if isinstance(outcome, Answer):
            reply(outcome)
        elif outcome is None:
            self._leave(ask, body, document, reply)
        elif isinstance(outcome, _Stale):
            self._spawn(self._read_anew(outcome, ask, body, document, reply))
        elif outcome.plan.secret:
            self._spawn(self._with_channels(outcome, body, document, reply))
        elif not self._wait(outcome, body, document, reply):
            self._leave(ask, body, document, reply)

    def _leave(self, ask: Ask, body: Body, document: Document, reply: Reply) -> None:
        self.left += 1
        whole = ask if body.query is not None and ask.method == "POST" else whole_request(ask, body, document.text)
        self._fallback.serve(whole, reply)

    def _wait(self, job: _Job, body: Body, document: Document, reply: Reply) -> bool:
        """Ask for the maps' picks together with those of others; False if too many wait."""
        wanted = [part.wanted for part in job.parts if isinstance(part, _Map)]

        def resume(found: Found) -> None:
            answer = self._finish_later(job, found)
            if answer is not None:
                reply(answer)
            else:
                self._leave_later(job.ask, body, document, reply)

        return self._waiting.ask(wanted, job.ask.arrived_s + self._timeout_s, resume)

    async def _with_channels(self, job: _Job, body: Body, document: Document, reply: Reply) -> None:
        """The answer with tokens: the use case is asked for each, then all is joined."""
        answer: Answer | None = None
        try:
            async with asyncio.timeout(self._left_s(job.ask)):
                answer = self._finish_later(job, await self._found(job), await self._made_channels(job))
        except (_Leave, NotPlain, BroadcastSystemError, TimeoutError):
            pass
        except Exception:
            self._fault()
        finally:
            if answer is not None:
                reply(answer)
            else:
                self._leave_later(job.ask, body, document, reply)

    async def _found(self, job: _Job) -> Found:
        """Picks of every map of the job, as far as there are any."""
        wanted = [part.wanted for part in job.parts if isinstance(part, _Map)]
        found: dict[Wanted, Picks | Missing] = {}
        for each in wanted:
            picks = self._picks.at_once(each)
            if picks is not None:
                found[each] = picks
        missing = [each for each in wanted if each not in found]
        if missing:
            found.update(await self._picks.find(missing, self._left_s(job.ask)))
        return found

    async def _made_channels(self, job: _Job) -> dict[int, bytes]:
        assert self._channels is not None
        said = job.ask.fields.get(b"x-device-id")
        device_id = said.decode("latin-1") if said is not None else None
        made: dict[int, bytes] = {}
        for place, part in enumerate(job.parts):
            if isinstance(part, _Channel):
                channel = await self._channels.broadcast_channel(
                    part.event_ids, part.profile_id, part.device, device_id
                )
                made[place] = channel_json(part.root.selection, channel)
        return made

    async def _read_anew(self, stale: _Stale, ask: Ask, body: Body, document: Document, reply: Reply) -> None:
        """Read the schedule through to the store, then start over; the token was good already."""
        outcome: Answer | _Job | _Stale | None = None
        try:
            async with asyncio.timeout(self._left_s(ask)):
                await self._schedules.ensure(stale.event_id, version=stale.version)
            outcome = self._attempt(ask, body, document, newest=True)
        except (BroadcastSystemError, TimeoutError):
            pass
        except Exception:
            self._fault()
        finally:
            if outcome is None:
                self._leave_later(ask, body, document, reply)
            else:
                self._take(outcome, ask, body, document, reply)

    def _finish_later(self, job: _Job, found: Found, channels: Mapping[int, bytes] | None = None) -> Answer | None:
        """The answer if there are picks for every map; None: leave it. Never raises."""
        taken: list[Picks] = []
        for part in job.parts:
            if isinstance(part, _Map):
                picks = found.get(part.wanted)
                if not isinstance(picks, Picks):
                    return None
                taken.append(picks)
        try:
            return self._finish(job, taken, channels)
        except (_Leave, NotPlain):
            return None
        except Exception:
            self._fault()
            return None

    def _leave_later(self, ask: Ask, body: Body, document: Document, reply: Reply) -> None:
        """`_leave` where nobody is above to mask what the endpoint behind raises."""
        try:
            self._leave(ask, body, document, reply)
        except Exception:
            _log.exception("fallback_failed")
            reply(INTERNAL[media_type(ask.fields)])

    def _left_s(self, ask: Ask) -> float:
        return max(0.01, ask.arrived_s + self._timeout_s - self._clock.monotonic_s())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="dgs-fast-path")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count_reason(self, why: str) -> None:
        if why in self.reasons or len(self.reasons) < _MAX_REASONS:
            self.reasons[why] = self.reasons.get(why, 0) + 1

    def _fault(self) -> None:
        """Counted, and logged the first time and then ever more seldom: it may be every request."""
        self.faults += 1
        if self.faults.bit_count() == 1:
            _log.exception("fast_path_fault", faults=self.faults)


def _named(operation: Operation, variables: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(event id, device kind) where the first root field names them plainly; nothing is checked."""
    plan = operation.plan(()) if not operation.conditions else None
    if not isinstance(plan, Plan) or plan.roots[0].plain is None:
        return None, None
    target, _, device = [value if name is None else variables.get(name) for value, name in plan.roots[0].plain]
    if isinstance(target, (list, tuple)) and target:
        target = target[0]
    kind = device.get("kind") if isinstance(device, dict) else None
    return target if isinstance(target, str) else None, kind if isinstance(kind, str) else None
