"""Raw HDR histograms as files beside a report, and what a page draws of them."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any, Final

from hdrh.histogram import HdrHistogram

from loadtest.bench.histogram import LatencyHistogram
from loadtest.report.atomic import write_whole
from loadtest.report.record import HistogramFile
from loadtest.report.scales import NINES_MAX, nines

__all__ = ["HISTOGRAMS", "keep_histogram", "percentile_curve", "read_histogram"]

HISTOGRAMS: Final = "histograms"
_STEP_NINES: Final = 0.04
_US_PER_MS: Final = 1000.0


def keep_histogram(
    directory: Path, name: str, hdr: Any, unit: str = "ms", *, per_unit: float | None = None
) -> HistogramFile:
    """Write one histogram below `directory/histograms/` as HDR V2, base64, which `HdrHistogram.decode` reads.

    `hdr` is an HdrHistogram, one already encoded (str or bytes), a LatencyHistogram, or what its `encode` gives.
    `per_unit` says how many of the whole numbers recorded make one `unit`: 1000 for a LatencyHistogram and ms, which
    is assumed for those; else 1. The same name again replaces the file. Raises ValueError for what cannot be decoded,
    OSError.
    """
    if isinstance(hdr, LatencyHistogram):
        hdr = hdr.encode()
    if isinstance(hdr, dict):
        per_unit = _US_PER_MS if per_unit is None else per_unit
        hdr = hdr["hdr"]
    if isinstance(hdr, str | bytes):
        hdr = _decoded(hdr)
    scale = 1.0 if per_unit is None else per_unit
    path = f"{HISTOGRAMS}/{_file_name(name)}"
    (directory / HISTOGRAMS).mkdir(parents=True, exist_ok=True)
    write_whole(directory / path, bytes(hdr.encode()))
    curve = percentile_curve(hdr, scale)
    p50, p90, p99, p999 = (float(hdr.get_value_at_percentile(percent)) / scale for percent in (50, 90, 99, 99.9))
    highest = curve[-1][1] if curve else 0.0
    return HistogramFile(
        name=name, path=path, unit=unit, count=int(hdr.get_total_count()), p50=min(p50, highest), p90=min(p90, highest),
        p99=min(p99, highest), p999=min(p999, highest), max=highest, per_unit=scale, curve=curve,
    )  # fmt: skip


def read_histogram(path: Path) -> Any:
    """The HdrHistogram of such a file. Raises ValueError, OSError."""
    return _decoded(path.read_bytes())


def percentile_curve(hdr: Any, per_unit: float = 1.0) -> list[tuple[float, float]]:
    """(percentile, value in units) at even distances of nines, both rising, the last (100, max); empty for none."""
    total = int(hdr.get_total_count())
    if not total:
        return []
    found: list[tuple[float, float]] = []
    seen, drawn = 0, -1.0
    highest = float(hdr.get_max_value()) / per_unit
    for item in hdr.get_recorded_iterator():
        percent = 100.0 * seen / total
        value = min(float(item.value_iterated_to) / per_unit, highest)
        # From this share of all values on, they are this large: the left end of its step.
        if nines(percent, end=NINES_MAX) >= drawn + _STEP_NINES:
            found.append((percent, value))
            drawn = nines(percent, end=NINES_MAX)
        seen += int(item.count_at_value_iterated_to)
    return [*found, (100.0, highest)]


def _decoded(encoded: str | bytes) -> Any:
    raw = encoded.encode() if isinstance(encoded, str) else encoded
    try:
        return HdrHistogram.decode(raw.strip())
    except Exception as exc:  # the library raises whatever its parts raise
        raise ValueError(f"not an HDR histogram (V2, base64): {exc}") from exc


def _file_name(name: str) -> str:
    """A name that is one on every file system; names that look alike there stay apart."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "histogram"
    return f"{plain}.hdr" if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}.hdr"
