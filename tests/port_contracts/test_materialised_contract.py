"""The contract of materialised picks: memory, files, Redis on a fake, on a real server and on a cluster, alike."""

from __future__ import annotations

import asyncio
import socket
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from fakeredis import FakeAsyncRedis
from test_kv_contract import EXTERNAL, PATIENT, _answering, _form_cluster, redis_server

from contract import names
from contract.clock import Clock, ManualClock
from contract.errors import StoreUnavailable
from contract.kv.redis import connect_redis
from contract.runtime.system_clock import SystemClock
from dgs.adapters.materialised_file import FileMaterialised
from dgs.adapters.materialised_memory import MemoryMaterialised
from dgs.adapters.materialised_redis import RedisMaterialised
from dgs.materialise.record import layout_id
from dgs.picks import Layout, Picks, RowShape

Store = MemoryMaterialised | FileMaterialised | RedisMaterialised
TOPIC = "event:night"
KEEP_S = 3600
CATALOG = "a-catalog"
SMALL = Layout((("live", (RowShape(2), RowShape(1, because=True))), ("default", (RowShape(2),))), CATALOG)
LARGE = Layout((("live", (RowShape(4),)), ("default", (RowShape(2),))), CATALOG)
OTHER = Layout(SMALL.stages, "another-catalog")


def picks(*cells: int, layout: Layout = SMALL, made_at_ms: int = 5) -> Picks:
    assert len(cells) == layout.cells
    packed = array("I", cells)
    return Picks(layout, packed, packed.tobytes()[:8], made_at_ms, "catalog")


def read_back(given: Picks) -> Picks:
    return given._replace(source="materialised")


class Backend:
    """A store, another one over the same data, and a way to let its time pass."""

    def __init__(self, make: Callable[[], Store], clock: Clock) -> None:
        self._make = make
        self.clock = clock
        self.store = make()

    def another(self) -> Store:
        """As another process has it; in memory there is no other."""
        return self.store if isinstance(self.store, MemoryMaterialised) else self._make()

    async def let_pass(self, seconds: float) -> None:
        if isinstance(self.clock, ManualClock):
            self.clock.advance_ms(round(seconds * 1000))
        else:
            await asyncio.sleep(seconds)


@pytest.fixture(scope="session")
def picks_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(scope="session")
def picks_cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        bus = str(probe.getsockname()[1])
    options = ("--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-announce-ip", "127.0.0.1")
    with redis_server(tmp_path_factory.mktemp("cluster"), *options) as port:
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(
    params=[
        "memory",
        "file",
        "fakeredis",
        pytest.param("redis", marks=EXTERNAL),
        pytest.param("cluster", marks=EXTERNAL),
    ]
)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    if request.param in ("memory", "file"):
        clock, stores = ManualClock(), list[FileMaterialised]()

        def make() -> Store:
            if request.param == "memory":
                return MemoryMaterialised(clock, catalog=lambda: CATALOG)
            stores.append(FileMaterialised(tmp_path / "picks", clock, catalog=lambda: CATALOG))
            return stores[-1]

        yield Backend(make, clock)
        for store in stores:
            await store.aclose()
        return
    if request.param == "fakeredis":
        client = FakeAsyncRedis()
    elif request.param == "cluster":
        url = request.getfixturevalue("picks_cluster_url")
        await _form_cluster(url)
        client = connect_redis(url.replace("redis:", "redis+cluster:"), **PATIENT)
        await client.flushall()
    else:
        client = connect_redis(request.getfixturevalue("picks_redis_url"), **PATIENT)
        await _answering(client)
        await client.flushall()
    yield Backend(lambda: RedisMaterialised(client, catalog=lambda: CATALOG, draw=lambda: 0.0), SystemClock())
    await client.aclose()


async def test_what_was_written_is_read_back(backend: Backend) -> None:
    """Layouts small and large, cells narrow and wide, and nothing for those nobody wrote."""
    given = {"p-1": picks(1, 2, 3, 4, 5, 6), "p-2": picks(9, 8, 70_000, 6, 5, 4_000_000_000, layout=LARGE)}
    await backend.store.write(TOPIC, 7, given, keep_s=KEEP_S)
    found = await backend.store.read(TOPIC, 7, ["p-1", "p-2", "p-3"])
    assert found == {profile: read_back(each) for profile, each in given.items()}


async def test_another_process_reads_it(backend: Backend) -> None:
    await backend.store.write(TOPIC, 7, {"p-1": picks(1, 2, 3, 4, 5, 6)}, keep_s=KEEP_S)
    assert set(await backend.another().read(TOPIC, 7, ["p-1"])) == {"p-1"}


async def test_a_reader_sees_what_is_written_later(backend: Backend) -> None:
    """It looked before there was anything; a second later it sees it."""
    reader = backend.another()
    assert await reader.read(TOPIC, 7, ["p-1"]) == {}
    await backend.store.write(TOPIC, 7, {"p-1": picks(1, 2, 3, 4, 5, 6)}, keep_s=KEEP_S)
    if isinstance(backend.clock, ManualClock):
        await backend.let_pass(1)
    assert set(await reader.read(TOPIC, 7, ["p-1"])) == {"p-1"}


async def test_another_version_topic_or_catalog_is_none(backend: Backend) -> None:
    await backend.store.write(TOPIC, 7, {"p-1": picks(1, 2, 3, 4, 5, 6)}, keep_s=KEEP_S)
    await backend.store.write(TOPIC, 7, {"p-2": picks(1, 2, 3, 4, 5, 6, layout=OTHER)}, keep_s=KEEP_S)
    assert await backend.store.read(TOPIC, 8, ["p-1"]) == {}
    assert await backend.store.read("event:other", 7, ["p-1"]) == {}
    assert await backend.store.read(TOPIC, 7, ["p-2"]) == {}
    assert await backend.store.read(TOPIC, 7, []) == {}


async def test_the_last_write_of_a_profile_counts(backend: Backend) -> None:
    first, second = picks(1, 2, 3, 4, 5, 6), picks(6, 5, 4, 3, 2, 1)
    await backend.store.write(TOPIC, 7, {"p-1": first, "p-2": first}, keep_s=KEEP_S)
    await backend.store.read(TOPIC, 7, ["p-1"])
    await backend.store.write(TOPIC, 7, {"p-1": second}, keep_s=KEEP_S)
    found = await backend.store.read(TOPIC, 7, ["p-1", "p-2"])
    assert (found["p-1"], found["p-2"]) == (read_back(second), read_back(first))


async def test_picks_are_kept_for_their_time(backend: Backend) -> None:
    await backend.store.write(TOPIC, 7, {"p-1": picks(1, 2, 3, 4, 5, 6)}, keep_s=1)
    assert len(await backend.store.read(TOPIC, 7, ["p-1"])) == 1
    await backend.let_pass(1.05)
    assert await backend.store.read(TOPIC, 7, ["p-1"]) == {}


async def test_many_profiles_at_once(backend: Backend) -> None:
    """More than one command's worth, read in another order, with gaps; and ids that look like something else."""
    odd = ("{}", "a{b}c", "p:1", "*", "../../x", "~" * 128)
    given = {f"p-{number}": picks(number, 2, 3, 4, 5, 6) for number in range(1_200)} | {
        name: picks(7, 7, 7, 7, 7, 7) for name in odd
    }
    await backend.store.write(TOPIC, 7, given, keep_s=KEEP_S)
    wanted = [*(f"p-{number}" for number in range(1_300, -1, -3)), *odd]
    found = await backend.store.read(TOPIC, 7, wanted)
    assert found == {profile: read_back(given[profile]) for profile in wanted if profile in given}


async def test_progress_of_a_job(backend: Backend) -> None:
    """Chunks that are done, of this job alone, for any process, for their time."""
    assert await backend.store.progress("job") == frozenset()
    for chunk in (0, 3, 3, 12):
        await backend.store.done("job", chunk, keep_s=1)
    await backend.store.done("another", 5, keep_s=1)
    assert await backend.another().progress("job") == {0, 3, 12}
    await backend.store.forget("another")
    await backend.store.forget("never begun")
    assert await backend.store.progress("another") == frozenset()
    await backend.let_pass(1.05)
    assert await backend.store.progress("job") == frozenset()


async def test_writing_nothing_is_nothing(backend: Backend) -> None:
    await backend.store.write(TOPIC, 7, {}, keep_s=KEEP_S)
    assert await backend.store.read(TOPIC, 7, ["p-1"]) == {}


async def test_a_silent_redis_is_unavailable() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        client = connect_redis(f"redis://127.0.0.1:{probe.getsockname()[1]}", connect_timeout_s=0.2)
        store = RedisMaterialised(client, catalog=lambda: CATALOG)
        for call in (
            store.read(TOPIC, 7, ["p-1"]),
            store.write(TOPIC, 7, {"p-1": picks(1, 2, 3, 4, 5, 6)}, keep_s=1),
            store.progress("job"),
            store.done("job", 1, keep_s=1),
        ):
            with pytest.raises(StoreUnavailable):
                await call
        await client.aclose()


async def test_keys_of_one_write_do_not_expire_together() -> None:
    """The last tenth of their time: drawn for each."""
    client, drawn = FakeAsyncRedis(), iter([0.0, 0.5, 0.999])
    store = RedisMaterialised(client, catalog=lambda: CATALOG, draw=lambda: next(drawn))
    await store.write(TOPIC, 7, {f"p-{number}": picks(1, 2, 3, 4, 5, 6) for number in range(3)}, keep_s=1000)
    lives_s = [await client.pttl(f"stagecue:picks:{TOPIC}:7:p-{number}") / 1000 for number in range(3)]
    assert lives_s == [pytest.approx(expected, abs=2) for expected in (1000, 950, 900)]
    await client.aclose()


async def test_a_layout_that_cannot_be_read_costs_its_own_records_alone() -> None:
    """Damaged, or of a later release that writes them otherwise."""
    client = FakeAsyncRedis()
    store = RedisMaterialised(client, catalog=lambda: CATALOG, draw=lambda: 0.0)
    given = {"p-1": picks(1, 2, 3, 4, 5, 6), "p-2": picks(1, 2, 3, 4, 5, 6, layout=LARGE)}
    await store.write(TOPIC, 7, given, keep_s=1000)
    for damaged in (b"\xc1 not a layout", b"\x82\xa1\xff"):
        await client.set(names.kv_picks_layout(layout_id(LARGE)), damaged)
        fresh = RedisMaterialised(client, catalog=lambda: CATALOG)
        assert set(await fresh.read(TOPIC, 7, ["p-1", "p-2"])) == {"p-1"}
    await client.aclose()


async def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    """A file stands in its place: every call names the path and the setting."""
    (tmp_path / "file").write_text("")
    store = FileMaterialised(tmp_path / "file", ManualClock(), catalog=lambda: CATALOG)
    with pytest.raises(StoreUnavailable, match=r"DGS_MATERIALISED_PATH.*file"):
        await store.write(TOPIC, 7, {"p-1": picks(1, 2, 3, 4, 5, 6)}, keep_s=1)
    with pytest.raises(StoreUnavailable):
        await store.done("job", 1, keep_s=1)
    await store.aclose()
