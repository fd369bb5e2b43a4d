"""The catalog while it changes under the service: swapped whole, or the old one stays and says why."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contract.clock import ManualClock
from contract.errors import InvalidRequest
from dgs.model import Title
from dgs.sources.catalog import Catalog
from dgs.sources.file import FileCatalog
from dgs.sources.reload import CatalogReload
from tests.support.ranking_services import until


def titles(*ids: str) -> Catalog:
    return Catalog(tuple(Title(id=each, name=each) for each in ids))


class Source:
    """A catalog that is what a test says, or an error."""

    def __init__(self) -> None:
        self.stamps: list[str] = []
        self.now: Catalog | Exception = titles("a")
        self.mark = "1"
        self.loads = 0
        self.hold = threading.Event()
        self.hold.set()
        self.waiting = False

    def stamp(self) -> str:
        return self.stamps.pop(0) if self.stamps else self.mark

    def load(self) -> Catalog:
        self.waiting = not self.hold.is_set()
        self.hold.wait(20)
        self.loads += 1
        if isinstance(self.now, Exception):
            raise self.now
        return self.now

    def put(self, now: Catalog | Exception, mark: str) -> None:
        self.now, self.mark = now, mark


def looking() -> int:
    return sum(thread.name == "catalog_look" for thread in threading.enumerate())


def reloading(source: Source | FileCatalog, every_s: float = 1000.0) -> CatalogReload:
    return CatalogReload(source, every_s=every_s, clock=ManualClock(), jitter=lambda: 0.5)


def shown(reload: CatalogReload) -> list[str]:
    return [title.id for title in reload.current().titles]


async def test_a_new_catalog_replaces_the_old_one() -> None:
    """Only when its stamp changed; parts are prepared in the thread and adopted on the loop, together."""
    source = Source()
    reload = reloading(source)
    loop_thread = threading.get_ident()
    prepared: list[int] = []
    adopted: list[tuple[str, list[str], int]] = []
    reload.on_new(
        lambda catalog: (prepared.append(threading.get_ident()), catalog.titles[0].id)[1],
        lambda first: adopted.append((first, shown(reload), threading.get_ident())),
    )
    assert not await reload.look()
    assert (source.loads, adopted) == (1, [])
    source.put(titles("b", "c"), "2")
    assert await reload.look()
    assert shown(reload) == ["b", "c"]
    assert adopted == [("b", ["b", "c"], loop_thread)]
    assert loop_thread not in prepared
    assert reload.stats() == {"looks": 2, "loads": 2, "failures": 0, "unsettled": 0}


@pytest.mark.parametrize("error", [InvalidRequest("films.csv: line 3", field="catalog"), ValueError("odd")])
async def test_a_bad_one_leaves_the_old_one(error: Exception) -> None:
    """Said once in the log, for as long as it lasts in the status; the good one after it is taken."""
    source = Source()
    reload = reloading(source)
    source.put(error, "2")
    with capture_logs() as logs:
        for _ in range(4):
            assert not await reload.look()
    assert [line["event"] for line in logs] == ["catalog_kept"]
    assert shown(reload) == ["a"]
    assert str(error) in str(reload.status()["error"])
    assert reload.stats()["failures"] >= 1
    source.put(titles("b"), "3")
    with capture_logs() as logs:
        assert await reload.look()
    assert [line["event"] for line in logs] == ["catalog_usable_again", "catalog_reloaded"]
    assert reload.status()["error"] is None


async def test_the_same_bad_one_is_read_ever_more_seldom() -> None:
    """A large file that is wrong is not parsed at every look, yet again and again: the reason may have passed."""
    source = Source()
    reload = reloading(source)
    source.put(InvalidRequest("bad"), "2")
    read_at = []
    for look in range(60):
        before = source.loads
        await reload.look()
        if source.loads > before:
            read_at.append(look)
    assert read_at == [0, 2, 5, 10, 19, 36, 53]
    source.now = titles("b")
    for _ in range(17):
        if await reload.look():
            return
    pytest.fail("never read again")


async def test_a_bad_one_that_goes_away_is_forgotten() -> None:
    """Back to what is served: nothing is wrong any more, nothing is read."""
    source = Source()
    reload = reloading(source)
    source.put(InvalidRequest("bad"), "2")
    await reload.look()
    source.put(titles("a"), "1")
    assert not await reload.look()
    assert reload.status()["error"] is None
    assert source.loads == 2


async def test_a_part_that_cannot_be_prepared_keeps_everything() -> None:
    """No part adopts, and the catalog stays."""
    source = Source()
    reload = reloading(source)
    adopted: list[object] = []
    reload.on_new(lambda catalog: catalog, adopted.append)

    def fail(catalog: Catalog) -> None:
        raise MemoryError("too large")

    reload.on_new(fail, adopted.append)
    source.put(titles("b"), "2")
    assert not await reload.look()
    assert (shown(reload), adopted) == (["a"], [])
    assert "too large" in str(reload.status()["error"])


async def test_a_file_somebody_is_writing_waits() -> None:
    """Its stamp moved while it was read: half a file may look like a whole one. The next look takes it."""
    source = Source()
    reload = reloading(source)
    source.put(titles("b"), "3")
    source.stamps = ["2", "3"]
    assert not await reload.look()
    assert (shown(reload), reload.stats()["unsettled"]) == (["a"], 1)
    assert await reload.look()
    assert shown(reload) == ["b"]


async def test_it_looks_until_it_is_stopped() -> None:
    """As a service: ready at once, looks by itself, and ends though a look hangs."""
    source = Source()
    reload = reloading(source, every_s=0.001)
    ready, stop = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(reload.run(ready, stop))
    await ready.wait()
    source.put(titles("b"), "2")
    await until(lambda: shown(reload) == ["b"])
    source.hold.clear()
    source.put(titles("c"), "3")
    await until(lambda: source.waiting)
    stop.set()
    await asyncio.wait_for(running, 10)
    assert shown(reload) == ["b"]
    source.hold.set()


async def test_a_source_that_hangs_is_said_and_asked_no_further() -> None:
    """Given up after a while, with one thread left behind, not one for every look; what it brings late is dropped."""
    source = Source()
    reload = CatalogReload(source, every_s=1000, clock=ManualClock(), jitter=lambda: 0.5, look_s=0.05)
    source.hold.clear()
    source.put(titles("b"), "2")
    await until(lambda: not looking())
    with capture_logs() as logs:
        for _ in range(5):
            assert not await reload.look()
    assert [line["event"] for line in logs] == ["catalog_kept"]
    assert looking() == 1
    assert "does not answer" in str(reload.status()["error"])
    source.hold.set()
    await until(lambda: not looking())
    await asyncio.sleep(0)
    assert shown(reload) == ["a"]
    assert await reload.look()
    assert (shown(reload), reload.status()["error"]) == (["b"], None)


async def test_never_is_a_choice() -> None:
    """0 seconds: the catalog of the start, until the stop."""
    source = Source()
    reload = reloading(source, every_s=0)
    ready, stop = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(reload.run(ready, stop))
    await ready.wait()
    source.put(titles("b"), "2")
    await asyncio.sleep(0.01)
    stop.set()
    await running
    assert reload.stats()["looks"] == 0


def test_the_first_one_must_be_usable() -> None:
    """At start there is no old one to keep."""
    source = Source()
    source.now = InvalidRequest("bad")
    with pytest.raises(InvalidRequest):
        reloading(source)


async def test_a_real_file(tmp_path: Path) -> None:
    """Written anew, broken, replaced by another of the same size and time, gone: told by what is on disk."""
    path = tmp_path / "mine.csv"
    path.write_text("id,title\na,One\n")
    reload = reloading(FileCatalog(path))
    path.write_text("id,title\na,One\nb,Two\n")
    assert await reload.look()
    assert len(reload.current().titles) == 2
    path.write_bytes(b"id,title\na,\xff\n")
    assert not await reload.look()
    assert "line 2, byte 3: not UTF-8" in str(reload.status()["error"])
    path.unlink()
    assert not await reload.look()
    assert "cannot be read" in str(reload.status()["error"])
    assert len(reload.current().titles) == 2
    for name in ("One", "Two"):
        other = tmp_path / "other.csv"
        other.write_text(f"id,title\na,{name}\n")
        os.utime(other, ns=(1, 1))
        keep = tmp_path / f"kept-{name}"
        os.link(other, keep)
        other.replace(path)
        assert await reload.look()
        assert reload.current().titles[0].name == name
