"""What passes between the HTTP server, the gate in front of it and whatever answers: values and ports. Pure.

A request is read whole before anybody looks at it, and answered by calling `reply` once, now or later. So the server
knows nothing of GraphQL, the fast path nothing of sockets, and the gate nothing of either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol

__all__ = ["CLASSES", "Answer", "Ask", "Class", "Endpoint", "Gate", "Outcome", "Reply", "Seen", "Verdict"]

Class = Literal["critical", "degraded", "best_effort", "bulk"]
"""How much a request matters, most first."""
CLASSES: tuple[Class, ...] = ("critical", "degraded", "best_effort", "bulk")
Outcome = Literal["ok", "failed", "late"]
"""How serving ended: `late` after its deadline, which says nothing of how long it takes."""


class Ask(NamedTuple):
    """One HTTP request, read whole."""

    method: str
    path: str
    """Without the query."""
    query: str
    fields: Mapping[bytes, bytes]
    """Header fields by lower-case name; several of one name joined by commas."""
    body: bytes
    host: str
    """The peer's address; no forwarded one."""
    arrived_s: float
    """Monotonic."""


class Answer(NamedTuple):
    status: int
    head: bytes
    """Field lines, each ended by CRLF, without Content-Length, Connection and Date."""
    body: bytes


Reply = Callable[[Answer], None]
"""Called exactly once; never raises."""


class Endpoint(Protocol):
    """Answers requests."""

    def serve(self, ask: Ask, reply: Reply) -> None:
        """Answer at once or later; must not block. What it raises becomes a masked 500."""
        ...


class Seen(NamedTuple):
    """What is known of a request before anything is paid for it: no token was verified, nothing looked up."""

    operation: str
    """Root field or name of a known operation; "" for any other document, "page" for what is no GraphQL."""
    asked: Class | None = None
    """By the `X-Stagecue-Class` header."""
    kind: str | None = None
    """Device kind, as in the schema."""
    event_id: str | None = None
    has_map: bool = False
    """It refreshes what it holds (If-None-Match, or says so); else it is a first prefetch."""
    trusted: bool = False
    """The peer lies in DGS_TRUSTED_NETWORKS: its header may raise the class, too."""


class Verdict(NamedTuple):
    klass: Class
    admit: bool
    rule: str | None = None
    """Of the ruleset, that refused it; None: admitted, or refused by the limiter alone."""
    retry_after_ms: int = 0
    """When it is refused: its own moment to return, which ends before the next stage."""
    default_map: bool = False
    """Refused so shortly before a stage that no return would be in time: it gets the cohort's map instead."""


class Gate(Protocol):
    """Decides what is served when not everything can be."""

    def classify(self, seen: Seen, now_ms: int) -> Class: ...

    def admit(self, klass: Class, seen: Seen, *, now_s: float, now_ms: int, queue_delay_s: float) -> Verdict:
        """Asked as a request leaves the queue; `finished` follows if it is admitted."""
        ...

    def finished(self, klass: Class, *, took_s: float, outcome: Outcome, now_s: float) -> None: ...

    def tick(self, now_s: float, now_ms: int) -> None:
        """Called about once a second, also while nobody asks anything."""
        ...
