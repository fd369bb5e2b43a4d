"""When a refused device may return. Pure.

Every device hears a moment of its own, so that what was refused together does not return together; and one that
leaves time to be served before the next stage, since nobody may ask for a map at that moment (R19).
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["LEAST_MS", "LONGEST_STRETCH", "STAGE_MARGIN_MS", "Return", "retry_budget", "return_after", "stretched_ms"]

STAGE_MARGIN_MS: Final = 2_000
"""Before a stage. A second of it is for `Retry-After`, told in whole seconds, rounded up."""
LEAST_MS: Final = 1_000
"""No window to return in is shorter: one that is spreads nothing."""
LONGEST_STRETCH: Final = 8.0
_BUDGET: Final = 0.1


class Return(NamedTuple):
    after_ms: int
    in_time: bool
    """Before the next stage; False: there is no such moment, and `after_ms` ignores the stage."""


def return_after(mean_ms: float, until_stage_ms: float | None, draw: float) -> Return:
    """Uniform over [mean/2, 3/2 mean], cut off `STAGE_MARGIN_MS` before the stage.

    Where less than that interval is left the window is what there is: from its half, or from `LEAST_MS` before its end
    if that is earlier, so that it never gets narrower than `LEAST_MS`. `draw` is uniform over [0, 1).
    """
    first, last = mean_ms / 2, mean_ms * 3 / 2
    if until_stage_ms is None or last <= until_stage_ms - STAGE_MARGIN_MS:
        return Return(int(first + draw * (last - first)), True)
    end = until_stage_ms - STAGE_MARGIN_MS
    if end < LEAST_MS:
        return Return(int(first + draw * (last - first)), False)
    first = max(0.0, min(first, end / 2, end - LEAST_MS))
    return Return(int(first + draw * (end - first)), True)


def stretched_ms(mean_ms: float, admitted_share: float) -> float:
    """A mean that keeps what returns constant: if one in six is served, devices return six times as late.

    Bounded by `LONGEST_STRETCH`: a device that waits for minutes has given up.
    """
    return mean_ms * min(LONGEST_STRETCH, 1 / max(admitted_share, 1 / LONGEST_STRETCH))


def retry_budget(admitted_share: float) -> float:
    """Share of a client's requests that may be retries: a tenth when all goes well, less as more is refused.

    The tenth is the per-client budget of "Handling Overload" (Site Reliability Engineering, chapter 21).
    """
    return round(_BUDGET * min(1.0, max(0.0, admitted_share)), 3)
