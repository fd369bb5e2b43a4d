"""What the node's use case needs of its connections and of its links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["DevicePort", "InterestPort"]


class DevicePort(Protocol):
    """One device connection, seen from the node. Compared and hashed by identity."""

    def write(self, frames: bytes, /) -> None:
        """Complete WebSocket frames; never waits, does nothing once the connection is closing."""
        ...

    def unfollow(self, topic: str, code: str, message: str) -> None:
        """The node cannot follow `topic` for this connection after all: an error frame says why."""
        ...

    def __hash__(self) -> int: ...


class InterestPort(Protocol):
    """The links to all routers."""

    @property
    def connected(self) -> bool:
        """Whether at least one router accepted this node's hello."""
        ...

    async def register(self, topic: str) -> None:
        """Tell every router that this node wants `topic`; returns once all acknowledged or the bound passed (R14).

        Cancel-safe; repeats do no harm. A router linked later learns the topic from the hello.
        """
        ...

    def withdraw(self, topics: Sequence[str]) -> None:
        """Tell the routers that nobody here wants these any more; does not wait."""
        ...
