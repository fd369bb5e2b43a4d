"""Artwork: well-formed, escaped, deterministic, and under URLs that change with what they show."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import msgspec
import pytest

from dgs import artwork
from dgs.artwork import art_language, artwork_for, artwork_path, draw, parse_artwork_path
from dgs.model import ArtworkKind, DeviceContext, DeviceKind, ScreenClass, Title
from dgs.sources.catalog import Catalog

FILM = Title(id="film-1", name='Cats & <Dogs> "2"', genres=("Comedy",), year=1999, maturity="PG")
SVG = "{http://www.w3.org/2000/svg}"


def test_every_title_of_the_catalog_is_well_formed(demo_catalog: Catalog) -> None:
    """All 3,200 titles parse as XML and say their name, wrapped or in full."""
    for title in demo_catalog.titles:
        root = ElementTree.fromstring(draw(title, ArtworkKind.POSTER, 160, 240, "en"))
        assert root.findtext(f"{SVG}title") == title.name
        lines = [span.text or "" for span in root.iter(f"{SVG}tspan")]
        assert 1 <= len(lines) <= 4
        assert lines[-1].endswith("…") or re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", title.name)


def test_names_are_escaped() -> None:
    """Markup in a title is text in the picture, not markup."""
    svg = draw(FILM, ArtworkKind.WIDE, 320, 180, "en")
    assert "<Dogs>" not in svg
    assert "Cats &amp; &lt;Dogs&gt;" in svg
    assert "script" not in draw(
        msgspec.structs.replace(FILM, name="<script>x</script>"), ArtworkKind.WIDE, 320, 180, "en"
    ).replace("&lt;script&gt;", "").replace("&lt;/script&gt;", "")


def test_a_name_without_spaces_is_cut_into_lines() -> None:
    """One endless word does not run out of the picture."""
    svg = draw(msgspec.structs.replace(FILM, name="W" * 300), ArtworkKind.SQUARE, 160, 160, "en")
    lines = [span.text or "" for span in ElementTree.fromstring(svg).iter(f"{SVG}tspan")]
    assert len(lines) == 4
    assert max(map(len, lines)) <= 26


def test_drawing_is_deterministic_and_differs() -> None:
    """Same input, same bytes; title, shape and language change the picture."""
    one = draw(FILM, ArtworkKind.WIDE, 320, 180, "en")
    assert one == draw(FILM, ArtworkKind.WIDE, 320, 180, "en")
    assert one != draw(FILM, ArtworkKind.WIDE, 320, 180, "de")
    assert "Komödie · 1999 · PG" in draw(FILM, ArtworkKind.WIDE, 320, 180, "de")
    assert (
        len({draw(msgspec.structs.replace(FILM, id=f"film-{n}"), ArtworkKind.WIDE, 320, 180, "en") for n in range(50)})
        == 50
    )


def test_the_url_says_what_is_served() -> None:
    """A path parses back to its parts."""
    path = artwork_path(FILM, ArtworkKind.WIDE, 640, 360, "de")
    asked = parse_artwork_path(path)
    assert asked is not None
    assert (asked.title_id, asked.kind, asked.width, asked.height, asked.language) == ("film-1", "WIDE", 640, 360, "de")
    assert path.endswith(f"-{asked.hash}.svg")


@pytest.mark.parametrize(
    "change", [{"name": "Dogs"}, {"year": 2000}, {"maturity": "R"}, {"genres": ("Drama",)}, {"id": "film-2"}]
)
def test_whatever_is_drawn_is_in_the_hash(change: dict[str, object]) -> None:
    """A changed fact gives another URL, so a cached picture is never wrong."""
    paths = {
        artwork_path(title, ArtworkKind.WIDE, 320, 180, "en").rpartition("-")[2]
        for title in (FILM, msgspec.structs.replace(FILM, **change))
    }
    assert len(paths) == 2


def test_what_is_not_drawn_is_not_in_the_hash() -> None:
    """New votes do not make every device fetch every picture again."""
    changed = msgspec.structs.replace(FILM, votes=9, rating=1.0, synopsis="new")
    assert artwork_path(FILM, ArtworkKind.WIDE, 320, 180, "en") == artwork_path(
        changed, ArtworkKind.WIDE, 320, 180, "en"
    )


def test_changing_the_drawing_changes_every_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash covers the code: another motif, another URL."""
    before = artwork_path(FILM, ArtworkKind.WIDE, 320, 180, "en")
    artwork._drawing_fingerprint.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(artwork, "_motif", lambda *_: "<g/>")
        after = artwork_path(FILM, ArtworkKind.WIDE, 320, 180, "en")
    artwork._drawing_fingerprint.cache_clear()
    assert after != before
    assert artwork_path(FILM, ArtworkKind.WIDE, 320, 180, "en") == before


@pytest.mark.parametrize(
    "path",
    [
        "/artwork/film-1/wide-321x180-en-0123456789abcdef.svg",
        "/artwork/film-1/wide-9999x9999-en-0123456789abcdef.svg",
        "/artwork/film-1/wide-320x180-xx-0123456789abcdef.svg",
        "/artwork/film-1/round-320x180-en-0123456789abcdef.svg",
        "/artwork/film-1/wide-320x180-en-0123456789ABCDEF.svg",
        "/artwork/../wide-320x180-en-0123456789abcdef.svg/x",
        "/artwork/film-1/wide-320x180-en-0123456789abcdef.svg\n",
        "/artwork/",
    ],
)
def test_paths_nobody_was_given(path: str) -> None:
    """Sizes, languages and shapes outside the list do not parse, so they cannot fill a cache."""
    assert parse_artwork_path(path) is None


def test_every_device_gets_its_shape_and_size() -> None:
    """One picture per title, sized by screen, with a URL that parses, absolute where a base is given."""
    for kind in DeviceKind:
        sizes = []
        for screen in ScreenClass:
            (picture,) = artwork_for(
                FILM, DeviceContext(kind=kind, screen=screen, locale="fr-CA"), base_url="https://c.test"
            )
            assert picture.url.startswith("https://c.test/artwork/film-1/")
            asked = parse_artwork_path(picture.url.removeprefix("https://c.test"))
            assert asked is not None
            assert (asked.kind, asked.width, asked.height, asked.language) == (
                picture.kind,
                picture.width,
                picture.height,
                "fr",
            )
            sizes.append(picture.width)
        assert sizes == sorted(set(sizes))


def test_languages() -> None:
    """A locale is drawn in its language where there is one, else in English."""
    assert [art_language(locale) for locale in ("de-AT", "pt", "EN-gb", "ja-JP", None)] == [
        "de",
        "pt",
        "en",
        "en",
        "en",
    ]
