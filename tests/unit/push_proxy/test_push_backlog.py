"""What waits for a slow consumer: coalesced by topic, in order, bounded."""

from __future__ import annotations

from contract.frames import (
    BroadcastFrame,
    ContinuityFrame,
    ErrorFrame,
    ScheduleFrame,
    TokenFrame,
    WindowFrame,
    encode_frame,
)
from push_proxy.backlog import Backlog, Coalesced


def said(timestamp: int, prev: int, *skipped: int, topic: str = "t", replayed: bool = False) -> BroadcastFrame:
    return BroadcastFrame(
        topic=topic, state_key=f"s{timestamp}", timestamp=timestamp, prev=prev, skipped=skipped, replayed=replayed
    )


def backlog(max_bytes: int = 10_000) -> Backlog:
    return Backlog(since_s=0.0, max_bytes=max_bytes)


def test_the_latest_state_wins_and_lists_the_others() -> None:
    """Three of an unbroken chain become the third, from where the first began."""
    waits = backlog()
    assert waits.add(said(10, 5)) is None
    assert waits.add(said(20, 10)) == Coalesced("t", 10)
    assert waits.add(said(30, 20)) == Coalesced("t", 20)
    assert waits.frames() == (said(30, 5, 10, 20),)


def test_a_broken_chain_is_told_as_broken() -> None:
    """What lies between 10 and 25 is missing: `prev` says so, although both frames waited."""
    waits = backlog()
    for frame in (said(10, 5), said(30, 25), said(40, 30)):
        waits.add(frame)
    assert waits.frames() == (said(40, 25, 10, 30),)


def test_an_older_one_found_late_changes_nothing_but_the_list() -> None:
    """A hole that was closed: the device is told of it and does not apply it."""
    waits = backlog()
    waits.add(said(30, 25))
    assert waits.add(said(20, 10)) == Coalesced("t", 20)
    assert waits.frames() == (said(30, 25, 20),)


def test_each_is_listed_once_and_in_order() -> None:
    """A repeat of what waits, of what is listed, and what a frame itself lists already."""
    waits = backlog()
    for frame in (said(10, 5, 9, 8, 9), said(30, 25), said(30, 25), said(20, 10), said(20, 10), said(40, 30, 35, 10)):
        waits.add(frame)
    assert waits.frames() == (said(40, 25, 8, 9, 10, 20, 30, 35),)
    assert waits.size_bytes == len(encode_frame(waits.frames()[0]))


def test_topics_wait_side_by_side_and_nothing_overtakes() -> None:
    """A topic keeps its place; its schedule is another matter and the newer revision wins."""
    waits = backlog()
    waits.add(said(10, 0, topic="a"))
    waits.add(ScheduleFrame(topic="a", revision=2, version=1, times={}))
    waits.add(said(11, 0, topic="b"))
    waits.add(said(20, 10, topic="a"))
    waits.add(ScheduleFrame(topic="a", revision=1, version=1, times={}))
    waits.add(ScheduleFrame(topic="a", revision=3, version=1, times={}))
    assert waits.frames() == (
        said(20, 0, 10, topic="a"),
        ScheduleFrame(topic="a", revision=3, version=1, times={}),
        said(11, 0, topic="b"),
    )


def test_a_verdict_is_a_border() -> None:
    """What follows a verdict answers another subscribe: it is not merged with what came before it."""
    waits = backlog()
    verdict = ContinuityFrame(topic="t", verdict="complete", state_key="s20", latest=20)
    for frame in (said(10, 5), verdict, said(20, 10, replayed=True), said(30, 20)):
        waits.add(frame)
    assert waits.frames() == (said(10, 5), verdict, said(30, 10, 20))


def test_of_what_tells_a_state_the_newest_stays_and_errors_add_up() -> None:
    """One window, one token; each error answers a request of its own."""
    waits = backlog()
    for number in range(3):
        waits.add(WindowFrame(reconnect_window_ms=number, refetch_window_ms=1))
        waits.add(TokenFrame(f"t{number}"))
        waits.add(ErrorFrame(code=f"e{number}", message=""))
    kinds = [type(frame).__name__ for frame in waits.frames()]
    assert kinds == ["WindowFrame", "TokenFrame", "ErrorFrame", "ErrorFrame", "ErrorFrame"]
    assert waits.frames()[:2] == (WindowFrame(reconnect_window_ms=2, refetch_window_ms=1), TokenFrame("t2"))


def test_it_counts_its_bytes_and_says_when_they_are_too_many() -> None:
    """A topic that only lists more and more grows, too, and ends in too slow."""
    waits = backlog(max_bytes=2_000)
    timestamp = 1_700_000_000_000
    waits.add(said(timestamp, 0))
    while not waits.overflowing:
        timestamp += 1
        waits.add(said(timestamp, timestamp - 1))
        assert waits.size_bytes == sum(len(encode_frame(frame)) for frame in waits.frames())
        assert len(waits) == 1
    assert waits.size_bytes < 2_100
