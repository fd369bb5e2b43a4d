"""Which cluster a profile is sent to for the events it asks about. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Final, NamedTuple

from contract.schedule import TopicSchedule
from dgs.audience import window_end_ms
from dgs.sharding.clusters import Cluster, Clusters, rendezvous
from dgs.sharding.ramp import HotWindow, hot_window, moved, share

__all__ = ["ClusterChoice", "ClusterUrls", "hot_window_of"]

_MAX_MOVES: Final = 10_000


class ClusterUrls(NamedTuple):
    """Where one profile goes."""

    cluster: str
    prefetch: str
    """GraphQL endpoint to refresh from; "": the one it came to."""
    push: str


class _Move(NamedTuple):
    """Where a topic's audience goes, and when. A tuple of its own for each schedule that is read."""

    schedule: TopicSchedule
    to: Cluster
    window: HotWindow


class ClusterChoice:
    """Every process answers alike for the same clusters and schedules, but for which push node is whose turn."""

    def __init__(self, clusters: Clusters, *, open_ended_ms: int) -> None:
        """`open_ended_ms`: length assumed of an event without an end."""
        self.clusters = clusters
        self._open_ended_ms = open_ended_ms
        self._turn = count()
        self._moves: dict[str, _Move] = {}
        home = clusters.home
        self._only_url = home.prefetch.urls[0] or None
        self._one_url = len(clusters.by_name) == 1 and len(home.prefetch.urls) == 1

    def cluster(self, profile_id: str, schedules: Iterable[TopicSchedule], now_ms: int) -> Cluster:
        """The dedicated cluster of the largest of these events that has the profile, or else home."""
        found: list[tuple[float, int, str, Cluster]] = []
        for schedule in schedules:
            cluster = self._of_one(profile_id, schedule, now_ms)
            if cluster.dedicated:
                devices = self.clusters.expected(schedule.event_id).devices
                found.append((-devices, schedule.starts_at, schedule.event_id, cluster))
        return min(found, key=lambda entry: entry[:3])[3] if found else self.clusters.home

    def refresh_url(self, profile_id: str, schedule: TopicSchedule, now_ms: int) -> str | None:
        """Where the map of this event is refreshed; None: where it was asked for, there being no clusters."""
        if self._one_url:
            return self._only_url
        return rendezvous(profile_id, self._of_one(profile_id, schedule, now_ms).prefetch.urls)

    def urls(self, profile_id: str, schedules: Iterable[TopicSchedule], now_ms: int) -> ClusterUrls:
        """`schedules`: the profile's topic of each event it asks about. A profile keeps its prefetch URL in a cluster.

        Push URLs are handed out in turn: a device that asks again, because its node is gone, gets another.
        """
        cluster = self.cluster(profile_id, schedules, now_ms)
        push = cluster.push.urls
        return ClusterUrls(
            cluster.name, rendezvous(profile_id, cluster.prefetch.urls), push[next(self._turn) % len(push)]
        )

    def _of_one(self, profile_id: str, schedule: TopicSchedule, now_ms: int) -> Cluster:
        if schedule.cancelled:
            return self.clusters.home
        known = self._moves.get(schedule.topic)
        if known is None or known.schedule is not schedule:
            known = self._reckon(schedule)
        if known.to.dedicated and moved(profile_id, schedule.event_id, share(now_ms, known.window)):
            return known.to
        return self.clusters.home

    def _reckon(self, schedule: TopicSchedule) -> _Move:
        """Once for each schedule: every request of a topic asks."""
        to = self.clusters.dedicated_to(schedule.event_id) or self.clusters.home
        window = hot_window_of(self.clusters, to, [schedule], open_ended_ms=self._open_ended_ms)
        if len(self._moves) >= _MAX_MOVES:
            self._moves.clear()
        found = self._moves[schedule.topic] = _Move(schedule, to, window)
        return found


def hot_window_of(
    clusters: Clusters, cluster: Cluster, topics: Sequence[TopicSchedule], *, open_ended_ms: int
) -> HotWindow:
    """When an event is hot in a cluster, by the earliest start and the latest end of its topics."""
    before, after, ramp_in, ramp_out = clusters.times_ms(topics[0].event_id, cluster)
    return hot_window(
        min(topic.starts_at for topic in topics),
        max(window_end_ms(topic, open_ended_ms=open_ended_ms) for topic in topics),
        before_ms=before,
        after_ms=after,
        ramp_in_ms=ramp_in,
        ramp_out_ms=ramp_out,
    )
