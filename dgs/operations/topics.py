"""What is kept of a topic while its schedule stands: spans for lifetimes, and the folds of its maps. Pure but bounded.

A revision is another schedule, so another `TopicView`; fragments know nothing of schedules and stay.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from contract.errors import Forbidden
from contract.schedule import TopicSchedule
from dgs.audience import choose_audience
from dgs.model import DeviceContext
from dgs.operations.fold import Fold, fold_map
from dgs.operations.fragments import Fragments
from dgs.operations.plan import RootPlan
from dgs.operations.selection import NotPlain
from dgs.picks import Layout
from dgs.stage_map import stage_keys
from dgs.ttl import Spans, free_spans, jittered_ttl_ms, spread_in

__all__ = ["Dressing", "Lifetimes", "TopicView", "TopicViews"]

_MAX_TOPICS: Final = 10_000
_MAX_FOLDS: Final = 4_096
"""One is a few KB of text and as much of slots."""


class Dressing(NamedTuple):
    """A resolved device, and the bytes it is known by: equal for devices whose answers are equal."""

    device: DeviceContext
    key: bytes


class Lifetimes(NamedTuple):
    """How long maps live; the settings' numbers in milliseconds."""

    mean_ms: int
    degraded_ms: int
    """The mean of a map that is not what was asked for."""
    spread: float
    guard_ms: int


class TopicView:
    """One schedule, ready to answer from."""

    __slots__ = ("_lifetimes", "_second", "_spans", "folds", "schedule", "stage_times")

    def __init__(self, schedule: TopicSchedule, lifetimes: Lifetimes) -> None:
        self.schedule = schedule
        self.folds: dict[tuple[bytes, bytes, Layout, str | None], Fold] = {}
        self._lifetimes = lifetimes
        self.stage_times: Sequence[int] = [stage.due_at for stage in schedule.stages if stage.due_at is not None]
        self._second = -1
        self._spans: Spans = ()

    def ttl_s(self, now_ms: int, draw: float, *, degraded: bool = False) -> int:
        """A lifetime in whole seconds, at least one, that ends near no stage."""
        mean_ms, degraded_ms, spread, guard_ms = self._lifetimes
        if degraded:
            ttl_ms = jittered_ttl_ms(
                now_ms=now_ms,
                mean_ms=degraded_ms,
                spread=spread,
                stage_times=self.stage_times,
                guard_ms=guard_ms,
                draw=draw,
            )
            return max(1, ttl_ms // 1000)
        second = now_ms // 1000
        if second != self._second:
            self._second = second
            self._spans = free_spans(
                now_ms=now_ms, mean_ms=mean_ms, spread=spread, stage_times=self.stage_times, guard_ms=guard_ms
            )
        return max(1, (spread_in(self._spans, draw) - now_ms) // 1000)


class TopicViews:
    """Views of the topics asked for, the longest unused forgotten first."""

    def __init__(self, lifetimes: Lifetimes, fragments: Fragments) -> None:
        self._lifetimes = lifetimes
        self._fragments = fragments
        self._views: OrderedDict[str, TopicView] = OrderedDict()
        self.folds = 0
        """Held now."""
        self.folded = 0
        """Ever made."""

    def of(self, schedules: Sequence[TopicSchedule], region: str) -> TopicView | None:
        """The view of the audience `region` belongs to; None if it belongs to none. `schedules` is not empty."""
        if len(schedules) == 1 and not schedules[0].regions:
            schedule = schedules[0]
        else:
            try:
                schedule = choose_audience(schedules, region)
            except Forbidden:
                return None
        view = self._views.get(schedule.topic)
        if view is None or view.schedule is not schedule:
            view = self._replace(schedule, view)
        self._views.move_to_end(schedule.topic)
        return view

    def fold(
        self, view: TopicView, root: RootPlan, dressing: Dressing, layout: Layout, refresh_url: str | None = None
    ) -> Fold:
        """The template of a map. Raises NotPlain for what is not folded and for a layout that does not fit.

        `refresh_url` is text of it, since there are few: as many as clusters have URLs.
        """
        key = (root.shape, dressing.key, layout, refresh_url)
        found = view.folds.get(key)
        if found is None:
            if stage_keys(view.schedule) != tuple(name for name, _ in layout.stages):
                raise NotPlain("picks for other stages")
            while self.folds >= _MAX_FOLDS:
                self._forget_folds()
            found = view.folds[key] = fold_map(
                root.selection, view.schedule, layout, dressing.device, self._fragments, refresh_url
            )
            self.folds += 1
            self.folded += 1
        return found

    def _replace(self, schedule: TopicSchedule, old: TopicView | None) -> TopicView:
        if old is not None:
            self.folds -= len(self._views.pop(schedule.topic).folds)
        while len(self._views) >= _MAX_TOPICS:
            self.folds -= len(self._views.popitem(last=False)[1].folds)
        view = self._views[schedule.topic] = TopicView(schedule, self._lifetimes)
        if old is not None and old.schedule == schedule:
            # The same one read again: what was folded still holds.
            view.folds = old.folds
            self.folds += len(old.folds)
        return view

    def _forget_folds(self) -> None:
        """Those of the topic that was asked for longest ago and has any."""
        for view in self._views.values():
            if view.folds:
                self.folds -= len(view.folds)
                view.folds.clear()
                return
        self.folds = 0
