"""How the `event` commands reach the operator API, and how its problems become words on standard error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

__all__ = ["ApiClient", "ApiProblem", "Unreachable", "token_for"]

_TIMEOUT_S: Final = 30.0
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class ApiProblem(click.ClickException):
    """A problem the server answered with; exit code 1."""

    exit_code = 1

    def __init__(self, problem: Mapping[str, Any]) -> None:
        listed = problem.get("errors") or [problem]
        lines = [str(item.get("detail") or item.get("title")) for item in listed]
        super().__init__("\n       ".join(lines) + f"  [{problem.get('code', problem.get('status'))}]")
        self.problem = problem


class Unreachable(click.ClickException):
    exit_code = 1

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            f"no operator API at {url}: {why}\n"
            "Start one with `stagecue up`, or name another with --url or STAGECUE_URL."
        )


def token_for(given: str | None, data_dir: Path) -> str:
    """`given`, or the token `stagecue up` keeps in its data directory. Raises ClickException naming both ways."""
    if given:
        return given
    path = data_dir / "operator.token"
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise click.ClickException(
            f"no operator token: {path} is not readable ({exc.strerror}).\n"
            "Give --token or STAGECUE_TOKEN, or the --data-dir that `stagecue up` uses."
        ) from exc


class ApiClient:
    """One connection to the operator API. Raises ApiProblem and Unreachable, nothing else of HTTP."""

    def __init__(self, url: str, token: str) -> None:
        import httpx

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.UsageError(f"--url: {url!r} is no http(s) address")
        self._url = url.rstrip("/")
        self._client = httpx.Client(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_S,
            trust_env=parts.hostname not in _LOOPBACK,  # no proxy stands between this machine and itself
        )

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(self, *args: object) -> None:
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        calendar: bytes | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> Any:
        """The JSON of a successful answer."""
        import httpx

        sent = {name: value for name, value in (headers or {}).items() if value is not None}
        if calendar is not None:
            sent["Content-Type"] = "text/calendar"
        try:
            response = self._client.request(
                method,
                path,
                json=body,
                content=calendar,
                params={name: value for name, value in (query or {}).items() if value is not None} or None,
                headers=sent,
            )
        except httpx.InvalidURL as exc:
            raise click.UsageError(str(exc)) from exc
        except httpx.HTTPError as exc:
            raise Unreachable(self._url, str(exc) or type(exc).__name__) from exc
        found = _json_of(response)
        if response.is_success and found is not None:
            return found
        if not isinstance(found, dict) or "status" not in found:
            raise Unreachable(self._url, f"it answered {response.status_code}, and not as this API does")
        raise ApiProblem(found)


def _json_of(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
