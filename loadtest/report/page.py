"""The report of one run as a page: question, verdict, promises, curves, reach, facts. Pure but for its style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from loadtest.report.differences import short_commit
from loadtest.report.document import RECORD_ID, document
from loadtest.report.figures import (
    Curve,
    NamedMark,
    chart_figure,
    moment,
    numbered_marks,
    own_times,
    percentile_figure,
    run_times,
    vertical_marks,
)
from loadtest.report.markup import Markup, element, joined
from loadtest.report.record import Bar, Chart, Fact, HistogramFile, Mark, RunRecord, StageReach, Verdict
from loadtest.report.scales import amount, amount_with_unit, time_label
from loadtest.report.verdicts import WORDS, answer_of, promise, reservations, standing

__all__ = ["RECORD_ELEMENT", "carded", "draw_report", "marks_key", "section", "table", "verdict_banner"]

RECORD_ELEMENT: Final = f'<script type="application/json" id="{RECORD_ID}">'
_GAUGE_LIMIT: Final = 2 / 3
"""Where on a gauge the promise is; what is measured may reach half as far again."""
_NAMED: Final = ("machine", "versions", "commit", "seed", "started_at", "wall_s", "valid", "invalid_because")


def draw_report(record: RunRecord, record_json: str) -> str:
    """The whole page. `record_json` is the record as it is kept, which the page carries: its script reads the points
    from it, and so does whoever is given the page alone."""
    verdict = standing(record)
    told = "" if verdict == "held" else f"{WORDS[verdict].word.upper()}: "
    return document(
        f"{told}{record.title}",
        _head(record),
        verdict_banner(record),
        section("Promises", _bars(record)),
        section("Over time", _charts(record.charts, record.marks)),
        section("Who got each stage", _reach(record.reach)),
        section("How long it took", _histograms(record.histograms)),
        section("Facts", _facts_of(record.facts)),
        section("To judge this run", _notes(record.notes)),
        section("Measured on and with", _facts_of(_envelope(record))),
        _foot(record),
        cls=verdict,
        records=[(RECORD_ID, record_json)],
        interactive=True,
    )


def section(title: str, content: Markup) -> Markup:
    """A heading and what stands below it; nothing without content."""
    return element("section", element("h2", title), content) if content else Markup("")


def verdict_banner(record: RunRecord) -> Markup:
    """The verdict by colour, sign and word, the answer, and why it does not count if it does not."""
    verdict = standing(record)
    word = WORDS[verdict]
    reasons = reservations(record)
    listed = element("ul", *(element("li", reason) for reason in reasons)) if reasons else ""
    means = f"{word.means[0].upper()}{word.means[1:]}."
    if verdict == "invalid":
        # The answer is what must not be carried away from here: it comes last, as what it is.
        told: tuple[object, ...] = (
            element("p", means), listed, element("p", answer_of(record), cls="moot"),
        )  # fmt: skip
    elif verdict == "partial":
        told = (element("p", means), element("p", record.answer, cls="below"), listed)
    else:
        told = (element("p", record.answer), listed)
    named = element("strong", element("i", word.sign, aria_hidden="true"), element("span", word.word))
    return element("div", named, *told, cls=f"verdict {verdict}", role="status")


def _head(record: RunRecord) -> Markup:
    verdict = standing(record)
    stamp = element("span", f" {WORDS[verdict].word.upper()} RUN. ", cls="stamp") if verdict in _NO_RESULT else ""
    about = [record.scenario, _moment(record.envelope.get("started_at")), short_commit(record.envelope.get("commit"))]
    if record.devices is not None:
        about.insert(1, f"{record.devices:,} devices")
    line = " \u00b7 ".join(str(part) for part in about if part)
    return element(
        "header",
        element("p", stamp, element("b", record.title), f" \u00b7 {line}", cls="eyebrow"),
        element("h1", record.question),
    )


_NO_RESULT: Final = ("invalid", "partial")


def _bars(record: RunRecord) -> Markup:
    if not record.bars:
        return Markup("")
    verdict = standing(record)
    rows = [
        element(
            "tr",
            element("th", element("span", bar.name, cls="name"), element("small", bar.means), scope="row"),
            element("td", bar.bar),
            element("td", amount_with_unit(bar.measured, bar.unit), cls="measured"),
            element("td", _gauge(bar, verdict)),
            element("td", _held(bar, verdict)),
        )
        for bar in record.bars
    ]
    return carded(table(("What", "Promised", "Measured", "", "Held"), rows, cls="bars"))


def _held(bar: Bar, verdict: Verdict) -> Markup:
    told = "\u2713 held" if bar.held else "\u2717 not measured" if bar.measured is None else "\u2717 fell short"
    if verdict in _NO_RESULT:
        return element("span", told, ", does not count" if verdict == "invalid" else " so far", cls="moot")
    return element("span", told, cls="yes" if bar.held else "no")


def _gauge(bar: Bar, verdict: Verdict) -> Markup:
    """How far from its promise, as a bar with the promise as a line; nothing where that says nothing."""
    limit = promise(bar)
    if bar.measured is None or limit is None or limit.limit <= 0 or limit.direction == "exactly" or bar.measured < 0:
        return Markup("")
    reached = min(1.0, bar.measured / limit.limit * _GAUGE_LIMIT)
    colour = "moot" if verdict in _NO_RESULT else "in" if bar.held else "out"
    fill = element("i", cls=colour, style=f"width:{reached:.1%}")
    return element("span", fill, element("b"), cls="gauge", aria_hidden="true", title=f"promised: {bar.bar}")


def _charts(charts: Sequence[Chart], marks: Sequence[Mark]) -> Markup:
    named = numbered_marks(marks)
    if not charts:
        return marks_key(named)
    times, vertical = run_times(charts, marks), vertical_marks(named, [""])
    figures = [
        chart_figure(
            chart,
            [
                Curve(each.name, each.points, f"0.{index}.{number}", each.gaps)
                for number, each in enumerate(chart.series)
            ],
            own_times([chart]) if chart.since else times, vertical, f"c{index}",
        )
        for index, chart in enumerate(charts)
    ]  # fmt: skip
    return joined([marks_key(named), element("div", *figures, cls="plots")])


def marks_key(marks: Sequence[NamedMark], classes: Sequence[str] = ("",)) -> Markup:
    """What the numbers above the charts stand for, and when it was in each run."""
    if not marks:
        return Markup("")
    entries = [
        element(
            "li",
            element("b", mark.number),
            *(
                element("time", moment(at), cls=classes[index] or None)
                for index, at in enumerate(mark.at_s)
                if at is not None
            ),
            mark.label,
        )
        for mark in marks
    ]
    return element("ul", *entries, cls="marks")


def _reach(reach: Sequence[StageReach]) -> Markup:
    if not reach:
        return Markup("")
    rows = [
        element(
            "tr",
            element("th", element("span", each.state_key, cls="name"), scope="row"),
            element("td", _share_bar(each), cls="free"),
            *(element("td", f"{number:,}") for number in (each.devices, each.delivered_live, each.replayed)),
            element("td", f"{each.missed:,}", cls="no" if each.missed else None),
            *(element("td", amount_with_unit(value, "ms")) for value in (each.p50_ms, each.p99_ms, each.last_ms)),
        )
        for each in reach
    ]
    names = ("Stage", "", "Devices", "Live", "Replayed", "Missed", "Half within", "99 % within", "Last")
    key = [
        joined([element("span", cls=f"swatch {name}"), name]) for name in ("live", "replayed", "missed")
    ]  # fmt: skip
    told = element("p", "Counted from the due time. ", *key, cls="quiet")
    return joined([told, carded(table(names, rows))])


def _share_bar(reach: StageReach) -> Markup:
    """Who got it live, replayed, not at all, as shares of the devices."""
    devices = max(1, reach.devices, reach.delivered_live + reach.replayed + reach.missed)
    parts = [
        element("i", cls=name, style=f"width:{number / devices:.2%}")
        for name, number in (("live", reach.delivered_live), ("replayed", reach.replayed), ("missed", reach.missed))
        if number > 0
    ]
    return element("span", *parts, cls="share", aria_hidden="true")


def _histograms(histograms: Sequence[HistogramFile]) -> Markup:
    if not histograms:
        return Markup("")
    figures = [
        percentile_figure(each.name, each.unit, each.count, [Curve(each.name, each.curve, f"0.h.{index}")], f"h{index}")
        for index, each in enumerate(histograms)
        if each.curve
    ]
    rows = [
        element(
            "tr",
            element("th", element("a", each.name, href=_relative(each.path)), scope="row"),
            element("td", f"{each.count:,}"),
            *(
                element("td", amount_with_unit(value, each.unit) if each.count else "-")
                for value in (each.p50, each.p90, each.p99, each.p999, each.max)
            ),
        )
        for each in histograms
    ]
    numbers = carded(table(("Raw histogram", "Values", "50 %", "90 %", "99 %", "99.9 %", "Most"), rows))
    return joined([element("div", *figures, cls="plots") if figures else "", numbers])


def _relative(path: str) -> str | None:
    """A link that stays beside the report: whoever made the record might have written any address."""
    if path.startswith(("/", "\\")) or ":" in path or ".." in path.split("/"):
        return None
    return path


def _facts_of(facts: Mapping[str, Sequence[Fact]]) -> Markup:
    """Lists of labels and values, each under its heading, in columns."""
    lists = [
        element(
            "section",
            element("h3", f"{heading[:1].upper()}{heading[1:]}"),
            element("dl", *(element("div", element("dt", fact.label), element("dd", fact.value)) for fact in lines)),
            cls="card",
        )
        for heading, lines in facts.items()
        if lines
    ]
    return element("div", *lists, cls="facts") if lists else Markup("")


def _notes(notes: Sequence[str]) -> Markup:
    return element("ul", *(element("li", note) for note in notes), cls="notes card") if notes else Markup("")


def _envelope(record: RunRecord) -> dict[str, list[Fact]]:
    envelope = record.envelope
    machine, versions = envelope.get("machine"), envelope.get("versions")
    run = [
        Fact("started", _moment(envelope.get("started_at")) or "-"),
        Fact("took", time_label(float(wall)) if isinstance(wall := envelope.get("wall_s"), int | float) else "-"),
        Fact("seed", _plain(envelope.get("seed"))),
        Fact("commit", _plain(envelope.get("commit"))),
        Fact("counts", {True: "yes", False: "no"}.get(envelope.get("valid", None), "not said")),
    ]
    others = [Fact(key, _plain(value)) for key, value in envelope.items() if key not in _NAMED]
    return {
        "Machine": _lines(machine),
        "Run": [*run, *others],
        "Versions": _lines(versions),
    }


def _lines(found: Any) -> list[Fact]:
    if not isinstance(found, Mapping):
        return [Fact("", _plain(found))] if found else []
    return [
        Fact(str(key).removesuffix("_bytes"), amount(float(value), "bytes"))
        if str(key).endswith("_bytes") and isinstance(value, int | float)
        else Fact(str(key), _plain(value))
        for key, value in found.items()
    ]


def _plain(value: Any) -> str:
    return "-" if value is None or value == "" else str(value)


def _moment(started_at: Any) -> str:
    """`2026-11-21 21:35:52 UTC` of an ISO time in UTC; others as they are."""
    text = "" if started_at is None else str(started_at)
    day, _, hour = text.partition("T")
    return f"{day} {hour[:8]} UTC" if hour.endswith(("+00:00", "Z")) else text


def table(columns: Sequence[str], rows: Sequence[Markup], cls: str = "") -> Markup:
    head = element("tr", *(element("th", column, scope="col") for column in columns))
    return element("table", element("thead", head), element("tbody", *rows), cls=cls or None)


def carded(content: Markup) -> Markup:
    return element("div", content, cls="card wide")


def _foot(record: RunRecord) -> Markup:
    return element(
        "footer", "The same as JSON: ", element("a", "run.json", href="run.json"),
        ". Histograms are HDR, version 2, base64. Two runs side by side: ",
        element("code", "stagecue report compare A B"), ".",
    )  # fmt: skip
