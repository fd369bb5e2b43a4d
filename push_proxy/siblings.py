"""What a push node knows of the other workers behind the same port, pure: whether one of them has room."""

from __future__ import annotations

from typing import Final, Protocol

__all__ = ["NO_SIBLINGS", "NoSiblings", "Siblings"]


class Siblings(Protocol):
    """The other workers behind this node's device port. Cheap enough to be asked at every refusal; never waits."""

    def room(self) -> bool:
        """Whether one of the others had room a moment ago: a device turned away here may come again at once."""
        ...

    def publish(self, connections: int, capacity: int) -> None:
        """Tell the others how many connections this node holds, and how many it would take: 0 while it drains.

        Call it about once a second, changed or not: who is not heard for a few seconds counts as full.
        """
        ...


class NoSiblings:
    """A node that has its port to itself."""

    __slots__ = ()

    def room(self) -> bool:
        return False

    def publish(self, connections: int, capacity: int) -> None:
        """Nobody listens."""


NO_SIBLINGS: Final = NoSiblings()
