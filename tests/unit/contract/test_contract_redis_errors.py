"""Goal: whatever way a connection to Redis ends, callers see the store's trouble and nothing that ends a service."""

from __future__ import annotations

from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from contract.errors import StoreUnavailable
from contract.kv.redis import RedisReplayLog


class BrokenClient:
    def __init__(self, error: Exception) -> None:
        self._error = error

    async def evalsha(self, *arguments: object) -> Any:
        raise self._error

    eval = get = zrange = evalsha


LOST = "unable to perform operation on <TCPTransport closed=True reading=False 0x55a6>; the handler is closed"


@pytest.mark.parametrize("error", [RuntimeError(LOST), RedisConnectionError("reset"), OSError("gone"), TimeoutError()])
async def test_a_lost_connection_is_the_stores_trouble(error: Exception) -> None:
    log = RedisReplayLog(cast("Any", BrokenClient(error)))
    with pytest.raises(StoreUnavailable):
        await log.read("event:e")


async def test_a_mistake_of_ours_is_not_taken_for_it() -> None:
    log = RedisReplayLog(cast("Any", BrokenClient(RuntimeError("no running event loop"))))
    with pytest.raises(RuntimeError, match="no running"):
        await log.read("event:e")
