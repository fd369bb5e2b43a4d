"""Coverage counts against a naive model, under any sequence of subscriptions and reports."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from push_proxy.coverage import CoverageCount

_BOUND = 4
_DEVICES = st.integers(0, 9)
_TOPICS = st.sampled_from(["event:a", "event:b", "event:c"])
_VERSIONS = st.one_of(st.none(), st.integers(-1, 9))


class CoverageMachine(RuleBasedStateMachine):
    """The model is who holds what; a listener keeps the newest share of every topic, as a router does."""

    def __init__(self) -> None:
        super().__init__()
        self.count = CoverageCount(max_versions=_BOUND)
        self.said: dict[tuple[int, str], int] = {}
        self.kept: dict[tuple[int, str], int] = {}
        self.heard: dict[str, dict[int, int]] = {}
        self.crowded: set[str] = set()
        """Topics that at some time had more versions than are told apart, and someone ever since."""

    @rule(device=_DEVICES, topic=_TOPICS, version=_VERSIONS)
    def subscribe(self, device: int, topic: str, version: int | None) -> None:
        """Also a repeat: the new one is counted before the former one ends, as a hub does it."""
        former = self.kept.get((device, topic))
        self.said[device, topic] = max(version or 0, 0)
        self.kept[device, topic] = self.count.joined(topic, version)
        distinct = {held for (_, of), held in self.said.items() if of == topic}
        if former is not None:
            distinct.add(former)
            self.count.left(topic, former)
        if len(distinct) > _BOUND:
            self.crowded.add(topic)

    @rule(device=_DEVICES, topic=_TOPICS)
    def leave(self, device: int, topic: str) -> None:
        if (device, topic) in self.kept:
            self.count.left(topic, self.kept.pop((device, topic)))
            del self.said[device, topic]
            if not self.truth(topic):
                self.crowded.discard(topic)

    @rule(repeat=st.integers(0, 2), lost=st.booleans())
    def report(self, repeat: int, lost: bool) -> None:
        shares = {share.topic: share.held for share in self.count.report(repeat=repeat)}
        if lost:
            self.count.report_all_again()
            shares |= {share.topic: share.held for share in self.count.report()}
        for topic, held in shares.items():
            self.heard[topic] = held
            if not held:
                del self.heard[topic]
        assert set(self.heard) == {topic for _, topic in self.said}
        for topic, held in self.heard.items():
            self.check(topic, held)

    def truth(self, topic: str) -> Counter[int]:
        return Counter(held for (_, of), held in self.said.items() if of == topic)

    def check(self, topic: str, held: dict[int, int]) -> None:
        truth = self.truth(topic)
        assert sum(held.values()) == truth.total()
        assert len(held) <= _BOUND
        assert all(count > 0 for count in held.values())
        for least in range(11):
            counted = sum(count for version, count in held.items() if version >= least)
            assert counted <= sum(count for version, count in truth.items() if version >= least)
        if topic not in self.crowded:
            assert held == truth

    @precondition(lambda self: not self.said)
    @invariant()
    def nothing_is_kept_of_who_left(self) -> None:
        self.count.report()
        self.count.report_all_again()
        assert self.count.report(repeat=9) == ()
        self.heard.clear()


CoverageMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestCoverage = CoverageMachine.TestCase
