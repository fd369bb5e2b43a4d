"""Hub against a naive model: topics and ports in step, a tear-down removes only its own port's subscriptions."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from contract.frames import ServerFrame
from push_proxy.forms import v1_form
from push_proxy.hub import Hub
from push_proxy.recovery import Phase, Subscription, Waiting
from tests.support.fake_port import FakePort

_PORTS = st.integers(0, 4)
_TOPICS = st.sampled_from(["event:a", "event:b", "event:c"])


def _other_form(frame: ServerFrame) -> bytes:
    raise AssertionError("unused")


class HubMachine(RuleBasedStateMachine):
    """Commands in any order; the model is one dictionary. Ports have two forms."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = Hub()
        self.ports = [FakePort(number, form=_other_form if number % 2 else v1_form) for number in range(5)]
        self.model: dict[tuple[int, str], Subscription] = {}
        self.ended: list[Subscription] = []

    @rule(port=_PORTS, topic=_TOPICS)
    def add(self, port: int, topic: str) -> None:
        subscription = Subscription(self.ports[port], topic, waiting=Waiting(0, 0.0, 0))
        former = self.model.get((port, topic))
        if former is not None:
            self.ended.append(former)
        assert self.hub.add(subscription) is former
        self.model[port, topic] = subscription

    @rule(port=_PORTS, topic=_TOPICS)
    def remove(self, port: int, topic: str) -> None:
        former = self.model.pop((port, topic), None)
        if former is not None:
            self.ended.append(former)
        assert self.hub.remove(self.ports[port], topic) is former

    @rule(port=_PORTS)
    def drop(self, port: int) -> None:
        gone = [self.model.pop(key) for key in list(self.model) if key[0] == port]
        self.ended += gone
        assert set(map(id, self.hub.drop(self.ports[port]))) == set(map(id, gone))

    @rule(topic=_TOPICS)
    def drop_topic(self, topic: str) -> None:
        gone = [self.model.pop(key) for key in list(self.model) if key[1] == topic]
        self.ended += gone
        assert set(map(id, self.hub.drop_topic(topic))) == set(map(id, gone))

    @invariant()
    def in_step(self) -> None:
        for topic in ("event:a", "event:b", "event:c"):
            expected = {id(s) for (_, t), s in self.model.items() if t == topic}
            listed = list(self.hub.subscriptions(topic))
            assert ({id(s) for s in listed}, len(listed)) == (expected, len(expected))
            assert self.hub.count(topic) == len(expected)
            assert {id(s) for s in self.hub.unanswered(topic)} == expected
            for form, peers in self.hub.by_form(topic).items():
                assert peers, "a form without a subscriber is forgotten"
                assert all(s.sink.form is form and peers.at(s.place) is s for s in peers)
                assert all(peers.fds[s.place] == s.sink.fd for s in peers)
        for number, port in enumerate(self.ports):
            assert {s.topic for s in port.subscriptions} == {t for p, t in self.model if p == number}
        assert set(self.hub.topics()) == {t for _, t in self.model}
        assert self.hub.subscription_count == len(self.model)
        assert all(s.phase is Phase.DEAD and s.waiting is None for s in self.ended)
        for (number, topic), subscription in self.model.items():
            assert self.hub.get(self.ports[number], topic) is subscription


HubMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestHub = HubMachine.TestCase
