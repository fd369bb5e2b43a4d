"""Rules come on at once and go off slowly, whatever the load does; the gate keeps its books under any traffic."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dgs.priority.activation import Activation, Load
from dgs.priority.gate import PriorityGate
from dgs.priority.rules import ClassPlan, Match, Rule, Ruleset, Trigger, When, judge
from dgs.serving import CLASSES, Class, Seen

ON, OFF, OFF_AFTER_S = 100.0, 60.0, 3.0
NOW_MS = 1_700_000_000_000
steps = st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(0, 200)), min_size=1, max_size=200)


@given(steps)
def test_hysteresis(loads: list[tuple[float, float]]) -> None:
    """On only at or above `on`; off only after `off_after_s` below `off` without a break; between, as it was."""
    activation = Activation(When(requests_per_s=Trigger(on=ON, off=OFF), off_after_s=OFF_AFTER_S))
    now_s, below_since_s, switched_on_s = 0.0, None, []
    for elapsed_s, rate in loads:
        now_s += elapsed_s
        was = activation.active
        active = activation.update(Load(rate, 0.0, ()), now_s)
        below_since_s = None if rate >= OFF else now_s if below_since_s is None else below_since_s
        if active and not was:
            assert rate >= ON
            switched_on_s.append(now_s)
        elif was and not active:
            assert below_since_s is not None
            assert now_s - below_since_s >= OFF_AFTER_S
        elif not active:
            assert rate < ON
        elif below_since_s is not None:
            assert now_s - below_since_s < OFF_AFTER_S
    for former_s, next_s in pairwise(switched_on_s):
        assert next_s - former_s >= OFF_AFTER_S, "it cannot flutter"
    assert activation.switches in (2 * len(switched_on_s), 2 * len(switched_on_s) - 1)


@given(st.lists(st.sampled_from(["none", "before", "window", "stage", "after"]), min_size=1, max_size=100))
def test_a_phase_is_a_trigger_with_the_same_slowness(phases: list[str]) -> None:
    """In force in the phase, and for `off_after_s` afterwards; a step is a second."""
    activation = Activation(When(phases=frozenset({"stage"}), off_after_s=OFF_AFTER_S))  # type: ignore[arg-type]
    for second, phase in enumerate(phases):
        active = activation.update(Load(0, 0, (phase,)), float(second))  # type: ignore[arg-type]
        lately = phases[max(0, second - int(OFF_AFTER_S)) : second + 1]
        assert active == ("stage" in lately)


names = st.sampled_from(["prefetchEvent", "prefetchHome", "page", ""])
classes = st.sampled_from(CLASSES)
seens = st.builds(
    Seen,
    operation=names,
    asked=st.none() | classes,
    kind=st.sampled_from([None, "TV", "WEB"]),
    event_id=st.sampled_from([None, "e", "f", "unknown"]),
    has_map=st.booleans(),
    trusted=st.booleans(),
)
matching = st.builds(
    Match,
    operations=st.none() | st.frozensets(names, min_size=1),
    kinds=st.none() | st.frozensets(st.sampled_from(["TV", "WEB"]), min_size=1),
    phases=st.none() | st.frozensets(st.sampled_from(["none", "window", "stage"]), min_size=1),
    has_map=st.none() | st.booleans(),
    events=st.none() | st.frozensets(st.sampled_from(["e", "f"]), min_size=1),
)
actions = st.one_of(
    st.fixed_dictionaries({"klass": classes}),
    st.fixed_dictionaries({"limit_per_s": st.sampled_from([0.0, 1.0, 20.0])}),
    st.fixed_dictionaries({"share": st.sampled_from([0.0, 0.3, 1.0])}),
)
whens = st.none() | st.just(When(requests_per_s=Trigger(on=50, off=30), off_after_s=0.5))


@st.composite
def rulesets(draw: st.DrawFn, *, dry_run: bool | None = None) -> Ruleset:
    rules = [
        Rule(
            name=f"r{number}",
            match=draw(matching),
            when=draw(whens),
            dry_run=draw(st.booleans()) if dry_run is None else dry_run,
            **draw(actions),
        )
        for number in range(draw(st.integers(0, 5)))
    ]
    plans = {klass: ClassPlan(sheds=(rank / 4, (rank + 1) / 4)) for rank, klass in enumerate(CLASSES)}
    return Ruleset(default=draw(classes), classes=plans, rules=tuple(rules))


traffic = st.lists(st.tuples(seens, st.floats(0, 0.2), st.sampled_from([0.001, 0.01, 0.3])), min_size=1, max_size=60)


def gate_of(ruleset: Ruleset) -> PriorityGate:
    schedules = {"e": (NOW_MS + 600_000,), "f": (NOW_MS + 7_200_000, NOW_MS - 7_200_000)}
    return PriorityGate(ruleset, schedules=lambda: schedules, draw=lambda: 0.5, now_s=0.0, now_ms=NOW_MS)


def play(gate: PriorityGate, requests: list[tuple[Seen, float, float]]) -> list[tuple[Class, bool, str | None]]:
    now_s, results = 0.0, []
    for seen, wait_s, pause_s in requests:
        now_s += pause_s
        now_ms = NOW_MS + round(now_s * 1000)
        klass = gate.classify(seen, now_ms)
        verdict = gate.admit(klass, seen, now_s=now_s, now_ms=now_ms, queue_delay_s=wait_s)
        results.append((klass, verdict.admit, verdict.rule))
        if verdict.admit:
            gate.finished(klass, took_s=0.001, outcome="ok", now_s=now_s)
    return results


@given(rulesets(), traffic)
def test_the_tables_say_what_the_rules_say(ruleset: Ruleset, requests: list[tuple[Seen, float, float]]) -> None:
    """Every class is what `judge` has for the rules in force at that moment, whatever was asked before."""
    gate = gate_of(ruleset)
    now_s = 0.0
    phase_of = {"e": "stage", "f": "window"}
    for seen, wait_s, pause_s in requests:
        now_s += pause_s
        now_ms = NOW_MS + round(now_s * 1000)
        active = [index for index, row in enumerate(gate.status()["rules"]) if row["active"]]  # type: ignore[index, arg-type, var-annotated]
        klass = gate.classify(seen, now_ms)
        assert klass == judge(ruleset, active, seen, phase_of.get(seen.event_id or "", "none")).klass  # type: ignore[arg-type]
        gate.admit(klass, seen, now_s=now_s, now_ms=now_ms, queue_delay_s=wait_s)


@given(rulesets(), traffic)
def test_the_books_are_right(ruleset: Ruleset, requests: list[tuple[Seen, float, float]]) -> None:
    """Per class, what was admitted and shed adds up; what a rule shed is told with the verdict and counted for it."""
    gate = gate_of(ruleset)
    results = play(gate, requests)
    stats = gate.stats()
    told = Counter(rule for _, admitted, rule in results if not admitted)
    for klass in CLASSES:
        of_class = [admitted for given_class, admitted, _ in results if given_class == klass]
        row = stats["classes"][klass]  # type: ignore[index]
        assert (row["admitted"], row["shed"]) == (sum(of_class), len(of_class) - sum(of_class))
        assert row["served"] == row["admitted"]
    for name, row in stats["rules"].items():  # type: ignore[attr-defined]
        assert row["shed_by_rule"] == told[name]
    assert gate.stats()["rules"] == stats["rules"], "asking changes nothing"


@given(rulesets(dry_run=True), traffic)
def test_a_dry_run_changes_nothing(ruleset: Ruleset, requests: list[tuple[Seen, float, float]]) -> None:
    """All rules on trial: every class and verdict is as without any rule."""
    without = Ruleset(default=ruleset.default, classes=ruleset.classes)
    trial = gate_of(ruleset)
    assert play(trial, requests) == play(gate_of(without), requests)
    assert all(row["shed_by_rule"] == 0 for row in trial.stats()["rules"].values())  # type: ignore[attr-defined]


@given(rulesets(), rulesets(), traffic)
def test_another_ruleset_is_in_force_at_once(
    first: Ruleset, second: Ruleset, requests: list[tuple[Seen, float, float]]
) -> None:
    """Rules without a trigger decide the very next request; counts of rules that stayed are kept."""
    gate = gate_of(first)
    play(gate, requests)
    gate.use(second, now_s=1_000.0, now_ms=NOW_MS)
    active = [index for index, row in enumerate(gate.status()["rules"]) if row["active"]]  # type: ignore[index, arg-type, var-annotated]
    seen = requests[0][0]
    phase = {"e": "stage", "f": "window"}.get(seen.event_id or "", "none")
    assert gate.classify(seen, NOW_MS) == judge(second, active, seen, phase).klass  # type: ignore[arg-type]
