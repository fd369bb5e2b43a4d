"""MaterialisedStore in a directory: append-only segments that other processes read while they are written (ADR 13).

    <directory>/<topic>/<version>/<number>.picks     one per writer, see `dgs/materialise/segment.py`
    <directory>/jobs/<job>.done                      a line per chunk that is done

Looking a profile up is one search in an index in memory, 32 bytes per profile, and one read at a known place: it is
done at once, without a thread. The index follows the files in a thread, at most once a second.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote
from zlib import crc32

import numpy as np
import numpy.typing as npt
import structlog

from contract.clock import Clock
from contract.errors import StoreUnavailable
from dgs.caches.single_flight import SingleFlight
from dgs.materialise.record import decode_layout, decode_record, layout_id, profile_key
from dgs.materialise.segment import HEADER_BYTES, LAYOUT, Header, layout_frame, picks_frame, read_header, rows_of
from dgs.picks import Layout, Picks

__all__ = ["FileMaterialised"]

_LOOK_EVERY_S: Final = 1.0
_NEVER: Final = float("-inf")
_TOPICS_MAX: Final = 256
"""Topics whose files are held open; the one asked longest ago is closed."""
_SEGMENT_BYTES: Final = 256 * 1024 * 1024
"""A writer begins another one beyond it, so that what expired can be removed piece by piece."""
_SUFFIX: Final = ".picks"
_JOBS: Final = "jobs"
_DONE: Final = ".done"
_PRIVATE: Final = 0o600
_PRIVATE_FOLDER: Final = 0o700
_YOUNG_MS: Final = 3_600_000
_LAYOUT_ID: Final = 8
_log = structlog.get_logger(__name__)
_Longs = npt.NDArray[np.uint64]


class _Frame(NamedTuple):
    segment: _Segment
    until_ms: int


class _Columns(NamedTuple):
    """A row per record."""

    key: _Longs
    place: _Longs
    length: _Longs
    frame: _Longs


class _Index:
    """Where the records of one topic and version lie, as far as its files were read. Replaced whole, never changed."""

    __slots__ = ("_columns", "_frame", "_key", "_length", "_place", "frames", "layouts")

    def __init__(self, frames: Sequence[_Frame], layouts: Mapping[bytes, Layout], columns: _Columns) -> None:
        self.frames = tuple(frames)
        self.layouts = layouts
        # Sorted by key, stably: of several records of a profile the one written last comes last.
        order = np.argsort(columns.key, kind="stable")
        self._columns = _Columns(*(column[order] for column in columns))
        # Views of the same memory: taking an element of an array costs several times as much.
        self._key, self._place, self._length, self._frame = (column.data for column in self._columns)

    @classmethod
    def grown(cls, before: _Index | None, found: Sequence[tuple[_Segment, Header, bytes, int]]) -> _Index:
        """With the records of more frames, in the order they were written."""
        frames = list(before.frames) if before else []
        layouts = dict(before.layouts) if before else {}
        empty = np.empty(0, dtype=np.uint64)
        parts = [before._columns if before else _Columns(empty, empty, empty, empty)]
        for segment, header, payload, place in found:
            if header.kind == LAYOUT:
                layouts[payload[:_LAYOUT_ID]] = decode_layout(payload[_LAYOUT_ID:])
                continue
            rows = rows_of(header, payload)
            number = np.full(header.records, len(frames), dtype=np.uint64)
            parts.append(
                _Columns(
                    rows["key"].astype(np.uint64),
                    rows["place"].astype(np.uint64) + np.uint64(place),
                    rows["length"].astype(np.uint64),
                    number,
                )
            )
            frames.append(_Frame(segment, header.until_ms))
        return cls(frames, layouts, _Columns(*(np.concatenate(each) for each in zip(*parts, strict=True))))

    def read(self, key: int, profile_id: str, now_ms: int) -> Picks | None:
        """The newest record of the profile that did not expire; blocking for one read at a known place."""
        keys = self._key
        at = bisect_right(keys, key) - 1
        while at >= 0 and keys[at] == key:
            frame = self.frames[self._frame[at]]
            if now_ms < frame.until_ms:
                record = os.pread(frame.segment.file, self._length[at], self._place[at])
                picks = decode_record(record, profile_id, self.layouts.get)
                if picks is not None:
                    return picks
            at -= 1
        return None


class _Segment:
    """A file being followed, and how far it was read. Open as long as an index refers to it, in whichever thread."""

    __slots__ = ("at", "file")

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.at = 0

    def __del__(self) -> None:
        os.close(self.file)

    def new_frames(self) -> list[tuple[Header, bytes, int]]:
        """Whole frames since the last call: header, payload, place of the payload."""
        found: list[tuple[Header, bytes, int]] = []
        while True:
            header = read_header(os.pread(self.file, HEADER_BYTES, self.at))
            if header is None:
                return found
            place = self.at + HEADER_BYTES
            payload = os.pread(self.file, header.length, place)
            if len(payload) < header.length or crc32(payload) != header.crc:
                return found  # still being written, or never finished
            found.append((header, payload, place))
            self.at = place + header.length


class _Topic:
    """One topic and version being read."""

    __slots__ = ("index", "looked_s", "segments")

    def __init__(self) -> None:
        self.segments: dict[str, _Segment] = {}
        self.index: _Index | None = None
        self.looked_s = _NEVER


class _Written:
    """The segment this process appends to."""

    __slots__ = ("file", "layouts", "size")

    def __init__(self, file: int) -> None:
        self.file = file
        self.size = 0
        self.layouts: set[Layout] = set()


class FileMaterialised:
    """One event loop's; any number of processes may read and write the same directory.

    Raises StoreUnavailable for a directory that cannot be used. Cancel-safe; everything may be repeated.
    """

    def __init__(self, directory: Path, clock: Clock, *, catalog: Callable[[], str]) -> None:
        """`catalog` tells the digest of the catalog in use. The directory is made when first written to."""
        self._directory = directory
        self._clock = clock
        self._catalog = catalog
        self._topics: OrderedDict[tuple[str, int], _Topic] = OrderedDict()
        self._written: dict[tuple[str, int], _Written] = {}
        self._looks: SingleFlight[tuple[str, int], None] = SingleFlight("materialised")
        self._looking: set[asyncio.Task[None]] = set()
        self._writing = asyncio.Lock()

    # Reading.

    def read_now(self, topic: str, version: int, profile_id: str) -> Picks | None:
        """One profile's, at once; None also for what the index does not know yet, which `read` waits for."""
        held = self._topics.get((topic, version))
        if held is None or held.index is None:
            return None
        if self._clock.monotonic_s() - held.looked_s >= _LOOK_EVERY_S:
            self._look_meanwhile(topic, version, held)
        picks = held.index.read(profile_key(profile_id), profile_id, self._clock.now_ms())
        return picks if picks is not None and picks.layout.catalog == self._catalog() else None

    async def read(self, topic: str, version: int, profiles: Sequence[str]) -> Mapping[str, Picks]:
        """See MaterialisedStore; what another process wrote is seen within a second."""
        held = self._topics.get((topic, version))
        if held is not None and held.looked_s > _NEVER:
            looked = self._clock.monotonic_s() - held.looked_s < _LOOK_EVERY_S
            found = self._read_known(topic, version, profiles)
            if looked or len(found) == len(profiles):
                return found
        await self._looks.run((topic, version), lambda: self._look(topic, version))
        return self._read_known(topic, version, profiles)

    def _read_known(self, topic: str, version: int, profiles: Sequence[str]) -> dict[str, Picks]:
        found = ((profile_id, self.read_now(topic, version, profile_id)) for profile_id in profiles)
        return {profile_id: picks for profile_id, picks in found if picks is not None}

    def _look_meanwhile(self, topic: str, version: int, held: _Topic) -> None:
        held.looked_s = self._clock.monotonic_s()
        task = asyncio.get_running_loop().create_task(self._looked(topic, version), name="materialised_look")
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _looked(self, topic: str, version: int) -> None:
        try:
            await self._looks.run((topic, version), lambda: self._look(topic, version))
        except StoreUnavailable as exc:
            _log.warning("materialised_not_read", topic=topic, why=str(exc))

    async def _look(self, topic: str, version: int) -> None:
        key = topic, version
        held = self._topics.get(key)
        if held is None:
            held = self._topics[key] = _Topic()
        self._topics.move_to_end(key)
        folder = self._folder(topic, version)
        try:
            held.segments, held.index = await asyncio.to_thread(_followed, folder, dict(held.segments), held.index)
        except OSError as exc:
            raise _unusable(folder, exc) from exc
        held.looked_s = self._clock.monotonic_s()
        while len(self._topics) > _TOPICS_MAX:
            self._topics.popitem(last=False)

    # Writing.

    async def write(self, topic: str, version: int, picks: Mapping[str, Picks], *, keep_s: int) -> None:
        """See MaterialisedStore. All of them or none: readers see a write once it is whole."""
        if not picks:
            return
        until_ms = self._clock.now_ms() + keep_s * 1000
        async with self._writing:
            try:
                await asyncio.to_thread(self._append, topic, version, picks, until_ms)
            except OSError as exc:
                raise _unusable(self._folder(topic, version), exc) from exc
        held = self._topics.get((topic, version))
        if held is not None:
            held.looked_s = _NEVER

    def _append(self, topic: str, version: int, picks: Mapping[str, Picks], until_ms: int) -> None:
        key = topic, version
        segment = self._written.get(key)
        if segment is not None and segment.size >= _SEGMENT_BYTES:
            self._finish(key)
            segment = None
        if segment is None:
            self._make_directory()
            segment = self._written[key] = _Written(_new_segment(self._folder(topic, version)))
        layouts = {each.layout for each in picks.values()} - segment.layouts
        frames = [layout_frame(layout, until_ms=until_ms) for layout in sorted(layouts, key=layout_id)]
        data = b"".join((*frames, picks_frame(picks, until_ms=until_ms)))
        try:
            _write_all(segment.file, data)
        except OSError:
            self._finish(key)  # whatever follows half a frame would never be read
            raise
        segment.size += len(data)
        segment.layouts |= layouts

    def _finish(self, key: tuple[str, int]) -> None:
        os.close(self._written.pop(key).file)

    async def progress(self, job: str) -> frozenset[int]:
        """See MaterialisedStore."""
        path = self._job(job)
        try:
            return await asyncio.to_thread(_marks, path, self._clock.now_ms())
        except OSError as exc:
            raise _unusable(path, exc) from exc

    async def done(self, job: str, chunk: int, *, keep_s: int) -> None:
        """See MaterialisedStore: what this process wrote before is on the disk by then."""
        until_ms = self._clock.now_ms() + keep_s * 1000
        async with self._writing:
            try:
                await asyncio.to_thread(self._mark, job, chunk, until_ms)
            except OSError as exc:
                raise _unusable(self._job(job), exc) from exc

    def _mark(self, job: str, chunk: int, until_ms: int) -> None:
        for segment in self._written.values():
            os.fdatasync(segment.file)
        path = self._job(job)
        self._make_directory()
        path.parent.mkdir(exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _PRIVATE)
        try:
            _write_all(file, _mark_line(chunk, until_ms))
        finally:
            os.close(file)

    async def forget(self, job: str) -> None:
        """None of its chunks is done; what they wrote stays."""
        try:
            await asyncio.to_thread(self._job(job).unlink, missing_ok=True)
        except OSError as exc:
            raise _unusable(self._job(job), exc) from exc

    async def prune(self) -> int:
        """Remove the files of which everything expired; returns how many."""
        try:
            return await asyncio.to_thread(_pruned, self._directory, self._clock.now_ms())
        except OSError as exc:
            raise _unusable(self._directory, exc) from exc

    async def aclose(self) -> None:
        """Close all files; idempotent."""
        for task in tuple(self._looking):
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        async with self._writing:
            for key in tuple(self._written):
                self._finish(key)
        self._topics.clear()

    def _make_directory(self) -> None:
        """Its owner's alone: who watches what is nobody else's business."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=_PRIVATE_FOLDER)

    def _folder(self, topic: str, version: int) -> Path:
        return self._directory / quote(topic, safe="") / str(version)

    def _job(self, job: str) -> Path:
        return self._directory / _JOBS / f"{quote(job, safe='')}{_DONE}"


def _followed(
    folder: Path, segments: dict[str, _Segment], index: _Index | None
) -> tuple[dict[str, _Segment], _Index | None]:
    """The folder's segments and their index as of now. A segment that was removed makes all be read anew."""
    names = sorted(path.name for path in folder.glob(f"*{_SUFFIX}"))
    if not segments.keys() <= set(names):
        segments, index = {}, None
    for name in names:
        if name not in segments:
            segments[name] = _Segment(folder / name)
    found = [(segment, *each) for segment in segments.values() for each in segment.new_frames()]
    return segments, _Index.grown(index, found) if found else index


def _new_segment(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    number = max((int(path.stem) for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdecimal()), default=0) + 1
    while True:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            return os.open(folder / f"{number:08}{_SUFFIX}", flags, _PRIVATE)
        except FileExistsError:  # another writer began at the same time
            number += 1


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _mark_line(chunk: int, until_ms: int) -> bytes:
    """The newline first: a line somebody died in the middle of spoils itself alone."""
    said = f"{chunk} {until_ms}"
    return f"\n{said} {crc32(said.encode()):08x}\n".encode()


def _marks(path: Path, now_ms: int) -> frozenset[int]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return frozenset()
    found = set()
    for line in lines:
        said, _, checksum = line.rpartition(b" ")
        if said and checksum == f"{crc32(said):08x}".encode():
            chunk, until_ms = map(int, said.split())
            if now_ms < until_ms:
                found.add(chunk)
    return frozenset(found)


def _pruned(directory: Path, now_ms: int) -> int:
    removed = 0
    for path in (*directory.glob(f"*/*/*{_SUFFIX}"), *directory.glob(f"{_JOBS}/*{_DONE}")):
        with suppress(FileNotFoundError):  # somebody else prunes, too
            # What has nothing whole in it may just have been begun.
            young = now_ms - path.stat().st_mtime * 1000 < _YOUNG_MS
            alive = bool(_marks(path, now_ms)) if path.suffix == _DONE else _alive(path, now_ms)
            if not alive and not young:
                path.unlink()
                removed += 1
    for folder in (*directory.glob("*/*/"), *directory.glob("*/")):
        with suppress(OSError):  # not empty
            folder.rmdir()
    return removed


def _alive(path: Path, now_ms: int) -> bool:
    with path.open("rb") as file:
        at = 0
        while (header := read_header(os.pread(file.fileno(), HEADER_BYTES, at))) is not None:
            if now_ms < header.until_ms:
                return True
            at += HEADER_BYTES + header.length
    return False


def _unusable(path: Path, exc: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"materialised picks at {path}: {exc.strerror or exc}", field="DGS_MATERIALISED_PATH")
