"""Interest, pure: which links want a topic. Told by each node's hello and deltas, kept in memory per link (R12)."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Final, Generic, TypeVar

__all__ = ["InterestTable"]

L = TypeVar("L", bound=Hashable)
_NOBODY: Final[frozenset[object]] = frozenset()


class InterestTable(Generic[L]):
    """Topic -> links, and back; every look-up is one dictionary access.

    A link that never said hello, or was dropped, is interested in nothing.
    """

    __slots__ = ("_links", "_topics")

    def __init__(self) -> None:
        self._links: dict[str, set[L]] = {}
        self._topics: dict[L, set[str]] = {}

    def hello(self, link: L, topics: Iterable[str]) -> None:
        """Replace all of the link's topics."""
        wanted = set(topics)
        held = self._topics.setdefault(link, set())
        self._remove(link, held - wanted)
        self._add(link, wanted - held)

    def delta(self, link: L, *, added: Iterable[str], removed: Iterable[str]) -> None:
        """Change the topics of a link that said hello; a topic both removed and added is kept.

        Too much interest costs a message, too little costs the audience a broadcast.
        """
        assert link in self._topics, "a delta before the hello"
        self._remove(link, set(removed))
        self._add(link, added)

    def drop(self, link: L) -> None:
        """Forget a link; idempotent."""
        topics = self._topics.get(link)
        if topics is not None:
            self._remove(link, set(topics))
            del self._topics[link]

    def links(self, topic: str) -> Collection[L]:
        """Links interested in `topic`. A live view: copy it before awaiting."""
        found: Collection[L] | None = self._links.get(topic)
        return found if found is not None else _NOBODY  # type: ignore[return-value]

    def topics(self, link: L) -> frozenset[str]:
        return frozenset(self._topics.get(link, ()))

    def topic_count(self, link: L) -> int:
        return len(self._topics.get(link, ()))

    def __len__(self) -> int:
        """Topics somebody is interested in."""
        return len(self._links)

    def _add(self, link: L, topics: Iterable[str]) -> None:
        held = self._topics[link]
        for topic in topics:
            held.add(topic)
            self._links.setdefault(topic, set()).add(link)

    def _remove(self, link: L, topics: Iterable[str]) -> None:
        held = self._topics[link]
        for topic in topics:
            held.discard(topic)
            interested = self._links.get(topic)
            if interested is not None:
                interested.discard(link)
                if not interested:
                    del self._links[topic]
