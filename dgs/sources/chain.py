"""Recommendations from several sources in order; whoever nobody could choose for gets what everybody likes.

For each profile the first source that has something wins. A source that fails is passed over: first for what it said a
while ago, if it keeps that, then for the next. Nothing that a source does makes a request fail.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, runtime_checkable

import structlog

from contract.errors import InvalidRequest, Unavailable
from dgs.model import Profile
from dgs.picks import Missing
from dgs.ports import BatchRecommendations, Need
from dgs.sources.answers import POPULAR, Chosen, Unanswered, popular_for
from dgs.sources.catalog import Catalog
from dgs.sources.registry import SourceOptions, load_source
from dgs.stage_map import Recommendations
from dgs.traces import concerned

__all__ = ["MATERIALISED", "Otherwise", "RecommendationChain", "Remembers", "build_chain", "source_order"]

MATERIALISED: Final = "materialised"
"""Not a source to ask but a store to look in; it may stand in DGS_RECOMMENDATIONS."""
_SHARE: Final = 0.75
"""Of the time that is left, what a source may use while others stand behind it."""
_GRACE_S: Final = 0.05
"""A source that keeps its own deadline is not cut off by ours in the same moment."""

_log = structlog.get_logger(__name__)


@runtime_checkable
class Remembers(Protocol):
    """A source that knows what it said before."""

    def stale(self, profile: Profile, need: Need) -> Recommendations | None: ...


@runtime_checkable
class _Closes(Protocol):
    async def aclose(self) -> None: ...


class Otherwise(NamedTuple):
    """What is shown when no source has anything for a profile; must not fail."""

    name: str
    of: Callable[[Profile, Need], Recommendations]


class RecommendationChain:
    """Sources in order, and behind them `otherwise`: the popular titles of the catalog, if nothing better is given.

    A service that does nothing but close its sources at the end.
    """

    name = "recommendations"

    def __init__(
        self,
        sources: Sequence[BatchRecommendations],
        catalog: Callable[[], Catalog],
        *,
        otherwise: Otherwise | None = None,
    ) -> None:
        self._sources = tuple(sources)
        self._otherwise = otherwise or Otherwise(POPULAR, lambda profile, need: popular_for(catalog(), profile, need))
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in (*self.names, self._otherwise.name)}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(source.name for source in self._sources)

    async def choose(self, profiles: Sequence[Profile], need: Need, deadline_s: float) -> tuple[Chosen, ...]:
        """One for each, in order, within about `deadline_s` seconds; raises nothing but CancelledError."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + deadline_s
        chosen: dict[int, Chosen] = {}
        failed: dict[int, str] = {}
        for place, source in enumerate(self._sources):
            left = [index for index in range(len(profiles)) if index not in chosen]
            if not left:
                break
            left_s = max(0.0, until_s - loop.time())
            budget_s = left_s * _SHARE if place + 1 < len(self._sources) else left_s
            asked = [profiles[index] for index in left]
            counts = self._counts[source.name]
            counts["asked"] += len(asked)
            for index, answer in zip(left, await self._ask(source, asked, need, budget_s), strict=True):
                if isinstance(answer, Recommendations):
                    counts["chosen"] += 1
                    chosen[index] = Chosen(answer, source.name, index in failed, failed.get(index))
                    continue
                if not isinstance(answer, Unanswered):
                    counts["missing"] += 1
                    continue
                counts["failed"] += 1
                failed.setdefault(index, f"{source.name}: {answer.why}")
                before = _stale(source, profiles[index], need)
                if before is not None:
                    counts["stale"] += 1
                    chosen[index] = Chosen(before, source.name, degraded=True, why=failed[index])
        return tuple(
            chosen.get(index) or self._nobody(profile, need, failed.get(index))
            for index, profile in enumerate(profiles)
        )

    def stats(self) -> Mapping[str, Mapping[str, int]]:
        """Per source: profiles asked for, chosen, missing, failed, and those served what was said before."""
        kinds = ("asked", "chosen", "missing", "failed", "stale")
        return {name: {kind: counts[kind] for kind in kinds} for name, counts in self._counts.items()}

    def source_stats(self) -> Mapping[str, Mapping[str, int]]:
        """What sources themselves count, of those that do."""
        return {source.name: source.stats() for source in self._sources if hasattr(source, "stats")}

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Serve until `stop`, then `aclose`."""
        ready.set()
        try:
            await stop.wait()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the sources that can be; idempotent as they are."""
        for source in self._sources:
            if isinstance(source, _Closes):
                await source.aclose()

    async def _ask(
        self, source: BatchRecommendations, profiles: Sequence[Profile], need: Need, budget_s: float
    ) -> Sequence[Recommendations | Missing]:
        """What the source says, whatever it does: Unanswered for everybody if it raises, is late or cannot count."""
        outcome = why = "late"
        began_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(budget_s + _GRACE_S):
                answers = await source.recommend(profiles, need, budget_s)
            if len(answers) == len(profiles):
                outcome = "ok"
                return [_sound(answer) for answer in answers]
            outcome, why = "failed", "a wrong number of answers"
        except TimeoutError:
            pass
        except Unavailable as exc:
            outcome, why = exc.code, exc.message
        except Exception as exc:  # a plug-in may raise anything, and none of it is the device's trouble
            outcome, why = "failed", type(exc).__name__
            _log.warning("recommendations_failed", source=source.name, error=repr(exc)[:200])
        finally:
            took_s = asyncio.get_running_loop().time() - began_s
            for trace in dict.fromkeys(trace for profile in profiles for trace in concerned(profile.id)):
                trace.called(source.name, outcome, took_s, profiles=len(profiles))
        return [Unanswered(why)] * len(profiles)

    def _nobody(self, profile: Profile, need: Need, why: str | None) -> Chosen:
        name, of = self._otherwise
        self._counts[name]["chosen"] += 1
        return Chosen(of(profile, need), name, True, why or "nobody could choose")


def build_chain(options: SourceOptions, *, otherwise: Otherwise | None = None) -> RecommendationChain:
    """The sources of DGS_RECOMMENDATIONS in order, without the store; blocking. Raises InvalidRequest."""
    assert options.catalog is not None
    names = [name for name in source_order(options.settings.recommendations) if name != MATERIALISED]
    return RecommendationChain(
        [load_source("recommendations", name, options) for name in names], options.catalog, otherwise=otherwise
    )


def source_order(text: str) -> tuple[str, ...]:
    """Names of DGS_RECOMMENDATIONS in order. Raises InvalidRequest: none at all, an empty one, or one twice."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise InvalidRequest(
            f"{text[:80]!r} is no list of sources",
            field="DGS_RECOMMENDATIONS",
            rule="names separated by commas, each once, in the order they are asked",
        )
    return names


def _stale(source: BatchRecommendations, profile: Profile, need: Need) -> Recommendations | None:
    return source.stale(profile, need) if isinstance(source, Remembers) else None


def _sound(answer: object) -> Recommendations | Missing:
    if isinstance(answer, Recommendations):
        return answer if answer.ranked else Missing("an empty ranking")
    return answer if isinstance(answer, Missing) else Unanswered("no recommendations")
