"""Which versions of their stage maps this node's devices hold, per topic: the node's share of coverage. Pure.

Counts are kept as subscriptions come and go and cost no memory per device: a subscription keeps the number `joined`
returned for it, and gives it to `left`. Whoever asks for a report gets what changed, and some of the rest in turn, so
that whoever listens knows that the node lives, and repairs what was lost on the way.
"""

from __future__ import annotations

from typing import Final

from contract.coverage import CoverageShare
from contract.node_link import CoverageReport

__all__ = ["MAX_REPEATED", "MAX_VERSIONS", "CoverageCount", "CoverageReports"]

MAX_VERSIONS: Final = 64
"""Versions told apart per topic, besides "none": far more than contents change while devices still hold old maps."""
MAX_REPEATED: Final = 32
"""Topics told again at once although nothing changed: enough to say that the node lives, and bounded in the store."""
_NONE: Final = 0
_MAX_VERSION: Final = 2**31 - 1


class CoverageCount:
    """Topic -> version -> subscriptions.

    What lies beyond `max_versions` is counted under a lower version: a share may come out too small, never too great.
    """

    __slots__ = ("_changed", "_held", "_max_versions", "_told", "_turn")

    def __init__(self, *, max_versions: int = MAX_VERSIONS) -> None:
        assert max_versions >= 2
        self._max_versions = max_versions
        self._held: dict[str, dict[int, int]] = {}
        self._changed: dict[str, None] = {}
        self._told: set[str] = set()
        """Topics last reported with subscriptions: only of these is it told that nobody is left."""
        self._turn: dict[str, None] = {}

    def joined(self, topic: str, version: int | None) -> int:
        """One more subscription, whose device says it holds `version` (None: no map). Returns what `left` must get."""
        if version is None or not _NONE < version <= _MAX_VERSION:
            version = _NONE
        held = self._held.get(topic)
        if held is None:
            held = self._held[topic] = {}
        self._changed[topic] = None
        if version in held:
            held[version] += 1
        else:
            held[version] = 1
            if len(held) > self._max_versions:
                self._merge_least(held, version)
        return version

    def left(self, topic: str, version: int) -> None:
        """One subscription fewer; `version` is what `joined` returned for it."""
        held = self._held[topic]
        self._changed[topic] = None
        if version not in held:  # merged since: its own is the nearest one below
            version = max(known for known in held if known < version)
        if held[version] > 1:
            held[version] -= 1
            return
        del held[version]
        if not held:
            del self._held[topic]
            if topic not in self._told:
                del self._changed[topic]

    def report(self, *, repeat: int = 0) -> tuple[CoverageShare, ...]:
        """Topics that changed since the last report, and up to `repeat` of the others, each in its turn."""
        topics, self._changed = self._changed, {}
        if repeat and not self._turn:
            self._turn = dict.fromkeys(self._held)
        while repeat and self._turn:
            topic = next(iter(self._turn))
            del self._turn[topic]
            if topic in self._held and topic not in topics:
                topics[topic] = None
                repeat -= 1
        self._told.difference_update(topics)
        self._told.update(topic for topic in topics if topic in self._held)
        return tuple(CoverageShare(topic, dict(self._held.get(topic, ()))) for topic in topics)

    def report_all_again(self) -> None:
        """A report may have been lost with its link: everything counts as changed."""
        self._changed |= dict.fromkeys(self._held)

    def _merge_least(self, held: dict[int, int], newest: int) -> None:
        """Make room: the version fewest hold, not the newcomer's, is counted under the next one below it."""
        _, version = min((count, version) for version, count in held.items() if version not in (newest, _NONE))
        below = max((known for known in held if known < version), default=_NONE)
        held[below] = held.get(below, 0) + held.pop(version)


class CoverageReports:
    """What to report when: what changed, at every call, and some of the rest every `repeat_s`."""

    def __init__(self, count: CoverageCount, *, begun_at: int, repeat_s: float) -> None:
        self._count = count
        self._begun_at = begun_at
        self._repeat_s = repeat_s
        self._repeat_at_s = 0.0
        self._seq = 0

    def due(self, now_s: float) -> CoverageReport | None:
        """The report to send now, if there is any."""
        repeats = now_s >= self._repeat_at_s
        if repeats:
            self._repeat_at_s = now_s + self._repeat_s
        shares = self._count.report(repeat=MAX_REPEATED if repeats else 0)
        if not shares:
            return None
        self._seq += 1
        return CoverageReport(self._begun_at, self._seq, shares)

    def report_all_again(self) -> None:
        """A link ended: what was reported over it may be lost."""
        self._count.report_all_again()
