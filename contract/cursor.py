"""Cursors: the last timestamp a device applied for a topic, or None for one that never subscribed (R15)."""

from __future__ import annotations

from typing import Final

from contract.errors import MalformedCursor

__all__ = ["FUTURE_TOLERANCE_MS", "Cursor", "check_cursor"]

Cursor = int | None

FUTURE_TOLERANCE_MS: Final = 5 * 60 * 1000
"""How far a cursor may run ahead of both the server's clock and `latest` before it is an error (R15)."""


def check_cursor(cursor: Cursor, *, now_ms: int, latest: int, field: str = "cursor") -> Cursor:
    """Return `cursor`, or raise MalformedCursor when it is negative or from the future."""
    if cursor is None:
        return None
    if cursor < 0:
        raise MalformedCursor(f"{cursor} is negative", field=field, rule="milliseconds since the epoch, 0, or null")
    if cursor > max(now_ms, latest) + FUTURE_TOLERANCE_MS:
        raise MalformedCursor(
            f"{cursor} lies in the future",
            field=field,
            rule="at most 5 minutes ahead of the server's clock and the newest broadcast; use null to start over",
        )
    return cursor
