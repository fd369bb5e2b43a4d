"""Fixtures of the push node's integration tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from push_world import World

from tests.support.event_source import EventStreamClient


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made = World(**getattr(request, "param", {}))
    await made.start()
    made.router()
    yield made
    await made.end()


@pytest.fixture
async def client(world: World) -> AsyncIterator[EventStreamClient]:
    """Reads one stream of server-sent events after the other."""
    made = EventStreamClient(world.port)
    yield made
    await made.close()
