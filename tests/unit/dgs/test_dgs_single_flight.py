"""One call for all who want the same: joined, survived by its first caller, given up with its last."""

from __future__ import annotations

import asyncio

import pytest

from contract.errors import StoreUnavailable
from dgs.caches.single_flight import SingleFlight


class Source:
    """Answers when told to, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def call(self) -> int:
        self.calls += 1
        number = self.calls
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return number


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_all_share_one_call() -> None:
    """Ten ask for one key and one for another: two calls, and the next one after the answer is a new one."""
    source, flights = Source(), SingleFlight[str, int]()
    callers = [asyncio.create_task(flights.run("a", source.call)) for _ in range(10)]
    other = asyncio.create_task(flights.run("b", source.call))
    await turns()
    assert (source.calls, len(flights), flights.joined) == (2, 2, 9)
    source.gate.set()
    assert [await caller for caller in callers] == [1] * 10
    assert await other == 2
    assert len(flights) == 0
    assert await flights.run("a", source.call) == 3


async def test_a_cancelled_first_caller_takes_nobody_down() -> None:
    """It is cancelled at once; those who joined get their answer of the same call."""
    source, flights = Source(), SingleFlight[str, int]()
    first = asyncio.create_task(flights.run("a", source.call))
    await turns()
    others = [asyncio.create_task(flights.run("a", source.call)) for _ in range(3)]
    await turns()
    first.cancel()
    await turns()
    assert first.cancelled()
    source.gate.set()
    assert [await other for other in others] == [1, 1, 1]
    assert source.cancelled == 0


async def test_the_call_is_given_up_with_its_last_caller() -> None:
    """Nobody waits any more: it is cancelled, and who comes in that very turn begins a new one."""
    source, flights = Source(), SingleFlight[str, int]()
    callers = [asyncio.create_task(flights.run("a", source.call)) for _ in range(2)]
    await turns()
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    late = asyncio.create_task(flights.run("a", source.call))
    await turns()
    assert (source.calls, source.cancelled) == (2, 1)
    source.gate.set()
    assert await late == 2


async def test_a_call_that_just_landed_is_not_joined() -> None:
    """Its answer may be older than the asking, although nobody was told of it yet."""
    source, flights = Source(), SingleFlight[str, int]()
    source.gate.set()
    first = asyncio.create_task(flights.run("a", source.call))
    await turns(2)  # the call is made and done, and its caller not told yet
    assert source.calls == 1
    assert not flights.under_way("a")
    assert await flights.run("a", source.call) == 2
    assert await first == 1


async def test_all_see_the_error_and_the_next_call_is_new() -> None:
    source, flights = Source(), SingleFlight[str, int]()
    source.error = StoreUnavailable("gone")
    callers = [asyncio.create_task(flights.run("a", source.call)) for _ in range(3)]
    await turns()
    source.gate.set()
    for caller in callers:
        with pytest.raises(StoreUnavailable, match="gone"):
            await caller
    source.error = None
    assert await flights.run("a", source.call) == 2


async def test_an_error_after_everybody_left_is_nobodys() -> None:
    """A call that fails while it is being given up raises into nothing: no warning of an exception never retrieved."""
    flights = SingleFlight[str, int]()
    begun = asyncio.Event()

    async def stubborn() -> int:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise StoreUnavailable("on the way out") from None
        return 0

    caller = asyncio.create_task(flights.run("a", stubborn))
    await begun.wait()
    caller.cancel()
    await turns(5)
    assert caller.cancelled()
    assert len(flights) == 0
