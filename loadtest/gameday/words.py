"""Numbers as they stand in the sentences of an answer. Pure."""

from __future__ import annotations

__all__ = ["in_ms", "recovered", "share"]


def in_ms(value_ms: float | None) -> str:
    """`1,234 ms`, `5.6 ms`; what was not measured is said to be unknown, not 0."""
    if value_ms is None:
        return "an unknown time"
    return f"{value_ms:,.0f} ms" if value_ms >= 100 else f"{value_ms:.1f} ms"


def share(part: float | None) -> str:
    """`99.95 %`, and 100 % only of everything."""
    if part is None:
        return "an unknown part"
    shown = f"{part:.2%}"
    return "less than 100 %" if shown == "100.00%" and part < 1 else shown.replace("%", " %").replace(".00 ", " ")


def recovered(after_s: float, watched_s: float) -> str:
    """How long after its end trouble was over; what lasts as long as was watched was not over by then."""
    return f"not within {watched_s:.1f} s" if after_s >= watched_s else f"after {after_s:.1f} s"
