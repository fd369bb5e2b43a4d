"""The plan of a job and its list of profiles: the same again for whoever goes on, another one where picks differ."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import InvalidRequest
from contract.schedule import PlannedStage, TopicSchedule
from dgs.materialise.job import JobPlan
from dgs.materialise.profile_list import FileIds, GeneratedIds, KnownIds

NIGHT = TopicSchedule(
    topic="event:night", event_id="night", title="Night", revision=3, version=2, starts_at=0,
    stages=(PlannedStage(key="live", order=0, due_at=5),),
)  # fmt: skip


def plan(**given: object) -> JobPlan:
    facts = {
        "schedules": (NIGHT,), "catalog": "c", "sources": "catalog seeded 1", "per_row": 4, "profiles": 1_201,
        "profiles_digest": "d",
    }  # fmt: skip
    return JobPlan(**{**facts, **given})  # type: ignore[arg-type]


@given(st.integers(1, 5_000), st.integers(1, 700), st.sets(st.integers(0, 60)))
def test_chunks_cover_every_profile_once_whatever_is_done(profiles: int, size: int, done: set[int]) -> None:
    job = plan(profiles=profiles, chunk_profiles=size)
    places = [place for chunk in range(job.chunks) for place in range(*job.span(chunk))]
    assert places == list(range(profiles))
    left = job.left(frozenset(done))
    assert set(left) == set(range(job.chunks)) - done
    assert job.profiles_of(left) + job.profiles_of(tuple(done & set(range(job.chunks)))) == profiles


@pytest.mark.parametrize(
    "other",
    [
        {"catalog": "x"},
        {"per_row": 5},
        {"profiles": 1_202},
        {"profiles_digest": "x"},
        {"sources": "http"},
        {"chunk_profiles": 100},
    ],
)
def test_another_job(other: dict[str, object]) -> None:
    assert plan(**other).id != plan().id


def test_a_version_a_stage_or_an_audience_makes_another_job_and_a_moved_time_does_not() -> None:
    moved = (PlannedStage(key="live", order=0, due_at=99),)
    more = (*moved, PlannedStage(key="ended", order=1))
    change = msgspec.structs.replace
    assert plan(schedules=(change(NIGHT, revision=4, stages=moved),)).id == plan().id
    for other in ({"version": 3}, {"stages": more}, {"regions": ("US",)}):
        assert plan(schedules=(change(NIGHT, **other),)).id != plan().id  # type: ignore[arg-type]


def test_generated_profiles_are_those_of_simulated_devices() -> None:
    ids = GeneratedIds(10)
    assert (len(ids), list(ids.between(8, 20))) == (10, ["p-8", "p-9"])
    assert GeneratedIds(11).digest != ids.digest


def test_known_ids() -> None:
    ids = KnownIds(iter(["a", "b", "c"]))
    assert (len(ids), list(ids.between(1, 3))) == (3, ["b", "c"])
    with pytest.raises(InvalidRequest, match="no profile"):
        KnownIds(iter([]))


@given(st.lists(st.text("abcXYZ019-_.{}", min_size=1, max_size=12), min_size=1, max_size=60), st.integers(1, 7))
def test_a_file_is_read_piece_by_piece_as_it_is_read_whole(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], chunk: int
) -> None:
    """Blank lines, both kinds of line ends, a byte order mark; ids repeated one after the other count once."""
    path = tmp_path_factory.mktemp("ids") / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbf\n" + b"\r\n\n".join(each.encode() for each in ids))
    expected = [each for place, each in enumerate(ids) if place == 0 or ids[place - 1] != each]
    found = FileIds(path, chunk=chunk)
    assert len(found) == len(expected)
    pieces = [found.between(start, start + chunk) for start in range(0, len(found), chunk)]
    assert [each for piece in pieces for each in piece] == expected
    assert found.between(0, len(expected)) == expected
    assert found.between(len(expected) - 1, len(expected) + 9) == expected[-1:]


def test_the_file_of_histories_is_a_list_too(tmp_path: Path) -> None:
    """Rows of a profile stand together; the column of ids comes first."""
    path = tmp_path / "histories.csv"
    path.write_text('profile_id,title_id\na,"Up, again"\na,Jaws\nb,Jaws\n"c",Up\n')
    ids = FileIds(path, chunk=2)
    assert [*ids.between(0, 2), *ids.between(2, 4)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"a\nb\nc d\ne\n", r"ids.txt, line 3: 'c d' is not a profile id \(1-128 printable ASCII, no spaces\)"),
        (b"a\n\xff\xfe\n", "line 2: byte 1 is not UTF-8"),
        (b"a\n" + b"x" * 600 + b"\n", "line 2: .* is not a profile id"),
        ("a\nzürich\n".encode(), "line 2: .* is not a profile id"),
        (b"\n\n", "no profile at all"),
        (b"", "no profile at all"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: bytes | None, why: str) -> None:
    path = tmp_path / "ids.txt"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(InvalidRequest, match=why):
        FileIds(path)


def test_a_file_that_became_shorter_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("a\nb\nc\n")
    ids = FileIds(path, chunk=1)
    path.write_text("a\nb\n")
    with pytest.raises(InvalidRequest, match="became shorter"):
        ids.between(2, 3)


@pytest.mark.parametrize("count", [0, -5, 50_000_001])
def test_a_count_has_bounds(count: int) -> None:
    with pytest.raises(InvalidRequest, match="1 to 50000000"):
        GeneratedIds(count)
