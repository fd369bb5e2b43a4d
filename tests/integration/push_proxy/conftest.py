"""Fixtures of the push node's integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from push_world import World


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made = World(**getattr(request, "param", {}))
    await made.start()
    made.router()
    yield made
    await made.end()
