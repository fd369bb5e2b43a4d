"""Goal: whatever way a connection to Redis ends, callers see the store's trouble and nothing that ends a service."""

from __future__ import annotations

import asyncio
import contextlib
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


class ForgetfulClient:
    """Answers in the very turn in which it is cancelled, and forgets that it was: what `wait_for` does in 3.11."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def evalsha(self, *arguments: object) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.mark.parametrize("answer", [[b"0"], RedisConnectionError("reset")])
async def test_a_cancellation_the_library_forgets_is_raised_after_all(answer: Any) -> None:
    """A service told to stop, in the middle of a call that just ended, must hear of it; so must a deadline."""
    log = RedisReplayLog(cast("Any", ForgetfulClient(answer)))
    reading = asyncio.create_task(log.read("event:e"))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await log.read("event:e")
