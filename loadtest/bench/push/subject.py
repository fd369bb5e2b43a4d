"""A server under test, whoever made it: what a fan-out or a connect bench asks of our push node and of its peers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol

from contract.broadcast import Broadcast

__all__ = ["Marker", "Subject"]


class Marker(NamedTuple):
    """A device is ready once `text` came in so many text messages."""

    times: int
    text: str


class Subject(Protocol):
    """Started by `start`, on its core; publishes what the benchmark's chain of broadcasts says."""

    name: str
    does: ClassVar[str]
    """What one connect asks of it, for the table."""
    takes_frame: ClassVar[bool]
    """Whether a device says something after the upgrade."""
    checks_tokens: ClassVar[bool]

    @property
    def pid(self) -> int: ...

    @property
    def port(self) -> int: ...

    @property
    def ready_when(self) -> Sequence[Marker]:
        """What a device that connects now receives, the last broadcast replayed; none: the upgrade alone."""
        ...

    async def start(self) -> None:
        """Raises CouldNotRun, naming what is missing."""
        ...

    async def stop(self) -> object: ...

    def path(self) -> str:
        """Request target."""
        ...

    async def publish(self, broadcast: Broadcast, payload: bytes) -> None:
        """Send it to every connected device, and keep it for those that come. Returns once it is on its way.

        `payload` is what our node's devices receive of it: peers send just that.
        """
        ...
