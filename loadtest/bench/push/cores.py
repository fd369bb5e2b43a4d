"""Which core the server under test runs on, and which everything else of the benchmark."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

__all__ = ["Cores", "choose_cores", "kept_on"]


class Cores(msgspec.Struct, frozen=True):
    server: int
    load: int

    @property
    def shared(self) -> bool:
        """There is one core only: what is measured says little."""
        return self.server == self.load


def choose_cores(allowed: frozenset[int] | None = None) -> Cores:
    """The last core this process may use for the server, the first for the load: interrupts like the first best."""
    cores = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    return Cores(server=cores[-1], load=cores[0])


@contextmanager
def kept_on(core: int) -> Iterator[None]:
    """This process (and what it starts meanwhile without saying otherwise) stays on `core`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
