"""Requests that wait to be served: by class, oldest first, bounded by the least important. Pure.

The bound is over all classes together. What finds it full takes the place of the newest request of the least important
class below its own, for that one has waited least; else it is turned away itself.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, NamedTuple, TypeVar

from dgs.serving import CLASSES, Class

__all__ = ["Intake", "Waiting"]

_T = TypeVar("_T")
_TOO_LONG_S: Final = 0.1
"""An interval of the gate's: a queue that stood as long is what it sheds by."""
_LEAST_FIRST: Final = tuple(reversed(CLASSES))


class Waiting(NamedTuple, Generic[_T]):
    item: _T
    klass: Class
    since_s: float


class Intake(Generic[_T]):
    """At most `most` requests, each with its class and since when it waits (monotonic seconds)."""

    __slots__ = ("_count", "_most", "_odd", "_queues")

    def __init__(self, most: int) -> None:
        assert most > 0
        self._most = most
        self._queues: dict[Class, deque[tuple[_T, float]]] = {klass: deque() for klass in CLASSES}
        self._count = 0
        self._odd = False

    def __len__(self) -> int:
        return self._count

    def put(self, item: _T, klass: Class, now_s: float) -> _T | None:
        """Let it wait. Returns who is turned away for it: nobody, a less important one, or `item` itself."""
        if self._count < self._most:
            self._queues[klass].append((item, now_s))
            self._count += 1
            return None
        for lesser in reversed(CLASSES):
            if lesser == klass:
                break
            if self._queues[lesser]:
                turned_away, _ = self._queues[lesser].pop()
                self._queues[klass].append((item, now_s))
                return turned_away
        return item

    def take(self, now_s: float) -> Waiting[_T] | None:
        """The oldest of the most important class there is; None: nobody waits.

        Every second time it is the least important of those that wait too long: somebody must look at them to refuse
        them, and a class that is given one answer a second must get it.
        """
        self._odd = not self._odd
        if self._odd:
            for klass in _LEAST_FIRST:
                queue = self._queues[klass]
                if queue and queue[0][1] < now_s - _TOO_LONG_S:
                    return self._pop(klass, queue)
        for klass, queue in self._queues.items():
            if queue:
                return self._pop(klass, queue)
        return None

    def _pop(self, klass: Class, queue: deque[tuple[_T, float]]) -> Waiting[_T]:
        item, since_s = queue.popleft()
        self._count -= 1
        return Waiting(item, klass, since_s)

    def expired(self, before_s: float) -> list[Waiting[_T]]:
        """Take out whoever waits since before that moment."""
        found: list[Waiting[_T]] = []
        for klass, queue in self._queues.items():
            while queue and queue[0][1] < before_s:
                item, since_s = queue.popleft()
                found.append(Waiting(item, klass, since_s))
        self._count -= len(found)
        return found

    def waiting(self) -> dict[Class, int]:
        """How many, by class."""
        return {klass: len(queue) for klass, queue in self._queues.items()}
