"""The gate put together: phases, rules in force, limits, dependencies, trials, and what it says of itself."""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from dgs.picks import Layout, Missing, Picks, Wanted
from dgs.priority.dependencies import GuardedPicks
from dgs.priority.gate import PriorityGate
from dgs.priority.rules import Match, Rule, Ruleset, Trigger, When
from dgs.priority.ruleset_file import RulesetFile
from dgs.serving import CLASSES, Class, Gate, Seen, Verdict

NOW_MS = 1_700_000_000_000
H = 3_600_000
FIRST = Seen("prefetchEvent", kind="TV", event_id="e")
SHIPPED = RulesetFile().ruleset


class Driver:
    """A gate and the clock it is asked by."""

    def __init__(
        self,
        *rules: Rule,
        base: Ruleset = SHIPPED,
        schedules: Mapping[str, Collection[int]] | None = None,
        dependencies: Collection[str] = (),
        draw: float = 0.5,
    ) -> None:
        self.now_s = 0.0
        self.schedules = dict(schedules or {"e": (NOW_MS + 2 * H,)})
        ruleset = Ruleset(default=base.default, classes=base.classes, phases=base.phases, rules=rules or base.rules)
        self.gate = PriorityGate(
            ruleset,
            schedules=lambda: self.schedules,
            draw=lambda: draw,
            now_s=0.0,
            now_ms=NOW_MS,
            dependencies=dependencies,
        )
        self.port: Gate = self.gate

    @property
    def now_ms(self) -> int:
        return NOW_MS + round(self.now_s * 1000)

    def classify(self, seen: Seen) -> Class:
        return self.port.classify(seen, self.now_ms)

    def ask(self, seen: Seen, wait_s: float = 0.0) -> Verdict:
        klass = self.classify(seen)
        return self.port.admit(klass, seen, now_s=self.now_s, now_ms=self.now_ms, queue_delay_s=wait_s)

    def asks(self, seen: Seen, per_s: int, for_s: float, wait_s: float = 0.0) -> list[Verdict]:
        verdicts = []
        for _ in range(round(per_s * for_s)):
            self.now_s += 1 / per_s
            verdicts.append(self.ask(seen, wait_s))
        return verdicts

    def rule(self, name: str) -> dict[str, Any]:
        rules: Any = self.gate.stats()["rules"]
        return dict(rules[name])


def test_an_event_moves_through_its_phases() -> None:
    """The same request, as hours pass: ahead, in the window, near the stage, over."""
    driver = Driver(schedules={"e": (NOW_MS + 30 * H,)})
    given = []
    for hours in (0, 6.1, 29.9, 32):
        driver.now_s = hours * 3600
        given.append(driver.classify(FIRST))
    assert given == ["degraded", "critical", "critical", "best_effort"]
    assert driver.classify(FIRST._replace(event_id="made-up")) == "best_effort", "an invented event gains nothing"


def test_a_moved_time_is_seen_within_a_second() -> None:
    """Phases follow the schedule as it is, also while nothing leaves the queue."""
    driver = Driver(schedules={"e": (NOW_MS + 100 * H,)})
    assert driver.classify(FIRST) == "degraded"
    driver.schedules["e"] = (NOW_MS + H,)
    driver.now_s = 1.0
    assert driver.classify(FIRST) == "critical"


def test_a_clock_set_back_does_not_stop_it() -> None:
    """The wall clock steps an hour back: the next tick takes the new time."""
    driver = Driver(schedules={"e": (NOW_MS + 24 * H - 60_000,)})
    assert driver.classify(FIRST) == "critical"
    seen_ms = NOW_MS - H
    driver.gate.admit("critical", FIRST, now_s=1.0, now_ms=seen_ms, queue_delay_s=0.0)
    assert driver.gate.classify(FIRST, seen_ms) == "degraded"


def test_a_rule_comes_into_force_with_the_load_and_goes_later() -> None:
    """1,000/s turn it on within a second; 100/s turn it off after five quiet seconds, not before."""
    busy = When(requests_per_s=Trigger(on=800, off=400), off_after_s=5)
    driver = Driver(Rule(name="busy", klass="bulk", when=busy))
    page = Seen("page")
    driver.asks(page, 1_000, 1.5)
    assert driver.classify(page) == "bulk"
    driver.asks(page, 100, 4.0)
    assert driver.classify(page) == "bulk"
    driver.asks(page, 100, 4.0)
    assert driver.classify(page) == SHIPPED.default
    assert driver.rule("busy")["switches"] == 2


def test_a_rule_of_an_event_looks_at_that_event_alone() -> None:
    """A stage of another one does not turn it on; its own does."""
    rule = Rule(
        name="own",
        klass="critical",
        match=Match(events=frozenset({"e"})),
        when=When(phases=frozenset({"stage"}), off_after_s=0),
    )
    driver = Driver(rule, schedules={"e": (NOW_MS + 2 * H,), "f": (NOW_MS,)})
    driver.ask(FIRST)
    assert driver.classify(FIRST) == SHIPPED.default
    driver.now_s = 2 * 3600 - 600
    driver.ask(FIRST)
    assert driver.classify(FIRST) == "critical"
    assert driver.classify(FIRST._replace(event_id="f")) == SHIPPED.default


def test_limits_of_rules_are_for_all_they_match() -> None:
    """20 a second of TVs; phones are not counted. Refused with the rule's name and a time."""
    driver = Driver(Rule(name="tv-cap", limit_per_s=20, match=Match(kinds=frozenset({"TV"}))))
    verdicts = driver.asks(FIRST, 100, 10.0)
    assert sum(verdict.admit for verdict in verdicts) == pytest.approx(202, abs=2)
    refused = next(verdict for verdict in verdicts if not verdict.admit)
    assert (refused.rule, refused.default_map) == ("tv-cap", False)
    assert refused.retry_after_ms >= 2_000
    assert all(verdict.admit for verdict in driver.asks(FIRST._replace(kind="PHONE"), 100, 1.0))
    row = driver.rule("tv-cap")
    assert row["shed_by_rule"] == len(verdicts) - sum(verdict.admit for verdict in verdicts)
    seen = row["classes"]["best_effort"]
    assert seen["seen"] == 1_000
    assert seen["admitted"] + seen["shed"] == 1_000


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_shares_of_rules_are_even(share: float) -> None:
    """A quarter of what matches; 0 is none."""
    driver = Driver(Rule(name="part", share=share))
    assert sum(verdict.admit for verdict in driver.asks(FIRST, 100, 10.0)) == pytest.approx(1_000 * share, abs=1)


def test_a_trial_counts_what_it_would_do() -> None:
    """A limit and a class on trial: everything is admitted, and the would-be sheds are counted."""
    driver = Driver(
        Rule(name="cap", limit_per_s=20, dry_run=True),
        Rule(name="lower", klass="bulk", dry_run=True),
        Rule(name="real", klass="critical"),
    )
    assert all(verdict.admit for verdict in driver.asks(FIRST, 100, 10.0, wait_s=0.02))
    assert driver.rule("cap")["would_shed"] == pytest.approx(798, abs=2)
    assert 900 < driver.rule("lower")["would_shed"] <= 1_000
    assert driver.rule("cap")["shed_by_rule"] == driver.rule("lower")["shed_by_rule"] == 0


def test_the_first_prefetch_outlives_the_refresh() -> None:
    """A queue that stands at 20 ms: first prefetches all pass, of refreshes a part."""
    driver = Driver()
    refresh = FIRST._replace(has_map=True)
    driver.asks(refresh, 1_000, 0.5, wait_s=0.02)
    part = driver.asks(refresh, 1_000, 1.0, wait_s=0.02)
    assert all(verdict.admit for verdict in driver.asks(FIRST, 1_000, 1.0, wait_s=0.02))
    assert 0 < sum(verdict.admit for verdict in part) < len(part)
    assert {verdict.rule for verdict in part if not verdict.admit} == {None}


def test_a_refusal_ends_before_the_next_stage_or_says_so() -> None:
    """With an hour to go a usual time; with four seconds less than two; with two the default map."""
    driver = Driver(Rule(name="none", share=0.0), draw=0.99)
    assert driver.ask(FIRST).retry_after_ms > 4_000
    driver.now_s = 7_200 - 4.0
    near = driver.ask(FIRST)
    assert near.retry_after_ms < 2_000
    assert not near.default_map
    driver.now_s = 7_200 - 2.0
    assert driver.ask(FIRST).default_map
    home = driver.ask(Seen("prefetchHome"))
    assert home.default_map, "without an event the next stage of any counts"
    driver.now_s = 7_300
    assert not driver.ask(FIRST).default_map


def test_returns_stretch_and_budgets_shrink_as_more_is_refused() -> None:
    """Nine tenths refused: the mean is eight times as long, and the budget a tenth of a tenth."""
    driver = Driver(Rule(name="part", share=0.1))
    first = next(verdict for verdict in driver.asks(FIRST, 100, 0.1) if not verdict.admit)
    last = [verdict for verdict in driver.asks(FIRST, 100, 5.0) if not verdict.admit][-1]
    assert first.retry_after_ms == pytest.approx(4_000, rel=0.7)
    assert last.retry_after_ms == pytest.approx(32_000, rel=0.1)
    (error,) = json.loads(driver.gate.refusal(last).body)["errors"]
    assert error["extensions"]["retryBudget"] == pytest.approx(0.01, abs=0.004)


def test_a_full_dependency_sheds_who_needs_it_before_anything_is_paid_for() -> None:
    """Once it is known that the class always waits for it; one that never does is untouched."""
    driver = Driver(dependencies=("ranking",))
    refresh = FIRST._replace(has_map=True)
    calls = []
    for _ in range(200):
        driver.now_s += 0.005
        verdict = driver.ask(refresh)
        call = driver.gate.enter("ranking", "best_effort", now_s=driver.now_s) if verdict.admit else None
        if call is not None:
            calls.append(call)
    assert len(calls) < 32, "nobody ever left"
    assert not driver.ask(refresh).admit
    assert driver.ask(Seen("prefetchHome")).admit
    assert driver.gate.status()["classes"]["best_effort"]["waits_for"] == ["ranking"]  # type: ignore[index]
    for call in calls:
        driver.gate.leave("ranking", call, outcome="ok", now_s=driver.now_s)
    assert driver.ask(refresh).admit


def test_the_one_a_second_is_let_through_to_the_end() -> None:
    """Admitted as the last resort of a starved class, it is not refused by the dependency behind."""
    driver = Driver(dependencies=("ranking",))
    limiter = driver.gate.dependencies["ranking"].limiter
    for _ in range(limiter.limit):
        driver.gate.dependencies["ranking"].begin(0, 0.0)
    refresh = FIRST._replace(has_map=True)
    entered = 0
    for verdict in driver.asks(refresh, 1, 5.0, wait_s=9.0):
        assert verdict.admit
        entered += driver.gate.enter("ranking", "best_effort", now_s=driver.now_s) is not None
    assert entered == 5


def test_a_share_bounds_what_a_class_holds_of_a_dependency() -> None:
    """bulk may hold half of the slots; share 0 none, not even the one that rounding up would give."""
    plans = dict(SHIPPED.classes)
    driver = Driver(dependencies=("ranking",))
    dependency = driver.gate.dependencies["ranking"]
    held = 0
    while dependency.has_room(3):
        dependency.begin(3, 0.0)
        held += 1
    assert held == dependency.limiter.limit // 2
    assert dependency.has_room(2)
    zero = type(plans["bulk"])(share=0.0, sheds=(0.8, 1.0))
    starved = Ruleset(default="bulk", classes={**plans, "bulk": zero})
    idle = Driver(base=starved, dependencies=("ranking",))
    assert not idle.gate.dependencies["ranking"].has_room(3)
    assert not any(verdict.admit for verdict in idle.asks(Seen("page", "bulk"), 10, 5.0))


def test_names_from_outside_do_not_fill_the_memory() -> None:
    """20,000 kinds of request: the tables stay bounded, the counts right."""
    driver = Driver(Rule(name="all", klass="bulk"))
    for number in range(20_000):
        driver.classify(Seen(f"made-up {number}"))
    assert sum(len(table) for table in driver.gate._tables.values()) <= 4_096
    assert driver.rule("all")["classes"]["bulk"]["seen"] == 20_000


def test_counts_outlive_a_ruleset_for_rules_that_stay() -> None:
    """A rule that is the same in the new file goes on counting; one that changed begins anew."""
    stays, changes = Rule(name="stays", klass="bulk"), Rule(name="changes", share=0.5)
    driver = Driver(stays, changes)
    driver.asks(FIRST, 10, 1.0)
    other = Ruleset(default="bulk", classes=SHIPPED.classes, rules=(Rule(name="changes", share=0.9), stays))
    driver.gate.use(other, now_s=driver.now_s, now_ms=driver.now_ms)
    assert driver.rule("stays")["classes"]["bulk"]["seen"] == 10
    assert driver.rule("changes")["shed_by_rule"] == 0


def test_a_request_refused_elsewhere_is_counted_and_told() -> None:
    """A full queue: the server asks for the verdict."""
    driver = Driver()
    verdict = driver.gate.turn_away("bulk", Seen("page"), now_ms=driver.now_ms)
    assert (verdict.admit, verdict.klass) == (False, "bulk")
    assert driver.gate.stats()["classes"]["bulk"]["shed"] == 1  # type: ignore[index]
    answer = driver.gate.refusal(Verdict("bulk", False))
    assert b'"retryAfterMs":4000' in answer.body, "a verdict without a moment gets one"
    assert driver.gate.stats()["classes"]["bulk"]["shed"] == 2  # type: ignore[index]
    for outcome in ("ok", "failed", "late"):
        driver.port.finished("bulk", took_s=0.1, outcome=outcome, now_s=1.0)  # type: ignore[arg-type]
    row = driver.gate.stats()["classes"]["bulk"]  # type: ignore[index]
    assert (row["served"], row["failed"], row["late"]) == (1, 1, 1)


LAYOUT = Layout(stages=(), catalog="c")
WANTED = [Wanted("event:e", 1, 1, f"p-{number}") for number in range(40)]


def picks(*, degraded: bool = False) -> Picks:
    return Picks(LAYOUT, array("I"), b"", 0, "test", degraded)


class Source:
    """Has nothing at once; answers after `took_s`, with what it is told to."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.took_s = 0.01
        self.answer: Picks | Missing | Exception = picks()
        self.asked: list[int] = []

    def at_once(self, wanted: Wanted) -> Picks | None:
        return None

    async def find(self, wanted: Collection[Wanted], deadline_s: float) -> Mapping[Wanted, Picks | Missing]:
        self.asked.append(len(wanted))
        self.driver.now_s += self.took_s
        if isinstance(self.answer, Exception):
            raise self.answer
        return dict.fromkeys(wanted, self.answer)


def guarded(driver: Driver, source: Source, **more: Any) -> GuardedPicks:
    dependencies = driver.gate.dependencies
    return GuardedPicks(
        source, dependencies["ranking"], dependencies, late_after_s=0.2, monotonic_s=lambda: driver.now_s, **more
    )


async def test_picks_are_counted_for_the_class_they_are_asked_for() -> None:
    """The class is that of the request being served when memory had nothing; `find` comes later for both."""
    driver = Driver(dependencies=("ranking",))
    source = Source(driver)
    guard = guarded(driver, source)
    for klass, wanted in (("critical", WANTED[0]), ("bulk", WANTED[1])):
        driver.gate.dependencies.serving = klass  # type: ignore[assignment]
        assert guard.at_once(wanted) is None
        assert guard.at_once(wanted) is None, "asked again before it was found: still one call"
    dependency = driver.gate.dependencies["ranking"]
    assert dependency.limiter.in_flight == 2
    driver.now_s += 0.002
    found = await guard.find(WANTED[:2], 0.25)
    assert set(found) == set(WANTED[:2])
    assert dict(zip(CLASSES, dependency.calls, strict=True)) == {
        "critical": 1,
        "degraded": 0,
        "best_effort": 0,
        "bulk": 1,
    }
    assert (dependency.limiter.in_flight, dependency.under_way) == (0, [0, 0, 0, 0])


async def test_without_room_the_cohorts_picks_come_at_once() -> None:
    """And no call is made for those."""
    driver = Driver(dependencies=("ranking",))
    source = Source(driver)
    guard = guarded(driver, source, otherwise=lambda wanted: picks(degraded=True))
    answers = [guard.at_once(wanted) for wanted in WANTED]
    waiting = [wanted for wanted, answer in zip(WANTED, answers, strict=True) if answer is None]
    assert 20 < len(waiting) < 32
    assert sum(driver.gate.dependencies["ranking"].refused) == len(WANTED) - len(waiting)
    await guard.find(waiting, 0.25)
    assert source.asked == [len(waiting)]


@pytest.mark.parametrize(
    ("answer", "took_s", "drops"),
    [
        (picks(), 0.3, 0),
        (Missing("no such profile"), 0.01, 0),
        (picks(degraded=True), 0.25, 40),
        (picks(degraded=True), 0.001, 0),
        (TimeoutError(), 0.25, 40),
        (ConnectionError(), 0.001, 0),
    ],
)
async def test_what_counts_as_a_time_out(answer: Picks | Missing | Exception, took_s: float, drops: int) -> None:
    """Degraded picks after the source's deadline are one in disguise; a quick failure is none."""
    driver = Driver(dependencies=("ranking",))
    source = Source(driver)
    source.answer, source.took_s = answer, took_s
    guard = guarded(driver, source)
    if isinstance(answer, Exception):
        with pytest.raises(type(answer)):
            await guard.find(WANTED, 0.25)
    else:
        await guard.find(WANTED, 0.25)
    dependency = driver.gate.dependencies["ranking"]
    assert (dependency.limiter.drops, dependency.limiter.in_flight) == (drops, 0)


async def test_slots_of_requests_that_went_away_come_back() -> None:
    """Asked at once and never looked for again: forgotten soon, also while nobody else gets that far."""
    driver = Driver(dependencies=("ranking",))
    guard = guarded(driver, Source(driver))
    for wanted in WANTED[:10]:
        guard.at_once(wanted)
    driver.now_s += 0.3
    guard.at_once(WANTED[10])
    assert driver.gate.dependencies["ranking"].limiter.in_flight == 1
    driver.now_s += 0.3
    driver.ask(Seen("page"))
    assert driver.gate.dependencies["ranking"].limiter.in_flight == 0
