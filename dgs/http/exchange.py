"""One request on its way to its answer: what waits in the intake, what is replied to, what is written. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dgs.serving import Answer, Ask, Class, Seen
from dgs.traces import Trace

__all__ = ["Exchange", "ExchangeOwner"]

_NOT_LOOKED_AT = Seen("")


class ExchangeOwner(Protocol):
    """Who is told of the answer: the request's connection."""

    def answered(self, exchange: Exchange) -> None: ...


class Exchange:
    """Is itself the `Reply` its endpoint calls. Calls after the first are nobody's: a bug there harms one request."""

    __slots__ = ("_gone", "_owner", "admitted_s", "answer", "ask", "klass", "seen", "trace")

    def __init__(self, owner: ExchangeOwner, ask: Ask) -> None:
        self._owner: ExchangeOwner | None = owner
        self._gone: Callable[[], object] | None = None
        self.ask = ask
        self.seen = _NOT_LOOKED_AT
        self.klass: Class = "degraded"
        self.admitted_s: float | None = None
        """Since when it is served; None: not yet, or never."""
        self.answer: Answer | None = None
        self.trace: Trace | None = None

    def __call__(self, answer: Answer) -> None:
        owner = self._owner
        if owner is None or self.answer is not None:
            return
        self.answer = answer
        self._gone = None
        owner.answered(self)

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for the answer."""
        return self._owner is not None and self.answer is None

    def when_gone(self, told: Callable[[], object]) -> None:
        """Have `told` called if the client leaves before the answer; at once if it has left."""
        if self._owner is None:
            told()
        elif self.answer is None:
            self._gone = told

    def abandon(self) -> None:
        """The client has left."""
        self._owner = None
        told, self._gone = self._gone, None
        if told is not None:
            told()
