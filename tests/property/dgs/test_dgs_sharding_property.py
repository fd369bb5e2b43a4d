"""Moving in and out by hash: nobody moves twice, everybody agrees, and capacity never lags behind who was moved."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from contract.schedule import TopicSchedule
from dgs.sharding.clusters import Cluster, Clusters, Expected, ListedEvent, Part, rendezvous
from dgs.sharding.ramp import HotWindow, hot_window, moved, place, share
from dgs.sharding.scaling import desired_capacity

MINUTE_MS = 60_000
WINDOWS = st.builds(
    hot_window,
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    before_ms=st.integers(0, 500),
    after_ms=st.integers(0, 500),
    ramp_in_ms=st.integers(0, 500),
    ramp_out_ms=st.integers(0, 500),
)
IDS = st.text(min_size=1, max_size=12)
TIMES = st.lists(st.integers(-2_000, 13_000), min_size=2, max_size=30).map(sorted)


@given(WINDOWS, TIMES, IDS, IDS)
def test_a_profile_moves_in_once_and_out_once(window: HotWindow, times: list[int], profile: str, event: str) -> None:
    """Whenever it is asked: a run of home, a run of dedicated, a run of home; in the hot window always dedicated."""
    where = [moved(profile, event, share(now, window)) for now in times]
    assert sum(before != after for before, after in pairwise(where)) <= 2
    for now, there in zip(times, where, strict=True):
        if window.full_ms <= now < window.ebbs_ms:
            assert there
        if now < window.opens_ms or now >= window.over_ms:
            assert not there


@given(WINDOWS, st.integers(-2_000, 13_000), st.integers(0, 500))
def test_the_share_rises_then_falls(window: HotWindow, now: int, later: int) -> None:
    """Between 0 and 1; never falls before the event ebbs, never rises once it is hot."""
    first, second = share(now, window), share(now + later, window)
    assert 0 <= first <= 1
    if now + later < window.ebbs_ms:
        assert first <= second
    if now >= window.full_ms:
        assert first >= second


@given(st.sets(IDS, min_size=1, max_size=40), IDS, st.floats(0, 1), st.floats(0, 1))
def test_only_the_difference_moves(profiles: set[str], event: str, one: float, two: float) -> None:
    """From a share to a higher one, whoever was in stays in: the moves are those whose place lies between."""
    low, high = sorted((one, two))
    for profile in profiles:
        changed = moved(profile, event, low) != moved(profile, event, high)
        assert changed == (low <= place(profile, event) < high)


@given(IDS, st.lists(IDS, min_size=2, max_size=8, unique=True))
def test_a_name_that_goes_moves_only_its_own(key: str, names: list[str]) -> None:
    """Rendezvous: in whatever order the names are, and without any that was not chosen."""
    chosen = rendezvous(key, names)
    assert rendezvous(key, names[::-1]) == chosen
    for name in names:
        if name != chosen:
            assert rendezvous(key, [other for other in names if other != name]) == chosen


EVENTS = st.lists(
    st.tuples(st.integers(0, 600), st.integers(1, 300), st.sampled_from([0, 50, 1_000, 20_000]), st.booleans()),
    min_size=1,
    max_size=5,
)


@given(EVENTS, st.integers(0, 45), st.integers(0, 600), st.integers(0, 45))
def test_capacity_is_there_when_it_is_needed(
    events: list[tuple[int, int, int, bool]], lead: int, now: int, later: int
) -> None:
    """Whatever will be moved within the lead time fits what is desired now; never more than all together."""
    part = Part(urls=("ws://x",), per_instance=100, max=10**6, lead_time=f"PT{lead}M")
    plain = Part(urls=("http://x",))
    clusters = Clusters(
        [
            Cluster(name="main", prefetch=plain, push=part),
            Cluster(name="night", prefetch=plain, push=part, dedicated=True),
        ],
        expected=Expected(devices=10),
        events=[
            ListedEvent(id=f"e{number}", cluster="night" if dedicated else "main", devices=devices)
            for number, (_, _, devices, dedicated) in enumerate(events)
        ],
    )
    schedules = [
        TopicSchedule(
            topic=f"event:e{number}",
            event_id=f"e{number}",
            title="x",
            revision=1,
            version=1,
            starts_at=starts * MINUTE_MS,
            ends_at=(starts + length) * MINUTE_MS,
        )
        for number, (starts, length, _, _) in enumerate(events)
    ]
    now_ms = now * MINUTE_MS
    found = desired_capacity(clusters, schedules, now_ms, open_ended_ms=0)
    at_ms = now_ms + min(later, lead) * MINUTE_MS
    held = {"main": 0.0, "night": 0.0}
    for (_, _, devices, dedicated), schedule in zip(events, schedules, strict=True):
        assert schedule.ends_at is not None
        window = hot_window(
            schedule.starts_at,
            schedule.ends_at,
            before_ms=60 * MINUTE_MS,
            after_ms=30 * MINUTE_MS,
            ramp_in_ms=30 * MINUTE_MS,
            ramp_out_ms=30 * MINUTE_MS,
        )
        here = share(at_ms, window)
        held["night" if dedicated else "main"] += here * devices
        held["main"] += here * (1 - here) * devices * dedicated
    everything = sum(devices for _, _, devices, _ in events)
    for name, load in held.items():
        capacity = found[name]["push"]
        # Two ramps that overlap may peak between the moments that are looked at: within a hundredth of the whole.
        assert capacity.desired * 100 + everything / 100 + 1e-3 >= load
        assert capacity.desired <= -(-everything // 100)
        assert capacity.steps[0].desired == capacity.desired == capacity.needed
