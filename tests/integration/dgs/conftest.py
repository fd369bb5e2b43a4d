"""Fixtures over `dgs_world`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from dgs_world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.client(world.build()) as world.http:
        yield world


@pytest.fixture
async def bare_world() -> World:
    """No application yet: the test builds its own."""
    return World()
