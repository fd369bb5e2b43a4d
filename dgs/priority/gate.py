"""`PriorityGate`: class by the rules, then served or shed. Pure: time and draws come from outside.

What costs is done on a tick (ten times a second): rates, phases of events, which rules are in force, whether a queue
stands. Between ticks a request is a look-up in the table of its event's phase and a few comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from dgs.priority.activation import Load
from dgs.priority.dependencies import Call, Dependencies
from dgs.priority.ledger import Demand, Entry, Key, Place, RuleState
from dgs.priority.phases import standing_of
from dgs.priority.refusals import refusal
from dgs.priority.retry_after import return_after
from dgs.priority.rules import RANK, Phase, Ruleset, judge
from dgs.priority.shedding import Lane, served_part
from dgs.serving import CLASSES, Answer, Class, Outcome, Seen, Verdict

__all__ = ["PriorityGate", "Schedules"]

Schedules = Callable[[], Mapping[str, Collection[int]]]
"""Event id -> due times in ms of all its stages, past ones as well. Asked once a second; must not block."""
_NOT_LOOKED_AT: Final = Seen("")
_TICK_S: Final = 0.1
_PHASES_EVERY_MS: Final = 1_000
_TABLE_MAX: Final = 4_096
"""Kinds of request remembered per phase: names come from outside. Others are judged each time."""
_SMOOTHING: Final = 0.3


class PriorityGate:
    """A `dgs.serving.Gate`. Not thread-safe: it belongs to the loop, whose thread also calls `use`."""

    def __init__(
        self,
        ruleset: Ruleset,
        *,
        schedules: Schedules,
        draw: Callable[[], float],
        now_s: float,
        now_ms: int,
        queue_target_ms: float = 5.0,
        retry_after_mean_ms: int = 4_000,
        dependencies: Collection[str] = (),
        limit_min: int = 8,
        limit_max: int = 1_024,
    ) -> None:
        """`draw` is uniform over [0, 1); `dependencies` names what `self.dependencies` counts and limits."""
        self._schedules = schedules
        self._draw = draw
        self._lanes: dict[Class, Lane] = {
            klass: Lane(ruleset.classes[klass], queue_target_ms / 1000) for klass in CLASSES
        }
        self.dependencies = Dependencies(
            tuple(dependencies), ruleset.classes, least=limit_min, most=limit_max, now_s=now_s
        )
        self._admitted: dict[Class, Verdict] = {klass: Verdict(klass, True) for klass in CLASSES}
        self._demands = {
            klass: Demand(self._lanes[klass], self.dependencies, RANK[klass], retry_after_mean_ms) for klass in CLASSES
        }
        self._escorted = False
        """The request admitted last had its class's one slot of the second: no dependency turns it away."""
        self._arrived = self._left = 0
        self._waited_s = 0.0
        self._arrived_before = 0
        self.requests_per_s = 0.0
        self.queue_delay_ms = 0.0
        self._tick_at_s = self._ticked_s = now_s
        self._phases_at_ms = self._now_ms = now_ms
        self._states: list[RuleState] = []
        self._tables: dict[tuple[Phase, str | None], dict[Key, Entry]] = {}
        self._places: dict[str | None, Place] = {}
        self.use(ruleset, now_s=now_s, now_ms=now_ms)

    # Requests

    def classify(self, seen: Seen, now_ms: int) -> Class:
        """Counts the request; its entry of the table says the class."""
        self._arrived += 1
        if now_ms >= self._phases_at_ms:
            self._refresh_phases(now_ms)
        operation, asked, kind, event_id, has_map, trusted = seen
        place = self._places.get(event_id, self._nowhere)
        entry = place.table.get((operation, asked, kind, has_map, trusted))
        if entry is None:
            entry = self._enter(place, seen)
        entry.seen += 1
        return entry.klass

    def admit(self, klass: Class, seen: Seen, *, now_s: float, now_ms: int, queue_delay_s: float) -> Verdict:
        """See `Gate`. `klass` is what `classify` said, which may have been under rules that have changed since."""
        if now_s >= self._tick_at_s:
            self.tick(now_s, now_ms)
        self._left += 1
        self._waited_s += queue_delay_s
        lane = self._lanes[klass]
        lane.note(queue_delay_s, now_s)
        operation, asked, kind, event_id, has_map, trusted = seen
        place = self._places.get(event_id, self._nowhere)
        entry = place.table.get((operation, asked, kind, has_map, trusted))
        if entry is None:
            entry = self._enter(place, seen)
        if entry.dry:
            self._try_dry(entry, queue_delay_s, now_s)
        if entry.limits:
            for index in entry.limits:
                state = self._states[index]
                if not state.lets_through(now_s):
                    state.shed += 1
                    return self._shed(lane, klass, entry, place, state.rule.name, now_ms)
        self._escorted = False
        if queue_delay_s > lane.patience_s and not lane.lets_through(queue_delay_s):
            if not lane.last_resort(now_s):
                return self._shed(lane, klass, entry, place, None, now_ms)
            self._escorted = True
        for dependency in self._demands[klass].waits_for:
            rank = RANK[klass]
            if not dependency.has_room(rank) and not self._escorted:
                if not lane.last_resort(now_s):
                    dependency.refused[rank] += 1
                    return self._shed(lane, klass, entry, place, None, now_ms)
                self._escorted = True
        entry.admitted += 1
        lane.admitted += 1
        self.dependencies.serving = klass
        return self._admitted[klass]

    def finished(self, klass: Class, *, took_s: float, outcome: Outcome, now_s: float) -> None:
        """How serving ended. Pace is learned from dependencies' calls alone: an answer from memory says nothing."""
        lane = self._lanes[klass]
        if outcome == "ok":
            lane.served += 1
        elif outcome == "late":
            lane.late += 1
        else:
            lane.failed += 1

    def enter(self, name: str, klass: Class, *, now_s: float) -> Call | None:
        """The request admitted last must wait for a dependency; None: no room for its class, `turn_away`.

        Asked before the next one is admitted.
        """
        dependency, rank = self.dependencies[name], RANK[klass]
        if self._escorted or dependency.has_room(rank) or self._lanes[klass].last_resort(now_s):
            return dependency.begin(rank, now_s)
        dependency.refuse(rank)
        return None

    def leave(self, name: str, call: Call, *, outcome: Outcome, now_s: float) -> None:
        """It has what it waited for, or gave up."""
        self.dependencies[name].end(call, outcome, now_s)

    def turn_away(self, klass: Class, seen: Seen, *, now_ms: int) -> Verdict:
        """The verdict of one that is refused elsewhere: a full queue, or no room where `enter` was asked.

        It was not admitted, or is not any more; it counts as shed.
        """
        place = self._places.get(seen.event_id, self._nowhere)
        entry = place.table.get((seen.operation, seen.asked, seen.kind, seen.has_map, seen.trusted))
        return self._shed(self._lanes[klass], klass, entry or self._enter(place, seen), place, None, now_ms)

    def refusal(self, verdict: Verdict) -> Answer:
        """The answer, with this moment's retry budget of the class.

        A verdict without a moment to return is of one refused before `admit` was asked, by a full queue: it gets one,
        and counts as shed.
        """
        if not verdict.retry_after_ms:
            verdict = self.turn_away(verdict.klass, _NOT_LOOKED_AT, now_ms=self._now_ms)
        return refusal(verdict, self._demands[verdict.klass].retry_budget)

    # Rules

    def use(self, ruleset: Ruleset, *, now_s: float, now_ms: int) -> None:
        """Another ruleset, at once. A rule that is the same keeps its counts and whether it is in force."""
        self._fold()
        former = {state.rule.name: state for state in self._states}
        self.ruleset = ruleset
        self._states = [
            kept if (kept := former.get(rule.name)) is not None and kept.rule == rule else RuleState(rule, now_s)
            for rule in ruleset.rules
        ]
        for klass in CLASSES:
            self._lanes[klass].plan = ruleset.classes[klass]
        self.dependencies.plan(ruleset.classes)
        self._named = frozenset(event for rule in ruleset.rules for event in rule.match.events or ())
        self._tables = {}
        self._refresh_phases(now_ms)
        self._activate(now_s, always=True)

    def tick(self, now_s: float, now_ms: int) -> None:
        """Rates, phases, rules, needs. `admit` sees to it; call it once a second as well, for idle hours."""
        elapsed_s = now_s - self._ticked_s
        self._tick_at_s = now_s + _TICK_S
        self._now_ms = now_ms
        if elapsed_s <= 0:
            return
        weight = min(1.0, max(_SMOOTHING, elapsed_s))
        rate = (self._arrived - self._arrived_before) / elapsed_s
        self.requests_per_s += weight * (rate - self.requests_per_s)
        delay_ms = 1000 * self._waited_s / self._left if self._left else 0.0
        self.queue_delay_ms += weight * (delay_ms - self.queue_delay_ms)
        self._arrived_before = self._arrived
        self._waited_s, self._left = 0.0, 0
        self._ticked_s = now_s
        if not -_PHASES_EVERY_MS <= now_ms - self._phases_at_ms < 0:  # or the wall clock was set back
            self._refresh_phases(now_ms)
        for lane in self._lanes.values():
            lane.turn(now_s)
        for demand in self._demands.values():
            demand.learn(weight)
        for call in self.dependencies.on_tick:
            call(now_s)
        self._activate(now_s)

    def _activate(self, now_s: float, *, always: bool = False) -> None:
        changed = always
        everywhere = {place.phase for place in self._places.values()}
        for state in self._states:
            events = state.rule.match.events
            phases: Collection[Phase] = everywhere
            if events is not None:
                phases = {place.phase for event, place in self._places.items() if event in events}
            before = state.activation.active
            load = Load(self.requests_per_s, self.queue_delay_ms, phases)
            changed |= state.activation.update(load, now_s) != before
        if changed:
            self._active = frozenset(i for i, state in enumerate(self._states) if state.activation.active)
            self._fold()
            for table in self._tables.values():
                table.clear()

    def _refresh_phases(self, now_ms: int) -> None:
        times = self.ruleset.phases
        places: dict[str | None, Place] = {}
        stages = []
        for event_id, due_times_ms in self._schedules().items():
            standing = standing_of(due_times_ms, now_ms, times)
            table = self._table(standing.phase, event_id if event_id in self._named else None)
            places[event_id] = Place(standing.phase, standing.next_stage_ms, table)
            if standing.next_stage_ms is not None:
                stages.append(standing.next_stage_ms)
        self._places = places
        self._nowhere = Place("none", min(stages, default=None), self._table("none", None))
        self._phases_at_ms = now_ms + _PHASES_EVERY_MS

    def _table(self, phase: Phase, event_id: str | None) -> dict[Key, Entry]:
        return self._tables.setdefault((phase, event_id), {})

    def _enter(self, place: Place, seen: Seen) -> Entry:
        entry = Entry(judge(self.ruleset, self._active, seen, place.phase))
        if len(place.table) >= _TABLE_MAX:
            self._fold()
            place.table.clear()
        place.table[seen.operation, seen.asked, seen.kind, seen.has_map, seen.trusted] = entry
        return entry

    # Shedding

    def _shed(self, lane: Lane, klass: Class, entry: Entry, place: Place, rule: str | None, now_ms: int) -> Verdict:
        entry.shed += 1
        lane.shed += 1
        stage_ms = place.next_stage_ms
        until_ms = None if stage_ms is None else stage_ms - now_ms
        after_ms, in_time = return_after(self._demands[klass].return_mean_ms, until_ms, self._draw())
        return Verdict(klass, False, rule, after_ms, not in_time)

    def _try_dry(self, entry: Entry, queue_delay_s: float, now_s: float) -> None:
        """Counts what rules on trial would have shed, with credits of their own."""
        judgement = entry.judgement
        for index in judgement.dry_limits:
            state = self._states[index]
            if not state.lets_through(now_s):
                state.would_shed += 1
        if judgement.dry_by is not None:
            state = self._states[judgement.dry_by]
            plan = self._lanes[judgement.dry_klass].plan
            part = served_part(plan, self._lanes[entry.klass].overload(queue_delay_s)) if plan.share else 0.0
            rank = RANK[judgement.dry_klass]
            if any(not dependency.has_room(rank) for dependency in self._demands[entry.klass].waits_for):
                part = 0.0
            if not state.thinning.take(part):
                state.would_shed += 1

    # What it did

    def _fold(self) -> None:
        """Move the entries' counts to the rules they stand for."""
        for table in self._tables.values():
            for entry in table.values():
                for index in entry.matched:
                    counts = self._states[index].counts.setdefault(entry.klass, [0, 0, 0])
                    counts[0] += entry.seen
                    counts[1] += entry.admitted
                    counts[2] += entry.shed
                entry.seen = entry.admitted = entry.shed = 0

    def stats(self) -> dict[str, object]:
        """Only rising numbers, and a few levels; rendered into /metrics.

        `rules`: name -> class -> seen, admitted, shed (of what the rule matched), shed_by_rule, would_shed (dry run).
        """
        self._fold()
        return {
            "classes": {
                klass: {
                    "admitted": lane.admitted,
                    "shed": lane.shed,
                    "served": lane.served,
                    "failed": lane.failed,
                    "late": lane.late,
                }
                for klass, lane in self._lanes.items()
            },
            "rules": {
                state.rule.name: {
                    "active": state.activation.active,
                    "switches": state.activation.switches,
                    "shed_by_rule": state.shed,
                    "would_shed": state.would_shed,
                    "classes": {
                        klass: {"seen": counts[0], "admitted": counts[1], "shed": counts[2]}
                        for klass, counts in state.counts.items()
                    },
                }
                for state in self._states
            },
            "dependencies": self.dependencies.stats(),
        }

    def status(self) -> dict[str, object]:
        """For /status: what is in force, and how things stand."""
        return {
            "requests_per_s": round(self.requests_per_s, 1),
            "queue_delay_ms": round(self.queue_delay_ms, 3),
            "classes": {
                klass: {
                    "share": lane.plan.share,
                    "queue_stands": lane.standing,
                    "admitted_share": round(self._demands[klass].admitted_share, 3),
                    "waits_for": [dependency.name for dependency in self._demands[klass].waits_for],
                }
                for klass, lane in self._lanes.items()
            },
            "rules": [
                {
                    "name": state.rule.name,
                    "active": state.activation.active,
                    "dry_run": state.rule.dry_run,
                    "would_shed": state.would_shed,
                }
                for state in self._states
            ],
            "dependencies": self.dependencies.stats(),
        }
