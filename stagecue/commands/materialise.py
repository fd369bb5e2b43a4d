"""`stagecue materialise`: the picks of many profiles for one event, ahead of the night."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from stagecue.commands.up import installation_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from contract.schedule import TopicSchedule
    from dgs.adapters.materialised_file import FileMaterialised
    from dgs.adapters.materialised_redis import RedisMaterialised
    from dgs.catalogs import CatalogInUse
    from dgs.materialise.job import JobPlan
    from dgs.materialise.making import ChunkMaker
    from dgs.materialise.profile_list import ProfileIds
    from dgs.materialise.worker import Workers
    from dgs.ports import PicksSource, ProfileSource
    from dgs.settings import DgsSettings
    from dgs.sources.catalog import Catalog
    from stagecue.settings import InstallationSettings

    Store = FileMaterialised | RedisMaterialised

__all__ = ["materialise"]

T = TypeVar("T")
_COULD_NOT_RUN: Final = 2
_NAMED_AT_MOST: Final = 10


class _Night(NamedTuple):
    """What is read before anything is made, and shared by all workers."""

    settings: InstallationSettings
    chosen: DgsSettings
    catalog: Catalog
    catalogs: CatalogInUse
    profiles: ProfileSource
    ids: ProfileIds
    schedules: tuple[TopicSchedule, ...]
    plan: JobPlan
    keep_s: int


class _Tally(NamedTuple):
    done_before: int
    """Profiles of chunks that an earlier run finished."""
    written: int
    left_out: int
    rss_bytes_max: int


@click.command(
    epilog="\b\nExamples:\n"
    "  stagecue materialise tyson-paul --profiles 100000\n"
    "  stagecue materialise tyson-paul --profiles ids.txt --workers 4 --kv redis://127.0.0.1:6379\n"
    "  stagecue materialise tyson-paul --profiles 20000 --data-dir ./night --json\n"
)
@click.argument("event_id", metavar="EVENT")
@click.option(
    "--profiles",
    "listed",
    metavar="FILE|N",
    help="A file of profile ids, one a line or a CSV with profile_id first; or how many generated ones. "
    "[those of DGS_PROFILES_PATH]",
)
@click.option("--workers", type=click.IntRange(1, 256), help="Processes. [one per core]")
@click.option("--keep", "keep_s", type=click.IntRange(min=60), metavar="SECONDS", help="DGS_MATERIALISED_KEEP_S.")
@click.option("--fresh", is_flag=True, help="Make all of them anew, also those an earlier run finished.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option("--kv", "kv_url", help="Redis of the installation, or STAGECUE_KV_URL. [none: --data-dir]")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where `stagecue up` keeps its data.")
@click.option("--catalog", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CSV or JSON of titles.")
def materialise(
    event_id: str,
    listed: str | None,
    workers: int | None,
    keep_s: int | None,
    fresh: bool,
    as_json: bool,
    kv_url: str | None,
    data_dir: Path | None,
    catalog: Path | None,
) -> None:
    """Make the picks of many profiles for EVENT ahead of time, so that their first prefetch is a look-up.

    The schedule is read from the Redis of a running cluster, or from the data directory of `stagecue up`; the picks go
    to the same place, or to DGS_MATERIALISED_PATH. A run that was killed goes on where it was: run it again. Exit code
    1 when it ended before the last profile, 2 when it could not begin.
    """
    from contract.errors import BroadcastSystemError
    from contract.runtime.telemetry import configure_logging

    settings = installation_settings(data_dir=data_dir, kv_url=kv_url)
    configure_logging(level="ERROR", form=settings.log_format, service="materialise")
    began_s = time.monotonic()
    try:
        night = _prepared(settings, event_id, listed, keep_s, catalog=catalog)
        done = _run_in(night, lambda store: _begun(store, night.plan, fresh=fresh))
    except BroadcastSystemError as exc:
        raise SystemExit(_said(str(exc), _COULD_NOT_RUN)) from exc
    try:
        tally = _made(night, done, workers or _cores())
    except KeyboardInterrupt:
        raise SystemExit(_said("interrupted; what was finished is kept, run it again to go on", 130)) from None
    except BroadcastSystemError as exc:
        raise SystemExit(_said(f"{exc}; what was finished is kept, run it again to go on", 1)) from exc
    _report(night, tally, time.monotonic() - began_s, as_json)


def _said(why: str, code: int) -> int:
    click.echo(f"stagecue: {why}", err=True)
    return code


def _cores() -> int:
    import os

    return max(1, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# What is read first.


def _prepared(
    settings: InstallationSettings,
    event_id: str,
    listed: str | None,
    keep_s: int | None,
    *,
    catalog: Path | None,
) -> _Night:
    from contract.names import check_event_id
    from contract.runtime.system_clock import SystemClock
    from dgs.catalogs import CatalogIndex, CatalogInUse
    from dgs.materialise.job import JobPlan
    from dgs.sources.registry import SourceOptions, load_source
    from stagecue.prefetch_part import dgs_settings

    check_event_id(event_id, "EVENT")
    chosen = dgs_settings(settings, catalog=catalog, profiles=None)
    schedules = asyncio.run(_schedules(settings, event_id))
    clock = SystemClock()
    loaded = load_source("catalog", chosen.catalog_source, SourceOptions(chosen, clock)).load()
    catalogs = CatalogInUse(CatalogIndex(loaded.titles, cohorts=chosen.cohorts))
    named = chosen.profiles_source or ("seeded" if chosen.profiles_path is None else "file")
    source = load_source("profiles", named, SourceOptions(chosen, clock, lambda: loaded))
    ids = _ids(listed, source)
    plan = JobPlan(
        schedules=schedules,
        catalog=catalogs.current.digest,
        sources=f"{chosen.recommendations} {chosen.ranking_url} {_origin(chosen, named)}",
        per_row=chosen.titles_per_row,
        profiles=len(ids),
        profiles_digest=ids.digest,
    )
    keep = chosen.materialised_keep_s if keep_s is None else keep_s
    return _Night(settings, chosen, loaded, catalogs, source, ids, schedules, plan, keep)


async def _schedules(settings: InstallationSettings, event_id: str) -> tuple[TopicSchedule, ...]:
    """Every topic of the event, sorted. Raises NotFound naming other events, StoreUnavailable, InvalidRequest."""
    from contract.errors import NotFound

    reading = _from_kv(settings.kv_url) if settings.kv_url else _from_database(settings)
    async with reading as (events, schedules):
        found = await schedules(event_id)
        if found:
            return tuple(sorted(found, key=lambda schedule: schedule.topic))
        others = await events()
    named = ", ".join(others[:_NAMED_AT_MOST]) + (" ..." if len(others) > _NAMED_AT_MOST else "")
    raise NotFound(f"no event {event_id!r} is planned there; planned: {named or 'nothing'}", field="EVENT")


_Read = tuple["Callable[[], Awaitable[Sequence[str]]]", "Callable[[str], Awaitable[Sequence[TopicSchedule]]]"]


@asynccontextmanager
async def _from_kv(url: str) -> AsyncIterator[_Read]:
    from contract.errors import StoreUnavailable
    from stagecue.apart.kv import open_kv

    async with open_kv(url) as kv:
        if kv.silence is not None:
            raise StoreUnavailable(kv.silence)

        async def schedules(event_id: str) -> Sequence[TopicSchedule]:
            topics = await kv.schedule_view.topics_of(event_id)
            return tuple((await kv.schedule_view.schedules(topics)).values())

        yield kv.schedule_view.events, schedules


@asynccontextmanager
async def _from_database(settings: InstallationSettings) -> AsyncIterator[_Read]:
    """The log of `stagecue up`, which has no KV store another process could read."""
    from contract.errors import StoreUnavailable
    from contract.runtime.runner import Readiness
    from contract.runtime.system_clock import SystemClock
    from message_producer.app import open_log
    from stagecue.store_part import producer_settings, shown_database

    producer = producer_settings(settings)
    database = producer.data_dir / "producer.db"
    if producer.database_url is None and not await asyncio.to_thread(database.exists):
        raise StoreUnavailable(
            f"no installation in {producer.data_dir}",
            field="--data-dir",
            rule="name the one of a `stagecue up`, or the Redis of a cluster with --kv",
        )
    try:
        async with open_log(producer, clock=SystemClock(), readiness=Readiness()) as shared:
            known = await shared.log.schedules()

            async def events() -> Sequence[str]:
                return sorted({schedule.event_id for schedule in known})

            async def schedules(event_id: str) -> Sequence[TopicSchedule]:
                return [schedule for schedule in known if schedule.event_id == event_id]

            yield events, schedules
    except StoreUnavailable as exc:
        raise StoreUnavailable(f"{shown_database(producer)}: {exc.message}", field="--data-dir") from exc


def _ids(listed: str | None, source: ProfileSource) -> ProfileIds:
    from contract.errors import InvalidRequest
    from dgs.materialise.profile_list import FileIds, GeneratedIds, KnownIds

    if listed is None:
        known = getattr(source, "ids", None)
        if known is None:
            raise InvalidRequest(
                "these profiles have no list", field="--profiles", rule="give a file of ids, or how many"
            )
        return KnownIds(known())
    if listed.isdecimal():
        return GeneratedIds(int(listed))
    return FileIds(Path(listed))


def _origin(chosen: DgsSettings, named: str) -> str:
    """What the histories depend on."""
    if named == "seeded":
        return f"seeded {chosen.profile_seed}"
    path = chosen.profiles_path
    if path is None:
        return named
    found = path.stat()
    return f"{named} {path.resolve()} {found.st_size} {found.st_mtime_ns}"


# The work.


@asynccontextmanager
async def _opened(night: _Night) -> AsyncIterator[Store]:
    from contextlib import AsyncExitStack

    from contract.runtime.system_clock import SystemClock
    from stagecue.apart.kv import open_kv
    from stagecue.materialised_part import materialised_store

    async with AsyncExitStack() as stack:
        url = night.settings.kv_url
        kv = None if not url else (await stack.enter_async_context(open_kv(url))).client
        store = materialised_store(
            night.settings, night.chosen, SystemClock(), catalog=lambda: night.plan.catalog, kv=kv
        )
        stack.push_async_callback(store.aclose)
        yield store


def _run_in(night: _Night, work: Callable[[Store], Awaitable[T]]) -> T:
    async def main() -> T:
        async with _opened(night) as store:
            return await work(store)

    return asyncio.run(main())


async def _begun(store: Store, plan: JobPlan, *, fresh: bool) -> frozenset[int]:
    """Chunks that need not be made."""
    await store.prune()
    if fresh:
        await store.forget(plan.id)
    return await store.progress(plan.id)


def _made(night: _Night, done: frozenset[int], workers: int) -> _Tally:
    from dgs.materialise.worker import Workers, peak_rss_bytes

    plan = night.plan
    left = plan.left(done)
    done_before = plan.profiles - plan.profiles_of(left)
    written = left_out = 0
    if not left:
        return _Tally(done_before, 0, 0, peak_rss_bytes())
    with Workers(lambda: _maker(night), min(workers, len(left))) as pool, _progress(plan, done_before) as advance:
        for finished in _chunks(night, pool, left):
            written += finished.made.written
            left_out += finished.made.left_out
            advance(finished.made.written + finished.made.left_out)
        rss_bytes = peak_rss_bytes() + pool.rss_bytes
    return _Tally(done_before, written, left_out, rss_bytes)


def _chunks(night: _Night, pool: Workers, left: Sequence[int]) -> Iterator[Any]:
    return pool.run((chunk, night.ids.between(*night.plan.span(chunk))) for chunk in left)


@asynccontextmanager
async def _maker(night: _Night) -> AsyncIterator[ChunkMaker]:
    """What a worker makes chunks with; opened in its own event loop."""
    from contextlib import AsyncExitStack

    from dgs.materialise.making import ChunkMaker

    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(_opened(night))
        source = await stack.enter_async_context(_source(night))
        yield ChunkMaker(night.plan, source, night.profiles, store, keep_s=night.keep_s)


@asynccontextmanager
async def _source(night: _Night) -> AsyncIterator[PicksSource]:
    """Whoever DGS_RECOMMENDATIONS names behind `materialised`; the catalog alone is asked without a detour."""
    from contract.runtime.system_clock import SystemClock
    from dgs.caches.chosen_picks import ChosenPicks
    from dgs.catalog_picks import CatalogPicks
    from dgs.sources.chain import MATERIALISED, build_chain, source_order
    from dgs.sources.registry import SourceOptions

    clock = SystemClock()
    by_topic = {schedule.topic: schedule for schedule in night.schedules}
    names = [name for name in source_order(night.chosen.recommendations) if name != MATERIALISED]
    if names in (["catalog"], []):
        yield CatalogPicks(night.catalogs, night.profiles, by_topic.get, clock, per_row=night.plan.per_row)
        return
    options = SourceOptions(
        night.chosen, clock, lambda: night.catalog, ranking=lambda: night.catalogs.current.recommendations
    )
    chain = build_chain(options)
    try:
        yield ChosenPicks(chain, night.catalogs, night.profiles, by_topic.get, clock, per_row=night.plan.per_row)
    finally:
        await chain.aclose()


# What a person sees.


@contextmanager
def _progress(plan: JobPlan, done_before: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where that is a terminal; yields what moves it on by so many profiles."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"profiles of {plan.schedules[0].event_id}", total=plan.profiles, completed=done_before)
        yield lambda profiles: bar.advance(task, profiles)


def _report(night: _Night, tally: _Tally, seconds: float, as_json: bool) -> None:
    from stagecue.materialised_part import materialised_directory

    if as_json:
        click.echo(
            json.dumps(
                {
                    "profiles": night.plan.profiles,
                    "seconds": round(seconds, 3),
                    "rss_bytes_max": tally.rss_bytes_max,
                    "resumed": tally.done_before > 0,
                    "done_before": tally.done_before,
                    "written": tally.written,
                    "left_out": tally.left_out,
                }
            )
        )
        return
    directory = materialised_directory(night.settings, night.chosen, kv=bool(night.settings.kv_url))
    before = f", {tally.done_before:,} were there already" if tally.done_before else ""
    out = f", {tally.left_out:,} left out (unknown, or not served in their region)" if tally.left_out else ""
    click.echo(
        f"{tally.written:,} of {night.plan.profiles:,} profiles in {seconds:.1f} s{before}{out}; "
        f"in {directory or 'Redis'}, {tally.rss_bytes_max / 2**20:.0f} MiB of memory at most"
    )
