"""The nginx example, as a real process in front of four tiny upstreams: the prefix names the cluster."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

import dgs
from contract.schedule import TopicSchedule
from dgs.sharding.choice import ClusterChoice, ClusterUrls
from dgs.sharding.clusters_file import load_clusters
from tests.support.ranking_services import until

NGINX = Path(dgs.__file__).parent.parent / "deploy" / "nginx"
START_MS = 1_731_700_800_000
PORTS = {"8401": "main dgs", "8402": "main push", "9401": "night dgs", "9402": "night push"}

pytestmark = pytest.mark.external_service


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Upstream:
    """Says who it is, what it was asked, and echoes what is streamed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = 0
        self._runner: web.AppRunner | None = None

    async def start(self, port: int) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        if request.headers.get("Upgrade", "").lower() == "websocket":
            stream = web.WebSocketResponse(protocols=["stagecue.v1"])
            await stream.prepare(request)
            async for message in stream:
                await stream.send_str(f"{self.name}: {message.data}")
            return stream
        if request.path == "/graphql" and request.query.get("overloaded"):
            return web.json_response({"from": self.name}, status=503, headers={"Retry-After": "3"})
        return web.json_response(
            {
                "from": self.name,
                "asked": request.raw_path,
                "body": await request.text(),
                "token": request.headers.get("Authorization"),
                "address": request.headers.get("X-Forwarded-For"),
                "host": request.headers["Host"].partition(":")[0],
            }
        )


class Front:
    """nginx, and what lies behind it."""

    def __init__(self, url: str, behind: dict[str, Upstream], http: aiohttp.ClientSession) -> None:
        self.url = url
        self.behind = behind
        self.http = http

    async def ask(self, path: str, **more: str) -> dict[str, str]:
        async with self.http.post(self.url + path, data="{}", headers=more) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()  # type: ignore[no-any-return]


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if nginx is None:
        pytest.fail("nginx is missing: apt-get install nginx-light")
    ports = {port: free_port() for port in ("8080", *PORTS)}
    config = re.sub(r"127\.0\.0\.1:(\d+)", lambda at: f"127.0.0.1:{ports[at[1]]}", (NGINX / "nginx.conf").read_text())
    (tmp_path / "nginx.conf").write_text(config)
    async with AsyncExitStack() as stack:
        behind = {name: Upstream(name) for name in PORTS.values()}
        for port, name in PORTS.items():
            await behind[name].start(ports[port])
            stack.push_async_callback(behind[name].stop)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        # In the foreground: it ends with the process that is known here.
        process = await asyncio.create_subprocess_exec(
            nginx, "-p", f"{tmp_path}/", "-c", str(tmp_path / "nginx.conf"), "-g", "daemon off; master_process off;",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            await until(lambda: process.returncode is not None or _listens(ports["8080"]))
            assert process.returncode is None, (await process.communicate())[1].decode()
            yield Front(f"http://127.0.0.1:{ports['8080']}", behind, http)
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.communicate(), 10)


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def of_front(front: Front, url: str) -> str:
    """The path of a URL that the DGS hands out, at the proxy of this test."""
    assert url.partition("://")[2].startswith("localhost:8080/")
    return "/" + url.partition("://")[2].partition("/")[2]


def chosen(now_ms: int) -> ClusterUrls:
    """What the DGS hands out with the example's clusters."""
    night = TopicSchedule(
        topic="event:tyson-paul",
        event_id="tyson-paul",
        title="x",
        revision=1,
        version=1,
        starts_at=START_MS,
        ends_at=START_MS + 3_600_000,
    )
    choice = ClusterChoice(load_clusters(NGINX / "clusters.toml"), open_ended_ms=0)
    return choice.urls("p-1", [night], now_ms)


async def test_urls_of_the_dgs_lead_to_their_cluster(front: Front) -> None:
    """At home two days before, in the dedicated cluster while the event is hot: prefetch, artwork and stream alike."""
    for now_ms, cluster in ((START_MS - 48 * 3_600_000, "main"), (START_MS, "night")):
        urls = chosen(now_ms)
        assert urls.cluster == cluster
        answer = await front.ask(of_front(front, urls.prefetch) + "?extensions=%7B%7D", Authorization="Bearer t")
        assert answer == {
            "from": f"{cluster} dgs",
            "asked": "/graphql?extensions=%7B%7D",
            "body": "{}",
            "token": "Bearer t",
            "address": "127.0.0.1",
            "host": "127.0.0.1",
        }
        assert (await front.ask(f"/c/{cluster}/artwork/a-1/wide.svg"))["from"] == f"{cluster} dgs"
        assert (await front.ask(f"/c/{cluster}/v1/events?topic=a%26b"))["asked"] == "/v1/events?topic=a%26b"
        stream_url = front.url + of_front(front, urls.push)
        async with front.http.ws_connect(stream_url, protocols=["stagecue.v1"]) as stream:
            assert stream.protocol == "stagecue.v1"
            await stream.send_str("hello")
            assert await stream.receive_str() == f"{cluster} push: hello"


async def test_without_a_prefix_and_with_one_nobody_knows(front: Front) -> None:
    """Both are home's; operators' pages are nobody's."""
    assert (await front.ask("/graphql"))["from"] == "main dgs"
    assert (await front.ask("/c/none/graphql"))["from"] == "main dgs"
    for path in ("/metrics", "/c/night/metrics", "/scaling", "/c/night/", "/c/NIGHT/graphql", "/"):
        async with front.http.get(front.url + path) as answer:
            assert answer.status == 404
    assert front.behind["night dgs"].requests == 0


async def test_a_released_cluster_is_served_by_home(front: Front) -> None:
    """Its URLs stay good when it has no instance, and lead to it again when it has."""
    await front.behind["night dgs"].stop()
    await front.behind["night push"].stop()
    assert (await front.ask("/c/night/graphql"))["from"] == "main dgs"
    async with front.http.ws_connect(f"{front.url}/c/night/v1/stream", protocols=["stagecue.v1"]) as stream:
        await stream.send_str("hello")
        assert await stream.receive_str() == "main push: hello"


async def test_a_refusal_reaches_the_device_once(front: Front) -> None:
    """503 with Retry-After comes through as it is: asking the next cluster would carry the overload there."""
    async with front.http.get(f"{front.url}/c/night/graphql?overloaded=1") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "3")
        assert (await answer.json())["from"] == "night dgs"
    assert front.behind["main dgs"].requests == 0
