"""What the node's use case needs of its connections and of its links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from contract.frames import ServerFrame
from push_proxy.forms import Form, PreparedFrame

if TYPE_CHECKING:
    from push_proxy.recovery import Subscription

__all__ = ["DevicePort", "InterestPort"]


class DevicePort(Protocol):
    """One stream of frames to a device, seen from the node: a connection, or one operation of a GraphQL connection.

    Compared and hashed by identity. Nothing here waits; everything does nothing once the stream is closing.
    """

    form: Form
    """What its frames look like; streams with the same form get the same bytes."""
    congested: bool
    """Whether its socket takes no more: then `hold_back` instead of `write`."""
    fd: int
    """The socket a fan-out may write to itself; -1: it must call `write`."""
    subscriptions: tuple[Subscription, ...]
    """What it follows; kept by the hub."""

    def write(self, frame: bytes, /) -> None:
        """One frame in this port's form; several, back to back, where the form is JOINABLE."""
        ...

    def spill(self, rest: bytes, /) -> None:
        """The kernel took a frame only up to `rest`, which goes out before anything else; only where there is an fd."""
        ...

    def hold_back(self, frame: ServerFrame, /) -> None:
        """Write `frame` once the socket takes it, coalesced with what waits already; ends one that is too slow."""
        ...

    def send(self, frames: Sequence[PreparedFrame], /) -> None:
        """Write or hold back, in one piece."""
        ...

    def unfollow(self, topic: str, code: str, message: str) -> None:
        """The node cannot follow `topic` for this stream after all: an error frame says why."""
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
