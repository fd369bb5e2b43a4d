"""Answers clients wanted, and when they got them. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from loadtest.gameday.clients.records import Step, Table

__all__ = ["Wants", "amplification", "recovery_s", "wants_of"]

_BIN_S: Final = 0.5
_RECOVERED_SHARE: Final = 0.95


class Wants(msgspec.Struct, frozen=True):
    """Two columns side by side, in the order of wanting."""

    wanted_s: Any
    answered_s: Any
    """NaN: not before the end."""

    @property
    def answered_share(self) -> float | None:
        return float((~np.isnan(self.answered_s)).mean()) if len(self.wanted_s) else None


def wants_of(rows: Table) -> Wants:
    """From the records of clients that want one answer each, numbered from 0 as they come."""
    wanted = rows[rows["kind"] == Step.WANTED]
    answered = rows[rows["kind"] == Step.ANSWERED]
    wanted_s = np.full(len(wanted), np.nan)
    answered_s = np.full(len(wanted), np.nan)
    wanted_s[wanted["device"]] = wanted["at_s"]
    answered_s[answered["device"]] = answered["at_s"]
    return Wants(wanted_s, answered_s)


def amplification(rows: Table, begin_s: float, end_s: float) -> float | None:
    """Requests per answer wanted in [begin_s, end_s), retries counted whenever they come; None: none was."""
    wanted = rows[(rows["kind"] == Step.WANTED) & (rows["at_s"] >= begin_s) & (rows["at_s"] < end_s)]["device"]
    asked = rows[rows["kind"] == Step.ASKED]["device"]
    return float(np.isin(asked, wanted).sum()) / len(wanted) if len(wanted) else None


def recovery_s(wants: Wants, over_s: float, until_s: float, *, timeout_s: float) -> float:
    """From `over_s` until of those wanted in each half second 95 % are answered in time, and go on to be.

    The whole time to `until_s` when they are not by then.
    """
    in_time = wants.answered_s - wants.wanted_s <= timeout_s  # what has no answer compares as false
    recovered_s = over_s
    for begins_s in np.arange(over_s, until_s, _BIN_S):
        ends_s = min(begins_s + _BIN_S, until_s)
        chosen = (wants.wanted_s >= begins_s) & (wants.wanted_s < ends_s)
        if chosen.any() and in_time[chosen].mean() < _RECOVERED_SHARE:
            recovered_s = float(ends_s)
    return recovered_s - over_s
