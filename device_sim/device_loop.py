"""An asyncio event loop that waits for devices' sockets itself, beside its own. Linux.

An epoll inside the loop's epoll costs twice: whoever sends wakes both, and whoever receives asks both. Here the
devices' epoll is the one that is waited on, and the loop's own few descriptors hang in it behind a single one.
"""

from __future__ import annotations

import asyncio
import math
import select
import selectors
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

__all__ = ["EVENTS_PER_TURN", "DeviceLoop", "run_devices"]

EVENTS_PER_TURN: Final = 256
"""Sockets looked at before the loop goes on with its other work: some 1.5 ms of broadcasts."""

_T = TypeVar("_T")
_Events = Sequence[tuple[int, int]]


class _DeviceSelector(selectors.BaseSelector):
    """The loop's: what is registered with it goes to an ordinary one; `devices` are handled while selecting."""

    def __init__(self) -> None:
        self._own = selectors.EpollSelector()
        self._own_fd = self._own.fileno()
        self.devices = select.epoll()
        self.devices.register(self._own_fd, select.EPOLLIN)
        self.handle: Callable[[_Events], None] | None = None
        """Takes what happened on devices' sockets: (descriptor, event) each. Never raises."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # Rounded up as the ordinary one does: less than a millisecond would be none at all, and the loop would spin.
        wait_s = -1 if timeout is None else math.ceil(max(0.0, timeout) * 1e3) * 1e-3
        try:
            events = self.devices.poll(wait_s, EVENTS_PER_TURN)
        except InterruptedError:
            return []
        own: list[tuple[selectors.SelectorKey, int]] = []
        for place, (fd, _) in enumerate(events):
            if fd == self._own_fd:
                own = self._own.select(0)
                del events[place]
                break
        if events and self.handle is not None:
            self.handle(events)
        return own

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._own.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._own.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._own.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._own.get_map()

    def close(self) -> None:
        self._own.close()
        self.devices.close()


class DeviceLoop(asyncio.SelectorEventLoop):
    """One `DeviceTable` may hang its sockets into it."""

    def __init__(self) -> None:
        self._devices = _DeviceSelector()
        super().__init__(self._devices)

    def serve_devices(self, handle: Callable[[_Events], None]) -> select.epoll | None:
        """The epoll for devices' sockets, whose events go to `handle` from now on; None: somebody has it already."""
        if self._devices.handle is not None:
            return None
        self._devices.handle = handle
        return self._devices.devices

    def leave_devices(self) -> None:
        """Free it for another table, which must find no socket in it."""
        self._devices.handle = None


def run_devices(main: Coroutine[Any, Any, _T]) -> _T:
    """As `asyncio.run`, on a DeviceLoop."""
    with asyncio.Runner(loop_factory=DeviceLoop) as runner:
        return runner.run(main)
