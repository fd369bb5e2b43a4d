"""An audience moves to its event's cluster and home again, told by its maps: two DGS processes' worth, real sockets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import dgs_world
import pytest
from dgs_world import HOUR_MS, World

from contract.runtime.asgi import listen_on
from device_sim.fleet import Fleet, FleetOptions
from tests.support.ranking_services import until

TOPIC = "event:tyson-paul"
DEVICES = 40
FILE = """
[[clusters]]
name = "main"
prefetch.urls = ["{main}/graphql"]
push.urls = ["ws://127.0.0.1:1/v1/stream"]

[[clusters]]
name = "night"
dedicated = true
hot_before = "PT30M"
hot_after = "PT0S"
ramp_in = "PT1H"
ramp_out = "PT1H"
prefetch.urls = ["{night}/graphql"]
push.urls = ["ws://127.0.0.1:2/v1/stream"]
"""


async def refresh(fleet: Fleet) -> Counter[str]:
    """Every device refreshes its map once; where they are told to go next."""
    assert fleet.prefetcher is not None
    counts = fleet.prefetcher.counts
    before, refetches = counts.operations, fleet.prefetcher._refetches
    for client in fleet.clients:
        fleet.prefetcher.request(client, TOPIC)
    await until(lambda: counts.operations == before + DEVICES and not refetches)
    assert counts.failures == 0
    maps = [client.device.topics[TOPIC].stage_map for client in fleet.clients]
    return Counter(each.refresh_url for each in maps if each is not None)


async def test_an_audience_moves_in_and_home_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody before the ramp, some within it, all at its end; each is asked where it told devices to come."""
    main, night = World(), World()
    night.view, night.log, night.clock = main.view, main.log, main.clock
    sockets = [listen_on("127.0.0.1", 0) for _ in range(2)]
    urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    monkeypatch.setattr(dgs_world, "listen_on", lambda host, port: sockets.pop(0))
    path = tmp_path / "clusters.toml"
    path.write_text(FILE.format(main=urls[0], night=urls[1]))
    await main.plan(starts_in_ms=3 * HOUR_MS)
    async with main.client(main.build(clusters_path=path, cluster="main")):
        home = main.server
        async with night.client(night.build(clusters_path=path, cluster="night")):
            dedicated = night.server
            options = FleetOptions(devices=DEVICES, dgs_url=urls[0], event_ids=("tyson-paul",), artwork="none")
            async with Fleet(options) as fleet:
                assert fleet.prefetcher is not None
                await fleet.prefetch_all()
                assert await refresh(fleet) == {f"{urls[0]}/graphql": DEVICES}
                assert dedicated.stats()["requests"] == 0

                main.clock.advance_ms(2 * HOUR_MS)  # half of the ramp
                told = await refresh(fleet)
                moved = told[f"{urls[1]}/graphql"]
                assert DEVICES // 4 < moved < DEVICES * 3 // 4
                assert dedicated.stats()["requests"] == 0, "they are told, and come next time"
                asked, retries = home.stats()["requests"], fleet.prefetcher.counts.retries
                assert await refresh(fleet) == told
                assert dedicated.stats()["requests"] >= moved
                assert home.stats()["requests"] >= asked + DEVICES - moved
                # The clock stepped by hours: a connection kept since then may end under a request, which comes again.
                again = fleet.prefetcher.counts.retries - retries
                assert dedicated.stats()["requests"] + home.stats()["requests"] <= asked + DEVICES + again

                main.clock.advance_ms(HOUR_MS)
                assert await refresh(fleet) == {f"{urls[1]}/graphql": DEVICES}
                asked = home.stats()["requests"]
                await refresh(fleet)
                assert home.stats()["requests"] == asked, "everybody is there"

                main.clock.advance_ms(4 * HOUR_MS)
                await refresh(fleet)
                assert await refresh(fleet) == {f"{urls[0]}/graphql": DEVICES}
