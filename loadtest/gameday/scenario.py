"""A scenario: a question, what to run to answer it, and the bars that decide. Read from TOML. Pure.

name = "reconnect-storm"
title = "Reconnect storm"
question = "Does the announced window flatten it?"
kind = "reconnect-storm"

[parameters]
devices = 8000

[[bars]]
name = "attempts_ratio"
op = ">="
value = 5
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from loadtest.gameday.bars import BarSpec
from loadtest.gameday.kinds import KINDS, Kind
from loadtest.gameday.parameters import Parameters
from loadtest.nearest import meant

__all__ = ["Scenario", "ScenarioError", "read_scenario"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_TABLE: Final = re.compile(r"\s*\[{1,2}\s*([A-Za-z0-9_.\-\"]+)\s*\]{1,2}")
_AT: Final = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


class ScenarioError(Exception):
    """What a file's author can mend: `file:line: field: rule`."""

    def __init__(self, file: str, field: str, rule: str, *, line: int | None = None) -> None:
        super().__init__(f"{file}{f':{line}' if line else ''}: {field}: {rule}" if field else f"{file}: {rule}")
        self.file = file
        self.field = field
        self.line = line


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    title: str
    question: str
    kind: str
    """Which run answers it, a name of `KINDS`."""
    parameters: Parameters
    """Of the kind's own type."""
    bars: Sequence[BarSpec]
    file: str = ""

    @property
    def runs(self) -> Kind:
        return KINDS[self.kind]

    @property
    def devices(self) -> int | None:
        """That connect to one node at once; None: none do."""
        found = getattr(self.parameters, "devices", None)
        return found if isinstance(found, int) else None

    def with_devices(self, devices: int) -> Scenario:
        """The same with so many. Raises ScenarioError for a number the kind does not take, or if it has no devices."""
        if self.devices is None:
            raise ScenarioError(self.file or self.name, "--devices", "no devices connect in a run of this kind")
        given = {**msgspec.to_builtins(self.parameters), "devices": devices}
        if "scale" in given:
            given["scale"] = None  # asked for by number, they are not asked for in proportion
        parameters = _converted(given, type(self.parameters), self.file or self.name, "--devices", "")
        return msgspec.structs.replace(self, parameters=parameters)


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    title: str
    question: str
    kind: str
    parameters: dict[str, Any] = {}
    bars: list[dict[str, Any]] = []


def read_scenario(text: str, file: str) -> Scenario:
    """The scenario in `text`; `file` is what errors call it. Raises ScenarioError."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ScenarioError(file, "", f"not TOML: {exc}") from None
    _only_known(found, [field.name for field in msgspec.structs.fields(_Written)], file, text, "")
    written: _Written = _converted(found, _Written, file, "", text)
    if not _NAME.fullmatch(written.name):
        raise ScenarioError(file, "name", "a-z, 0-9 and -, at most 64", line=_line_of(text, "", "name"))
    kind = KINDS.get(written.kind)
    if kind is None:
        rule = f"no such kind of run: {written.kind!r}{meant(written.kind, KINDS)}"
        raise ScenarioError(file, "kind", rule, line=_line_of(text, "", "kind"))
    known = [field.name for field in msgspec.structs.fields(kind.parameters)]
    _only_known(written.parameters, known, file, text, "parameters")
    parameters = _converted(written.parameters, kind.parameters, file, "parameters", text)
    return Scenario(
        name=written.name,
        title=written.title,
        question=written.question,
        kind=written.kind,
        parameters=parameters,
        bars=_bars(written.bars, kind, file, text),
        file=file,
    )


def _bars(written: Sequence[Mapping[str, Any]], kind: Kind, file: str, text: str) -> list[BarSpec]:
    if not written:
        raise ScenarioError(file, "bars", "a scenario has at least one: without, no run can fail")
    found: list[BarSpec] = []
    known = [field.name for field in msgspec.structs.fields(BarSpec)]
    for number, each in enumerate(written):
        _only_known(each, known, file, text, "bars", number)
        spec: BarSpec = _converted(each, BarSpec, file, f"bars[{number}]", text, number)
        if spec.name not in kind.measures:
            rule = f"{spec.name!r} is nothing a run of this kind measures{meant(spec.name, kind.measures)}"
            raise ScenarioError(file, f"bars[{number}].name", rule, line=_line_of(text, "bars", "name", number))
        found.append(spec)
    return found


def _only_known(
    given: Mapping[str, Any], known: Sequence[str], file: str, text: str, table: str, number: int | None = None
) -> None:
    where = table if number is None else f"{table}[{number}]"
    for field in given:
        if field not in known:
            line = _line_of(text, table, field, number or 0)
            raise ScenarioError(
                file, f"{where}.{field}" if where else field, f"no such field{meant(field, known)}", line=line
            )


def _converted(given: Any, kind: type[Any], file: str, where: str, text: str, number: int = 0) -> Any:
    """`given` as `kind`; msgspec's complaint as ours."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as exc:
        said = str(exc)
        at = _AT.search(said)
        path = at["path"] if at else ""
        table = where.partition("[")[0]
        missing = re.search(r"missing required field `(\w+)`", said)
        name = missing[1] if missing else path.split(".")[-1].split("[")[0]
        field = (
            where
            if where.startswith("--")
            else ".".join(part for part in (where, missing[1] if missing else path) if part)
        )
        rule = "is missing" if missing else _AT.sub("", said)
        raise ScenarioError(file, field, rule, line=_line_of(text, table, name, number)) from None


def _line_of(text: str, table: str, field: str, number: int = 0) -> int | None:
    """Where `field` of the `number`th `table` is written, from 1; None where it is not found on a line of its own."""
    current, seen = "", -1
    key = re.compile(rf"\s*\"?{re.escape(field)}\"?\s*=") if field else None
    for index, line in enumerate(text.splitlines(), start=1):
        header = _TABLE.match(line)
        if header is not None:
            current = header[1].strip('"')
            seen += current == table
            if not table and current == field:
                return index
            continue
        if key is not None and current == table and (not table or seen == number) and key.match(line):
            return index
    return None
