"""What a web device's browser asks before it lets a page speak to us (the Fetch standard's CORS protocol). Pure.

Any origin may ask: a caller is known by its token, which no browser adds by itself, and never by a cookie. That holds
for /graphql alone; pictures say so themselves, and the operators' pages are nobody's.
"""

from __future__ import annotations

from typing import Final

from dgs.serving import Answer, Ask

__all__ = ["ASKED_FOR", "opened", "preflight"]

ASKED_FOR: Final = (
    "Authorization",
    "Content-Type",
    "If-None-Match",
    "Traceparent",
    "X-Device-Id",
    "X-Stagecue-Class",
    "X-Stagecue-Version",
)
"""Header fields a device sends that browsers ask about first."""
_PATH: Final = "/graphql"
_LET_IN: Final = (
    b"access-control-allow-origin: *\r\naccess-control-expose-headers: Date, ETag, Retry-After, Traceresponse\r\n"
)
_PREFLIGHT: Final = Answer(
    204,
    b"access-control-allow-origin: *\r\naccess-control-allow-methods: GET, POST\r\naccess-control-allow-headers: "
    + ", ".join(ASKED_FOR).encode()
    # Two hours: longer is cut off by browsers.
    + b"\r\naccess-control-max-age: 7200\r\nvary: Access-Control-Request-Headers\r\n",
    b"",
)


def preflight(ask: Ask) -> Answer | None:
    """The answer to a browser's question; None: it is none."""
    if ask.path == _PATH and b"origin" in ask.fields and b"access-control-request-method" in ask.fields:
        return _PREFLIGHT
    return None


def opened(ask: Ask, answer: Answer) -> Answer:
    """An answer that a page of another origin may read."""
    if ask.path != _PATH or answer is _PREFLIGHT:
        return answer
    return answer._replace(head=answer.head + _LET_IN)
