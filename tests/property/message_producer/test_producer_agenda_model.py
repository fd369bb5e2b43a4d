"""Goal: whatever is dispatched while the store is read, every stage up to the horizon is on the agenda.

A model store, whose readings see it as it was at any moment between their beginning and their end.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from message_producer.agenda import Agenda, Entry

EVENTS = [f"e{number}" for number in range(9)]
PAGE = 4


class AgendaMachine(RuleBasedStateMachine):
    @initialize(due=st.lists(st.integers(1, 60), min_size=len(EVENTS), max_size=len(EVENTS)))
    def stored(self, due: list[int]) -> None:
        self.store = dict(zip(EVENTS, due, strict=True))
        self.agenda = Agenda(PAGE)
        self.seen: list[Entry] | None = None
        self.reading = False
        self.in_hand: list[str] = []
        self.now = 0

    def page(self) -> list[Entry]:
        return sorted((at, event) for event, at in self.store.items())[:PAGE]

    @precondition(lambda self: not self.reading)
    @rule()
    def a_reading_begins(self) -> None:
        self.agenda.begin_reading()
        self.reading, self.seen = True, None

    @precondition(lambda self: self.reading and self.seen is None)
    @rule()
    def the_store_answers(self) -> None:
        self.seen = self.page()

    @precondition(lambda self: self.seen is not None)
    @rule()
    def the_reading_ends(self) -> None:
        assert self.seen is not None
        self.agenda.read(self.seen)
        self.reading, self.seen = False, None

    @rule(later=st.integers(0, 20), limit=st.integers(1, 3))
    def stages_are_taken(self, later: int, limit: int) -> None:
        self.now += later
        taken = self.agenda.take_due(self.now, 0.0, limit)
        assert not set(taken) & set(self.in_hand)
        self.in_hand += taken

    @precondition(lambda self: self.in_hand)
    @rule(after=st.integers(1, 60))
    def a_dispatch_is_committed(self, after: int) -> None:
        event = self.in_hand.pop(0)
        if self.store[event] <= self.now:
            self.store[event] = self.now + after
        self.agenda.done((), [(self.store[event], event)])
        self.agenda.done([event])

    @invariant()
    def nothing_up_to_the_horizon_is_missing(self) -> None:
        if not hasattr(self, "agenda") or self.reading:
            return
        horizon = self.agenda._horizon
        for event, at in self.store.items():
            if event not in self.in_hand and (horizon is None or 0 < horizon >= at):
                assert (at, event) in self.agenda._upcoming


TestAgenda = AgendaMachine.TestCase
