"""What the DGS and a ranking service say to each other, as bytes: docs/sources.md has it for people. Pure.

An answer is believed only as far as it can be: of a batch every profile stands alone, so that one broken entry costs no
other, and whatever names a profile nobody asked for or a title the catalog does not have is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from dgs.model import Profile, Title
from dgs.picks import Missing
from dgs.ports import Need
from dgs.stage_map import Recommendations

__all__ = ["MAX_HISTORY", "Garbage", "Read", "answer_limit_bytes", "encode_ask", "read_answer"]

MAX_HISTORY: Final = 100
"""Viewings sent of a profile, newest first: a service that wants more has its own."""
_BASE_BYTES: Final = 16 * 1024
_ID_BYTES: Final = 120
_WHY: Final = 60


class Garbage(Exception):
    """An answer of which nothing can be used; `str()` says why."""


class Read(NamedTuple):
    """An answer, as far as it can be believed."""

    found: Mapping[str, Recommendations | Missing]
    """By profile id, of those asked for; Missing where the service says it has nothing."""
    strangers: int
    """Entries for profiles nobody asked for, or for one a second time."""
    malformed: int
    """Entries that could not be read."""
    unknown_titles: int
    """Title ids that the catalog does not have, or a list has twice."""


class _Viewing(msgspec.Struct):
    title: str
    weight: float


class _Asked(msgspec.Struct):
    id: str
    region: str
    locale: str
    history: list[_Viewing]


class _Needed(msgspec.Struct):
    ranked: int
    because: int
    near: int


class _Ask(msgspec.Struct, rename="camel"):
    need: _Needed
    profiles: list[_Asked]
    deadline_ms: int


class _Because(msgspec.Struct):
    title: str
    near: list[str]


class _Entry(msgspec.Struct):
    profile: str
    ranked: list[str] = []
    because: list[_Because] = []
    missing: str | None = None


class _Answer(msgspec.Struct):
    recommendations: list[msgspec.Raw]


_encoder = msgspec.json.Encoder()
_answers = msgspec.json.Decoder(_Answer)
_entries = msgspec.json.Decoder(_Entry)


def encode_ask(profiles: Sequence[Profile], need: Need, deadline_s: float) -> bytes:
    """The body of `POST <DGS_RANKING_URL>`."""
    return _encoder.encode(
        _Ask(
            need=_Needed(need.k, need.because, need.per_because),
            profiles=[
                _Asked(
                    profile.id,
                    profile.region,
                    profile.locale,
                    [_Viewing(seen.title_id, seen.weight) for seen in profile.history[:MAX_HISTORY]],
                )
                for profile in profiles
            ],
            deadline_ms=max(1, round(deadline_s * 1000)),
        )
    )


def answer_limit_bytes(profiles: int, need: Need) -> int:
    """The longest answer that is read: all that was asked for with the longest ids, twice over."""
    ids = need.k + need.because * (need.per_because + 1)
    return _BASE_BYTES + 2 * profiles * (ids + 4) * _ID_BYTES


def read_answer(body: bytes, asked: frozenset[str], need: Need, by_id: Mapping[str, Title]) -> Read:
    """What `body` says of the profiles `asked`. Raises Garbage if it is no answer at all."""
    try:
        raw = _answers.decode(body).recommendations
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Garbage(str(exc)[:200]) from exc
    except RecursionError as exc:
        raise Garbage("nested too deeply") from exc
    found: dict[str, Recommendations | Missing] = {}
    strangers = malformed = unknown = 0
    for part in raw:
        try:
            entry = _entries.decode(part)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            malformed += 1
            continue
        if entry.profile not in asked or entry.profile in found:
            strangers += 1
            continue
        if entry.missing is not None:
            found[entry.profile] = Missing(_plain(entry.missing))
            continue
        ranked = _known(entry.ranked, by_id)
        unknown += len(entry.ranked) - len(ranked)
        if not ranked:
            malformed += 1
            continue
        because: list[tuple[Title, tuple[Title, ...]]] = []
        for reason in entry.because[: need.because]:
            near = _known(reason.near, by_id)
            unknown += len(reason.near) - len(near) + (reason.title not in by_id)
            if near and reason.title in by_id:
                because.append((by_id[reason.title], near[: need.per_because]))
        found[entry.profile] = Recommendations(ranked[: need.k], tuple(because))
    return Read(found, strangers, malformed, unknown)


def _known(ids: Sequence[str], by_id: Mapping[str, Title]) -> tuple[Title, ...]:
    return tuple(filter(None, map(by_id.get, dict.fromkeys(ids))))


def _plain(text: str) -> str:
    return "".join(letter for letter in text[:_WHY] if letter.isprintable()) or "the service has nothing"
