"""A row of peers against a model: places hold while a fan-out is under way, and holes are closed with the last one."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from push_proxy.peers import Peers
from push_proxy.recovery import Subscription
from tests.support.fake_port import FakePort


class PeersMachine(RuleBasedStateMachine):
    """Fan-outs begin and end in any order with who comes and leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.peers = Peers()
        self.here: dict[Subscription, int] = {}
        """With the descriptor frames for it go to."""
        self.fan_outs: list[list[Subscription]] = []
        """Who stood in the row when each began, by place."""

    @rule(fd=st.integers(-1, 500))
    def come(self, fd: int) -> None:
        port = FakePort(len(self.here))
        port.fd = fd
        subscription = Subscription(port, "t", waiting=None)
        self.peers.add(subscription)
        self.here[subscription] = fd

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        subscription = data.draw(st.sampled_from(list(self.here)))
        del self.here[subscription]
        self.peers.remove(subscription)

    @precondition(lambda self: self.here)
    @rule(data=st.data(), fd=st.integers(-1, 500))
    def congest_or_flow(self, data: st.DataObject, fd: int) -> None:
        subscription = data.draw(st.sampled_from(list(self.here)))
        self.peers.set_fd(subscription, fd)
        self.here[subscription] = fd

    @rule()
    def begin(self) -> None:
        end = self.peers.begin()
        row = [self.peers.at(place) for place in range(end)]
        if not self.fan_outs:
            assert None not in row
        self.fan_outs.append([one for one in row if one is not None])

    @precondition(lambda self: self.fan_outs)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.fan_outs.pop(data.draw(st.integers(0, len(self.fan_outs) - 1)))
        self.peers.end()

    @invariant()
    def in_step(self) -> None:
        assert set(self.peers) == set(self.here)
        assert len(self.peers) == len(self.here)
        row = [self.peers.at(place) for place in range(len(self.peers.fds))]
        for place, one in enumerate(row):
            assert (one is None) <= bool(self.fan_outs), "a hole although nothing is under way"
            expected = -1 if one is None else self.here[one]
            assert self.peers.fds[place] == expected
            assert one is None or one.place == place
        for began_with in self.fan_outs:
            reached = [one for one in row if one in set(began_with)]
            assert reached == [one for one in began_with if one in self.here], "in the order it began with"


PeersMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestPeers = PeersMachine.TestCase
