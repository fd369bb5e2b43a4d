"""Who is subscribed to what on this node: topic -> subscriptions by form, port -> its subscriptions, in step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from push_proxy.forms import Form
from push_proxy.peers import Peers
from push_proxy.ports import DevicePort
from push_proxy.recovery import Phase, Subscription

__all__ = ["Hub"]


class Hub:
    """Ports are told apart by identity: a newer connection of the same device is another one.

    A subscription that is replaced or removed is ended, so that a fan-out in progress skips it.
    """

    __slots__ = ("_by_topic", "_count")

    def __init__(self) -> None:
        self._by_topic: dict[str, dict[Form, Peers]] = {}
        self._count = 0

    def add(self, subscription: Subscription) -> Subscription | None:
        """Register; returns the former subscription of this port to the topic, which it replaces and ends."""
        port, topic = subscription.sink, subscription.topic
        former = self.get(port, topic) if port.subscriptions else None
        if former is not None:
            self.remove(port, topic)
        forms = self._by_topic.setdefault(topic, {})
        peers = forms.get(port.form)
        if peers is None:
            peers = forms[port.form] = Peers()
        peers.add(subscription)
        port.subscriptions = (*port.subscriptions, subscription)
        self._count += 1
        return former

    def remove(self, port: DevicePort, topic: str) -> Subscription | None:
        """End one subscription and return it; None for an unknown one."""
        subscription = self.get(port, topic)
        if subscription is not None:
            port.subscriptions = tuple(one for one in port.subscriptions if one is not subscription)
            self._take_out(subscription)
        return subscription

    def drop(self, port: DevicePort) -> tuple[Subscription, ...]:
        """End every subscription of this port, and of no other; returns them."""
        ended = port.subscriptions
        port.subscriptions = ()
        for subscription in ended:
            self._take_out(subscription)
        return ended

    def drop_topic(self, topic: str) -> list[Subscription]:
        """End every subscription to a topic; returns them."""
        ended = list(self.subscriptions(topic))
        for subscription in ended:
            self.remove(subscription.sink, topic)
        return ended

    def get(self, port: DevicePort, topic: str) -> Subscription | None:
        # A port follows a handful of topics: a list is searched faster than a dictionary is kept.
        for subscription in port.subscriptions:
            if subscription.topic == topic:
                return subscription
        return None

    def subscriptions(self, topic: str) -> Iterator[Subscription]:
        for peers in self._by_topic.get(topic, {}).values():
            yield from peers

    def write_to(self, port: DevicePort, fd: int) -> None:
        """From now on fan-outs write to `fd` for this port; -1: they ask the port itself."""
        for subscription in port.subscriptions:
            self._by_topic[subscription.topic][port.form].set_fd(subscription, fd)

    def by_form(self, topic: str) -> Mapping[Form, Peers]:
        """Not to be changed, nor kept across a wait."""
        return self._by_topic.get(topic, {})

    def unanswered(self, topic: str) -> list[Subscription]:
        """Subscriptions without a final verdict."""
        return [s for s in self.subscriptions(topic) if s.phase < Phase.LIVE]

    def count(self, topic: str) -> int:
        return sum(len(peers) for peers in self._by_topic.get(topic, {}).values())

    def topics(self) -> tuple[str, ...]:
        """Topics with at least one subscriber."""
        return tuple(self._by_topic)

    @property
    def subscription_count(self) -> int:
        return self._count

    def _take_out(self, subscription: Subscription) -> None:
        subscription.end()
        forms = self._by_topic[subscription.topic]
        form = subscription.sink.form
        peers = forms[form]
        peers.remove(subscription)
        if not peers:
            del forms[form]
            if not forms:
                del self._by_topic[subscription.topic]
        self._count -= 1
