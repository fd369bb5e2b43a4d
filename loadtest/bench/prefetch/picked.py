"""What every profile sees of the event, chosen once by the production code and given to every server under test."""

from __future__ import annotations

import hashlib
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

import dgs
from contract.runtime.system_clock import SystemClock
from contract.schedule import TopicSchedule
from dgs.adapters.materialised_file import FileMaterialised
from dgs.catalog_picks import CatalogPicks
from dgs.catalogs import CatalogIndex, CatalogInUse
from dgs.picks import Layout, Picks
from dgs.settings import DgsSettings
from dgs.sources.catalog import DEMO_CATALOG, DEMO_OPTIONS, Catalog, load_catalog
from dgs.sources.profiles import SeededProfiles
from loadtest.bench.peers.programs import cache_directory
from loadtest.bench.prefetch.night import profile_id

__all__ = ["PickedProfiles", "demo_catalog", "pick_for_all", "production"]

_HERE_AT_MOST: Final = 2_000
"""So few profiles are not worth starting processes for."""
_CHUNK: Final = 1_000


def production() -> DgsSettings:
    """The DGS's settings where nobody sets any, whatever the environment of a benchmark says."""
    return DgsSettings.model_construct()


@lru_cache(maxsize=1)
def demo_catalog() -> Catalog:
    """The catalog of the repository; 0.1 s."""
    return load_catalog(DEMO_CATALOG, strict=False, options=DEMO_OPTIONS)


class PickedProfiles(msgspec.Struct, frozen=True):
    """Picks of profiles 0, 1 and on."""

    layouts: Sequence[Layout]
    which: np.ndarray[Any, Any]
    """Layout of each profile, as an index (u1)."""
    cells: np.ndarray[Any, Any]
    """One row per profile (u4), of which its layout says how many count."""
    digests: Sequence[bytes]

    @classmethod
    def of(cls, picks: Iterable[Picks]) -> PickedProfiles:
        """Put those of every profile, in order, into one table."""
        layouts: dict[Layout, int] = {}
        found = [(layouts.setdefault(each.layout, len(layouts)), each) for each in picks]
        cells = np.zeros((len(found), max(len(each.cells) for _, each in found)), dtype="<u4")
        for row, (_, each) in zip(cells, found, strict=True):
            row[: len(each.cells)] = each.cells
        return cls(
            list(layouts), np.array([at for at, _ in found], dtype="u1"), cells, [each.digest for _, each in found]
        )

    def __len__(self) -> int:
        return len(self.which)

    def picks(self, number: int, *, now_ms: int) -> Picks:
        """Those of one profile, as the batch job would have written them."""
        layout = self.layouts[int(self.which[number])]
        cells = array("I", self.cells[number, : layout.cells].tolist())
        return Picks(layout, cells, self.digests[number], now_ms, "materialised")

    async def materialise(self, directory: Path, schedule: TopicSchedule) -> None:
        """Put them where a DGS reads them (DGS_MATERIALISED_PATH), as the batch job does. Raises StoreUnavailable."""
        clock, settings = SystemClock(), production()
        store = FileMaterialised(directory, clock, catalog=lambda: self.layouts[0].catalog)
        now_ms = clock.now_ms()
        try:
            for start in range(0, len(self), _CHUNK):
                numbers = range(start, min(len(self), start + _CHUNK))
                picks = {profile_id(number): self.picks(number, now_ms=now_ms) for number in numbers}
                await store.write(schedule.topic, schedule.version, picks, keep_s=settings.materialised_keep_s)
        finally:
            await store.aclose()

    def distinct_answers(self) -> dict[str, int]:
        """Stage key -> how many different contents of that stage the profiles see."""
        seen: dict[str, set[bytes]] = {}
        for at, layout in enumerate(self.layouts):
            mine, start = self.cells[self.which == at], 0
            for key, rows in layout.stages:
                width = sum(row.titles + row.because for row in rows)
                found = np.unique(mine[:, start : start + width], axis=0)
                seen.setdefault(key, set()).update(row.tobytes() for row in found)
                start += width
        return {key: len(contents) for key, contents in seen.items()}

    def write(self, path: Path) -> None:
        layouts = np.frombuffer(msgspec.json.encode(list(self.layouts)), dtype="u1")
        digests = np.frombuffer(b"".join(self.digests), dtype="u1")
        with path.open("wb") as file:
            np.savez(file, layouts=layouts, which=self.which, cells=self.cells, digests=digests)

    @classmethod
    def read(cls, path: Path) -> PickedProfiles:
        with np.load(path) as found:
            layouts = msgspec.json.decode(found["layouts"].tobytes(), type=list[Layout])
            digests = found["digests"].tobytes()
            size = len(digests) // max(1, len(found["which"]))
            parts = [digests[at : at + size] for at in range(0, len(digests), size)]
            return cls(layouts, found["which"], found["cells"], parts)


def pick_for_all(
    schedule: TopicSchedule, profiles: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> PickedProfiles:
    """Rank and shelve for every profile, blocking, on all cores this process may use: about 0.3 ms each.

    What the same code chose from the same catalog before is read from the user's cache: picks do not depend on when.
    """
    kept = cache_directory() / f"picks-{profiles}-{_fingerprint(schedule)}.npz"
    if kept.is_file():
        return PickedProfiles.read(kept)
    found = PickedProfiles.of(_pick_all(schedule, profiles, progress))
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as making:
        made = Path(making) / "picks"
        found.write(made)
        made.replace(kept)
    return found


def _pick_all(schedule: TopicSchedule, profiles: int, progress: Callable[[int, int], None]) -> Iterator[Picks]:
    if profiles <= _HERE_AT_MOST:
        yield from _pick_some(schedule, 0, profiles)
        return
    chunks = range(0, profiles, _CHUNK)
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_pick_some, schedule, at, min(profiles, at + _CHUNK)) for at in chunks]
        for number, job in enumerate(jobs):
            yield from job.result()
            progress(min(profiles, (number + 1) * _CHUNK), profiles)


def _pick_some(schedule: TopicSchedule, start: int, end: int) -> list[Picks]:
    choose = _chooser(schedule)
    return [choose(profile_id(number)) for number in range(start, end)]


def _chooser(schedule: TopicSchedule) -> Callable[[str], Picks]:
    catalogs, profiles = _sources()
    ranking = CatalogPicks(
        catalogs, profiles, lambda topic: schedule, SystemClock(), per_row=production().titles_per_row
    )
    return lambda profile: ranking.pick(schedule, profiles.profile(profile))


@lru_cache(maxsize=1)
def _sources() -> tuple[CatalogInUse, SeededProfiles]:
    return CatalogInUse(CatalogIndex(demo_catalog().titles)), SeededProfiles(demo_catalog())


def _fingerprint(schedule: TopicSchedule) -> str:
    """Of everything picks depend on: the DGS's code, the catalog, the stages."""
    digest = hashlib.sha256(repr([(stage.key, stage.order) for stage in schedule.stages]).encode())
    home = Path(dgs.__file__).parent
    for path in (*sorted(home.rglob("*.py")), DEMO_CATALOG):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
