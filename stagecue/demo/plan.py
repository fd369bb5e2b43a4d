"""The script of the night: what happens when, in seconds from the moment every device is connected. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["NIGHT", "STAGES", "NightPlan", "stage_template_toml"]


@dataclass(frozen=True, kw_only=True)
class NightPlan:
    """A real evening of some hours in under half a minute; stage offsets keep their order, not their proportion."""

    starts_s: float = 9.0
    """Where the calendar puts the start."""
    slips_at_s: float = 7.4
    """When the operator moves it: "starting soon" is on the screens and stays true."""
    slip_s: int = 2
    offline_at_s: float = 10.0
    offline_for_s: float = 4.0
    """Over the moment it goes live."""
    offline_share: float = 0.2
    killed_at_s: float = 17.5
    """Between live and ended."""
    length_s: int = 12
    over_after_end_s: float = 2.5
    reconnect_window_ms: int = 2_000

    @property
    def live_s(self) -> float:
        return self.starts_s + self.slip_s

    @property
    def ended_s(self) -> float:
        return self.live_s + self.length_s

    def __post_init__(self) -> None:
        soon = self.starts_s - _OFFSETS_S["starting_soon"]
        assert soon + self.slip_s < self.slips_at_s < self.live_s, "the slip would rewind what is on the screens"
        assert self.offline_at_s < self.live_s < self.offline_at_s + self.offline_for_s
        back_s = self.offline_at_s + self.offline_for_s + self.reconnect_window_ms / 1000
        assert back_s < self.killed_at_s < self.ended_s - 4, "the kill must stand between two stages"


_OFFSETS_S: Final = {"upcoming": 7, "starting_soon": 4, "live": 0}
_HEADLINES: Final = {
    "upcoming": "Tonight: {title}",
    "starting_soon": "Starting soon: {title}",
    "live": "Live now: {title}",
    "ended": "{title} has ended",
}
STAGES: Final = tuple(_HEADLINES)
"""State keys of the night, in order."""
NIGHT: Final = NightPlan()


def stage_template_toml() -> str:
    """The compressed stage template, in the form a user's own takes."""
    tables = []
    for key, headline in _HEADLINES.items():
        anchor = "start" if key in _OFFSETS_S else "end"
        offset = _OFFSETS_S.get(key, 0)
        tables.append(
            f'[[stages]]\nkey = "{key}"\nanchor = "{anchor}"\noffset = "{"-" if offset else ""}PT{offset}S"\n'
            f'headline = "{headline}"\n'
        )
    return "\n".join(tables)
