"""ISO 8601 durations <-> milliseconds, strictly: what has no fixed length (years, months) is refused."""

from __future__ import annotations

import re
from typing import Final

from contract.errors import InvalidRequest

__all__ = ["MAX_DURATION_MS", "format_duration", "parse_duration"]

MAX_DURATION_MS: Final = 366 * 86_400_000
_RULE: Final = "an ISO 8601 duration such as PT15M, -PT30S or P1DT12H"
_FORM: Final = re.compile(
    r"(?P<sign>[+-]?)P(?:(?P<weeks>\d{1,3})W|"
    r"(?:(?P<days>\d{1,3})D)?(?P<time>T(?:(?P<hours>\d{1,5})H)?(?:(?P<minutes>\d{1,6})M)?"
    r"(?:(?P<seconds>\d{1,8})(?:\.(?P<fraction>\d{1,3}))?S)?)?)",
    re.ASCII,
)
_CALENDAR: Final = re.compile(r"[+-]?P\d*[.\d]*[YM]|[+-]?P\d+Y", re.ASCII)


def parse_duration(text: str, field: str = "duration") -> int:
    """Milliseconds of a signed duration of at most 366 days. Raises InvalidRequest naming `field`.

    Weeks stand alone; only seconds may have a fraction, of at most three digits.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        if _CALENDAR.match(text):
            raise InvalidRequest(
                f"{text[:40]!r} has years or months",
                field=field,
                rule="days, hours, minutes and seconds alone",
            )
        raise InvalidRequest(f"{text[:40]!r} is no duration", field=field, rule=_RULE)
    parts = found.groupdict()
    amounts = ("weeks", "days", "hours", "minutes", "seconds")
    if all(parts[name] is None for name in amounts) or parts["time"] == "T":
        raise InvalidRequest(f"{text[:40]!r} is empty", field=field, rule=_RULE)
    number = {name: int(parts[name] or 0) for name in amounts}
    total_ms = (
        (number["weeks"] * 7 + number["days"]) * 86_400_000
        + number["hours"] * 3_600_000
        + number["minutes"] * 60_000
        + number["seconds"] * 1_000
        + int((parts["fraction"] or "").ljust(3, "0"))
    )
    if total_ms > MAX_DURATION_MS:
        raise InvalidRequest(f"{text[:40]!r} is too long", field=field, rule="at most 366 days")
    return -total_ms if parts["sign"] == "-" else total_ms


def format_duration(duration_ms: int) -> str:
    """The shortest form `parse_duration` reads back: -900000 -> `-PT15M`, 0 -> `PT0S`."""
    if duration_ms == 0:
        return "PT0S"
    days, rest = divmod(abs(duration_ms), 86_400_000)
    hours, rest = divmod(rest, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    seconds, fraction = divmod(rest, 1_000)
    time = f"{hours}H" * bool(hours) + f"{minutes}M" * bool(minutes)
    if fraction:
        time += f"{seconds}.{fraction:03d}".rstrip("0") + "S"
    elif seconds:
        time += f"{seconds}S"
    return ("-" if duration_ms < 0 else "") + "P" + f"{days}D" * bool(days) + (f"T{time}" if time else "")
