"""What `stagecue bench herd` is asked for, and what is promised of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from loadtest.bench.outcome import CouldNotRun

__all__ = ["MILLION", "HerdLimits", "HerdOptions"]

MILLION: Final = 1_000_000
_DEVICES_MAX: Final = 4_000_000


class HerdLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What is promised of a million devices, and of fewer in proportion, but for what takes its time anyway."""

    last_s: float = 12.0
    """From the due time until the last device has the stage."""
    connect_s: float = 150.0
    last_s_least: float = 1.0
    connect_s_least: float = 10.0
    profiles_least: int = 50_000
    """Distinct ones, or as many as there are devices."""

    def last_s_of(self, devices: int) -> float:
        return max(self.last_s_least, self.last_s * devices / MILLION)

    def connect_s_of(self, devices: int) -> float:
        return max(self.connect_s_least, self.connect_s * devices / MILLION)


class HerdOptions(msgspec.Struct, frozen=True, kw_only=True):
    sizes: tuple[int, ...] = (MILLION,)
    """Numbers of devices, one run after the other."""
    profiles: int = 50_000
    """Distinct profiles whose maps are prefetched; devices share them evenly."""
    churn_share: float = 0.05
    seed: int = 1
    ping_s: float | None = None
    """Between pings of a node; None: production's, or as many as take a twentieth of this machine."""
    keep: Path | None = None
    """Logs of all processes stay here."""
    report: Path = Path("reports/herd")
    """The report of the last size lies here, those of others below it."""
    own_network: bool | None = None
    """In a network namespace with a table of connections as large as the run (`loadtest/machine/own_network.py`); None:
    where the machine's table is smaller, and this process may."""
    set_kernel: bool = False
    """Set what the kernel must allow, and put it back."""

    def check(self) -> None:
        """Raises CouldNotRun naming the option and the rule."""
        if not self.sizes or not all(10 <= size <= _DEVICES_MAX for size in self.sizes):
            raise CouldNotRun(f"--devices, --sizes: 10 to {_DEVICES_MAX}")
        if not 0.0 < self.churn_share <= 0.5:
            raise CouldNotRun("--churn: above 0, at most 0.5")
        if self.profiles < 1:
            raise CouldNotRun("--profiles: at least 1")
        if self.ping_s is not None and self.ping_s <= 20:
            raise CouldNotRun("--ping: above 20 s, a node waits 10 s for the answer")
