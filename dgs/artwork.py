"""Artwork drawn as SVG from what is known of a title, and the immutable URLs it is served under. Pure.

A URL holds a hash of everything the picture depends on: the title's facts, shape, size, language and the drawing itself
(a sample of every motif and shape is drawn and hashed once, so changing the drawing changes every URL). The same URL
therefore always means the same bytes, and may be cached for ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from hashlib import blake2b
from html import escape
from typing import Final

import msgspec

from dgs.model import Artwork, ArtworkKind, DeviceContext, DeviceKind, ScreenClass, Title

__all__ = ["ART_LANGUAGES", "ArtRequest", "art_language", "artwork_for", "artwork_path", "draw", "parse_artwork_path"]

ART_LANGUAGES: Final = ("de", "en", "es", "fr", "pt")
"""Languages with their own captions; every other locale is drawn in English."""

_BASE_SIZES: Final[Mapping[ArtworkKind, tuple[int, int]]] = {
    ArtworkKind.POSTER: (160, 240),
    ArtworkKind.WIDE: (320, 180),
    ArtworkKind.SQUARE: (160, 160),
}
_SCALES: Final[Mapping[ScreenClass, int]] = {ScreenClass.SMALL: 1, ScreenClass.MEDIUM: 2, ScreenClass.LARGE: 3}
_KIND_OF: Final[Mapping[DeviceKind, ArtworkKind]] = {
    DeviceKind.TV: ArtworkKind.WIDE,
    DeviceKind.PHONE: ArtworkKind.POSTER,
    DeviceKind.TABLET: ArtworkKind.POSTER,
    DeviceKind.WEB: ArtworkKind.WIDE,
}
_PATH = re.compile(
    r"/artwork/(?P<title>[a-z0-9._-]{1,80})/(?P<kind>poster|wide|square)-(?P<width>\d{2,4})x(?P<height>\d{2,4})"
    r"-(?P<language>[a-z]{2})-(?P<hash>[0-9a-f]{16})\.svg"
)
# Caption words per language, in the order of ART_LANGUAGES; English is what the catalog says.
_CAPTIONS: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "Action": ("Action", "Acción", "Action", "Ação"),
    "Adventure": ("Abenteuer", "Aventura", "Aventure", "Aventura"),
    "Black Comedy": ("Schwarze Komödie", "Comedia negra", "Comédie noire", "Humor negro"),
    "Comedy": ("Komödie", "Comedia", "Comédie", "Comédia"),
    "Concert": ("Konzert", "Concierto", "Concert", "Concerto"),
    "Documentary": ("Dokumentarfilm", "Documental", "Documentaire", "Documentário"),
    "Drama": ("Drama", "Drama", "Drame", "Drama"),
    "Horror": ("Horror", "Terror", "Horreur", "Terror"),
    "Musical": ("Musical", "Musical", "Comédie musicale", "Musical"),
    "Performance": ("Auftritt", "Espectáculo", "Spectacle", "Espetáculo"),
    "Romantic Comedy": ("Liebeskomödie", "Comedia romántica", "Comédie romantique", "Comédia romântica"),
    "Suspense": ("Spannung", "Suspense", "Suspense", "Suspense"),
    "Thriller": ("Thriller", "Suspense", "Thriller", "Suspense"),
    "Western": ("Western", "Western", "Western", "Faroeste"),
}
# Hue of a genre's palette; an unknown genre takes one from the title's hash.
_HUES: Final[Mapping[str, int]] = {
    "Action": 12, "Adventure": 150, "Black Comedy": 285, "Comedy": 42, "Concert": 320, "Documentary": 200, "Drama": 222,
    "Horror": 355, "Musical": 305, "Romantic Comedy": 338, "Thriller": 255, "Western": 26,
}  # fmt: skip


class ArtRequest(msgspec.Struct, frozen=True):
    """What an artwork URL asks for, not yet checked against the catalog."""

    title_id: str
    kind: ArtworkKind
    width: int
    height: int
    language: str
    hash: str


def art_language(locale: str | None) -> str:
    """The drawn language nearest to a BCP 47 locale."""
    language = (locale or "").partition("-")[0].lower()
    return language if language in ART_LANGUAGES else "en"


def artwork_for(title: Title, device: DeviceContext, *, base_url: str = "") -> tuple[Artwork, ...]:
    """The pictures a device of this kind needs of a title: one, in its shape and size."""
    kind = _KIND_OF[device.kind]
    base_width, base_height = _BASE_SIZES[kind]
    scale = _SCALES[device.screen]
    width, height = base_width * scale, base_height * scale
    path = artwork_path(title, kind, width, height, art_language(device.locale))
    return (Artwork(kind=kind, url=base_url + path, width=width, height=height),)


def artwork_path(title: Title, kind: ArtworkKind, width: int, height: int, language: str) -> str:
    """The immutable path of one picture."""
    digest = _content_hash(title, kind, width, height, language)
    return f"/artwork/{title.id}/{kind.lower()}-{width}x{height}-{language}-{digest}.svg"


def parse_artwork_path(path: str) -> ArtRequest | None:
    """What `path` asks for, or None when it has not the form or names a size nobody is sent to."""
    match = _PATH.fullmatch(path)
    if match is None or match["language"] not in ART_LANGUAGES:
        return None
    kind, width, height = ArtworkKind(match["kind"].upper()), int(match["width"]), int(match["height"])
    base_width, base_height = _BASE_SIZES[kind]
    if (width, height) not in {(base_width * scale, base_height * scale) for scale in _SCALES.values()}:
        return None
    return ArtRequest(match["title"], kind, width, height, match["language"], match["hash"])


def draw(title: Title, kind: ArtworkKind, width: int, height: int, language: str) -> str:
    """The picture: palette from genre and hash, a motif, the title in wrapped lines, a caption."""
    seed = blake2b(title.id.encode(), digest_size=16).digest()
    genre = title.genres[0] if title.genres else ""
    hue = (_HUES[genre] + seed[0] % 25 - 12) % 360 if genre in _HUES else seed[0] * 360 // 256
    accent = (hue + 25 + seed[1] % 40) % 360
    lines = _wrap(title.name, kind)
    size = _font_size(lines, width, height)
    pad = round(min(width, height) * 0.09)
    caption = _caption(title, language)
    caption_size = max(7, min(round(size * 0.52), round(width * 0.82 / (0.56 * max(1, len(caption))))))
    baseline = height - pad - round(size * 0.95) - (len(lines) - 1) * round(size * 1.12)
    text = "".join(
        f'<tspan x="{pad}" y="{baseline + index * round(size * 1.12)}">{escape(line)}</tspan>'
        for index, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" xml:lang="{language}"><title>{escape(title.name)}</title>'
        f'<defs><linearGradient id="b" x1="0" y1="0" x2="1" y2="1"><stop stop-color="hsl({hue},52%,34%)"/>'
        f'<stop offset="1" stop-color="hsl({accent},58%,13%)"/></linearGradient>'
        '<linearGradient id="f" x1="0" y1="0" x2="0" y2="1"><stop offset=".35" stop-opacity="0"/>'
        '<stop offset="1" stop-opacity=".72"/></linearGradient></defs>'
        f'<rect width="{width}" height="{height}" fill="url(#b)"/>'
        f"{_motif(seed, width, height, accent)}"
        f'<rect width="{width}" height="{height}" fill="url(#f)"/>'
        f'<text font-family="Inter,Helvetica,Arial,sans-serif" font-weight="700" font-size="{size}" '
        f'fill="#fff">{text}</text>'
        f'<text x="{pad}" y="{height - pad}" font-family="Inter,Helvetica,Arial,sans-serif" '
        f'font-size="{caption_size}" fill="hsl({accent},80%,82%)">'
        f"{escape(caption)}</text>"
        "</svg>"
    )


def _motif(seed: bytes, width: int, height: int, hue: int) -> str:
    """One of five patterns, placed and sized by the seed."""
    unit = min(width, height)
    x, y = width * (45 + seed[3] % 40) // 100, height * (15 + seed[4] % 30) // 100
    bright, soft = f"hsl({hue},75%,62%)", f"hsl({(hue + 40) % 360},70%,70%)"
    choice = seed[2] % 5
    if choice == 0:  # rings
        return "".join(
            f'<circle cx="{x}" cy="{y}" r="{unit * (8 + 11 * ring) // 100}" fill="none" stroke="{bright}" '
            f'stroke-width="{max(1, unit // 45)}" opacity="{0.9 - ring * 0.14:.2f}"/>'
            for ring in range(6)
        )
    if choice == 1:  # sun over hills
        hills = "".join(
            f'<path d="M0 {height * (48 + 12 * hill) // 100} Q{width * (20 + seed[5 + hill] % 60) // 100} '
            f'{height * (26 + 14 * hill) // 100} {width} {height * (52 + 11 * hill) // 100} V{height} H0Z" '
            f'fill="hsl({hue},45%,{30 - 7 * hill}%)" opacity=".85"/>'
            for hill in range(3)
        )
        return f'<circle cx="{x}" cy="{y}" r="{unit * 17 // 100}" fill="{soft}" opacity=".95"/>{hills}'
    if choice == 2:  # skyline
        step = max(6, width // 12)
        return "".join(
            f'<rect x="{left}" y="{height * (25 + seed[index % 11 + 5] % 45) // 100}" width="{step - 2}" '
            f'height="{height}" fill="{bright if index % 3 else soft}" '
            f'opacity="{0.25 + (seed[index % 11 + 5] % 40) / 100:.2f}"/>'
            for index, left in enumerate(range(0, width, step))
        )
    if choice == 3:  # rays
        far = 2 * (width + height)
        return (
            "".join(
                f'<path d="M{x} {y} L{x + _cos(turn) * far // 100} {y + _sin(turn) * far // 100} '
                f'L{x + _cos(turn + 1) * far // 100} {y + _sin(turn + 1) * far // 100}Z" '
                f'fill="{bright}" opacity=".28"/>'
                for turn in range(0, 24, 2)
            )
            + f'<circle cx="{x}" cy="{y}" r="{unit * 9 // 100}" fill="{soft}"/>'
        )
    return "".join(  # overlapping panes
        f'<rect x="{width * (seed[5 + pane] % 70) // 100}" y="{height * (seed[9 + pane] % 50) // 100}" '
        f'width="{unit * (25 + seed[7 + pane] % 30) // 100}" height="{unit * (25 + seed[8 + pane] % 35) // 100}" '
        f'fill="{bright if pane % 2 else soft}" opacity=".33" transform="rotate({seed[6 + pane] % 50 - 25} {x} {y})"/>'
        for pane in range(5)
    )


_COSINES: Final = (
    100, 97, 87, 71, 50, 26, 0, -26, -50, -71, -87, -97,
    -100, -97, -87, -71, -50, -26, 0, 26, 50, 71, 87, 97,
)  # fmt: skip
"""100 x cos of multiples of 15 degrees: integers draw the same on every machine."""


def _cos(turn: int) -> int:
    return _COSINES[turn % 24]


def _sin(turn: int) -> int:
    return _COSINES[(turn - 6) % 24]


def _caption(title: Title, language: str) -> str:
    genre = title.genres[0] if title.genres else ""
    if language != "en" and genre in _CAPTIONS:
        genre = _CAPTIONS[genre][[name for name in ART_LANGUAGES if name != "en"].index(language)]
    return " · ".join(part for part in (genre, str(title.year) if title.year else "", title.maturity or "") if part)


_LINE_LENGTHS: Final[Mapping[ArtworkKind, int]] = {ArtworkKind.POSTER: 13, ArtworkKind.WIDE: 20, ArtworkKind.SQUARE: 13}
_MAX_LINES: Final = 4


def _wrap(name: str, kind: ArtworkKind) -> list[str]:
    """At most four lines broken at spaces; a word too long for a line is cut, as is what does not fit."""
    limit = _LINE_LENGTHS[kind]
    lines = [""]
    for word in name.split():
        while len(word) > 2 * limit:
            lines.append(word[: 2 * limit - 1] + "-")
            word = word[2 * limit - 1 :]
        if lines[-1] and len(lines[-1]) + 1 + len(word) > limit:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    lines = [line for line in lines if line]
    if len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES - 1], lines[_MAX_LINES - 1][: limit - 1].rstrip() + "…"]
    return lines


def _font_size(lines: list[str], width: int, height: int) -> int:
    """As large as the longest line allows (a bold glyph is about 0.6 em wide), within bounds."""
    longest = max((len(line) for line in lines), default=1)
    return max(
        9, min(round(width * 0.82 / (0.6 * longest)), round(height * 0.5 / max(3, len(lines))), round(height * 0.13))
    )


def _content_hash(title: Title, kind: ArtworkKind, width: int, height: int, language: str) -> str:
    facts = (_drawing_fingerprint(), title.id, title.name, title.genres[:1], title.year, title.maturity)
    return blake2b(
        msgspec.json.encode((facts, kind, width, height, language)), digest_size=8, person=b"artwork"
    ).hexdigest()


@cache
def _drawing_fingerprint() -> str:
    """Changes when `draw` would draw anything differently: samples of every motif, palette and shape, hashed."""
    digest = blake2b(digest_size=8)
    genres = ("", *_HUES)
    for number in range(40):
        sample = Title(
            id=f"sample-{number}",
            name="The Long & Winding Name of Sample No. " + str(number) * (1 + number % 3),
            year=1900 + number,
            maturity="PG",
            genres=(genres[number % len(genres)],) if number % len(genres) else (),
        )
        for kind, (width, height) in _BASE_SIZES.items():
            digest.update(draw(sample, kind, width, height, ART_LANGUAGES[number % len(ART_LANGUAGES)]).encode())
    return digest.hexdigest()
