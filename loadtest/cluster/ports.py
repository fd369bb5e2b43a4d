"""Blocks of ports on one address that nobody else picks while they are held."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from typing import Final, Self

from loadtest.bench.outcome import CouldNotRun

__all__ = ["BLOCK", "PortBlocks", "reserve_ports"]

BLOCK: Final = 10
"""Ports a member has to itself: a service uses the first five, a server the first two; the last one is the guard."""
_LOWEST: Final = 10_000
_HIGHEST: Final = 32_000
"""Below the range that outgoing connections take theirs from."""
_TRIES: Final = 500


class PortBlocks:
    """Neighbouring blocks of ten ports, the first starting at `base`.

    Nobody listens there yet. What keeps other processes that ask `reserve_ports` away is a socket bound to the last
    port of each block until `close`.
    """

    def __init__(self, base: int, count: int, *, host: str = "127.0.0.1") -> None:
        """Raises CouldNotRun naming the port that is taken."""
        self.base = base
        self.count = count
        with ExitStack() as held:
            for first in range(base, base + count * BLOCK, BLOCK):
                guard = held.enter_context(socket.socket())
                _bind(guard, host, first + BLOCK - 1)
                for port in range(first, first + BLOCK // 2):
                    with socket.socket() as probe:
                        # As the servers do: what only waits out its last connection is free.
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        _bind(probe, host, port)
            self._held = held.pop_all()

    def __getitem__(self, index: int) -> int:
        """First port of block `index`."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.base + index * BLOCK

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the blocks up. Idempotent."""
        self._held.close()


def reserve_ports(count: int, *, host: str = "127.0.0.1") -> PortBlocks:
    """`count` neighbouring blocks somewhere below the ephemeral range. Raises CouldNotRun when none are found."""
    chance = random.Random()
    for _ in range(_TRIES):
        try:
            return PortBlocks(chance.randrange(_LOWEST, _HIGHEST - count * BLOCK, BLOCK), count, host=host)
        except CouldNotRun:
            continue
    raise CouldNotRun(f"no {count} free blocks of {BLOCK} ports between {_LOWEST} and {_HIGHEST} on {host}")


def _bind(sock: socket.socket, host: str, port: int) -> None:
    try:
        sock.bind((host, port))
    except OSError as exc:
        raise CouldNotRun(f"port {port} on {host} cannot be used: {exc.strerror}") from exc
