"""Sources by name: those of the DGS and those of other packages, found the same way.

A source is an entry point in one of three groups, whose object is called with `SourceOptions` and returns the source:

    [project.entry-points."stagecue.dgs.recommendations"]
    charts = "our_package:create"

docs/sources.md shows what each kind must have, examples/dgs_source is a package to copy.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal, NamedTuple, overload

from contract.clock import Clock
from contract.errors import BroadcastSystemError, InvalidRequest
from dgs.ports import BatchRecommendations, CatalogSource, ProfileSource, RecommendationSource
from dgs.serving import Outcome
from dgs.settings import DgsSettings
from dgs.sources.catalog import Catalog

__all__ = ["BUILT_IN", "GROUPS", "Kind", "SourceOptions", "installed", "load_source"]

Kind = Literal["catalog", "recommendations", "profiles"]
GROUPS: Final[Mapping[Kind, str]] = {
    "catalog": "stagecue.dgs.catalog",
    "recommendations": "stagecue.dgs.recommendations",
    "profiles": "stagecue.dgs.profiles",
}
BUILT_IN: Final[Mapping[Kind, Mapping[str, str]]] = {
    "catalog": {"file": "dgs.sources.built_in:file_catalog", "sql": "dgs.sources.built_in:sql_catalog"},
    "recommendations": {
        "catalog": "dgs.sources.built_in:catalog_recommendations",
        "http": "dgs.sources.built_in:http_recommendations",
    },
    "profiles": {"seeded": "dgs.sources.built_in:seeded_profiles", "file": "dgs.sources.built_in:file_profiles"},
}
"""The entry points of pyproject.toml once more, so that a checkout installed before it had them works."""
_NEEDED: Final[Mapping[Kind, tuple[str, ...]]] = {
    "catalog": ("load", "stamp"),
    "recommendations": ("name", "recommend"),
    "profiles": ("profile",),
}
_SETTING: Final[Mapping[Kind, str]] = {
    "catalog": "DGS_CATALOG_SOURCE",
    "recommendations": "DGS_RECOMMENDATIONS",
    "profiles": "DGS_PROFILES_SOURCE",
}


class SourceOptions(NamedTuple):
    """What every source is made with. Settings of its own a plug-in reads from the environment."""

    settings: DgsSettings
    clock: Clock
    catalog: Callable[[], Catalog] | None = None
    """The catalog as it is now: ask each time, a reload replaces it. None for catalog sources."""
    ranking: Callable[[], RecommendationSource] | None = None
    """The content-based ranking of that catalog, where one is made anyway; None: source `catalog` makes its own."""
    draw: Callable[[], float] = random.random
    """Uniform over [0, 1), for jitter."""
    observe: Callable[[float, Outcome], None] = lambda took_s, outcome: None
    """Tell it how long each question took that left this process, in seconds, and how it ended: what the limit of
    rankings under way is found by. A source that tells nothing is judged by how long requests wait for it."""


@overload
def load_source(kind: Literal["catalog"], name: str, options: SourceOptions) -> CatalogSource: ...
@overload
def load_source(kind: Literal["recommendations"], name: str, options: SourceOptions) -> BatchRecommendations: ...
@overload
def load_source(kind: Literal["profiles"], name: str, options: SourceOptions) -> ProfileSource: ...


def load_source(kind: Kind, name: str, options: SourceOptions) -> Any:
    """Make the source called `name`; blocking, as its module is imported and its files may be read.

    Raises InvalidRequest naming the setting: nothing of that name is installed (and what is), two packages have one, it
    cannot be imported, it raises, or what it returns is no such source.
    """
    field = _SETTING[kind]
    found = _found(kind)
    if name not in found:
        raise InvalidRequest(
            f"no {kind} source {name[:80]!r}", field=field, rule=f"installed: {', '.join(sorted(found))}"
        )
    points = found[name]
    if len(points) > 1:
        values = " and ".join(sorted(point.value for point in points))
        raise InvalidRequest(f"two {kind} sources are called {name!r}: {values}", field=field)
    (point,) = points
    try:
        source = point.load()(options)
    except BroadcastSystemError:
        raise
    except Exception as exc:  # somebody else's code: whatever it raises is said with its name
        raise InvalidRequest(
            f"{kind} source {name!r} ({point.value}): {type(exc).__name__}: {str(exc)[:300]}", field=field
        ) from exc
    lacking = [part for part in _NEEDED[kind] if not hasattr(source, part)]
    if lacking:
        raise InvalidRequest(
            f"{kind} source {name!r} ({point.value}) returned {type(source).__name__} without {', '.join(lacking)}",
            field=field,
        )
    return source


def installed(kind: Kind) -> tuple[str, ...]:
    """Names that `load_source` knows, sorted."""
    return tuple(sorted(_found(kind)))


def _found(kind: Kind) -> dict[str, set[EntryPoint]]:
    group = GROUPS[kind]
    found: dict[str, set[EntryPoint]] = {}
    for name, value in BUILT_IN[kind].items():
        found[name] = {EntryPoint(name=name, value=value, group=group)}
    for point in entry_points(group=group):
        # Compared by value: a package on the path twice registers nothing twice.
        found.setdefault(point.name, set()).add(EntryPoint(name=point.name, value=point.value, group=group))
    return found
