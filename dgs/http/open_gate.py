"""The gate that is always open: a class for everybody, and nobody refused. Pure."""

from __future__ import annotations

from dgs.serving import Class, Outcome, Seen, Verdict

__all__ = ["OpenGate", "look_at_nothing"]


class OpenGate:
    """A Gate without rules or limits."""

    def classify(self, seen: Seen, now_ms: int) -> Class:
        return "degraded"

    def admit(self, klass: Class, seen: Seen, *, now_s: float, now_ms: int, queue_delay_s: float) -> Verdict:
        return Verdict(klass, True)

    def finished(self, klass: Class, *, took_s: float, outcome: Outcome, now_s: float) -> None:
        pass

    def tick(self, now_s: float, now_ms: int) -> None:
        pass


_UNKNOWN = Seen("page")


def look_at_nothing(ask: object) -> Seen:
    """For a server that tells no request from another."""
    return _UNKNOWN
