"""An iCalendar file -> entries and rejections. Pure but for the library's own tables of time zones.

Components are cut first (`lines`), judged alone (`component`), grouped by UID and expanded group by group: one bad
component never harms another.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import recurring_ical_events

from contract.errors import InvalidRequest
from message_producer.feeds.component import BadComponent, VEvent, calendar_of, read_vevent, read_zones, to_ms
from message_producer.feeds.lines import Component, cut
from message_producer.feeds.model import DEFAULT_LIMITS, FeedContents, FeedEntry, FeedLimits, Rejection

__all__ = ["event_id_of", "parse_calendar"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SLUG_CHARS: Final = 40
_MAX_HORIZON_MS: Final = 5 * 366 * 86_400_000


def parse_calendar(
    raw: bytes | str,
    *,
    from_ms: int,
    until_ms: int,
    limits: FeedLimits = DEFAULT_LIMITS,
    out_of_time: Callable[[], bool] = lambda: False,
) -> FeedContents:
    """Everything `raw` plans between `from_ms` and `until_ms`; what cannot be taken is listed by line.

    `out_of_time` is asked between UIDs; once it says yes the remaining ones are rejected, so that no file holds the
    caller for long. Raises InvalidRequest when the whole is no calendar or exceeds a limit, or the horizon is empty
    or longer than five years. Blocks for the time it takes: call it in a thread for files of unknown size.
    """
    if not from_ms < until_ms <= from_ms + _MAX_HORIZON_MS:
        raise InvalidRequest("empty or too long", field="until", rule="after `from`, by at most five years")
    pieces = cut(raw.encode() if isinstance(raw, str) else raw, limits)
    zones, rejected = read_zones(pieces.time_zones)
    rejected.extend(pieces.rejected)
    groups, bad = _group(pieces.events, zones, limits)
    rejected.extend(bad)
    held = {(item.uid, item.occurrence) for item in bad if item.occurrence is not None}
    entries: list[FeedEntry] = []
    outside = 0
    for uid, events in groups.items():
        if out_of_time():
            rejected.append(_of_group(events, "VEVENT", "the file took too long to expand", "split the file"))
            continue
        try:
            found = list(_expand(events, zones, from_ms, until_ms, limits))
        except BadComponent as exc:
            rejected.append(exc.rejection)
            continue
        outside += not found
        entries.extend(entry for entry in found if (uid, entry.occurrence) not in held)
        if len(entries) > limits.entries:
            raise InvalidRequest(
                "too many entries", field="calendar", rule=f"at most {limits.entries} entries within the horizon"
            )
    rejected.sort(key=lambda item: item.line)
    return FeedContents(
        entries=tuple(sorted(entries, key=lambda entry: (entry.starts_at, entry.uid))),
        rejected=tuple(rejected[: limits.rejections]),
        rejected_unlisted=max(0, len(rejected) - limits.rejections),
        outside=outside,
    )


def event_id_of(title: str, uid: str, slot: int | None = None, given: str | None = None) -> str:
    """A readable, stable event id: `given`, or a slug of the title and a short hash of UID and slot.

    The hash alone makes it unique, so two entries of one title differ; a slot in UTC tells occurrences apart.
    """
    stamp = "" if slot is None else (_EPOCH + timedelta(milliseconds=slot)).strftime("%Y%m%dt%H%Mz")
    if given is not None:
        return given if not stamp else f"{given[: 63 - len(stamp)].rstrip('._-')}-{stamp}"
    ascii_title = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_title).strip("-")[:_SLUG_CHARS].strip("-") or "event"
    digest = hashlib.sha256("\0".join((uid, stamp)).encode()).hexdigest()
    return f"{slug}-{digest[:8]}"


def _group(
    components: Iterable[Component], zones: Mapping[str, Component], limits: FeedLimits
) -> tuple[dict[str, list[VEvent]], list[Rejection]]:
    """UID -> its good components, one per slot: the highest SEQUENCE counts, a second equal one is rejected."""
    chosen: dict[tuple[str, int | None], VEvent] = {}
    rejected: list[Rejection] = []
    for component in components:
        try:
            event = read_vevent(component, zones, limits)
        except BadComponent as exc:
            rejected.append(exc.rejection)
            continue
        other = chosen.get((event.uid, event.slot))
        if other is not None and other.sequence == event.sequence:
            # No slot is held back for it: the first of the two counts.
            rejected.append(
                Rejection(
                    line=component.line_of("UID"),
                    field="UID",
                    message=f"already given at line {other.component.line_of('UID')}",
                    rule="one component per UID and RECURRENCE-ID, or a higher SEQUENCE",
                    uid=event.uid,
                )
            )
        elif other is None or event.sequence > other.sequence:
            chosen[event.uid, event.slot] = event
    groups: dict[str, list[VEvent]] = {}
    for event in chosen.values():
        groups.setdefault(event.uid, []).append(event)
    return groups, rejected


def _expand(
    events: list[VEvent], zones: Mapping[str, Component], from_ms: int, until_ms: int, limits: FeedLimits
) -> Iterator[FeedEntry]:
    """Entries of one UID. Raises BadComponent for the whole UID."""
    used = {name: zones[name] for event in events for name in event.zone_names if name in zones}
    begin, end = _EPOCH + timedelta(milliseconds=from_ms), _EPOCH + timedelta(milliseconds=until_ms)
    try:
        calendar = calendar_of(used, *(event.component for event in events))
        occurrences: list[Any] = recurring_ical_events.of(calendar).between(begin, end)
    except Exception as exc:  # the library's failure on this UID is this UID's
        text = " ".join(str(exc).split())[:160] or type(exc).__name__
        raise BadComponent(_of_group(events, "RRULE", text, "a recurrence of RFC 5545")) from exc
    if len(occurrences) > limits.occurrences_per_uid:
        rule = f"at most {limits.occurrences_per_uid} occurrences of one UID within the horizon"
        raise BadComponent(_of_group(events, "RRULE", f"{len(occurrences)} occurrences", rule))
    by_slot = {event.slot: event for event in events}
    master = by_slot.get(None)
    recurs = len(events) > 1 or events[0].recurs or events[0].slot is not None
    seen: set[int] = set()
    for occurrence in occurrences:
        slot = to_ms(occurrence["RECURRENCE-ID"].dt)
        event = by_slot.get(slot, master) if recurs else master
        assert event is not None
        seen.add(slot)
        yield _entry(occurrence, event, slot if recurs else None, master)
    if master is not None:
        yield from _struck_out(calendar, master, seen, from_ms, until_ms)


def _entry(occurrence: Any, event: VEvent, slot: int | None, master: VEvent | None) -> FeedEntry:
    start = occurrence["DTSTART"].dt
    starts_at, ends_at = to_ms(start), to_ms(occurrence["DTEND"].dt)
    title = str(occurrence.get("SUMMARY", "")).strip()
    given = event.given_id or (master.given_id if master else None)
    return FeedEntry(
        uid=event.uid,
        occurrence=slot,
        event_id=event_id_of(title, event.uid, slot, given),
        title=title,
        starts_at=starts_at,
        ends_at=ends_at if ends_at > starts_at else None,
        time_zone=start.tzinfo.key if isinstance(start.tzinfo, ZoneInfo) else "UTC",
        cancelled=event.cancelled or bool(master and master.cancelled),
        line=event.component.line,
    )


def _struck_out(calendar: Any, master: VEvent, seen: set[int], from_ms: int, until_ms: int) -> Iterator[FeedEntry]:
    """A slot an EXDATE takes out was planned once: it is a cancellation, said by the feed itself."""
    for component in calendar.walk("VEVENT"):
        if "RECURRENCE-ID" in component:
            continue
        title = str(component.get("SUMMARY", "")).strip()
        values = component.get("EXDATE", [])
        for value in values if isinstance(values, list) else [values]:
            for item in value.dts:
                slot = to_ms(item.dt)
                if slot in seen or not from_ms <= slot <= until_ms:
                    continue
                seen.add(slot)
                yield FeedEntry(
                    uid=master.uid,
                    occurrence=slot,
                    event_id=event_id_of(title, master.uid, slot, master.given_id),
                    title=title,
                    starts_at=slot,
                    cancelled=True,
                    line=master.component.line,
                )


def _of_group(events: list[VEvent], field: str, message: str, rule: str) -> Rejection:
    first = min(events, key=lambda event: event.component.line).component
    return Rejection(line=first.line_of(field), field=field, message=message, rule=rule, uid=events[0].uid)
