"""What the dispatcher knows of the time ahead: what is due next, what is in hand, what has to wait. Pure."""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Sequence

__all__ = ["Agenda", "Entry"]

Entry = tuple[int, str]
"""Due time in ms, event id."""
_HELD_BACK_MAX = 1000


class Agenda:
    """A view of the store that may be out of date: whoever dispatches looks at the event itself again (R1).

    It holds the next `entries_max` entries as read from the store, kept up to date with what was dispatched since.
    """

    def __init__(self, entries_max: int) -> None:
        self.entries_max = entries_max
        self._upcoming: list[Entry] = []
        self._horizon: int | None = 0
        """Due time up to which every entry is known; None: all are."""
        self._in_hand: set[str] = set()
        self._changed: set[str] = set()
        self._beyond: list[Entry] | None = None
        """What came to lie beyond the horizon while a reading is under way, which may move it there; None: none is."""
        self._held_back: dict[str, float] = {}

    @property
    def runs_low(self) -> bool:
        """Whether the store may have entries that will soon be missed here."""
        return self._horizon is not None and len(self._upcoming) <= self.entries_max // 4

    def begin_reading(self) -> None:
        """What changes from here on is newer than what `read` will bring."""
        self._changed = set(self._in_hand)
        self._beyond = []

    def read(self, upcoming: Sequence[Entry]) -> None:
        """The store's next `entries_max` entries, as of any moment since `begin_reading`."""
        kept = [entry for entry in self._upcoming if entry[1] in self._changed]
        found = [entry for entry in upcoming if entry[1] not in self._changed]
        # The last entry of a full page may have neighbours due at the same moment that found no room in it.
        self._horizon = upcoming[-1][0] - 1 if len(upcoming) >= self.entries_max else None
        beyond, self._beyond = self._beyond or [], None
        # The reading leaves out what changed meanwhile: nobody else would bring these.
        kept += [entry for entry in beyond if self._is_within_horizon(entry)]
        self._upcoming = sorted({*kept, *found})

    def forget(self) -> None:
        """Know nothing of what is due; what is in hand stays so until it is `done`."""
        self._upcoming.clear()
        self._horizon = 0

    def take_due(self, now_ms: int, now_s: float, limit: int) -> list[str]:
        """At most `limit` events that are due and neither in hand nor held back, the longest overdue first.

        They are in hand from now on.
        """
        taken: dict[str, None] = {}
        for due_at, event_id in self._upcoming:
            if due_at > now_ms or len(taken) == limit:
                break
            if self._is_free(event_id, now_s):
                taken[event_id] = None
        if taken:
            self._upcoming = [entry for entry in self._upcoming if entry[1] not in taken]
            self._in_hand.update(taken)
            self._changed.update(taken)
        return list(taken)

    def done(self, event_ids: Collection[str], following: Collection[Entry] = ()) -> None:
        """They are not in hand any more; `following` is when each is due again, if that is known."""
        self._in_hand.difference_update(event_ids)
        for entry in following:
            if self._is_within_horizon(entry):
                insort(self._upcoming, entry)
            elif self._beyond is not None:
                self._beyond.append(entry)

    def hold_back(self, event_id: str, until_s: float) -> None:
        """Leave the event alone until `until_s` of the monotonic clock; the oldest of too many is given up."""
        if len(self._held_back) >= _HELD_BACK_MAX:
            self._held_back.pop(next(iter(self._held_back)))
        self._held_back[event_id] = until_s

    def held_back(self, until_s: float) -> list[str]:
        """Events to leave alone at least until `until_s`."""
        return [event_id for event_id, until in self._held_back.items() if until > until_s]

    def next_at(self, now_s: float) -> int | None:
        """Due time in ms of the next event that could be taken, if it is known."""
        return next((due_at for due_at, event_id in self._upcoming if self._is_free(event_id, now_s)), None)

    def released_in_s(self, now_s: float) -> float | None:
        """Seconds until the next of the upcoming events need not be left alone any more; None: none is."""
        if not self._held_back:
            return None
        self._held_back = {event_id: until for event_id, until in self._held_back.items() if until > now_s}
        waits = [self._held_back[event_id] - now_s for _, event_id in self._upcoming if event_id in self._held_back]
        return min(waits, default=None)

    def _is_within_horizon(self, entry: Entry) -> bool:
        return self._horizon is None or entry[0] <= self._horizon

    def _is_free(self, event_id: str, now_s: float) -> bool:
        return event_id not in self._in_hand and now_s >= self._held_back.get(event_id, now_s)
