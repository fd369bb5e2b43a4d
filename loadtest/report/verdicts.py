"""What a verdict is called, whether a run counts, and which way a promise points. Pure."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

from loadtest.report.record import Bar, RunRecord, Verdict

__all__ = ["WORDS", "Promise", "Word", "answer_of", "promise", "reservations", "standing"]

Direction = Literal["at most", "at least", "exactly"]
_SIGNS: Final[dict[str, Direction]] = {
    "<=": "at most", "<": "at most", "\u2264": "at most", ">=": "at least", ">": "at least", "\u2265": "at least",
    "=": "exactly", "==": "exactly",
}  # fmt: skip
_PROMISE: Final = re.compile(r"\s*(<=|>=|==|[<>=\u2264\u2265])?\s*(-?\d[\d,]*(?:\.\d+)?)\s*([kM%]?)")


class Word(NamedTuple):
    """How a verdict is told: by sign and word, never by colour alone."""

    sign: str
    word: str
    means: str


WORDS: Final[dict[Verdict, Word]] = {
    "held": Word("\u2713", "Held", "every promise of the scenario holds"),
    "failed": Word("\u2717", "Fell short", "at least one promise does not hold"),
    "invalid": Word("\u2298", "Invalid", "this run does not count: not the system was the limit, but what measured it"),
    "partial": Word("\u25d0", "Partial", "interrupted: what is shown is what was measured until then"),
}


class Promise(NamedTuple):
    """What the text of a bar says in numbers."""

    direction: Direction
    limit: float


def promise(bar: Bar) -> Promise | None:
    """Of `<= 12 s`: at most 12; of a bare `0` or `none`: exactly that. None for other texts."""
    if bar.bar.strip().lower() in ("none", "no"):
        return Promise("exactly", 0.0)
    found = _PROMISE.match(bar.bar)
    if not found:
        return None
    times = {"k": 1e3, "M": 1e6}.get(found[3], 1.0)
    return Promise(_SIGNS[found[1] or "="], float(found[2].replace(",", "")) * times)


def standing(record: RunRecord) -> Verdict:
    """The verdict to show: the record's, unless the record itself says that it cannot stand. A run that does not count
    is invalid, and one that fails a bar has not held."""
    if record.verdict in ("held", "failed") and record.envelope.get("valid") is False:
        return "invalid"
    if record.verdict == "held" and not all(bar.held for bar in record.bars):
        return "failed"
    return record.verdict


def answer_of(record: RunRecord) -> str:
    """Its answer as it may be told: of a run that does not count, as what it is."""
    return f"Its answer, which does not count: {record.answer}" if standing(record) == "invalid" else record.answer


def reservations(record: RunRecord) -> list[str]:
    """Why the run does not count, or not as it says; empty: it does."""
    found: list[str] = []
    because = record.envelope.get("invalid_because")
    if isinstance(because, str) and because:
        found.append(because)
    elif because:
        found.extend(str(each) for each in because)
    if record.envelope.get("valid") is False and not found:
        found.append("it was marked as not valid, without a reason")
    missed = [bar.name for bar in record.bars if not bar.held]
    if record.verdict == "held" and missed:
        found.append(f"its verdict was recorded as held, though these bars do not hold: {', '.join(missed)}")
    return found
