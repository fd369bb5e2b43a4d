"""Moments as people write them <-> milliseconds: RFC 3339 with an offset, or local to a named time zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from contract.errors import InvalidRequest

__all__ = ["check_time_zone", "format_moment", "parse_moment"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_FORM: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,3})?)?(?P<offset>[Zz]|[+-]\d{2}:\d{2})?", re.ASCII
)
_RULE: Final = "RFC 3339 with an offset, such as 2024-11-15T20:00:00-05:00"
_MAX_YEAR: Final = 9000
"""Leaves room for every offset a stage may have."""


def check_time_zone(name: str, field: str = "time_zone") -> ZoneInfo:
    """The zone of that IANA name, or InvalidRequest naming `field`."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise InvalidRequest(
            f"{name[:80]!r} is no time zone", field=field, rule="an IANA name such as America/New_York"
        ) from exc


def parse_moment(text: str, field: str, *, zone: ZoneInfo | None = None) -> int:
    """Milliseconds since the epoch of an RFC 3339 time, to the millisecond.

    A time without an offset is read in `zone`; without one it is refused, as is a local time that the zone's clocks
    skip or show twice. Raises InvalidRequest naming `field`.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"{text[:40]!r} is no time", field=field, rule=_RULE)
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as exc:
        raise InvalidRequest(f"{text[:40]!r} is no time: {exc}", field=field, rule=_RULE) from exc
    if not 1970 <= moment.year <= _MAX_YEAR:
        raise InvalidRequest(f"year {moment.year}", field=field, rule=f"between 1970 and {_MAX_YEAR}")
    if found["offset"] is None:
        if zone is None:
            raise InvalidRequest(
                f"{text[:40]!r} has no time zone", field=field, rule=f"{_RULE}; or give time_zone with it"
            )
        moment = _local(moment, zone, field)
    at = (moment - _EPOCH) // _MS
    if at < 0:
        raise InvalidRequest(f"{text[:40]!r} lies before 1970", field=field, rule=f"between 1970 and {_MAX_YEAR}")
    return at


def _local(wall: datetime, zone: ZoneInfo, field: str) -> datetime:
    """The one instant at which `zone`'s clocks show `wall`."""
    first, second = wall.replace(tzinfo=zone, fold=0), wall.replace(tzinfo=zone, fold=1)
    if first.utcoffset() == second.utcoffset():
        return first
    # In a gap, going to UTC and back changes the wall time; in an overlap it does not.
    back = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None)
    what = "is shown twice by" if back == wall else "is skipped by"
    raise InvalidRequest(
        f"{wall.isoformat()} {what} the clocks of {zone.key}", field=field, rule="give the offset from UTC"
    )


def format_moment(at_ms: int, time_zone: str = "UTC") -> str:
    """RFC 3339 in `time_zone`, whole seconds without a fraction; in UTC when the zone is unknown."""
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        zone = ZoneInfo("UTC")
    moment = (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone)
    return moment.isoformat(timespec="milliseconds" if at_ms % 1000 else "seconds")
