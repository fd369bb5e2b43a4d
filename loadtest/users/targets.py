"""Whether a plan's targets are there, on this machine, and know its events: asked before the first process starts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from loadtest.bench.outcome import CouldNotRun
from loadtest.machine.here import is_here
from loadtest.users.asking import Ask, Heard, NotAnAnswer, answered, channel_ask, channel_of, map_ask, request_of
from loadtest.users.plan import UsersPlan
from loadtest.users.signing import profile_headers, token_of

__all__ = ["check_targets"]

_WITHIN_S: Final = 5.0
_PROFILE: Final = "p-0"
_SHED: Final = (429, 503)
_KNOWN_WITHIN_S: Final = 3.0
"""Events reach a DGS within a second of their creation; a busy one is given more."""


async def check_targets(plan: UsersPlan) -> None:
    """Raises CouldNotRun naming the first target that is not up, that lies outside this machine in a plan that is not
    `remote`, or that does not know an event or a token; and for profile keys that cannot be read."""
    signed = profile_headers(token_of(plan), _PROFILE)
    for option, url in _targets(plan):
        await _may_be_asked(plan, option, url)
    timeout = aiohttp.ClientTimeout(total=_WITHIN_S)
    async with aiohttp.ClientSession(timeout=timeout, headers=signed, trust_env=False) as session:
        if plan.dgs_url:
            for event_id in plan.event_ids:
                await _knows_event(session, plan, event_id)
        if not plan.push_urls and any(crowd.kind in ("connect", "naive") for crowd in plan.crowds):
            await _names_a_node(session, plan)
        if plan.producer_url and plan.operator_token:
            await _knows_token(session, plan)


def _targets(plan: UsersPlan) -> Iterator[tuple[str, str]]:
    if plan.dgs_url:
        yield "the DGS", plan.dgs_url
    if plan.producer_url:
        yield "the producer", plan.producer_url
    for url in plan.push_urls:
        yield "the push node", url


async def _may_be_asked(plan: UsersPlan, option: str, url: str) -> None:
    if not plan.remote and not await asyncio.to_thread(is_here, url):
        raise CouldNotRun(
            f"{option} at {url} is not this machine: a load test of another one wants to be meant (--remote)"
        )
    await _is_up(option, url)


async def _is_up(what: str, url: str) -> None:
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "ws": 80, "https": 443, "wss": 443}[parts.scheme]
    except (KeyError, ValueError):
        raise CouldNotRun(
            f"{url!r} is no address of {what}: http://host:port, for push nodes ws://host:port/v1/stream"
        ) from None
    try:
        async with asyncio.timeout(_WITHIN_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
        writer.close()
    except (OSError, TimeoutError) as exc:
        raise CouldNotRun(f"{what} is not up at {url}: {exc or 'no answer'}") from exc


async def _knows_event(session: aiohttp.ClientSession, plan: UsersPlan, event_id: str) -> None:
    """An event created a moment ago is waited for."""
    deadline_s = time.monotonic() + _KNOWN_WITHIN_S
    while True:
        heard = await _asked(session, plan, map_ask(event_id, _PROFILE, {"kind": "TV"}))
        if heard.status in _SHED:
            return  # it sheds: for the run to find out, not to prevent it
        try:
            answered(heard)
        except NotAnAnswer as exc:
            if "not_found" not in str(exc) or time.monotonic() >= deadline_s:
                because = heard.body[:300].decode(errors="replace")
                told = (
                    f"the DGS at {plan.dgs_url} has no stage map of event {event_id!r} ({exc}){_hint(exc)}: {because}"
                )
                raise CouldNotRun(told) from exc
        else:
            return
        await asyncio.sleep(0.2)


def _hint(exc: NotAnAnswer) -> str:
    return ", --sign-profiles shows it a profile's token" if "unauthorized" in str(exc) else ""


async def _names_a_node(session: aiohttp.ClientSession, plan: UsersPlan) -> None:
    """The node that this channel names is up and may be connected to; others may be named later."""
    heard = await _asked(session, plan, channel_ask(plan.event_ids, _PROFILE, {"kind": "TV"}))
    if heard.status in _SHED:
        return
    try:
        url = channel_of(heard).url
    except NotAnAnswer as exc:
        raise CouldNotRun(f"the DGS at {plan.dgs_url} names no broadcast channel ({exc})") from exc
    await _may_be_asked(plan, "the push node that the DGS names", url)


async def _asked(session: aiohttp.ClientSession, plan: UsersPlan, ask: Ask) -> Heard:
    request = request_of(ask, "/graphql", {}, whole=True)
    try:
        url = plan.dgs_url.rstrip("/") + request.target
        async with session.post(url, data=request.body, headers=dict(request.headers)) as answer:
            return Heard(answer.status, await answer.read())
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise CouldNotRun(f"the DGS does not answer at {plan.dgs_url}: {exc!r}") from exc


async def _knows_token(session: aiohttp.ClientSession, plan: UsersPlan) -> None:
    url = plan.producer_url.rstrip("/") + "/v1/events?limit=1"
    try:
        async with session.get(url, headers={"Authorization": f"Bearer {plan.operator_token}"}) as answer:
            if answer.status in (401, 403):
                raise CouldNotRun(f"the producer at {plan.producer_url} refuses the operator's token ({answer.status})")
            if answer.status not in (200, *_SHED):
                raise CouldNotRun(f"{plan.producer_url} is no producer: it answers {answer.status} to /v1/events")
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise CouldNotRun(f"the producer does not answer at {plan.producer_url}: {exc!r}") from exc
