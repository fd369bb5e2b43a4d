"""A server under test, whoever made it: what the benches ask of our push node and of its peers."""

from __future__ import annotations

from typing import ClassVar, Protocol

from contract.broadcast import Broadcast
from contract.tokens import KeyRing
from loadtest.bench.push.dialect import Dialect

__all__ = ["Subject"]


class Subject(Protocol):
    """Started by `start`, on its core; publishes what the benchmark's chain of broadcasts says."""

    name: str
    does: ClassVar[str]
    """What one connect asks of it, for the table."""

    @property
    def pid(self) -> int: ...

    @property
    def port(self) -> int: ...

    @property
    def dialect(self) -> Dialect:
        """How devices speak to it."""
        ...

    @property
    def token_ring(self) -> KeyRing | None:
        """What its devices' tokens are signed with; None: it reads none."""
        ...

    async def start(self) -> None:
        """Raises CouldNotRun, naming what is missing."""
        ...

    async def stop(self) -> object: ...

    async def publish(self, broadcast: Broadcast, payload: bytes) -> None:
        """Send it to every connected device, and keep it for those that come. Returns once it is on its way.

        `payload` is what our node's devices receive of it: peers send just that.
        """
        ...
