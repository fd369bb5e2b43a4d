"""Say what the loader makes of a catalog: `python -m dgs.check_catalog FILE|URL [--strict] [--ids | --json]`.

Exit code 0: usable; 1: usable, but rows were left out; 2: refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from contract.errors import InvalidRequest
from dgs.settings import DgsSettings
from dgs.sources.catalog import Catalog, CatalogOptions, demo_options, load_catalog
from dgs.sources.sql import SqlCatalog

__all__ = ["main"]

_SHOWN: Final = 20
"""Rows listed for a person; --json lists all."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the file as the service would, report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dgs.check_catalog", description="Check a catalog.")
    parser.add_argument("file", help="CSV, or JSON if it is named .json; or an SQLAlchemy URL")
    parser.add_argument("--query", help="what to ask the database of a URL; unset: SELECT * FROM titles")
    parser.add_argument("--strict", action="store_true", help="refuse it at its first bad row")
    parser.add_argument("--newest-year", type=int, help="later years are read as 100 years earlier")
    parser.add_argument("--repair", choices=("none", "mac-roman"), help="undo a wrong decoding of the file")
    parser.add_argument("--ids", action="store_true", help="print every title's id and name instead of the report")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    given = parser.parse_args(arguments)
    is_url = "://" in given.file
    base = CatalogOptions() if is_url else demo_options(Path(given.file))
    repair: Literal["none", "mac-roman"] = given.repair or base.repair
    options = CatalogOptions(newest_year=given.newest_year or base.newest_year, repair=repair)
    try:
        if is_url:
            query = given.query or DgsSettings.model_fields["catalog_query"].default
            catalog = SqlCatalog(given.file, query, strict=given.strict, options=options).load()
        else:
            catalog = load_catalog(Path(given.file), strict=given.strict, options=options)
    except InvalidRequest as refused:
        _write({"titles": 0, "refused": refused.message} if given.json else f"refused: {refused.message}")
        return 2
    if given.ids:
        _write("\n".join(f"{title.id}\t{title.name}" for title in catalog.titles))
    else:
        _write(_facts(catalog) if given.json else _report(catalog))
    return 1 if catalog.rejected else 0


def _facts(catalog: Catalog) -> dict[str, object]:
    return {"titles": len(catalog.titles), "rejected": catalog.rejected, "corrected": catalog.corrected}


def _report(catalog: Catalog) -> str:
    lines = [f"{len(catalog.titles)} titles"]
    for word, rows in (("left out", catalog.rejected), ("put right", catalog.corrected)):
        lines.append(f"{len(rows)} {word}")
        lines.extend(f"  {row}" for row in rows[:_SHOWN])
        if len(rows) > _SHOWN:
            lines.append(f"  ... and {len(rows) - _SHOWN} more; --json lists all")
    return "\n".join(lines)


def _write(answer: object) -> None:
    text = answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
