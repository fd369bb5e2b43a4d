"""Viewing histories: generated ones are reproducible and plausible, a user's file is checked cell by cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.errors import InvalidRequest, NotFound
from dgs.model import Title
from dgs.sources.catalog import Catalog
from dgs.sources.profiles import SeededProfiles, load_profiles, parse_profiles

TINY = Catalog((Title(id="a", name="A", votes=3), Title(id="b", name="B", votes=2)))


def test_a_generated_profile_depends_on_nothing_but_seed_and_id(demo_catalog: Catalog) -> None:
    """Two sources agree; another seed or id is another person."""
    one, two = SeededProfiles(demo_catalog, 7), SeededProfiles(demo_catalog, 7)
    assert one.profile("p-1") == two.profile("p-1") == one.profile("p-1")
    assert one.profile("p-1").history != one.profile("p-2").history
    assert one.profile("p-1").history != SeededProfiles(demo_catalog, 8).profile("p-1").history


def test_histories_have_8_to_25_known_titles_once_each(demo_catalog: Catalog) -> None:
    """What was watched exists, once, with a weight between 0.2 and 1."""
    source = SeededProfiles(demo_catalog, 1)
    for number in range(200):
        history = source.profile(f"p-{number}").history
        ids = [viewing.title_id for viewing in history]
        assert 8 <= len(ids) == len(set(ids)) <= 25
        assert all(title_id in demo_catalog.by_id for title_id in ids)
        assert all(0.2 <= viewing.weight <= 1.0 for viewing in history)


def test_regions_and_locales_are_mixed(demo_catalog: Catalog) -> None:
    """A demo reaches every audience."""
    source = SeededProfiles(demo_catalog, 1)
    profiles = [source.profile(f"p-{number}") for number in range(300)]
    assert len({profile.region for profile in profiles}) >= 8
    assert all(profile.locale.endswith(profile.region) for profile in profiles)


def test_a_tiny_catalog_gives_a_short_history() -> None:
    """Two titles without genre, director or year are enough to run."""
    history = SeededProfiles(TINY, 1).profile("anyone").history
    assert {viewing.title_id for viewing in history} <= {"a", "b"}
    assert history


@pytest.mark.parametrize("profile_id", ["", "a b", "x" * 129, "über", "a\n"])
def test_malformed_ids(profile_id: str) -> None:
    """Refused with field and rule before any work."""
    with pytest.raises(InvalidRequest) as refused:
        SeededProfiles(TINY, 1).profile(profile_id)
    assert (refused.value.field, refused.value.rule) == ("profileId", "1-128 printable ASCII, no spaces")


def test_the_users_file(tmp_path: Path) -> None:
    """Rows are viewings, newest last; the last region named counts."""
    path = tmp_path / "profiles.csv"
    path.write_text("profile_id,title_id,region\nu1,a,DE\nu1,b,\nu2,b,\nu1,a,FR\n")
    source = load_profiles(path, TINY, default_region="GB")
    assert len(source) == 2
    one = source.profile("u1")
    assert ([viewing.title_id for viewing in one.history], one.region) == (["a", "b"], "FR")
    assert source.profile("u2").region == "GB"
    with pytest.raises(NotFound, match="no profile 'u3'"):
        source.profile("u3")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "line 1: no column profile_id"),
        ("profile_id,film\n", "line 1: no column title_id"),
        ("profile_id,title_id\nu1,a\nu1,zzz\n", "line 3, column title_id: the catalog has no 'zzz'"),
        ("profile_id,title_id\n,a\n", "line 2, column profile_id"),
        ("profile_id,title_id\nu1\n", "line 2, column title_id"),
        ("profile_id,title_id,region\nu1,a,Germany\n", "line 2, column region: 'Germany'"),
        ('profile_id,title_id\n"u1"x,a\n', "line 2:"),
    ],
)
def test_a_broken_file_names_line_and_column(text: str, why: str) -> None:
    """Histories are refused whole: half a history would recommend the wrong things silently."""
    with pytest.raises(InvalidRequest) as refused:
        parse_profiles(text, TINY, source="mine.csv")
    assert why in refused.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing or not UTF-8: told, not a traceback."""
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load_profiles(tmp_path / "none.csv", TINY)
    (tmp_path / "latin.csv").write_bytes(b"profile_id,title_id\n\xe9,a\n")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        load_profiles(tmp_path / "latin.csv", TINY)


def test_a_place_is_the_profiles(demo_catalog: Catalog) -> None:
    """Region and locale are told without the history, and are the same."""
    source = SeededProfiles(demo_catalog, 4)
    for number in range(300):
        profile = source.profile(f"p-{number}")
        assert source.place(profile.id) == (profile.region, profile.locale)
    with pytest.raises(InvalidRequest):
        source.place("a b")
