"""A running system as a rehearsal meets it: its operator API, with refusals a person understands."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
import msgspec

from contract.durations import format_duration
from loadtest.bench.outcome import CouldNotRun

__all__ = ["RehearsalTarget"]

_TIMEOUT_S: Final = 15.0
_CANCEL_WITHIN_S: Final = 5.0


class RehearsalTarget:
    """`async with RehearsalTarget(url, token) as target`. Every method raises CouldNotRun for what is no success."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def event(self, event_id: str) -> dict[str, Any]:
        return await self._call("GET", f"/v1/events/{quote(event_id, safe='')}")

    async def rehearse(
        self, event_id: str, *, over_ms: int | None, compress: float | None, begins_in_ms: int
    ) -> dict[str, Any]:
        """Make a shadow of the event; returns it."""
        body = {
            "over": None if over_ms is None else format_duration(over_ms),
            "compress": compress,
            "begins_in": format_duration(begins_in_ms),
        }
        return await self._call("POST", f"/v1/events/{quote(event_id, safe='')}/rehearse", body)

    async def shift(self, event_id: str, by_ms: int) -> dict[str, Any]:
        return await self._call("POST", f"/v1/events/{event_id}/shift", {"by": format_duration(by_ms)})

    async def broadcasts(self, event_id: str) -> list[dict[str, Any]]:
        return _items(await self._call("GET", f"/v1/events/{quote(event_id, safe='')}/broadcasts"))

    async def reach(self, event_id: str) -> list[dict[str, Any]]:
        return _items(await self._call("GET", f"/v1/events/{event_id}/reach"))

    async def changes(self, event_id: str) -> list[dict[str, Any]]:
        """The newest entries of the event's audit trail that are no rehearsals, oldest first."""
        found: list[dict[str, Any]] = []
        path: str | None = f"/v1/events/{quote(event_id, safe='')}/audit?limit=500"
        while path:
            page = await self._call("GET", path)
            found, path = found + _items(page), page["next"]
        return [entry for entry in found if entry["action"] != "rehearse"]

    async def end(self, event_id: str) -> str:
        """Cancel a shadow, whatever happens around us; returns why it could not be, empty if it could.

        It would be over after its last stage all the same.
        """
        try:
            async with asyncio.timeout(_CANCEL_WITHIN_S):
                await self._call("POST", f"/v1/events/{event_id}/cancel")
        except (CouldNotRun, TimeoutError) as exc:
            return str(exc) or f"no answer within {_CANCEL_WITHIN_S:.0f} s"
        return ""

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        assert self._session is not None, "used outside its context"
        sent = None if body is None else msgspec.json.encode(body)
        try:
            async with self._session.request(method, self.url + path, data=sent, headers=self._headers) as answer:
                status, received = answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise CouldNotRun(f"no operator API at {self.url}: {exc or type(exc).__name__}") from exc
        try:
            found = msgspec.json.decode(received)
        except msgspec.DecodeError:
            found = None
        if status < 300 and isinstance(found, dict):
            return found
        if isinstance(found, dict) and "detail" in found:
            raise CouldNotRun(f"{self.url} refused: {found['detail']} [{found.get('code', status)}]")
        raise CouldNotRun(f"no operator API at {self.url}: it answered {status}, and not as one does")


def _items(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    items = answer["items"]
    assert isinstance(items, list)
    return items
