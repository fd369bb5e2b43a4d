"""Reports on disk: the page, the record as JSON, raw histograms; written whole, and read back."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Final

import msgspec

from loadtest.report.atomic import write_whole
from loadtest.report.comparison import draw_comparison
from loadtest.report.downsampling import finite
from loadtest.report.histograms import keep_histogram
from loadtest.report.page import RECORD_ELEMENT, draw_report
from loadtest.report.record import Bar, Chart, RunRecord

__all__ = [
    "FORMAT",
    "PAGE",
    "RECORD",
    "UnreadableReport",
    "keep_histogram",
    "read_record",
    "write_comparison",
    "write_report",
]

FORMAT: Final = 1
"""Of run.json. A field that older readers may pass over does not change it."""
PAGE: Final = "report.html"
RECORD: Final = "run.json"
_BYTES_MAX: Final = 256 * 1024 * 1024


class UnreadableReport(Exception):
    """What is there is no report, or one this version does not understand."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def write_report(record: RunRecord, directory: Path) -> Path:
    """Write `report.html` and `run.json` into `directory`, each whole or not at all; returns the page's path.

    Numbers that are none (infinite, undefined) are left out: a bar measured so counts as not measured. Raises OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    record = _tidied(record)
    encoded = _encoded(record)
    write_whole(directory / RECORD, encoded + b"\n")
    write_whole(directory / PAGE, draw_report(record, encoded.decode()).encode())
    return directory / PAGE


def write_comparison(a: RunRecord, b: RunRecord, path: Path) -> Path:
    """Write a page with both runs side by side; returns `path`. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    a, b = _tidied(a), _tidied(b)
    page = draw_comparison(a, b, (_encoded(a).decode(), _encoded(b).decode()))
    write_whole(path, page.encode())
    return path


def read_record(path: Path) -> RunRecord:
    """The record of a report: of its directory, its `run.json` or its `report.html`. Raises UnreadableReport."""
    where = path
    if path.is_dir():
        where = next((path / name for name in (RECORD, PAGE) if (path / name).is_file()), path / RECORD)
    try:
        if where.stat().st_size > _BYTES_MAX:
            raise UnreadableReport(where, "too large for a report")
        content = where.read_bytes()
    except FileNotFoundError:
        why = f"no report here: neither {RECORD} nor {PAGE}" if path.is_dir() else "no such file or directory"
        raise UnreadableReport(path, why) from None
    except OSError as exc:
        raise UnreadableReport(where, f"cannot be read: {exc.strerror}") from exc
    return _decoded(_record_of_page(where, content) if content.lstrip()[:1] == b"<" else content, where)


def _record_of_page(path: Path, content: bytes) -> bytes:
    found = re.findall(RECORD_ELEMENT.encode() + rb"\s*(\{.*?)\s*</script>", content, re.DOTALL)
    if len(found) != 1:
        why = "a page, but not the report of one run"
        raise UnreadableReport(path, why)
    return bytes(found[0])


def _encoded(record: RunRecord) -> bytes:
    """With the format's number first."""
    fields: dict[str, Any] = {"format": FORMAT}
    fields.update((name, getattr(record, name)) for name in record.__struct_fields__)
    return msgspec.json.encode(fields, enc_hook=str)


class _Head(msgspec.Struct):
    format: int


def _decoded(content: bytes, path: Path) -> RunRecord:
    try:
        number = msgspec.json.decode(content, type=_Head).format
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise UnreadableReport(path, f"not a report: {exc}") from exc
    if number > FORMAT:
        raise UnreadableReport(path, f"written by a newer version: format {number}, this one reads up to {FORMAT}")
    try:
        return msgspec.json.decode(content, type=RunRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise UnreadableReport(path, f"a report with a part that cannot be read: {exc}") from exc


def _tidied(record: RunRecord) -> RunRecord:
    """Without numbers JSON has no word for, and with curves rising in time."""
    return msgspec.structs.replace(
        record,
        bars=[_tidy_bar(bar) for bar in record.bars],
        charts=[_tidy_chart(chart) for chart in record.charts],
        marks=sorted((mark for mark in record.marks if math.isfinite(mark.at_s)), key=lambda mark: mark.at_s),
    )


def _tidy_bar(bar: Bar) -> Bar:
    if bar.measured is None or math.isfinite(bar.measured):
        return bar
    return msgspec.structs.replace(bar, measured=None, held=False)


def _tidy_chart(chart: Chart) -> Chart:
    kept = (
        msgspec.structs.replace(each, points=sorted(finite(each.points), key=lambda point: point[0]))
        for each in chart.series
    )
    return msgspec.structs.replace(chart, series=list(kept))
