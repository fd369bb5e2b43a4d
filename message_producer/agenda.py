"""What the dispatcher knows of the time ahead: what is due next, what is in hand, what has to wait. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

__all__ = ["Agenda"]

_HELD_BACK_MAX = 1000


class Agenda:
    """A view of the store that may be out of date: whoever dispatches looks at the event itself again (R1)."""

    def __init__(self) -> None:
        self._upcoming: list[tuple[int, str]] = []
        self._in_hand: set[str] = set()
        self._held_back: dict[str, float] = {}

    def read(self, upcoming: Iterable[tuple[int, str]]) -> None:
        """This is what the store says is due next: (due time in ms, event id)."""
        self._upcoming = sorted(upcoming)

    def forget(self) -> None:
        """Know nothing of what is due; what is in hand stays so until it is `done`."""
        self._upcoming.clear()

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
        self._upcoming = [entry for entry in self._upcoming if entry[1] not in taken]
        self._in_hand.update(taken)
        return list(taken)

    def done(self, event_ids: Collection[str]) -> None:
        """They are not in hand any more."""
        self._in_hand.difference_update(event_ids)

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
        self._held_back = {event_id: until for event_id, until in self._held_back.items() if until > now_s}
        waits = [self._held_back[event_id] - now_s for _, event_id in self._upcoming if event_id in self._held_back]
        return min(waits, default=None)

    def _is_free(self, event_id: str, now_s: float) -> bool:
        return event_id not in self._in_hand and now_s >= self._held_back.get(event_id, now_s)
