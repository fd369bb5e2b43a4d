"""The demo catalog, loaded once."""

from __future__ import annotations

import pytest

from dgs.sources.catalog import DEMO_CATALOG, Catalog, load_catalog


@pytest.fixture(scope="session")
def demo_catalog() -> Catalog:
    return load_catalog(DEMO_CATALOG)
