"""Catalog source `file`: CSV or JSON on disk."""

from __future__ import annotations

from pathlib import Path

from contract.errors import InvalidRequest
from dgs.sources.catalog import Catalog, CatalogOptions, load_catalog

__all__ = ["FileCatalog"]


class FileCatalog:
    """CatalogSource over one file."""

    def __init__(self, path: Path, *, strict: bool = False, options: CatalogOptions | None = None) -> None:
        self._path = path
        self._strict = strict
        self._options = options

    def load(self) -> Catalog:
        """See `load_catalog`."""
        return load_catalog(self._path, strict=self._strict, options=self._options)

    def stamp(self) -> str:
        """When the file was written, its size, and which file it is: one moved into its place is another."""
        try:
            found = self._path.stat()
        except OSError as exc:
            raise InvalidRequest(f"{self._path}: cannot be read: {exc.strerror}", field="catalog") from exc
        return f"{found.st_mtime_ns}-{found.st_size}-{found.st_ino}"
