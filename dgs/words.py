"""What a stage map says above its titles, per language and stage. Pure.

Stages everybody has are worded here; a stage of the operator's own is named by its key, and a headline the schedule
gives wins over the usual one. Every language has the same rows: which there are is the shelf's matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from contract.names import CANCELLED, DEFAULT_STATE

__all__ = ["LANGUAGES", "because", "because_around", "headings", "headline", "language_of"]


class _Wording(msgspec.Struct, frozen=True, array_like=True):
    """`{event}` and `{key}` are filled in."""

    headline: str
    headings: tuple[str, ...]
    """Of the plain rows, in order."""


_OTHER: Final = _Wording("{key}: {event}", ("{key}: {event}",))
_JUST_NAMED: Final = "{event}"
_STAGES: Final[Mapping[str, Mapping[str, _Wording]]] = {
    "en": {
        "upcoming": _Wording("Coming up: {event}", ("Before {event}",)),
        "starting_soon": _Wording("Starting soon: {event}", ("While you wait",)),
        "live": _Wording("Live now: {event}", ("Live now: {event}",)),
        "ended": _Wording("{event} has ended", ("More like this",)),
        "replay": _Wording("Watch the replay: {event}", ("After the replay",)),
        CANCELLED: _Wording("{event} is cancelled", ("Watch instead",)),
        DEFAULT_STATE: _Wording(_JUST_NAMED, ("Picked for you",)),
    },
    "de": {
        "upcoming": _Wording("Demnächst: {event}", ("Vor {event}",)),
        "starting_soon": _Wording("Gleich geht’s los: {event}", ("Während du wartest",)),
        "live": _Wording("Jetzt live: {event}", ("Jetzt live: {event}",)),
        "ended": _Wording("{event} ist vorbei", ("Mehr davon",)),
        "replay": _Wording("Jetzt als Wiederholung: {event}", ("Nach der Wiederholung",)),
        CANCELLED: _Wording("{event} fällt aus", ("Stattdessen ansehen",)),
        DEFAULT_STATE: _Wording(_JUST_NAMED, ("Für dich ausgewählt",)),
    },
    "es": {
        "upcoming": _Wording("Próximamente: {event}", ("Antes de {event}",)),
        "starting_soon": _Wording("Empieza pronto: {event}", ("Mientras esperas",)),
        "live": _Wording("En directo: {event}", ("En directo: {event}",)),
        "ended": _Wording("{event} ha terminado", ("Más como esto",)),
        "replay": _Wording("Ver la repetición: {event}", ("Después de la repetición",)),
        CANCELLED: _Wording("{event} se ha cancelado", ("Ver en su lugar",)),
        DEFAULT_STATE: _Wording(_JUST_NAMED, ("Elegido para ti",)),
    },
    "fr": {
        "upcoming": _Wording("À venir : {event}", ("Avant {event}",)),
        "starting_soon": _Wording("Bientôt en direct : {event}", ("En attendant",)),
        "live": _Wording("En direct : {event}", ("En direct : {event}",)),
        "ended": _Wording("{event} est terminé", ("Dans le même genre",)),
        "replay": _Wording("À revoir : {event}", ("Après la rediffusion",)),
        CANCELLED: _Wording("{event} est annulé", ("À regarder à la place",)),
        DEFAULT_STATE: _Wording(_JUST_NAMED, ("Choisis pour vous",)),
    },
    "ja": {
        "upcoming": _Wording("近日配信：{event}", ("{event}の前に",)),
        "starting_soon": _Wording("まもなく開始：{event}", ("開始までの間に",)),
        "live": _Wording("ライブ配信中：{event}", ("ライブ配信中：{event}",)),
        "ended": _Wording("{event}は終了しました", ("似ている作品",)),
        "replay": _Wording("見逃し配信：{event}", ("見逃し配信のあとに",)),
        CANCELLED: _Wording("{event}は中止になりました", ("代わりに観る",)),
        DEFAULT_STATE: _Wording(_JUST_NAMED, ("あなたへのおすすめ",)),
    },
    "pt": {
        "upcoming": _Wording("Em breve: {event}", ("Antes de {event}",)),
        "starting_soon": _Wording("Começa já: {event}", ("Enquanto espera",)),
        "live": _Wording("Ao vivo: {event}", ("Ao vivo: {event}",)),
        "ended": _Wording("{event} terminou", ("Mais como este",)),
        "replay": _Wording("Assista à reprise: {event}", ("Depois da reprise",)),
        CANCELLED: _Wording("{event} foi cancelado", ("Assista em vez disso",)),
        DEFAULT_STATE: _Wording(_JUST_NAMED, ("Escolhidos para você",)),
    },
}
_BECAUSE: Final[Mapping[str, tuple[str, str]]] = {
    "en": ("Because you watched ", ""),
    "de": ("Weil du ", " gesehen hast"),
    "es": ("Porque viste ", ""),
    "fr": ("Parce que vous avez regardé ", ""),
    "ja": ("「", "」を観たあなたへ"),
    "pt": ("Porque você assistiu a ", ""),
}
LANGUAGES: Final = tuple(_STAGES)
"""Every other one is answered in English."""
_SLOT: Final = re.compile(r"\{(event|key)\}")


def language_of(locale: str | None) -> str:
    """The worded language nearest to a BCP 47 locale."""
    language = (locale or "").partition("-")[0].lower()
    return language if language in _STAGES else "en"


def headline(language: str, key: str, event: str) -> str:
    """The line above a stage's rows, unless its schedule has one; `event` is the event's title."""
    return _fill(_STAGES[language].get(key, _OTHER).headline, key, event)


def headings(language: str, key: str, event: str) -> tuple[str, ...]:
    """The headings of a stage's plain rows."""
    return tuple(_fill(heading, key, event) for heading in _STAGES[language].get(key, _OTHER).headings)


def because(language: str, seen: str) -> str:
    """The heading of a row for a watched title, by its name."""
    before, after = _BECAUSE[language]
    return f"{before}{seen}{after}"


def because_around(language: str) -> tuple[str, str]:
    """What stands before and after the name in that heading."""
    return _BECAUSE[language]


def _fill(template: str, key: str, event: str) -> str:
    """Fill the slots in one pass, so that braces inside a title are left alone."""
    words = {"event": event, "key": key.replace("_", " ").capitalize()}
    return _SLOT.sub(lambda match: words[match[1]], template)
