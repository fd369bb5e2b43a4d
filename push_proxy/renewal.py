"""When tokens are renewed in-band and when their connections are closed after all, pure: nobody asks the DGS for one.

Times are seconds or milliseconds of one clock, the caller's; draws are uniform over [0, 1).
"""

from __future__ import annotations

from typing import Final

from push_proxy.due_times import StageGuards

__all__ = ["close_at_ms", "draw_life_s", "draw_renew_lead_s"]

LAST_LEAD: Final = 0.2
"""Share of the renewal window kept free at its end, so that a renewal that fails has time for another."""
LIFE_SPREAD: Final = 0.1


def draw_renew_lead_s(draw: float, *, before_s: float) -> float:
    """How long before its end this connection's token is renewed: within the window, not in its last fifth; 0: never.

    Tokens that were issued with one expiry (for one event) are thereby renewed over most of the window.
    """
    assert 0.0 <= draw < 1.0, "draws lie in [0, 1)"
    return before_s * (1.0 - draw * (1.0 - LAST_LEAD))


def draw_life_s(draw: float, *, life_s: float, left_s: float) -> float:
    """The life of a renewed token: `life_s`, give or take a tenth, and never less than what the old one has left."""
    assert 0.0 <= draw < 1.0, "draws lie in [0, 1)"
    return max(life_s * (1.0 - LIFE_SPREAD + 2 * LIFE_SPREAD * draw), left_s)


def close_at_ms(expires_at_ms: int, late_ms: int, guards: StageGuards, *, defer_max_ms: int) -> int:
    """When a connection whose token was not renewed is closed: spread, and clear of due stages.

    Each guard pushes it behind the stage by the connection's own `late_ms` again, so that those who waited do not
    leave together; `defer_max_ms` after the token's end it is closed all the same. The same arguments give the same
    moment: nothing has to be kept per connection but `late_ms`.
    """
    latest_ms = expires_at_ms + max(late_ms, defer_max_ms - late_ms)
    at_ms = expires_at_ms + late_ms
    while at_ms < latest_ms:
        clear_ms = guards.clear_from(at_ms)
        if clear_ms == at_ms:
            return at_ms
        at_ms = clear_ms + late_ms
    return latest_ms
