"""Files of materialised picks: readable while written, at most the unfinished frame lost, removed when expired."""

from __future__ import annotations

import asyncio
import os
from array import array
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.clock import ManualClock
from contract.errors import StoreUnavailable
from dgs.adapters import materialised_file
from dgs.adapters.materialised_file import FileMaterialised
from dgs.materialise.record import decode_record, encode_record, layout_of_record
from dgs.materialise.segment import HEADER_BYTES, picks_frame, read_header
from dgs.picks import Layout, Picks, RowShape

TOPIC = "event:night@us"
LAYOUT = Layout((("live", (RowShape(3),)), ("default", (RowShape(1),))), "c")


def picks(number: int) -> Picks:
    return Picks(LAYOUT, array("I", [number, 2, 3, 4]), number.to_bytes(8, "big"), 9, "catalog")


def store(directory: Path, clock: ManualClock | None = None) -> FileMaterialised:
    return FileMaterialised(directory, clock or ManualClock(), catalog=lambda: "c")


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*/*.picks"))


async def written(directory: Path, chunks: int, *, each: int = 3, clock: ManualClock | None = None) -> None:
    writer = store(directory, clock)
    for chunk in range(chunks):
        await writer.write(
            TOPIC, 1, {f"p-{chunk * each + at}": picks(chunk * each + at) for at in range(each)}, keep_s=60
        )
    await writer.aclose()


async def readable(directory: Path, count: int, clock: ManualClock | None = None) -> set[int]:
    reader = store(directory, clock)
    found = await reader.read(TOPIC, 1, [f"p-{number}" for number in range(count)])
    await reader.aclose()
    assert all(each.cells[0] == int(name[2:]) for name, each in found.items())
    return {int(name[2:]) for name in found}


async def test_cut_at_any_byte_only_the_unfinished_frame_is_lost(tmp_path: Path) -> None:
    """Every length the file can have had when its writer died: the chunks written whole before are all there."""
    await written(tmp_path, 3)
    [path] = segments(tmp_path)
    data, at, ends = path.read_bytes(), 0, []
    while (header := read_header(data[at : at + HEADER_BYTES])) is not None:
        at += HEADER_BYTES + header.length
        ends.append(at)
    assert (len(ends), ends[-1]) == (4, len(data)), "a layout, and three chunks"
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends[1:])
        assert await readable(tmp_path, 9) == set(range(3 * whole)), cut


async def test_a_spoilt_byte_spoils_no_other_answer(tmp_path: Path) -> None:
    """Whatever byte of the file is changed: what is still read is right, nothing is made up."""
    await written(tmp_path, 2)
    [path] = segments(tmp_path)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        await readable(tmp_path, 6)


async def test_a_record_spoilt_after_it_was_indexed_is_none(tmp_path: Path) -> None:
    """Its own checksum tells; also where the file became shorter."""
    await written(tmp_path, 1)
    reader = store(tmp_path)
    assert len(await reader.read(TOPIC, 1, ["p-0", "p-1", "p-2"])) == 3
    [path] = segments(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    assert sum(reader.read_now(TOPIC, 1, f"p-{number}") is not None for number in range(3)) == 2
    await reader.aclose()


async def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    """Chunk by chunk, half a frame on disk in between, and a second writer with a segment of its own."""
    clock = ManualClock()
    reader, first = store(tmp_path, clock), store(tmp_path, clock)
    await first.write(TOPIC, 1, {"p-0": picks(0)}, keep_s=60)
    assert set(await reader.read(TOPIC, 1, ["p-0", "p-1"])) == {"p-0"}
    frame = picks_frame({"p-1": picks(1)}, until_ms=clock.now_ms() + 60_000)
    [path] = segments(tmp_path)
    with path.open("ab") as file:
        file.write(frame[:50])
        file.flush()
        clock.advance_ms(1_000)
        assert set(await reader.read(TOPIC, 1, ["p-0", "p-1"])) == {"p-0"}
        file.write(frame[50:])
    second = store(tmp_path, clock)
    await second.write(TOPIC, 1, {"p-2": picks(2)}, keep_s=60)
    clock.advance_ms(1_000)
    assert set(await reader.read(TOPIC, 1, ["p-0", "p-1", "p-2"])) == {"p-0", "p-1", "p-2"}
    assert len(segments(tmp_path)) == 2
    for each in (reader, first, second):
        await each.aclose()


async def test_what_the_index_knows_is_read_without_waiting(tmp_path: Path) -> None:
    """`read_now` never looks at the directory itself; it has that done, and the next one sees more."""
    clock = ManualClock()
    await written(tmp_path, 1, clock=clock)
    reader = store(tmp_path, clock)
    assert reader.read_now(TOPIC, 1, "p-0") is None
    await reader.read(TOPIC, 1, ["p-0"])
    assert reader.read_now(TOPIC, 1, "p-0") == picks(0)._replace(source="materialised")
    await written(tmp_path, 2, clock=clock)
    clock.advance_ms(1_000)
    assert reader.read_now(TOPIC, 1, "p-5") is None
    async with asyncio.timeout(5):
        while reader.read_now(TOPIC, 1, "p-5") is None:  # noqa: ASYNC110 - a thread tells nobody
            await asyncio.sleep(0.001)
    await reader.aclose()


async def test_expired_segments_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those that hold anything, nor what was just begun; jobs likewise; a reader goes on without them."""
    clock = ManualClock()
    await written(tmp_path, 1, clock=clock)
    keeper = store(tmp_path, clock)
    await keeper.done("job", 1, keep_s=60)
    await keeper.read(TOPIC, 1, ["p-0"])
    assert await keeper.prune() == 0
    clock.advance_ms(60_000)
    await keeper.write(TOPIC, 1, {"p-9": picks(9)}, keep_s=60)
    monkeypatch.setattr(materialised_file, "_YOUNG_MS", float("-inf"))
    assert await keeper.prune() == 2
    clock.advance_ms(1_000)
    assert set(await keeper.read(TOPIC, 1, ["p-0", "p-9"])) == {"p-9"}
    clock.advance_ms(60_000)
    assert await keeper.prune() == 1
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    await keeper.aclose()


async def test_marks_somebody_died_in_are_none(tmp_path: Path) -> None:
    """Cut at every byte: marks before it are whole, and one appended after the cut counts."""
    first = store(tmp_path)
    for chunk in (1, 22, 333):
        await first.done("job", chunk, keep_s=60)
    path = tmp_path / "jobs" / "job.done"
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        before = await first.progress("job")
        assert before in (set(), {1}, {1, 22}, {1, 22, 333})
        await first.done("job", 4, keep_s=60)
        assert await first.progress("job") == before | {4}
    await first.aclose()


async def test_a_failed_write_is_said_and_the_next_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle of a frame: the writer goes on in a segment of its own."""
    writer = store(tmp_path)
    await writer.write(TOPIC, 1, {"p-0": picks(0)}, keep_s=60)
    real = os.write

    def full(file: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", refused)
        return real(file, data[:60])

    def refused(file: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreUnavailable, match="No space"):
        await writer.write(TOPIC, 1, {"p-1": picks(1)}, keep_s=60)
    monkeypatch.setattr(os, "write", real)
    await writer.write(TOPIC, 1, {"p-2": picks(2)}, keep_s=60)
    await writer.aclose()
    assert await readable(tmp_path, 3) == {0, 2}


async def test_a_large_segment_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(materialised_file, "_SEGMENT_BYTES", 300)
    await written(tmp_path, 6)
    assert len(segments(tmp_path)) > 2
    assert await readable(tmp_path, 18) == set(range(18))


async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    await written(tmp_path / "new", 1)
    private = (tmp_path / "new", *segments(tmp_path / "new"))
    assert all(not path.stat().st_mode & 0o077 for path in private)


CELLS = st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4) | st.lists(
    st.integers(0, 70_000), min_size=4, max_size=4
)


@given(CELLS, st.text("abc{}:~", min_size=1, max_size=128), st.binary(min_size=8, max_size=8), st.integers(0, 2**40))
def test_a_record_round_trips_and_names_its_layout(cells: list[int], name: str, digest: bytes, at: int) -> None:
    given = Picks(LAYOUT, array("I", cells), digest, at, "materialised")
    record = encode_record(name, given)
    assert decode_record(record, name, lambda _: LAYOUT) == given
    assert decode_record(record, name + "x", lambda _: LAYOUT) is None
    assert decode_record(record, name, lambda _: None) is None
    assert layout_of_record(record) is not None


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=80), st.integers(0, 60), st.integers(1, 255))
def test_no_bytes_are_taken_for_a_record(garbage: bytes, place: int, by: int) -> None:
    """Garbage, a record cut short, a record with one byte changed."""
    record = bytearray(encode_record("p-1", picks(1)))
    assert decode_record(garbage, "p-1", lambda _: LAYOUT) is None
    assert decode_record(bytes(record[:place][: len(record) - 1]), "p-1", lambda _: LAYOUT) is None
    record[place % len(record)] ^= by
    assert decode_record(bytes(record), "p-1", lambda _: LAYOUT) is None
