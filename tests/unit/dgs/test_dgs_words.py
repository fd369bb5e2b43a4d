"""Wording per language: complete, and with the same slots everywhere."""

from __future__ import annotations

import pytest

from contract.names import CANCELLED, DEFAULT_STATE
from dgs import words

STAGES = ("upcoming", "starting_soon", "live", "ended", "replay", CANCELLED, DEFAULT_STATE)


@pytest.mark.parametrize(
    ("locale", "language"),
    [("de-AT", "de"), ("EN-gb", "en"), ("pt-BR", "pt"), ("ja", "ja"), ("sv-SE", "en"), (None, "en"), ("", "en")],
)
def test_the_nearest_language(locale: str | None, language: str) -> None:
    """By primary language; any other is answered in English."""
    assert words.language_of(locale) == language


@pytest.mark.parametrize("language", words.LANGUAGES)
def test_every_stage_is_worded(language: str) -> None:
    """One plain row each, as in English; headlines name the event; nothing is left unfilled."""
    for key in STAGES:
        headline = words.headline(language, key, "Tyson vs. Paul")
        headings = words.headings(language, key, "Tyson vs. Paul")
        assert "Tyson vs. Paul" in headline
        assert len(headings) == len(words.headings("en", key, "x")) == 1
        assert not any(brace in text for text in (headline, *headings) for brace in "{}")
    assert words.headline(language, "half_time", "E") == "Half time: E"
    assert words.because(language, "Alien").count("Alien") == 1
    assert words.because(language, "{event}") == "{event}".join(words.because_around(language))


def test_languages_differ() -> None:
    """No language is another's copy."""
    texts = {
        language: tuple((*words.headings(language, key, "E"), words.headline(language, key, "E")) for key in STAGES)
        for language in words.LANGUAGES
    }
    assert len(set(texts.values())) == len(words.LANGUAGES)
    assert len({words.because_around(language) for language in words.LANGUAGES}) == len(words.LANGUAGES)


def test_braces_in_a_name_are_left_alone() -> None:
    """Slots are filled once."""
    assert words.headline("en", "live", "{key} {event}") == "Live now: {key} {event}"
