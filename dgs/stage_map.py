"""A topic's schedule + a profile's ranking + a device -> what every stage shows. Pure.

Every stage gets rows of its own: plain rows take the next slice of the ranking, "because you watched" rows the titles
nearest to one the profile has seen, and no title appears twice in a map while the catalog has others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Final

import msgspec

from contract.names import CANCELLED, DEFAULT_STATE
from contract.schedule import PlannedStage, TopicSchedule
from dgs.model import Row, ShownTitle, StageContent, StageEntry, Title

__all__ = [
    "MAX_TITLES_PER_ROW",
    "MIN_TITLES_PER_ROW",
    "Recommendations",
    "build_stage_content",
    "reasons_needed",
    "titles_needed",
]

MIN_TITLES_PER_ROW: Final = 4
MAX_TITLES_PER_ROW: Final = 6


class Recommendations(msgspec.Struct, frozen=True):
    """What a recommendation source says for one profile."""

    ranked: tuple[Title, ...]
    """Best first, nothing watched."""
    because: tuple[tuple[Title, tuple[Title, ...]], ...] = ()
    """(watched title, titles nearest to it, best first), newest watched first."""


class _Look(msgspec.Struct, frozen=True):
    """Wording of a stage. `{event}`, `{key}` and `{seen}` are filled in."""

    headline: str
    headings: tuple[str, ...]
    """One per row; a heading with `{seen}` makes a because-you-watched row."""


_BECAUSE: Final = "Because you watched {seen}"
_LOOKS: Final[Mapping[str, _Look]] = {
    "upcoming": _Look("Coming up: {event}", ("Before {event}",)),
    "starting_soon": _Look("Starting soon: {event}", ("While you wait",)),
    "live": _Look("Live now: {event}", ("Live now: {event}", _BECAUSE)),
    "ended": _Look("{event} has ended", ("More like this", _BECAUSE)),
    "replay": _Look("Watch the replay: {event}", ("After the replay",)),
    CANCELLED: _Look("{event} is cancelled", ("Watch instead",)),
    DEFAULT_STATE: _Look("{event}", ("Picked for you",)),
}
_SLOT: Final = re.compile(r"\{(event|key|seen)\}")
_OTHER: Final = _Look("{key}: {event}", ("{key}: {event}",))


def titles_needed(schedule: TopicSchedule, per_row: int) -> int:
    """How long a ranking `build_stage_content` can use for this schedule."""
    keys = [stage.key for stage in schedule.stages] + [CANCELLED, DEFAULT_STATE]
    return per_row * sum(len(_LOOKS.get(key, _OTHER).headings) for key in keys)


def reasons_needed(schedule: TopicSchedule) -> int:
    """How many because-you-watched rows this schedule has."""
    return sum(_LOOKS.get(stage.key, _OTHER).headings.count(_BECAUSE) for stage in schedule.stages)


def build_stage_content(
    schedule: TopicSchedule,
    picks: Recommendations,
    show: Callable[[Title], ShownTitle],
    *,
    per_row: int = MIN_TITLES_PER_ROW,
) -> StageContent:
    """Every stage of the schedule in order, `cancelled` after them, and `default`.

    `show` dresses a title for the device (artwork, locale). A stage's own headline wins over the usual wording.
    """
    assert MIN_TITLES_PER_ROW <= per_row <= MAX_TITLES_PER_ROW
    stages = sorted(
        (stage for stage in schedule.stages if stage.key not in (CANCELLED, DEFAULT_STATE)),
        key=lambda stage: stage.order,
    )
    own = {stage.key: stage for stage in schedule.stages}
    after = stages[-1].order + 1 if stages else 0
    closing = (
        _closing(own.get(CANCELLED), CANCELLED, after),
        _closing(own.get(DEFAULT_STATE), DEFAULT_STATE, after + 1),
    )
    shelf = _Shelf(picks, show, per_row)
    entries = [_entry(stage, schedule.title, shelf) for stage in (*stages, *closing)]
    return StageContent(stages=tuple(entries[:-1]), default=entries[-1])


def _closing(own: PlannedStage | None, key: str, order: int) -> PlannedStage:
    """`cancelled` and `default` have no time of their own, whatever the schedule says of them."""
    return PlannedStage(key=key, order=order, headline=own.headline if own else "")


def _entry(stage: PlannedStage, event: str, shelf: _Shelf) -> StageEntry:
    look = _LOOKS.get(stage.key, _OTHER)
    words = {"event": event, "key": stage.key.replace("_", " ").capitalize()}
    rows: list[Row] = []
    for heading in look.headings:
        if heading == _BECAUSE:
            row = shelf.because()
            if row is not None:
                rows.append(row)
        else:
            rows.append(Row(heading=_fill(heading, words), titles=shelf.next()))
    return StageEntry(
        key=stage.key,
        order=stage.order,
        starts_at=stage.due_at,
        headline=stage.headline or _fill(look.headline, words),
        rows=tuple(rows),
    )


class _Shelf:
    """Hands out titles, each once, and starts over when the catalog is smaller than the map."""

    def __init__(self, picks: Recommendations, show: Callable[[Title], ShownTitle], per_row: int) -> None:
        self._ranked = _endless(picks.ranked)
        self._size = len(picks.ranked)
        self._because = iter(picks.because)
        self._show = show
        self._per_row = per_row
        self._used: set[str] = set()

    def next(self) -> tuple[ShownTitle, ...]:
        """The next slice of the ranking; fewer than a row only where the catalog has fewer titles."""
        row: dict[str, Title] = {}
        for _ in range(2 * self._size):
            if len(row) == min(self._per_row, self._size):
                break
            title = next(self._ranked)
            if title.id not in self._used and title.id not in row:
                row[title.id] = title
                self._used.add(title.id)
            if len(self._used) >= self._size:
                self._used.clear()
        return tuple(self._show(title) for title in row.values())

    def because(self) -> Row | None:
        """Titles near the next watched one that has enough unused neighbours, or None."""
        for seen, near in self._because:
            titles = [title for title in near if title.id not in self._used][: self._per_row]
            if len(titles) == self._per_row:
                self._used.update(title.id for title in titles)
                return Row(
                    heading=_fill(_BECAUSE, {"seen": seen.name}), titles=tuple(self._show(title) for title in titles)
                )
        return None


def _endless(titles: Sequence[Title]) -> Iterator[Title]:
    for index in count():
        yield titles[index % len(titles)]


def _fill(template: str, words: Mapping[str, str]) -> str:
    """Replace `{name}` in one pass, so that braces inside a title are left alone."""
    return _SLOT.sub(lambda match: words[match[1]], template)
