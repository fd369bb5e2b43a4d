"""Who is subscribed to what on this node: topic -> connections and connection -> topics, always in step."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from push_proxy.recovery import Phase, Subscription

__all__ = ["Hub"]

C = TypeVar("C", bound=Hashable)


class Hub(Generic[C]):
    """Connections are told apart by identity: a newer connection of the same device is another one.

    A subscription that is replaced or removed is ended, so that a fan-out in progress skips it.
    """

    __slots__ = ("_by_connection", "_by_topic")

    def __init__(self) -> None:
        self._by_topic: dict[str, dict[C, Subscription]] = {}
        self._by_connection: dict[C, dict[str, Subscription]] = {}

    def add(self, connection: C, subscription: Subscription) -> bool:
        """Register; a former subscription of this connection to the topic ends. Returns whether the topic was empty."""
        topic = subscription.topic
        subscribers = self._by_topic.setdefault(topic, {})
        first = not subscribers
        former = subscribers.get(connection)
        if former is not None:
            former.end()
        subscribers[connection] = subscription
        self._by_connection.setdefault(connection, {})[topic] = subscription
        return first

    def remove(self, connection: C, topic: str) -> bool:
        """End one subscription; returns whether the topic has no subscriber left. Unknown ones change nothing."""
        subscription = self._by_connection.get(connection, {}).pop(topic, None)
        if subscription is None:
            return False
        subscription.end()
        if not self._by_connection[connection]:
            del self._by_connection[connection]
        subscribers = self._by_topic[topic]
        del subscribers[connection]
        if subscribers:
            return False
        del self._by_topic[topic]
        return True

    def drop(self, connection: C) -> list[str]:
        """End every subscription of this connection, and of no other; returns topics left without a subscriber."""
        return [topic for topic in list(self._by_connection.get(connection, ())) if self.remove(connection, topic)]

    def drop_topic(self, topic: str) -> list[C]:
        """End every subscription to a topic; returns whose they were."""
        connections = list(self._by_topic.get(topic, ()))
        for connection in connections:
            self.remove(connection, topic)
        return connections

    def get(self, connection: C, topic: str) -> Subscription | None:
        return self._by_connection.get(connection, {}).get(topic)

    def topics_of(self, connection: C) -> tuple[str, ...]:
        return tuple(self._by_connection.get(connection, ()))

    def subscriptions(self, topic: str) -> Iterator[Subscription]:
        return iter(self._by_topic.get(topic, {}).values())

    def unanswered(self, topic: str) -> list[Subscription]:
        """Subscriptions without a final verdict, in the order they came."""
        return [s for s in self._by_topic.get(topic, {}).values() if s.phase < Phase.LIVE]

    def count(self, topic: str) -> int:
        return len(self._by_topic.get(topic, ()))

    def topics(self) -> tuple[str, ...]:
        """Topics with at least one subscriber."""
        return tuple(self._by_topic)

    @property
    def subscription_count(self) -> int:
        return sum(len(topics) for topics in self._by_connection.values())
