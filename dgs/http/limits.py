"""Every bound of the server, from the settings."""

from __future__ import annotations

from dataclasses import dataclass

from dgs.settings import DgsSettings

__all__ = ["ServerLimits"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLimits:
    max_head_bytes: int = 16 * 1024
    max_body_bytes: int = 64 * 1024
    max_connections: int = 16_000
    pipelined_max: int = 16
    """Requests of one connection under way."""
    idle_timeout_s: float = 75.0
    request_timeout_s: float = 10.0
    """For a request to arrive, once begun; for it to wait; for a client to take an answer."""
    linger_s: float = 1.0
    """For a client to close, once it has its last answer: what it still sends must not reset what it still reads."""
    queue_max: int = 4_096
    turn_s: float = 0.002
    """Served without a look at the sockets."""
    turn_requests: int = 48
    tick_s: float = 0.5
    """How often deadlines are looked at."""
    drain_s: float = 5.0
    """For everything under way, once it is to stop."""
    drain_quiet_s: float = 0.1
    """A connection at rest is kept that long when it is to stop: what is on its way still gets an answer."""
    drain_fresh_s: float = 1.0
    """And that long after it connected or asked: whoever just did is about to ask, and gets its answer here."""

    @property
    def max_held_bytes(self) -> int:
        """Of one connection, unread: the bound of a client that sends and does not read."""
        return 2 * (self.max_head_bytes + self.max_body_bytes)

    @classmethod
    def of(cls, settings: DgsSettings) -> ServerLimits:
        return cls(
            max_head_bytes=settings.max_head_bytes,
            max_body_bytes=settings.max_body_bytes,
            max_connections=settings.max_connections,
            pipelined_max=settings.pipelined_max,
            idle_timeout_s=settings.idle_timeout_s,
            request_timeout_s=settings.request_timeout_s,
            queue_max=settings.queue_max,
        )
