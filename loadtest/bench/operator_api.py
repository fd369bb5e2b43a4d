"""The producer's REST API and the DGS's request log, as benchmarks, the demo and its judge use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from contract.durations import format_duration
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.system import Addresses

__all__ = ["OperatorApi"]


class OperatorApi:
    """The producer's REST API for a benchmark: raises CouldNotRun for any answer that is not a success."""

    def __init__(self, session: aiohttp.ClientSession, addresses: Addresses) -> None:
        self._session = session
        self._base = addresses.producer
        self._dgs = addresses.dgs
        self._headers = {"Authorization": f"Bearer {addresses.operator_token}"}

    async def create_event(self, event: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call("POST", "/v1/events", _json(event))

    async def import_calendar(self, calendar: str) -> dict[str, Any]:
        """Take a calendar; returns the feed report."""
        return await self._call("POST", "/v1/feeds/import", calendar.encode(), kind="text/calendar")

    async def shift(self, event_id: str, seconds: int) -> dict[str, Any]:
        """Move start and end; `seconds` may be negative."""
        return await self._call("POST", f"/v1/events/{event_id}/shift", _json({"by": format_duration(seconds * 1000)}))

    async def event(self, event_id: str) -> dict[str, Any]:
        return await self._call("GET", f"/v1/events/{event_id}")

    async def reach(self, event_id: str) -> list[dict[str, Any]]:
        """Items of `GET /v1/events/{id}/reach`."""
        return _items(await self._call("GET", f"/v1/events/{event_id}/reach"))

    async def origin_requests(self, since_ms: int, until_ms: int) -> int:
        """Requests the DGS and its artwork got in [since, until), whoever sent them.

        Raises CouldNotRun when its memory does not reach back that far: a count of nothing proves nothing.
        """
        counts = await self._call("GET", f"/requests?since_ms={since_ms}&until_ms={until_ms}", base=self._dgs)
        if counts["complete_since_ms"] > since_ms:
            raise CouldNotRun(f"the DGS counts requests since {counts['complete_since_ms']} only, not {since_ms}")
        return int(counts["graphql"]) + int(counts["artwork"])

    async def broadcasts(self, event_id: str) -> list[dict[str, Any]]:
        """Items of `GET /v1/events/{id}/broadcasts`."""
        return _items(await self._call("GET", f"/v1/events/{event_id}/broadcasts"))

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        kind: str = "application/json",
        base: str | None = None,
    ) -> dict[str, Any]:
        headers = {**self._headers, "Content-Type": kind}
        try:
            url = (base or self._base) + path
            async with self._session.request(method, url, data=body, headers=headers) as answer:
                received = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise CouldNotRun(f"{method} {path}: {exc!r}") from exc
        if answer.status >= 300:
            raise CouldNotRun(f"{method} {path} answered {answer.status}: {received[:400]!r}")
        found = json.loads(received)
        assert isinstance(found, dict)
        return found


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _items(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    items = answer["items"]
    assert isinstance(items, list)
    return items
