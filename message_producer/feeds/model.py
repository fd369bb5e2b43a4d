"""What a schedule feed says, as values: entries it gives, and what of it could not be taken."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["DEFAULT_LIMITS", "FeedContents", "FeedEntry", "FeedLimits", "Rejection"]


class FeedLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one feed file: what lies beyond is refused, never half taken."""

    file_bytes: int = 5 * 1024 * 1024
    components: int = 5_000
    """VEVENTs and VTIMEZONEs of one file."""
    occurrences_per_uid: int = 500
    entries: int = 10_000
    """Entries of one file within the horizon."""
    rejections: int = 1_000
    """Rejections listed; more are counted."""
    line_bytes: int = 64 * 1024
    """One unfolded line of a property that is read."""


DEFAULT_LIMITS: Final = FeedLimits()


class FeedEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One occurrence of one calendar entry. Times are ms since the epoch."""

    uid: str
    occurrence: int | None = None
    """Start of the slot the series gave it, wherever it was moved since; None for an entry that does not recur."""
    event_id: str
    """Stable: it follows from UID and slot, or from X-STAGECUE-ID. Counts only when the event is created."""
    title: str
    starts_at: int
    ends_at: int | None = None
    time_zone: str = "UTC"
    cancelled: bool = False
    line: int
    """Where its component begins in the file."""

    @property
    def source_uid(self) -> str:
        """The feed's own identity of it: what a move leaves as it is."""
        return self.uid if self.occurrence is None else f"{self.uid}#{self.occurrence}"


class Rejection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something in the file that was not taken, where it stands, and the rule it broke."""

    line: int
    field: str
    message: str
    rule: str = ""
    uid: str | None = None
    occurrence: int | None = None
    """Slot of a rejected override: that slot is left alone, neither taken at its old time nor reported missing."""

    def __str__(self) -> str:
        whom = f" of {self.uid}" if self.uid else ""
        return f"line {self.line}: {self.field}{whom}: {self.message}" + (f" ({self.rule})" if self.rule else "")


class FeedContents(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything one file said within the horizon."""

    entries: tuple[FeedEntry, ...] = ()
    """By start, then UID."""
    rejected: tuple[Rejection, ...] = ()
    """By line; at most `FeedLimits.rejections`."""
    rejected_unlisted: int = 0
    outside: int = 0
    """UIDs that are fine and have nothing within the horizon."""
