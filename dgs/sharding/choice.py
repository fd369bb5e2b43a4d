"""Which cluster a profile is sent to for the events it asks about. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple

from contract.schedule import TopicSchedule
from dgs.audience import window_end_ms
from dgs.sharding.clusters import Cluster, Clusters, rendezvous
from dgs.sharding.ramp import HotWindow, hot_window, moved, share

__all__ = ["ClusterChoice", "ClusterUrls", "hot_window_of"]


class ClusterUrls(NamedTuple):
    """Where one profile goes."""

    cluster: str
    prefetch: str
    """GraphQL endpoint to refresh from; "": the one it came to."""
    push: str


class ClusterChoice:
    """Every process answers alike for the same clusters and schedules, but for which push node is whose turn."""

    def __init__(self, clusters: Clusters, *, open_ended_ms: int) -> None:
        """`open_ended_ms`: length assumed of an event without an end."""
        self.clusters = clusters
        self._open_ended_ms = open_ended_ms
        self._turn = count()

    def cluster(self, profile_id: str, schedules: Iterable[TopicSchedule], now_ms: int) -> Cluster:
        """The dedicated cluster of the largest of these events that has the profile, or else home."""
        found: list[tuple[float, int, str, Cluster]] = []
        for schedule in schedules:
            if schedule.cancelled:
                continue
            dedicated = self.clusters.dedicated_to(schedule.event_id)
            if dedicated is None:
                continue
            window = hot_window_of(self.clusters, dedicated, [schedule], open_ended_ms=self._open_ended_ms)
            if moved(profile_id, schedule.event_id, share(now_ms, window)):
                devices = self.clusters.expected(schedule.event_id).devices
                found.append((-devices, schedule.starts_at, schedule.event_id, dedicated))
        return min(found, key=lambda entry: entry[:3])[3] if found else self.clusters.home

    def urls(self, profile_id: str, schedules: Iterable[TopicSchedule], now_ms: int) -> ClusterUrls:
        """`schedules`: the profile's topic of each event it asks about. A profile keeps its prefetch URL in a cluster.

        Push URLs are handed out in turn: a device that asks again, because its node is gone, gets another.
        """
        cluster = self.cluster(profile_id, schedules, now_ms)
        push = cluster.push.urls
        return ClusterUrls(
            cluster.name, rendezvous(profile_id, cluster.prefetch.urls), push[next(self._turn) % len(push)]
        )


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
