"""Source `http` against a service that does everything wrong that a service can."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from contract.errors import InvalidRequest, Unavailable
from dgs.breaker import Breaker
from dgs.model import Profile, Title, Viewing
from dgs.picks import Missing
from dgs.ports import Need
from dgs.sources.answers import POPULAR, Unanswered
from dgs.sources.catalog import Catalog
from dgs.sources.chain import RecommendationChain
from dgs.sources.http_recommend import HttpRecommendations, check_ranking_url
from dgs.stage_map import Recommendations
from tests.support.ranking_services import Script, Speaking, right, speaking, until

PEOPLE = 40
NEED = Need(k=4, because=1, per_because=2)
CATALOG = Catalog(
    tuple(Title(id=f"t{number}", name=f"T{number}", votes=100 - number) for number in range(8))
    + tuple(Title(id=f"of-p{number}", name="own") for number in range(PEOPLE))
)
PATIENT_S = 20.0
"""A deadline no test reaches."""


def someone(number: int) -> Profile:
    return Profile(id=f"p{number}", region="GB", locale="en-GB", history=(Viewing("t7", 0.5),))


def own(number: int, answer: Recommendations | Missing) -> bool:
    return isinstance(answer, Recommendations) and answer.ranked[0].id == f"of-p{number}"


class Asking:
    """Sources over one service, closed with the test."""

    def __init__(self, service: Speaking) -> None:
        self.service = service
        self.made: list[HttpRecommendations] = []
        self.outcomes: list[str] = []

    def source(self, url: str | None = None, *, failures: int = 100, **more: Any) -> HttpRecommendations:
        breaker = Breaker(
            failures=failures, window=max(10, failures), first_pause_s=600, longest_pause_s=600, jitter=lambda: 0.5
        )
        made = HttpRecommendations(
            url or self.service.url,
            lambda: CATALOG,
            breaker=breaker,
            observe=lambda took_s, outcome: self.outcomes.append(outcome),
            **{"deadline_s": PATIENT_S, **more},
        )
        self.made.append(made)
        return made


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    async with speaking() as service:
        asking = Asking(service)
        yield asking
        for source in asking.made:
            await source.aclose()


async def test_what_is_asked(asking: Asking) -> None:
    """The body as docs/sources.md has it: the need, the profiles with their history, the time there is."""
    await asking.source().recommend([someone(1)], NEED, 5.0)
    assert asking.service.asked == [
        {
            "need": {"ranked": 4, "because": 1, "near": 2},
            "profiles": [{"id": "p1", "region": "GB", "locale": "en-GB", "history": [{"title": "t7", "weight": 0.5}]}],
            "deadlineMs": 20_000,
        }
    ]


async def test_callers_share_batches(asking: Asking) -> None:
    """Twenty at once, eight to a batch: two full ones leave at once, the rest after its wait; all get their own."""
    source = asking.source(batch=8, wait_s=0.01)
    answers = await asyncio.gather(*(source.recommend([someone(number)], NEED, PATIENT_S) for number in range(20)))
    assert [len(asked["profiles"]) for asked in asking.service.asked] == [8, 8, 4]
    assert all(own(number, answer) for number, (answer,) in enumerate(answers))
    assert source.stats()["calls"] == 3
    assert asking.outcomes == ["ok"] * 3


async def test_different_needs_do_not_share(asking: Asking) -> None:
    """A batch has one need."""
    source = asking.source()
    other = Need(2, 0, 2)
    await asyncio.gather(*(source.recommend([someone(1)], need, PATIENT_S) for need in (NEED, other, NEED)))
    assert sorted((asked["need"]["ranked"], len(asked["profiles"])) for asked in asking.service.asked) == [
        (2, 1),
        (4, 1),
    ]


async def test_no_more_calls_at_once_than_allowed(asking: Asking) -> None:
    """With two calls under way batches grow instead; whoever comes when too many wait is refused at once."""
    go = asyncio.Event()

    async def when_told(asked: dict[str, Any]) -> dict[str, Any]:
        await go.wait()
        return await right(asked)

    asking.service.script = when_told
    source = asking.source(batch=4, wait_s=0.0, at_once=2)
    waiting = [asyncio.ensure_future(source.recommend([someone(number)], NEED, PATIENT_S)) for number in range(16)]
    await until(lambda: asking.service.under_way == 2)
    assert source.stats()["waiting"] == 8
    with pytest.raises(Unavailable, match="busy"):
        await source.recommend([someone(20)], NEED, PATIENT_S)
    go.set()
    answers = await asyncio.gather(*waiting)
    assert all(own(number, answer) for number, (answer,) in enumerate(answers))
    assert asking.service.most_under_way == 2
    assert source.stats()["waiting"] == source.stats()["under_way"] == 0


async def test_half_a_batch(asking: Asking) -> None:
    """Who is in the answer is served; who is not is unanswered, and what the service says of itself is Missing."""

    async def half(asked: dict[str, Any]) -> dict[str, Any]:
        answer = await right(asked)
        return {"recommendations": [*answer["recommendations"][:2], {"profile": "p2", "missing": "too new\x00"}]}

    asking.service.script = half
    answers = await asking.source().recommend([someone(number) for number in range(4)], NEED, PATIENT_S)
    assert own(0, answers[0])
    assert own(1, answers[1])
    assert answers[2:] == [Missing("too new"), Unanswered("not in the answer")]
    assert not isinstance(answers[2], Unanswered)
    assert isinstance(answers[3], Unanswered)
    assert asking.outcomes == ["ok"]


async def test_ids_nobody_asked_for(asking: Asking) -> None:
    """Strangers, second entries, unknown and repeated titles are dropped and counted; lists are cut."""

    async def wild(asked: dict[str, Any]) -> dict[str, Any]:
        return {
            "recommendations": [
                {"profile": "p99", "ranked": ["t1"]},
                {"profile": "p0", "ranked": ["t1", "none", "t1", "t2", "t3", "t4", "t5"], "because": [
                    {"title": "t7", "near": ["gone", "t1", "t2", "t3"]}, {"title": "t6", "near": ["t1"]}]},
                {"profile": "p0", "ranked": ["t5"]},
                {"profile": "p1", "ranked": ["none"]},
                {"profile": "p2", "ranked": "t1"},
                7,
            ],
            "more": True,
        }  # fmt: skip

    asking.service.script = wild
    source = asking.source()
    answers = await source.recommend([someone(number) for number in range(3)], NEED, PATIENT_S)
    title = CATALOG.by_id
    assert answers[0] == Recommendations(
        (title["t1"], title["t2"], title["t3"], title["t4"]), ((title["t7"], (title["t1"], title["t2"])),)
    )
    assert all(isinstance(answer, Unanswered) for answer in answers[1:])
    stats = source.stats()
    assert (stats["strangers"], stats["malformed"], stats["unknown_titles"]) == (2, 3, 4)


def says(status: int = 200, body: bytes = b"{}", **fields: str) -> Script:
    async def answer(asked: dict[str, Any]) -> web.StreamResponse:
        return web.Response(
            status=status, body=body, headers={name.replace("_", "-"): value for name, value in fields.items()}
        )

    return answer


@pytest.mark.parametrize(
    ("script", "why", "count"),
    [
        (says(500), "status 5xx", "refused"),
        (says(404), "status 4xx", "refused"),
        (says(204, b""), "status 2xx", "refused"),
        (says(302, Location="/elsewhere"), "redirected", "refused"),
        (says(307, Location="http://127.0.0.1:1/"), "redirected", "refused"),
        (says(200, b"<html>"), "garbage", "garbage"),
        (says(200, b""), "garbage", "garbage"),
        (says(200, b"[]"), "garbage", "garbage"),
        (says(200, b'{"recommendations": {}}'), "garbage", "garbage"),
        (says(200, b'{"recommendations": []}'), "garbage", "garbage"),
        (says(200, b'{"recommendations": [' + b"[" * 20_000), "garbage", "garbage"),
        (says(200, b"\xff\xfe"), "garbage", "garbage"),
        (says(200, b"\x1f\x8b", Content_Encoding="gzip"), "compressed", "refused"),
        (says(200, b" " * 200_000), "too large", "refused"),
    ],
    ids=[
        "500", "404", "204", "302", "307", "html", "empty", "array", "object", "nobody", "deep", "bytes", "gzip", "big",
    ],
)  # fmt: skip
async def test_answers_that_are_none(asking: Asking, script: Script, why: str, count: str) -> None:
    """Refused, each by its reason; the call counts as failed, and the next one is served."""
    asking.service.script = script
    source = asking.source()
    with pytest.raises(Unavailable, match=why):
        await source.recommend([someone(0), someone(1)], NEED, PATIENT_S)
    assert (source.stats()[count], asking.outcomes) == (1, ["failed"])
    asking.service.script = right
    assert own(0, (await source.recommend([someone(0)], NEED, PATIENT_S))[0])
    assert len(asking.service.asked) == 2


async def test_redirects_are_not_followed(asking: Asking) -> None:
    """Profiles go to the address that was set, and nowhere else."""
    async with speaking() as elsewhere:
        asking.service.script = says(307, Location=elsewhere.url)
        with pytest.raises(Unavailable, match="redirected"):
            await asking.source().recommend([someone(0)], NEED, PATIENT_S)
        assert elsewhere.asked == []


async def test_nobody_listens(asking: Asking) -> None:
    """A refused connection is told, and counted."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        source = asking.source(f"http://127.0.0.1:{taken.getsockname()[1]}/rank")
        with pytest.raises(Unavailable, match="unreachable"):
            await source.recommend([someone(0)], NEED, PATIENT_S)
    assert source.stats()["unreachable"] == 1


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"])
async def test_a_port_that_speaks_otherwise(asking: Asking, answer: bytes) -> None:
    """Not HTTP, nothing at all, or an answer that breaks off: unreachable, twice tried where the end came early."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        source = asking.source(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/rank")
        with pytest.raises(Unavailable, match="unreachable"):
            await source.recommend([someone(0)], NEED, PATIENT_S)
    assert source.stats()["retried"] == (answer == b"")


async def test_a_connection_closed_while_idle_costs_nobody(asking: Asking) -> None:
    """The service ended a connection it had kept: the call is made once more, on another."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"recommendations":[{"profile":"p0","ranked":["of-p0"]}]}'
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    async with server:
        source = asking.source(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/rank")
        for _ in range(2):
            assert own(0, (await source.recommend([someone(0)], NEED, PATIENT_S))[0])
        assert source.stats()["retried"] == 1
        await source.aclose()


async def test_a_late_answer_is_kept_for_the_next_time(asking: Asking) -> None:
    """Who waits leaves at its own deadline; the call goes on, and what it brings is there when the service fails."""
    go = asyncio.Event()

    async def when_told(asked: dict[str, Any]) -> dict[str, Any]:
        await go.wait()
        return await right(asked)

    asking.service.script = when_told
    source = asking.source()
    with pytest.raises(Unavailable, match="late"):
        await source.recommend([someone(0)], NEED, 0.05)
    assert source.stale(someone(0), NEED) is None
    go.set()
    await until(lambda: source.stats()["kept"])
    found = source.stale(someone(0), NEED)
    assert found is not None
    assert own(0, found)
    assert source.stale(someone(0), Need(1, 0, 1)) is None
    assert source.stale(someone(1), NEED) is None


async def test_a_call_ends_at_its_deadline(asking: Asking) -> None:
    """A service that drips an answer for ever is cut off, and the outcome is late."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            gone.set()

    gone = asyncio.Event()
    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        source = asking.source(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/rank", deadline_s=0.1)
        with pytest.raises(Unavailable, match="late"):
            await source.recommend([someone(0)], NEED, PATIENT_S)
        await gone.wait()
        await until(lambda: asking.outcomes)
    assert asking.outcomes == ["late"]
    assert source.stats()["late"] == 1


async def test_the_breaker_stops_calling(asking: Asking) -> None:
    """After three failures nobody is asked; everybody hears at once, with when to return."""
    asking.service.script = says(500)
    source = asking.source(failures=3)
    with capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(Unavailable, match="status 5xx"):
                await source.recommend([someone(0)], NEED, PATIENT_S)
    assert [line["event"] for line in logs] == ["ranking_service_not_called"]
    with pytest.raises(Unavailable, match="circuit open") as refused:
        await source.recommend([someone(0)], NEED, PATIENT_S)
    assert refused.value.retry_after_s is not None
    assert 300 < refused.value.retry_after_s <= 600
    assert len(asking.service.asked) == 3
    stats = source.stats()
    assert (stats["not_called"], stats["breaker_opened"], stats["breaker_closed"]) == (1, 1, 0)


async def test_one_probe_while_others_wait(asking: Asking) -> None:
    """Half open, a single call goes out, whoever else asks meanwhile is refused; its answer closes the breaker."""
    asking.service.script = says(500)
    breaker = Breaker(failures=1, window=1, first_pause_s=0.02, longest_pause_s=0.02, probe_s=600, jitter=lambda: 0.5)
    source = HttpRecommendations(asking.service.url, lambda: CATALOG, breaker=breaker, batch=1, deadline_s=PATIENT_S)
    asking.made.append(source)
    with pytest.raises(Unavailable):
        await source.recommend([someone(0)], NEED, PATIENT_S)
    asking.service.script = right
    await until(lambda: not (breaker.refuses(asyncio.get_running_loop().time())))
    answers = await asyncio.gather(
        *(source.recommend([someone(number)], NEED, PATIENT_S) for number in range(5)), return_exceptions=True
    )
    assert sum(isinstance(answer, Unavailable) for answer in answers) == 4
    assert len(asking.service.asked) == 2
    assert own(3, (await source.recommend([someone(3)], NEED, PATIENT_S))[0])


async def test_closing_leaves_nobody_waiting(asking: Asking) -> None:
    """Under way and waiting alike are unanswered; asking afterwards is refused; closing twice is once."""

    async def never(asked: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(PATIENT_S)
        return await right(asked)

    asking.service.script = never
    source = asking.source(batch=2, at_once=1)
    waiting = [asyncio.ensure_future(source.recommend([someone(number)], NEED, PATIENT_S)) for number in range(2)]
    await until(lambda: asking.service.under_way)
    waiting.append(asyncio.ensure_future(source.recommend([someone(3)], NEED, PATIENT_S)))
    await asyncio.sleep(0)
    await source.aclose()
    await source.aclose()
    for answer in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(answer, Unavailable)
    with pytest.raises(Unavailable, match="closed"):
        await source.recommend([someone(0)], NEED, PATIENT_S)
    assert source.stats()["waiting"] == 0


async def test_the_chain_shows_what_was_said_before_then_what_everybody_likes(asking: Asking) -> None:
    """A ranking service that dies costs no request: its last answer, else the popular titles; both say degraded."""
    chain = RecommendationChain([asking.source(failures=2)], lambda: CATALOG)
    (fresh,) = await chain.choose([someone(0)], NEED, PATIENT_S)
    assert (fresh.source, fresh.degraded, fresh.why) == ("http", False, None)
    asking.service.script = says(500)
    for why in ("status 5xx", "status 5xx", "circuit open"):
        before, new = await chain.choose([someone(0), someone(1)], NEED, PATIENT_S)
        assert (before.source, before.degraded, before.recommendations) == ("http", True, fresh.recommendations)
        assert (new.source, new.degraded) == (POPULAR, True)
        assert why in str(new.why)
        assert [title.id for title in new.recommendations.ranked] == ["t0", "t1", "t2", "t3"]
    assert chain.stats()["http"] == {"asked": 7, "chosen": 1, "missing": 0, "failed": 6, "stale": 3}
    assert chain.source_stats()["http"]["stale"] == 3
    await chain.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://host/rank",
        "http://",
        "localhost:9000",
        "http://host:99999/",
        "http://me:secret@host/#part",
        "http://[::1",
    ],
)
def test_urls_that_cannot_be_used(url: str) -> None:
    """Refused at start, naming the setting, and never repeated: it may hold a password."""
    with pytest.raises(InvalidRequest, match="DGS_RANKING_URL") as refused:
        check_ranking_url(url)
    assert "secret" not in str(refused.value)
    assert check_ranking_url("http://me:secret@[::1]:9000/rank?v=1")
