"""GraphiQL: whole without any other host, and only where it is switched on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from dgs_world import World

from dgs.graphiql import ASSETS

BROWSER = {"Accept": "text/html,application/xhtml+xml"}
PATIENCE_S = 60


async def test_the_page_names_no_other_host(bare_world: World) -> None:
    """Everything it loads is served here, and its policy lets it load nothing else."""
    async with bare_world.client(bare_world.build(graphiql=True)) as http:
        page = await http.get("/graphql", headers=BROWSER)
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "//" not in page.text
        loaded = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
        assert {path.rpartition("/")[2] for path in loaded} == set(ASSETS)
        for path in loaded:
            asset = await http.get(path)
            assert asset.status_code == 200
            assert asset.headers["content-type"].startswith(ASSETS[path.rpartition("/")[2]])
        assert (await http.post("/graphql", json={"query": "{ __typename }"})).json()["data"] == {"__typename": "Query"}
        assert (await http.get("/graphql")).status_code == 400
        asked = await http.get("/graphql", params={"query": "{ __typename }"}, headers=BROWSER)
        assert asked.json()["data"] == {"__typename": "Query"}


async def test_it_is_off_by_default(world: World) -> None:
    """A browser gets no page and no files."""
    assert (await world.http.get("/graphql", headers=BROWSER)).status_code == 400
    for name in ASSETS:
        assert (await world.http.get(f"/graphiql/{name}")).status_code == 404


@contextlib.asynccontextmanager
async def served(world: World) -> AsyncIterator[str]:
    """The application with GraphiQL on a port of its own."""
    server = uvicorn.Server(
        uvicorn.Config(world.build(graphiql=True), port=0, log_level="critical", lifespan="off", ws="none")
    )
    running = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


async def shown(url: str, folder: Path) -> tuple[str, set[str]]:
    """What a browser makes of the page, and every `METHOD URL` the page asked for meanwhile."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("chromium is missing: apt-get install chromium")
    log = folder / "net.json"
    browser = await asyncio.create_subprocess_exec(
        chromium,
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
        "--disable-component-update", "--disable-extensions", "--disable-sync", "--no-first-run", "--no-proxy-server",
        "--password-store=basic", f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}",
        "--virtual-time-budget=10000", "--dump-dom", url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
        start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await browser.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(browser.pid, signal.SIGKILL)
        await browser.wait()
    asked = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # A browser has errands of its own: the page's are those it is the initiator of.
    own = [each for each in asked if str(each.get("initiator", "")).startswith(url.rpartition("/")[0])]
    return out.decode(), {f"{each['method']} {each['url']}" for each in own if "url" in each and "method" in each}


@pytest.mark.external_service
async def test_a_browser_runs_it_and_asks_no_other_host(bare_world: World, tmp_path: Path) -> None:
    """The editor is drawn; its files and the schema (by POST) came from here, and nothing was asked elsewhere."""
    async with served(bare_world) as url:
        page, asked = await shown(f"{url}/graphql", tmp_path)
    assert "graphiql-editors" in page
    assert asked == {f"POST {url}/graphql", *(f"GET {url}/graphiql/{name}" for name in ASSETS)}
