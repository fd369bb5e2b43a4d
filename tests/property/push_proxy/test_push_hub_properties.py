"""Hub against a naive model: both directions in step, a tear-down removes only its own connection."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from push_proxy.hub import Hub
from push_proxy.recovery import Phase, Subscription

_CONNECTIONS = st.integers(0, 4)
_TOPICS = st.sampled_from(["event:a", "event:b", "event:c"])


class Sink:
    def write(self, frames: bytes, /) -> None:
        raise AssertionError("unused")


class HubMachine(RuleBasedStateMachine):
    """Commands in any order; the model is one dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.hub: Hub[int] = Hub()
        self.model: dict[tuple[int, str], Subscription] = {}
        self.ended: list[Subscription] = []

    @rule(connection=_CONNECTIONS, topic=_TOPICS)
    def add(self, connection: int, topic: str) -> None:
        first = not any(t == topic for _, t in self.model)
        subscription = Subscription(Sink(), topic, 0, deadline_s=0.0)
        former = self.model.get((connection, topic))
        if former is not None:
            self.ended.append(former)
        assert self.hub.add(connection, subscription) == first
        self.model[connection, topic] = subscription

    @rule(connection=_CONNECTIONS, topic=_TOPICS)
    def remove(self, connection: int, topic: str) -> None:
        former = self.model.pop((connection, topic), None)
        emptied = former is not None and not any(t == topic for _, t in self.model)
        if former is not None:
            self.ended.append(former)
        assert self.hub.remove(connection, topic) == emptied

    @rule(connection=_CONNECTIONS)
    def drop(self, connection: int) -> None:
        gone = [key for key in self.model if key[0] == connection]
        for key in gone:
            self.ended.append(self.model.pop(key))
        emptied = {topic for _, topic in gone if not any(t == topic for _, t in self.model)}
        assert set(self.hub.drop(connection)) == emptied

    @rule(topic=_TOPICS)
    def drop_topic(self, topic: str) -> None:
        gone = [key for key in self.model if key[1] == topic]
        for key in gone:
            self.ended.append(self.model.pop(key))
        assert set(self.hub.drop_topic(topic)) == {connection for connection, _ in gone}

    @invariant()
    def in_step(self) -> None:
        for topic in ("event:a", "event:b", "event:c"):
            expected = {id(s) for (_, t), s in self.model.items() if t == topic}
            assert {id(s) for s in self.hub.subscriptions(topic)} == expected
            assert self.hub.count(topic) == len(expected)
            assert {id(s) for s in self.hub.unanswered(topic)} == expected
        for connection in range(5):
            assert set(self.hub.topics_of(connection)) == {t for c, t in self.model if c == connection}
        assert set(self.hub.topics()) == {t for _, t in self.model}
        assert self.hub.subscription_count == len(self.model)
        assert all(s.phase is Phase.DEAD for s in self.ended)
        assert all(s.phase is Phase.WAITING for s in self.model.values())
        for (connection, topic), subscription in self.model.items():
            assert self.hub.get(connection, topic) is subscription


HubMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestHub = HubMachine.TestCase
