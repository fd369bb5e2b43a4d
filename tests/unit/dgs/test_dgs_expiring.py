"""The cache: bounded, told once that an entry is due, and never due or expired near a stage."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from dgs.caches.expiring import ENTRY_BYTES, Expiring, Lifetimes, Moments

NOW = 1_700_000_000_000
LATER = Moments(NOW + 800, NOW + 1_000)


def test_a_hit_a_miss_and_an_expiry() -> None:
    cache = Expiring[str, int](max_bytes=10_000)
    assert cache.look("a", NOW) == (None, False)
    cache.put("a", 1, 10, LATER)
    assert cache.look("a", NOW + 799) == (1, False)
    assert cache.look("a", NOW + 1_000) == (None, False)
    assert (cache.peek("a", NOW + 999), cache.peek("a", NOW + 1_000), cache.peek("b", NOW)) == (1, None, None)
    assert (cache.hits, cache.misses) == (1, 2)


def test_only_the_first_look_after_the_due_moment_is_told() -> None:
    """And again the first after that failed; a new value starts over."""
    cache = Expiring[str, int](max_bytes=10_000)
    cache.put("a", 1, 10, LATER)
    assert [cache.look("a", NOW + 800)[1] for _ in range(3)] == [True, False, False]
    cache.keep_old("a")
    assert cache.look("a", NOW + 900) == (1, True)
    cache.put("a", 2, 10, Moments(NOW + 1_800, NOW + 2_000))
    assert cache.look("a", NOW + 1_000) == (2, False)
    assert cache.due == 2


def test_an_expired_value_is_there_for_a_while_for_those_who_have_no_other() -> None:
    cache = Expiring[str, int](max_bytes=10_000, stale_ms=500)
    cache.put("a", 1, 10, LATER)
    assert cache.stale("a", NOW + 1_499) == 1
    assert cache.stale("a", NOW + 1_500) is None
    assert cache.stale("b", NOW) is None


def test_bytes_and_entries_are_bounded_and_the_least_used_goes_first() -> None:
    cache = Expiring[int, int](max_bytes=10 * (100 + ENTRY_BYTES))
    for number in range(10):
        cache.put(number, number, 100, LATER)
    cache.look(0, NOW)
    cache.put(10, 10, 100, LATER)
    assert cache.look(0, NOW) == (0, False)
    assert cache.look(1, NOW) == (None, False)
    assert (len(cache), cache.bytes, cache.pushed_out) == (10, 10 * (100 + ENTRY_BYTES), 1)
    few = Expiring[int, int](max_bytes=10_000, max_entries=2)
    for number in range(5):
        few.put(number, number, 1, LATER)
    assert len(few) == 2


def test_a_value_larger_than_the_cache_is_not_held() -> None:
    cache = Expiring[int, int](max_bytes=1_000)
    cache.put(1, 1, 2_000, LATER)
    assert (len(cache), cache.bytes) == (0, 0)
    nothing = Expiring[int, int](max_bytes=0)
    nothing.put(1, 1, 1, LATER)
    assert nothing.look(1, NOW) == (None, False)


def test_bytes_are_counted_whatever_happens() -> None:
    """Random puts, replacements, drops: the count is what a recount gives."""
    draw, cache, sizes = Random(7), Expiring[int, int](max_bytes=20_000), dict[int, int]()
    for _ in range(2_000):
        key, size = draw.randrange(80), draw.randrange(900)
        if draw.random() < 0.2:
            cache.drop(key)
        else:
            cache.put(key, size, size, LATER)
            sizes[key] = size
        held = [key for key in sizes if cache.stale(key, NOW) is not None]
        assert cache.bytes == sum(sizes[key] + ENTRY_BYTES for key in held) <= 20_000
        assert len(cache) == len(held)
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


@pytest.mark.parametrize("stages", [(), (600,), (300, 560, 900, 1_200), tuple(range(0, 2_400, 200))])
def test_nothing_falls_due_near_a_stage(stages: tuple[int, ...]) -> None:
    """Four processes with 5,000 entries each, made in one second: no refresh and no expiry within 90 s of a stage."""
    draw = Random(3)
    lifetimes = Lifetimes(mean_s=600, spread=0.5, early=0.25, guard_s=90, draw=draw.random)
    times = [NOW + at * 1000 for at in stages]
    for _ in range(20_000):
        made_ms = NOW + draw.randrange(1000)
        due_ms, expires_ms = lifetimes.moments(made_ms, times)
        assert made_ms < due_ms <= expires_ms
        for at in (due_ms, expires_ms):
            assert all(not stage - 90_000 <= at < stage + 90_000 for stage in times)


def test_refreshes_of_what_was_made_together_are_spread() -> None:
    """A join surge of 20,000 in a second: with a fixed lifetime all refresh in one second, here no second has 1 %."""
    draw = Random(5)
    lifetimes = Lifetimes(mean_s=600, spread=0.5, early=0.25, guard_s=90, draw=draw.random)
    seconds = Counter(
        lifetimes.moments(NOW + draw.randrange(1000), [NOW + 3_600_000]).due_ms // 1000 for _ in range(20_000)
    )
    assert max(seconds.values()) < 200
    assert len(seconds) > 400


def test_no_spread_and_nothing_early_is_a_fixed_lifetime() -> None:
    lifetimes = Lifetimes(mean_s=10, spread=0, early=0, guard_s=0, draw=lambda: 0.5)
    assert lifetimes.moments(NOW, ()) == Moments(NOW + 10_000, NOW + 10_000)
