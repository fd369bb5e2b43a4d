"""What was understood and found, joined into an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from contract.clock import Clock
from dgs.catalogs import CatalogInUse
from dgs.model import DeviceContext
from dgs.operations.answers import answered, entity_tag, holds, not_modified
from dgs.operations.fold import Fold
from dgs.operations.plan import Plan, RootPlan
from dgs.operations.selection import NotPlain
from dgs.operations.topics import Dressing, TopicView, TopicViews
from dgs.picks import Picks, Wanted
from dgs.prefetch import Degraded, Served
from dgs.serving import Answer, Ask
from dgs.sharding.choice import ClusterChoice
from dgs.ttl import shared_ttl_s

__all__ = ["ConstantPart", "Job", "Joiner", "MapPart", "Part", "UseCasePart", "Written"]


class MapPart(NamedTuple):
    """One stage map, folded."""

    root: RootPlan
    view: TopicView
    dressing: Dressing
    wanted: Wanted


class UseCasePart(NamedTuple):
    """A root field whose value the use case behind the schema makes."""

    root: RootPlan
    target: Any
    """Event ids, title id or duration: see `plan.ROOTS`."""
    profile_id: str
    device: DeviceContext


class ConstantPart(NamedTuple):
    """What every answer says alike."""

    root: RootPlan
    text: bytes


Part = MapPart | UseCasePart | ConstantPart


class Written(NamedTuple):
    """What a use case gave, as JSON, and the maps in it."""

    text: bytes
    served: Sequence[Served]


class Job(NamedTuple):
    """A request that is understood whole."""

    ask: Ask
    plan: Plan
    parts: Sequence[Part]
    media: bytes


class _Rendering(NamedTuple):
    fold: Fold
    picks: Picks
    ttl_s: int


_MAX_BEGINNINGS: Final = 4_096
_NOTHING: Final[Mapping[int, Written]] = {}


class Joiner:
    """Templates and picks in, answers out."""

    def __init__(
        self,
        views: TopicViews,
        catalogs: CatalogInUse,
        clusters: ClusterChoice,
        clock: Clock,
        draw: Callable[[], float],
        *,
        max_maps: int,
        guard_s: int,
    ) -> None:
        """`guard_s`: no answer expires this close to a stage of an event in it."""
        self._views = views
        self._catalogs = catalogs
        self._clusters = clusters
        self._clock = clock
        self._draw = draw
        self._max_maps = max_maps
        self._guard_s = guard_s
        self._beginnings: dict[tuple[bytes, bytes], bytes] = {}
        """Of entity tags: what is the same for every profile is hashed once."""
        self.unmodified = 0
        """Answers that said only that nothing changed."""

    def join(self, job: Job, found: Sequence[Picks], written: Mapping[int, Written] = _NOTHING) -> Answer:
        """The answer of maps with their picks in order, and of use cases by their place among the parts.

        Raises NotPlain for what the schema's own execution must answer.
        """
        now_ms = self._clock.now_ms()
        if len(job.parts) == 1 and len(found) == 1 and not found[0].degraded:
            return self._one_map(job, job.parts[0], found[0], now_ms)
        renderings = self._renderings(job, found, now_ms)
        kept_s = self._kept_s(job, renderings, written, now_ms)
        tag = b""
        if kept_s is not None and not written:
            tag = self._tag(job, renderings)
            if job.ask.method != "POST" and holds(job.ask.fields, tag):
                self.unmodified += 1
                return not_modified(kept_s, tag)
        body = b'{"data":{%b}}' % b",".join(self._pieces(job.parts, renderings, written, now_ms))
        degraded = _degraded(job.parts, renderings, written)
        if degraded:
            body = b'%b,"extensions":{"degraded":%b}}' % (body[:-1], msgspec.json.encode(degraded))
        return answered(body, job.media, kept_s, tag)

    def _one_map(self, job: Job, part: Part, picks: Picks, now_ms: int) -> Answer:
        """What nearly every request asks for, said as below in fewer steps."""
        assert type(part) is MapPart
        fold, _, ttl_s = self._rendering(part, picks, now_ms)
        known = job.plan.digest, fold.digest
        beginning = self._beginnings.get(known)
        if beginning is None:
            if len(self._beginnings) >= _MAX_BEGINNINGS:
                self._beginnings.clear()
            beginning = self._beginnings[known] = entity_tag(known)
        tag = beginning + picks.digest.hex().encode()
        if job.ask.method != "POST" and holds(job.ask.fields, tag):
            self.unmodified += 1
            return not_modified(ttl_s, tag)
        body = b"".join((b'{"data":{', part.root.lead, fold.render(picks.cells, ttl_s, now_ms), b"}}"))
        return answered(body, job.media, ttl_s, tag)

    def _rendering(self, part: MapPart, picks: Picks, now_ms: int) -> _Rendering:
        catalog = picks.layout.catalog
        if catalog != self._catalogs.current.digest and self._catalogs.of(catalog) is None:
            raise NotPlain("picks of a catalog that is not in use")
        root, view, dressing, _ = part
        refresh_url = None
        if root.moves:
            refresh_url = self._clusters.refresh_url(part.wanted.profile_id, view.schedule, now_ms)
        fold = self._views.fold(view, root, dressing, picks.layout, refresh_url)
        return _Rendering(fold, picks, view.ttl_s(now_ms, self._draw(), degraded=picks.degraded))

    def _renderings(self, job: Job, found: Sequence[Picks], now_ms: int) -> list[_Rendering]:
        made: list[_Rendering] = []
        taken = iter(found)
        for part in job.parts:
            if type(part) is not MapPart:
                continue
            made.append(self._rendering(part, next(taken), now_ms))
        return made

    def _kept_s(
        self, job: Job, renderings: Sequence[_Rendering], written: Mapping[int, Written], now_ms: int
    ) -> int | None:
        """How long the answer may be kept, as the schema's own context says it; None: not at all."""
        ages_s = [each.ttl_s for each in renderings]
        times = [at for part in job.parts if type(part) is MapPart for at in part.view.stage_times]
        for each in written.values():
            for served in each.served:
                ages_s.append(served.stage_map.ttl_seconds)
                times += served.stage_times
        if written and len(ages_s) > self._max_maps:
            raise NotPlain("too many maps")
        if not ages_s or job.plan.secret:
            return None
        if len(ages_s) == 1:
            return ages_s[0]
        return shared_ttl_s(now_ms=now_ms, smallest_s=min(ages_s), stage_times=times, guard_s=self._guard_s)

    def _tag(self, job: Job, renderings: Sequence[_Rendering]) -> bytes:
        digests = [job.plan.digest]
        for fold, picks, _ in renderings:
            digests += (fold.digest, picks.digest)
            if picks.degraded:
                digests.append(f"{picks.source}:{picks.why}".encode())
        return entity_tag(digests)

    def _pieces(
        self,
        parts: Sequence[Part],
        renderings: Sequence[_Rendering],
        written: Mapping[int, Written],
        now_ms: int,
    ) -> list[bytes]:
        pieces: list[bytes] = []
        taken = iter(renderings)
        for place, part in enumerate(parts):
            if type(part) is MapPart:
                fold, picks, ttl_s = next(taken)
                pieces.append(part.root.lead + fold.render(picks.cells, ttl_s, now_ms))
            else:
                text = part.text if isinstance(part, ConstantPart) else written[place].text
                pieces.append(part.root.lead + text)
        return pieces


def _degraded(
    parts: Sequence[Part], renderings: Sequence[_Rendering], written: Mapping[int, Written]
) -> list[Degraded]:
    """What of the answer is not what was asked for, each once, in the order of the parts."""
    if not written and not any(each.picks.degraded for each in renderings):
        return []
    said: list[Degraded] = []
    taken = iter(renderings)
    for place, part in enumerate(parts):
        if isinstance(part, MapPart):
            picks = next(taken).picks
            if picks.degraded:
                said.append(Degraded("picks", part.view.schedule.event_id, picks.source, picks.why))
        elif isinstance(part, UseCasePart):
            said += [served.degraded for served in written[place].served if served.degraded is not None]
    return list(dict.fromkeys(said))
