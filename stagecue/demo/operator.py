"""What the demo's operator does, over the same REST API as everybody else, and what its judge asks."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx

__all__ = ["DemoOperator", "OperatorRefused"]


class OperatorRefused(Exception):
    """The API answered with a problem; carries its words."""


class DemoOperator:
    """A small client of the operator API and of the DGS's request log."""

    def __init__(self, producer_url: str, dgs_url: str, token: str) -> None:
        self._dgs_url = dgs_url
        self._client = httpx.AsyncClient(
            base_url=producer_url, headers={"Authorization": f"Bearer {token}"}, timeout=10.0, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def import_calendar(self, calendar: str) -> dict[str, Any]:
        """Take a calendar; returns the feed report."""
        return await self._call("POST", "/v1/feeds/import", content=calendar.encode(), kind="text/calendar")

    async def shift(self, event_id: str, seconds: int) -> dict[str, Any]:
        return await self._call("POST", f"/v1/events/{event_id}/shift", json={"by": f"PT{seconds}S"})

    async def event(self, event_id: str) -> dict[str, Any]:
        return await self._call("GET", f"/v1/events/{event_id}")

    async def broadcasts(self, event_id: str) -> list[dict[str, Any]]:
        return list((await self._call("GET", f"/v1/events/{event_id}/broadcasts"))["items"])

    async def reach(self, event_id: str) -> list[dict[str, Any]]:
        return list((await self._call("GET", f"/v1/events/{event_id}/reach"))["items"])

    async def origin_requests(self, since_ms: int, until_ms: int) -> int:
        """Requests the DGS and its artwork got in [since, until), whoever sent them.

        Raises OperatorRefused when its memory does not reach back that far: a count of nothing proves nothing.
        """
        answer = await self._client.get(
            f"{self._dgs_url}/requests", params={"since_ms": since_ms, "until_ms": until_ms}
        )
        counts = _checked(answer)
        if counts["complete_since_ms"] > since_ms:
            raise OperatorRefused(f"the request log starts at {counts['complete_since_ms']}, after {since_ms}")
        return int(counts["graphql"]) + int(counts["artwork"])

    async def _call(
        self, method: str, path: str, *, json: object = None, content: bytes | None = None, kind: str | None = None
    ) -> dict[str, Any]:
        headers = {"Content-Type": kind} if kind else {}
        return _checked(await self._client.request(method, path, json=json, content=content, headers=headers))


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise OperatorRefused(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    body: dict[str, Any] = answer.json()
    return body
