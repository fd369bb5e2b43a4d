"""The interest table equals a naive model under any order of hellos, deltas and drops."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from message_router.interest import InterestTable

LINKS = st.integers(1, 4)
TOPIC_NAMES = [f"event:{letter}" for letter in "abcdef"]
TOPICS = st.lists(st.sampled_from(TOPIC_NAMES), max_size=6)


class InterestMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table: InterestTable[int] = InterestTable()
        self.model: dict[int, set[str]] = {}

    @rule(link=LINKS, topics=TOPICS)
    def hello(self, link: int, topics: list[str]) -> None:
        self.table.hello(link, topics)
        self.model[link] = set(topics)

    @rule(link=LINKS, added=TOPICS, removed=TOPICS)
    def delta(self, link: int, added: list[str], removed: list[str]) -> None:
        if link not in self.model:
            return
        self.table.delta(link, added=added, removed=removed)
        self.model[link] = (self.model[link] - set(removed)) | set(added)

    @rule(link=LINKS)
    def drop(self, link: int) -> None:
        self.table.drop(link)
        self.model.pop(link, None)

    @invariant()
    def equals_the_model(self) -> None:
        for topic in TOPIC_NAMES:
            assert set(self.table.links(topic)) == {link for link, topics in self.model.items() if topic in topics}
        for link in range(1, 5):
            assert self.table.topics(link) == self.model.get(link, set())
            assert self.table.topic_count(link) == len(self.model.get(link, set()))
        assert len(self.table) == len(set().union(*self.model.values())), "no empty topic is kept"


TestInterest = InterestMachine.TestCase
