"""Why bytes are no request: a value for whoever answers, an exception inside the readers. Pure."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Malformed", "MalformedRequest"]


class Malformed(NamedTuple):
    """A request nobody can answer for what it asks: the HTTP status, what is wrong, and where.

    `detail` never shows a header's value: it may be a token.
    """

    status: int
    detail: str
    field: str


class MalformedRequest(Exception):
    """Carries a Malformed out of the middle of a request; never leaves the reader."""

    def __init__(self, status: int, detail: str, field: str) -> None:
        super().__init__(detail)
        self.malformed = Malformed(status, detail, field)
