"""Two runs side by side as a page: whether they compare, promises with differences, curves laid over each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from loadtest.report.differences import (
    BarDifference,
    Difference,
    Turn,
    bar_differences,
    environment_differences,
    incomparable_because,
)
from loadtest.report.document import RECORD_ID, document
from loadtest.report.figures import (
    Curve,
    chart_figure,
    numbered_marks,
    own_times,
    percentile_figure,
    run_times,
    vertical_marks,
)
from loadtest.report.markup import Markup, element, joined
from loadtest.report.page import carded, marks_key, section, table, verdict_banner
from loadtest.report.record import Bar, Chart, RunRecord, StageReach
from loadtest.report.scales import Axis, amount_with_unit

__all__ = ["draw_comparison"]

_CLASSES: Final = ("s0", "s1")
"""The colours of A and B."""
_TURNS: Final[dict[Turn, str]] = {
    "better": "\u25b2 better", "worse": "\u25bc worse", "same": "same", "other": "differs", "unknown": "-",
}  # fmt: skip
Runs = tuple[RunRecord, RunRecord]


def draw_comparison(a: RunRecord, b: RunRecord, records: tuple[str, str]) -> str:
    """The whole page. `records`: both as JSON, as the page carries them for its script."""
    reasons = incomparable_because(a, b)
    one_question = a.question == b.question
    warned = "" if not reasons else "NOT COMPARABLE: "
    runs = (a, b)
    return document(
        f"{warned}{a.title} and {b.title}" if a.title != b.title else f"{warned}{a.title}, twice",
        element("header", element("p", "Two runs side by side", cls="eyebrow"), element("h1", _heading(runs))),
        _comparable(reasons),
        element("div", *(_run_card(index, run, not one_question) for index, run in enumerate(runs)), cls="runs"),
        section("Promises", _bars(bar_differences(a, b))),
        section("Over time", _charts(runs)),
        section("Who got each stage", _reach(runs)),
        section("How long it took", _histograms(runs)),
        section("Where and with what", _environment(environment_differences(a, b))),
        element("footer", "Blue is A, orange is B. Differences are B less A."),
        cls="invalid" if reasons else "",
        records=[(f"{RECORD_ID}-{name}", text) for name, text in zip("ab", records, strict=True)],
        interactive=True,
    )


def _heading(runs: Runs) -> str:
    a, b = runs
    if a.question == b.question:
        return a.question
    return a.title if a.title == b.title else f"{a.title} / {b.title}"


def _comparable(reasons: Sequence[str]) -> Markup:
    if not reasons:
        named = element("strong", element("i", "\u2713", aria_hidden="true"), element("span", "Comparable"))
        told = "The same scenario, machine and number of devices, and both runs count."
        return element("div", named, element("p", told), cls="verdict held", role="status")
    named = element("strong", element("i", "\u2298", aria_hidden="true"), element("span", "Not comparable"))
    told = "Differences below say nothing about the system: the runs were not made alike."
    listed = element("ul", *(element("li", reason) for reason in reasons))
    return element("div", named, element("p", told), listed, cls="verdict invalid", role="status")


def _run_card(index: int, run: RunRecord, with_question: bool) -> Markup:
    name = "AB"[index]
    about = " \u00b7 ".join(
        part for part in (run.scenario, str(run.envelope.get("started_at") or "")[:19].replace("T", " ")) if part
    )
    return element(
        "div",
        element("h2", element("span", name, cls=f"tag {_CLASSES[index]}"), run.title),
        element("p", about, cls="quiet"),
        element("p", run.question) if with_question else "",
        verdict_banner(run),
        cls="card",
    )


def _bars(differences: Sequence[BarDifference]) -> Markup:
    if not differences:
        return Markup("")
    rows = [
        element(
            "tr",
            element("th", element("span", each.name, cls="name"), element("small", _means(each)), scope="row"),
            element("td", _promised(each)),
            element("td", _measured(each.a), cls="measured"),
            element("td", _measured(each.b), cls="measured"),
            element("td", each.told or "-"),
            element("td", _TURNS[each.turn], cls=each.turn if each.turn in ("better", "worse") else None),
        )
        for each in differences
    ]
    return carded(table(("What", "Promised", "A", "B", "Difference", ""), rows, cls="bars both"))


def _means(each: BarDifference) -> str:
    known = each.b or each.a
    return known.means if known else ""


def _promised(each: BarDifference) -> str:
    told = [bar.bar for bar in (each.a, each.b) if bar is not None]
    return told[0] if len(set(told)) == 1 else " / ".join(told)


def _measured(bar: Bar | None) -> Markup | str:
    if bar is None:
        return "-"
    sign = element("span", "\u2713" if bar.held else "\u2717", cls="yes" if bar.held else "no")
    told = "not measured" if bar.measured is None else amount_with_unit(bar.measured, bar.unit)
    return joined([told, " ", sign])


def _charts(runs: Runs) -> Markup:
    """Curves of the same chart and name over each other; one figure per curve, so that each shows two lines."""
    times = _longer(*(run_times(run.charts, run.marks) for run in runs))
    named = numbered_marks(*(run.marks for run in runs))
    marks = vertical_marks(named, _CLASSES)
    # What is counted from other moments is another chart.
    charts = [{(chart.title, chart.since): (at, chart) for at, chart in enumerate(run.charts)} for run in runs]
    figures: list[Markup] = []
    for title, since in {**charts[0], **charts[1]}:
        pair = (charts[0].get((title, since)), charts[1].get((title, since)))
        axis = own_times([side[1] for side in pair if side]) if since else times
        for name in {each.name: None for side in pair if side for each in side[1].series}:
            curves = [curve for index, side in enumerate(pair) if (curve := _curve(index, side, name)) is not None]
            known = next(side[1] for side in pair if side)
            alone = all(side is None or len(side[1].series) == 1 for side in pair)
            shown = Chart(title=title if alone else f"{title}: {name}", unit=known.unit, series=(), since=since)
            figures.append(chart_figure(shown, curves, axis, marks, f"c{len(figures)}"))
    key = marks_key(named, _CLASSES)
    return joined([key, element("div", *figures, cls="plots")]) if figures else key


def _curve(index: int, side: tuple[int, Chart] | None, name: str) -> Curve | None:
    for number, each in enumerate(side[1].series if side else ()):
        if each.name == name and side is not None:
            return Curve("AB"[index], each.points, f"{index}.{side[0]}.{number}", each.gaps, _CLASSES[index])
    return None


def _longer(a: Axis, b: Axis) -> Axis:
    return a if a.high - a.low >= b.high - b.low else b


def _histograms(runs: Runs) -> Markup:
    found = [{each.name: (number, each) for number, each in enumerate(run.histograms)} for run in runs]
    figures: list[Markup] = []
    for name in {**found[0], **found[1]}:
        sides = [(index, *each[name]) for index, each in enumerate(found) if name in each]
        curves = [Curve("AB"[i], each.curve, f"{i}.h.{number}", cls=_CLASSES[i]) for i, number, each in sides]
        units = {each.unit for _, _, each in sides}
        if len(units) == 1 and any(curve.points for curve in curves):
            count = max(each.count for _, _, each in sides)
            figures.append(percentile_figure(name, units.pop(), count, curves, f"h{len(figures)}"))
    return element("div", *figures, cls="plots") if figures else Markup("")


def _reach(runs: Runs) -> Markup:
    found = [_by_turn(run.reach) for run in runs]
    rows = [
        element(
            "tr",
            element("th", element("span", key if nth == 1 else f"{key} ({nth})", cls="name"), scope="row"),
            *(cell for side in found for cell in _reach_cells(side.get((key, nth)))),
        )
        for key, nth in {**found[0], **found[1]}
    ]
    columns = [f"{name}: {what}" for name in "AB" for what in ("reached", "missed", "99 % within", "last")]
    return carded(table(("Stage", *columns), rows)) if rows else Markup("")


def _by_turn(reach: Sequence[StageReach]) -> dict[tuple[str, int], StageReach]:
    """By stage and how many there were of it so far: one may be announced again."""
    seen: Counter[str] = Counter()
    found: dict[tuple[str, int], StageReach] = {}
    for each in reach:
        seen[each.state_key] += 1
        found[each.state_key, seen[each.state_key]] = each
    return found


def _reach_cells(each: StageReach | None) -> list[Markup]:
    if each is None:
        return [element("td", "-")] * 4
    return [
        element("td", f"{each.delivered_live + each.replayed:,} of {each.devices:,}"),
        element("td", f"{each.missed:,}", cls="no" if each.missed else None),
        element("td", amount_with_unit(each.p99_ms, "ms")),
        element("td", amount_with_unit(each.last_ms, "ms")),
    ]


def _environment(found: dict[str, list[Difference]]) -> Markup:
    """What differs; what does not, folded below."""
    rows: dict[bool, list[Markup]] = {True: [], False: []}
    for heading, lines in found.items():
        for line in lines:
            row = element(
                "tr",
                element("th", f"{heading}: {line.label}", scope="row"),
                element("td", line.a, cls="free"),
                element("td", line.b, cls="free"),
            )
            rows[line.differs].append(row)
    differing = (
        carded(table(("What differs", "A", "B"), rows[True])) if rows[True] else element("p", "Nothing differs.")
    )
    same = element(
        "details",
        element("summary", f"{len(rows[False])} lines that are the same"),
        carded(table(("", "A", "B"), rows[False])),
        cls="same",
    )
    return joined([differing, same]) if rows[False] else differing
