"""What is expected of a night at its high watermark, and what a machine makes of it in proportion. Pure.

A projection is TOML or CSV with the same names:

    title = "Title fight, Saturday"          title,"Title fight, Saturday"
    devices = 60_000_000                     devices,60000000
    joins_per_s = 400_000                    joins_per_s,400000
    [requests_per_s]                         requests_per_s.critical,1500000
    critical = 1_500_000                     requests_per_s.best_effort,4000000
    best_effort = 4_000_000
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Sequence
from typing import Any

import msgspec

from loadtest.gameday.scenario import ScenarioError
from loadtest.nearest import meant

__all__ = ["ByClass", "Projection", "read_projection"]


class ByClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests a second at the DGS."""

    critical: float = 0.0
    """First prefetches within the event's window."""
    degraded: float = 0.0
    """Home rows and pages of events, from browsing devices."""
    best_effort: float = 0.0
    """Refreshes of maps devices hold."""


class Projection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    title: str = ""
    devices: float
    """Connected at the high watermark."""
    joins_per_s: float = 0.0
    """Devices that still come, while the stage goes live."""
    requests_per_s: ByClass = ByClass()

    def scaled(self, factor: float) -> Projection:
        """The same night for `factor` times as many people."""
        rates = self.requests_per_s
        return Projection(
            title=self.title,
            devices=self.devices * factor,
            joins_per_s=self.joins_per_s * factor,
            requests_per_s=ByClass(
                critical=rates.critical * factor,
                degraded=rates.degraded * factor,
                best_effort=rates.best_effort * factor,
            ),
        )


def read_projection(text: str, file: str) -> Projection:
    """From TOML, or CSV when `file` ends so. Raises ScenarioError naming file and field."""
    found = _from_csv(text, file) if file.lower().endswith(".csv") else _from_toml(text, file)
    for given, kind, prefix in ((found, Projection, ""), (found.get("requests_per_s"), ByClass, "requests_per_s.")):
        known = [field.name for field in msgspec.structs.fields(kind)]
        if isinstance(given, dict):
            _only_known(given, known, prefix, file)
    try:
        projection = msgspec.convert(found, Projection, strict=False)
    except msgspec.ValidationError as exc:
        raise ScenarioError(file, "", f"not a projection: {exc}") from None
    _check(projection, file)
    return projection


def _check(projection: Projection, file: str) -> None:
    if not 1 <= projection.devices < float("inf"):
        raise ScenarioError(file, "devices", "a number from 1 on")
    rates = msgspec.structs.asdict(projection.requests_per_s)
    for name, value in {"joins_per_s": projection.joins_per_s, **rates}.items():
        if not 0 <= value < float("inf"):
            raise ScenarioError(file, name, "a number from 0 on")


def _only_known(given: dict[str, Any], known: Sequence[str], prefix: str, file: str) -> None:
    for field in given:
        if field not in known:
            raise ScenarioError(file, prefix + field, f"no such field{meant(field, known)}")


def _from_toml(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ScenarioError(file, "", f"not TOML: {exc}") from None


def _from_csv(text: str, file: str) -> dict[str, Any]:
    """One `name,value` a line; a dot in the name is a table."""
    found: dict[str, Any] = {}
    try:
        rows = list(csv.reader(text.splitlines()))
    except csv.Error as exc:
        raise ScenarioError(file, "", f"not CSV: {exc}") from None
    for number, row in enumerate(rows, start=1):
        if not row or row[0].strip().startswith("#") or row == ["name", "value"]:
            continue
        if len(row) != 2:
            raise ScenarioError(file, row[0], "a name and a value", line=number)
        table, dot, field = row[0].strip().rpartition(".")
        into = found.setdefault(table, {}) if dot else found
        if not isinstance(into, dict) or isinstance(into.get(field), dict):
            raise ScenarioError(file, row[0], "stands for one number and for several", line=number)
        into[field] = row[1].strip()
    return found
