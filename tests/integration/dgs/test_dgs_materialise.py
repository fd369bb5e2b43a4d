"""The job on real processes and files: the same picks however often it was killed, in bounded memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from contract.clock import ManualClock
from contract.errors import BroadcastSystemError, StoreUnavailable, Unavailable
from contract.runtime.system_clock import SystemClock
from contract.schedule import PlannedStage, TopicSchedule
from dgs.adapters.materialised_file import FileMaterialised
from dgs.catalog_picks import CatalogPicks
from dgs.catalogs import CatalogIndex, CatalogInUse
from dgs.materialise.job import JobPlan
from dgs.materialise.making import ChunkMaker
from dgs.materialise.profile_list import GeneratedIds
from dgs.materialise.worker import Finished, Workers
from dgs.model import Title
from dgs.picks import Picks
from dgs.sources.catalog import Catalog
from dgs.sources.profiles import SeededProfiles

STAGES = tuple(PlannedStage(key=key, order=order) for order, key in enumerate(("upcoming", "live", "ended")))
AUDIENCES = {"": ("US", "CA"), "@eu": ("DE", "FR", "GB"), "@asia": ("JP",)}
SCHEDULES = tuple(
    TopicSchedule(
        topic=f"event:night{name}", event_id="night", title="Night", revision=1, version=4, starts_at=0,
        regions=regions, stages=STAGES,
    )
    for name, regions in AUDIENCES.items()
)  # fmt: skip
TITLES = tuple(
    Title(id=f"t-{number}", name=f"Title {number}", genres=("Drama" if number % 2 else "Comedy",), votes=number)
    for number in range(60)
)


class Job:
    """A small catalog, an event of three audiences that does not reach every region, a directory."""

    def __init__(self, directory: Path, profiles: int, *, chunk: int = 50) -> None:
        self.directory = directory
        self.catalogs = CatalogInUse(CatalogIndex(TITLES, cohorts=2))
        self.profiles = SeededProfiles(Catalog(TITLES))
        self.ids = GeneratedIds(profiles)
        self.plan = JobPlan(
            schedules=SCHEDULES, catalog=self.catalogs.current.digest, sources="test", per_row=4, profiles=profiles,
            profiles_digest=self.ids.digest, chunk_profiles=chunk,
        )  # fmt: skip

    def store(self) -> FileMaterialised:
        return FileMaterialised(self.directory, SystemClock(), catalog=lambda: self.plan.catalog)

    @asynccontextmanager
    async def maker(self) -> AsyncIterator[ChunkMaker]:
        by_topic = {schedule.topic: schedule for schedule in SCHEDULES}
        source = CatalogPicks(self.catalogs, self.profiles, by_topic.get, ManualClock(), per_row=4)
        store = self.store()
        yield ChunkMaker(self.plan, source, self.profiles, store, keep_s=3600)
        await store.aclose()

    async def left(self) -> tuple[int, ...]:
        store = self.store()
        left = self.plan.left(await store.progress(self.plan.id))
        await store.aclose()
        return left

    def tasks(self, chunks: Sequence[int]) -> list[tuple[int, Sequence[str]]]:
        return [(chunk, self.ids.between(*self.plan.span(chunk))) for chunk in chunks]

    def run(self, chunks: Sequence[int], workers: int = 2) -> tuple[list[Finished], int]:
        with Workers(self.maker, workers) as pool:
            return list(pool.run(self.tasks(chunks))), pool.rss_bytes

    async def all_picks(self) -> Mapping[tuple[str, str], Picks]:
        """(topic, profile) -> picks, as another process reads them."""
        reader = self.store()
        wanted = list(self.ids.between(0, len(self.ids)))
        found = {
            (schedule.topic, profile_id): picks
            for schedule in SCHEDULES
            for profile_id, picks in (await reader.read(schedule.topic, schedule.version, wanted)).items()
        }
        await reader.aclose()
        return found


async def test_every_profile_has_the_picks_of_its_audience(tmp_path: Path) -> None:
    """Two processes, the last chunk a short one; those whose region is not served are left out, and counted."""
    job = Job(tmp_path, 330)
    finished, _ = job.run(range(job.plan.chunks))
    assert sorted(each.chunk for each in finished) == list(range(7))
    found = await job.all_picks()
    served = {region: topic for topic, regions in AUDIENCES.items() for region in regions}
    expected = {
        (f"event:night{served[profile.region]}", profile.id)
        for profile in map(job.profiles.profile, job.ids.between(0, 330))
        if profile.region in served
    }
    assert found.keys() == expected
    assert sum(each.made.written for each in finished) == len(expected)
    assert sum(each.made.left_out for each in finished) == 330 - len(expected) > 0
    assert await job.left() == ()
    by_topic = {schedule.topic: schedule for schedule in SCHEDULES}
    direct = CatalogPicks(job.catalogs, job.profiles, by_topic.get, ManualClock(), per_row=4)
    for (topic, profile_id), picks in found.items():
        made = direct.pick(by_topic[topic], job.profiles.profile(profile_id))
        assert picks == made._replace(source="materialised")


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_dgs_materialise import Job
import asyncio
if __name__ == "__main__":
    job = Job(Path(sys.argv[2]), int(sys.argv[3]))
    left = asyncio.run(job.left())
    from dgs.materialise.worker import Workers
    with Workers(job.maker, 2) as pool:
        print(*(worker.process.pid for worker in pool._workers), flush=True)
        for finished in pool.run(job.tasks(left)):
            print(finished.chunk, flush=True)
"""


@pytest.mark.fault
async def test_killed_at_random_chunks_and_run_again_it_makes_the_same_picks(tmp_path: Path) -> None:
    """kill -9 after a random number of chunks, three times; its workers end by themselves; then it is let finish.

    Picks are compared with those of a run nobody disturbed, record by record: cells, layout, digest.
    """
    calm = Job(tmp_path / "calm", 1_500)
    calm.run(range(calm.plan.chunks))
    script, draw = tmp_path / "child.py", Random(11)
    script.write_text(CHILD)
    command = [sys.executable, str(script), str(Path(__file__).parent), str(tmp_path / "killed"), "1500"]
    job, before = Job(tmp_path / "killed", 1_500), 30
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # noqa: ASYNC220
            assert child.stdout is not None
            workers = [int(pid) for pid in child.stdout.readline().split()]
            for _ in range(draw.randrange(1, 6)):
                assert child.stdout.readline().strip().isdecimal()
            child.send_signal(signal.SIGKILL)
        _wait_until_gone(workers)
        left = len(await job.left())
        assert 0 < left < before, "it went on where the one before was killed"
        before = left
    finished, _ = job.run(await job.left())
    assert len(finished) == before
    assert await job.all_picks() == await calm.all_picks()


def _wait_until_gone(pids: Sequence[int]) -> None:
    until_s = time.monotonic() + 10
    for pid in pids:
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < until_s, f"worker {pid} outlived its parent"
            time.sleep(0.01)


def test_memory_does_not_grow_with_the_number_of_profiles(tmp_path: Path) -> None:
    """Ten times the profiles, and at most 24 MiB more over two workers and all their chunks."""
    few, many = Job(tmp_path / "few", 500), Job(tmp_path / "many", 5_000)
    _, rss_few = few.run(range(few.plan.chunks))
    _, rss_many = many.run(range(many.plan.chunks))
    assert 0 < rss_many < rss_few + 24 * 2**20


class Failing:
    """Stands for a maker whose store goes away, or whose process does, at the third chunk."""

    def __init__(self, error: BroadcastSystemError | None) -> None:
        self._error = error

    async def make(self, chunk: int, profile_ids: Sequence[str]) -> object:
        if chunk == 2:
            if self._error is None:
                os._exit(9)
            raise self._error
        from dgs.materialise.making import Made

        return Made(len(profile_ids), 0)


@pytest.mark.parametrize(
    ("error", "raised", "why"),
    [
        (StoreUnavailable("Redis went away", field="kv_url"), StoreUnavailable, "kv_url: Redis went away"),
        (None, Unavailable, "exit code 9"),
    ],
)
def test_what_ends_a_worker_ends_the_run_and_is_said(
    error: BroadcastSystemError | None, raised: type[Exception], why: str
) -> None:
    @asynccontextmanager
    async def maker() -> AsyncIterator[Failing]:
        yield Failing(error)

    with pytest.raises(raised, match=why), Workers(maker, 2) as pool:  # type: ignore[arg-type]
        list(pool.run((chunk, ["a"]) for chunk in range(10)))


def test_a_store_that_cannot_be_opened_is_said() -> None:
    @asynccontextmanager
    async def maker() -> AsyncIterator[ChunkMaker]:
        raise StoreUnavailable("no Redis answers")
        yield

    with pytest.raises(StoreUnavailable, match="no Redis answers"), Workers(maker, 2) as pool:
        list(pool.run((chunk, ["a"]) for chunk in range(10)))
