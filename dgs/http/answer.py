"""An answer's bytes, and the answers the server gives itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec

from dgs.http.malformed import Malformed
from dgs.serving import Answer, Ask, Verdict

__all__ = ["CONTINUE", "MASKED", "STATUS_LINES", "error_answer", "malformed_answer", "refusal", "written"]

STATUS_LINES: Final[Mapping[int, bytes]] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_BODYLESS: Final = frozenset((204, 304))
_JSON_HEAD: Final = b"content-type: application/json; charset=utf-8\r\ncache-control: no-store\r\n"
_WHOLE_S: Final = 1_000
_encode: Final = msgspec.json.Encoder().encode


def written(answer: Answer, *, head_only: bool, close: bool, date_line: bytes) -> bytes:
    """The answer as it goes on the wire. `head_only`: to a HEAD request, whose answer says how long a body would be.

    `date_line` is a whole field line (RFC 9110, 6.6.1), or nothing.
    """
    status, head, body = answer
    line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    end = b"connection: close\r\n\r\n" if close else b"\r\n"
    if status in _BODYLESS:
        return b"".join((line, date_line, head, end))
    if head_only:
        return b"".join((line, date_line, head, b"content-length: %d\r\n" % len(body), end))
    return b"".join((line, date_line, head, b"content-length: %d\r\n" % len(body), end, body))


def error_answer(
    status: int, code: str, message: str, *, field: str | None = None, retry_after_ms: int = 0, more: bytes = b""
) -> Answer:
    """An error in GraphQL's form, as every endpoint here tells one. `more`: further field lines.

    `retry_after_ms` goes into the body, and in whole seconds, upwards, into Retry-After.
    """
    extensions: dict[str, object] = {"code": code}
    if field is not None:
        extensions["field"] = field
    head = _JSON_HEAD + more
    if retry_after_ms > 0:
        extensions["retryAfterMs"] = retry_after_ms
        head += b"retry-after: %d\r\n" % -(-retry_after_ms // _WHOLE_S)
    return Answer(status, head, _encode({"errors": [{"message": message, "extensions": extensions}]}))


def malformed_answer(malformed: Malformed) -> Answer:
    return error_answer(
        malformed.status, "malformed_request", f"{malformed.field}: {malformed.detail}", field=malformed.field
    )


MASKED: Final = error_answer(500, "internal", "Something went wrong in this service; the details are in its log.")
"""Whatever an endpoint raised."""


def refusal(ask: Ask, verdict: Verdict) -> Answer:
    """503 with the moment to return; what the server says unless it is given something better."""
    return error_answer(
        503, "overloaded", "more is asked for than can be served now", retry_after_ms=verdict.retry_after_ms
    )
