"""The subscriptions of one topic whose frames look alike, laid out for a fan-out: a row of sockets. Pure.

A fan-out goes through the row and touches nothing else of nearly everybody: the descriptors of thousands of devices
fit a processor's cache, their objects do not. While one is under way nobody changes places, or it would miss someone
or write twice: whoever leaves then leaves a hole, whoever comes joins at the end, and the row is closed up afterwards.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from push_proxy.recovery import Subscription

__all__ = ["Peers"]


class Peers:
    """In no order that means anything; each subscription knows its place."""

    __slots__ = ("_count", "_row", "_running", "fds")

    def __init__(self) -> None:
        self.fds = array("i")
        """By place: a socket that takes frames directly, or -1: ask `at`."""
        self._row: list[Subscription | None] = []
        self._count = 0
        self._running = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Subscription]:
        return (one for one in self._row if one is not None)

    def at(self, place: int) -> Subscription | None:
        """None: it left while a fan-out was under way."""
        return self._row[place]

    def add(self, subscription: Subscription) -> None:
        subscription.place = len(self._row)
        self._row.append(subscription)
        sink = subscription.sink
        self.fds.append(-1 if sink.congested else sink.fd)
        self._count += 1

    def remove(self, subscription: Subscription) -> None:
        """It must be one of them."""
        place, row = subscription.place, self._row
        assert row[place] is subscription, "removed from a row it does not stand in"
        self._count -= 1
        if self._running:
            row[place] = None
            self.fds[place] = -1
            return
        last, fd = row.pop(), self.fds.pop()
        if last is not subscription:
            assert last is not None, "holes are closed with the last fan-out"
            row[place], self.fds[place] = last, fd
            last.place = place

    def set_fd(self, subscription: Subscription, fd: int) -> None:
        """From now on frames are written to `fd`; -1: the subscription's sink is asked for each."""
        self.fds[subscription.place] = fd

    # A fan-out.

    def begin(self) -> int:
        """A fan-out begins, over the places below the number returned."""
        self._running += 1
        return len(self._row)

    def end(self) -> None:
        """It is over."""
        self._running -= 1
        if not self._running and self._count < len(self._row):
            self._close_up()

    def _close_up(self) -> None:
        row, fds = self._row, self.fds
        standing = [(one, fds[place]) for place, one in enumerate(row) if one is not None]
        self._row = [one for one, _ in standing]
        self.fds = array("i", [fd for _, fd in standing])
        for place, one in enumerate(self._row):
            assert one is not None
            one.place = place
