"""Sources by name: what is installed, and how a package that is wrong is told."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import dgs
from contract.clock import ManualClock
from contract.errors import InvalidRequest
from dgs.settings import DgsSettings
from dgs.sources.catalog import DEMO_CATALOG, Catalog, load_catalog
from dgs.sources.registry import BUILT_IN, GROUPS, Kind, SourceOptions, installed, load_source

ROOT = Path(dgs.__file__).parent.parent
CATALOG = Catalog(load_catalog(DEMO_CATALOG).titles[:200])


def options(**settings: object) -> SourceOptions:
    return SourceOptions(DgsSettings(**settings), ManualClock(), lambda: CATALOG, lambda: 0.5)  # type: ignore[arg-type]


def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: str, points: str) -> None:
    """A distribution on the path, as pip leaves one: a module, and metadata with entry points."""
    (tmp_path / f"{name}.py").write_text(body)
    metadata = tmp_path / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_built_in_ones_are_entry_points() -> None:
    """The table in the code says what pyproject.toml registers."""
    registered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert {GROUPS[kind]: dict(points) for kind, points in BUILT_IN.items()} == {
        group: points for group, points in registered.items() if group in GROUPS.values()
    }


@pytest.mark.parametrize("kind", list(GROUPS))
def test_every_built_in_source_can_be_made(kind: Kind, tmp_path: Path) -> None:
    """Each name gives a source of its kind, from settings alone."""
    people = tmp_path / "profiles.csv"
    people.write_text(f"profile_id,title_id\nada,{CATALOG.titles[0].id}\n")
    given = options(catalog_url="sqlite://", ranking_url="http://127.0.0.1:9/", profiles_path=people)
    assert set(BUILT_IN[kind]) <= set(installed(kind))
    for name in BUILT_IN[kind]:
        source = load_source(kind, name, given)
        assert kind != "recommendations" or getattr(source, "name", None) == name


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("catalog", "DGS_CATALOG_SOURCE"),
        ("recommendations", "DGS_RECOMMENDATIONS"),
        ("profiles", "DGS_PROFILES_SOURCE"),
    ],
)
def test_an_unknown_name_says_what_is_installed(kind: Kind, setting: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        load_source(kind, "nonesuch", options())
    assert refused.value.field == setting
    assert "'nonesuch'" in refused.value.message
    assert all(name in str(refused.value.rule) for name in installed(kind))


def test_settings_a_source_needs_are_named() -> None:
    """A source that lacks a setting says which."""
    for kind, name, setting in (
        ("recommendations", "http", "DGS_RANKING_URL"),
        ("profiles", "file", "DGS_PROFILES_PATH"),
        ("catalog", "sql", "DGS_CATALOG_URL"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            load_source(kind, name, options())  # type: ignore[call-overload]
        assert refused.value.field == setting


@pytest.mark.parametrize(
    ("body", "value", "why"),
    [
        ("import nothing_of_the_kind", "bad:create", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("", "bad:create", "AttributeError"),
        ("def create(options): return 1 / 0", "bad:create", "ZeroDivisionError: division by zero"),
        ("def create(): pass", "bad:create", "TypeError"),
        ("def create(options): return object()", "bad:create", "returned object without name, recommend"),
        (
            "class NoName:\n  def recommend(self): ...\ndef create(options): return NoName()",
            "bad:create",
            "without name",
        ),
    ],
    ids=["import", "attribute", "raises", "signature", "no source", "no name"],
)
def test_a_package_that_is_wrong_is_told_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, value: str, why: str
) -> None:
    """Whatever a plug-in does, the refusal has its name, its entry point, and what happened."""
    package(tmp_path, monkeypatch, "bad", body, f"[{GROUPS['recommendations']}]\nbad = {value}\n")
    with pytest.raises(InvalidRequest) as refused:
        load_source("recommendations", "bad", options())
    assert "'bad'" in refused.value.message
    assert "bad:create" in refused.value.message
    assert why in refused.value.message


def test_two_packages_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody guesses which one was meant."""
    package(tmp_path, monkeypatch, "other", "", f"[{GROUPS['recommendations']}]\nhttp = other:create\n")
    with pytest.raises(InvalidRequest, match="two recommendations sources are called 'http'") as refused:
        load_source("recommendations", "http", options())
    assert "other:create" in refused.value.message


def test_the_catalogs_own_refusal_passes(tmp_path: Path) -> None:
    """A file that cannot be used is told by the loader's words, not wrapped."""
    source = load_source("catalog", "file", options(catalog_path=tmp_path / "none.csv"))
    with pytest.raises(InvalidRequest, match="No such file"):
        source.load()


def test_good_rows_are_kept_only_if_asked(tmp_path: Path) -> None:
    """A rough catalog of one's own is refused by line and column; only what ships is known to be rough."""
    rough = tmp_path / "rough.csv"
    rough.write_text("id,title\na,A\na,B\n")
    with pytest.raises(InvalidRequest, match=r"line 3, column id: same id a as line 2.*DGS_CATALOG_STRICT=false"):
        load_source("catalog", "file", options(catalog_path=rough)).load()
    lenient = load_source("catalog", "file", options(catalog_path=rough, catalog_strict=False)).load()
    assert ([title.id for title in lenient.titles], len(lenient.rejected)) == (["a"], 1)
    assert len(load_source("catalog", "file", options()).load().rejected) == 1


def test_nothing_of_ours_is_registered_elsewhere() -> None:
    """An installation's metadata, if it has these groups, says the same as the code."""
    for kind, group in GROUPS.items():
        for point in entry_points(group=group):
            if point.value.startswith("dgs."):
                assert BUILT_IN[kind][point.name] == point.value
