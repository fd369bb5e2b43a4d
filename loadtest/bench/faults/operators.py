"""Operators during a fault: they use whichever producer answers, and say again what was not confirmed."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aiohttp

from loadtest.bench.faults.plan import FaultPlan, cue_keys
from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.cluster import LocalCluster

__all__ = ["Operators"]

_AT_ONCE: Final = 4
_CALL_WITHIN_S: Final = 3.0
_GIVE_UP_S: Final = 30.0
_PAUSE_S: Final = 0.3


class Operators:
    """Every write carries an idempotency key, so that saying it again to another producer does it once."""

    def __init__(self, session: aiohttp.ClientSession, cluster: LocalCluster) -> None:
        self._session = session
        self._cluster = cluster
        self._turn = itertools.count()

    async def create(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Store them, in this order. Raises CouldNotRun."""
        await self._all([("/v1/events", event, f"create-{event['id']}") for event in events])

    async def cancel(self, plan: FaultPlan) -> None:
        """Call everything off: the last broadcast of every topic that had one."""
        events = [event["id"] for event in plan.events()]
        await self._all([(f"/v1/events/{event_id}/cancel", {}, f"cancel-{event_id}") for event_id in events])

    @asynccontextmanager
    async def cueing(self, plan: FaultPlan, *, every_s: float) -> AsyncIterator[None]:
        """Meanwhile, cue a channel's manual stage every so often."""
        task = asyncio.create_task(self._cue(plan, every_s), name="operators.cue")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _cue(self, plan: FaultPlan, every_s: float) -> None:
        used: dict[str, int] = {}
        for number in itertools.count():
            await asyncio.sleep(every_s)
            event_id = plan.current_event(number % plan.channels, int(time.time() * 1000))
            keys = cue_keys()
            index = used.get(event_id, 0)
            if index < len(keys):
                used[event_id] = index + 1
                body = {"stage": keys[index], "override_coverage": True}
                await self._say(f"/v1/events/{event_id}/cue", body, f"cue-{event_id}-{index}")

    async def _all(self, calls: Sequence[tuple[str, Mapping[str, Any], str]]) -> None:
        waiting = iter(calls)

        async def worker() -> None:
            for path, body, key in waiting:
                await self._say(path, body, key)

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(_AT_ONCE):
                    group.create_task(worker(), name=f"operators.{number}")
        except* CouldNotRun as failed:
            raise failed.exceptions[0] from None

    async def _say(self, path: str, body: Mapping[str, Any], key: str) -> None:
        """Until a producer confirms it. Raises CouldNotRun when one refuses it, or none answers for half a minute."""
        deadline = time.monotonic() + _GIVE_UP_S
        urls = self._cluster.producer_urls
        headers = {"Authorization": f"Bearer {self._cluster.operator_token}", "Idempotency-Key": key}
        headers["Content-Type"] = "application/json"
        why = "nobody was asked"
        while time.monotonic() < deadline:
            url = urls[next(self._turn) % len(urls)]
            try:
                async with (
                    asyncio.timeout(_CALL_WITHIN_S),
                    self._session.post(url + path, data=json.dumps(body).encode(), headers=headers) as answer,
                ):
                    received = await answer.read()
            except (aiohttp.ClientError, OSError, TimeoutError) as exc:
                why = repr(exc)
            else:
                if answer.status < 300:
                    return
                why = f"{answer.status}: {received[:300]!r}"
                if answer.status < 500 and answer.status not in (408, 409, 429):
                    break
            await asyncio.sleep(_PAUSE_S)
        raise CouldNotRun(f"POST {path}: {why}")
