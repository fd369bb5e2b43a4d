"""Goal: rules R18-R21, each as a playbook of frames in and screen, cursor and actions out. No loop, no clock."""

from __future__ import annotations

import pytest
from playbook import OFFSET, T0, TOPIC, Playbook, broadcast, continuity, schedule, stage_map, welcome

from contract.errors import InvalidRequest
from contract.frames import (
    AckFrame,
    AckRequest,
    ErrorFrame,
    GoawayFrame,
    HoleFrame,
    StaleFrame,
    SubscribeFrame,
    TokenFrame,
    UnsubscribeFrame,
    WindowFrame,
)
from device_sim.actions import CloseSocket, FetchMap, GiveUp, OpenSocket, Send
from device_sim.device import NEVER, Device, DeviceOptions
from device_sim.stage_map import entry_fingerprint, stage_map_from_answer

STAGES = ("upcoming", "live", "ended")
complete, gap, ahead, pending = "complete", "gap", "ahead", "pending"


def holding(*, cursor: int | None = None, state_key: str | None = None, **options) -> Playbook:
    """A device with a map, connected, before its continuity."""
    book = Playbook(cursor=cursor, state_key=state_key, **options)
    book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES), 0.5)
    book.device.renders = None  # what it showed before, from its storage
    return book.start()


# R18: (name, cursor before, frames, screen, cursor after, told)
R18 = [
    ("a newcomer before the first broadcast shows the default row", None, [continuity(complete, 0)],
     [("default", 0, "default")], 0, []),
    ("a newcomer takes the current state", None, [continuity(complete, 50, "live")],
     [("live", 50, "continuity")], 50, []),
    ("newer is applied", 10, [continuity(complete, 10, "upcoming"), broadcast(20, prev=10)],
     [("live", 20, "live")], 20, []),
    ("a repeat is not", 10, [broadcast(20, prev=10), broadcast(20, prev=10), broadcast(15, "ended", prev=10)],
     [("live", 20, "live")], 20, []),
    ("a hole is applied and reported", 10, [broadcast(30, prev=20)],
     [("live", 30, "live")], 30, [("hole", 10, 20)]),
    ("0 is an ordinary cursor: a hole after it counts", 0, [broadcast(30, prev=20)],
     [("live", 30, "live")], 30, [("hole", 0, 20)]),
    ("null is not: nothing was missed", None, [broadcast(30, prev=20)],
     [("live", 30, "live")], 30, []),
    ("a replay is shown once, at its end", 10,
     [continuity(complete, 40, "ended"), broadcast(20, "upcoming", prev=10, replayed=True),
      broadcast(30, prev=20, replayed=True), broadcast(40, "ended", prev=30, replayed=True)],
     [("ended", 40, "replayed")], 40, []),
    ("a live frame above latest ends a replay too", 10,
     [continuity(complete, 30, "live"), broadcast(20, "upcoming", prev=10, replayed=True),
      broadcast(40, "ended", prev=30)],
     [("ended", 40, "live")], 40, [("hole", 20, 30)]),
    ("a gap jumps to latest and tells", 10, [continuity(gap, 40, "ended")],
     [("ended", 40, "continuity")], 40, [("gap", 10, 40)]),
    ("a gap below what came live meanwhile changes nothing", 10,
     [continuity(pending, 0), broadcast(50, prev=40), continuity(gap, 50, "live")],
     [("live", 50, "live")], 50, [("hole", 10, 40)]),
    ("ahead keeps the state", 50, [continuity(ahead, 40, "upcoming")], [], 50, []),
    ("latest at the cursor changes nothing", 50, [continuity(complete, 50, "live")], [], 50, []),
    ("pending says nothing yet, live frames flow", 10,
     [continuity(pending, 40, "ended"), broadcast(50, prev=10)], [("live", 50, "live")], 50, []),
    ("a newcomer who got a live frame while pending still takes what is newer", None,
     [continuity(pending, 0), broadcast(20, prev=10), continuity(complete, 40, "ended")],
     [("live", 20, "live"), ("ended", 40, "continuity")], 40, []),
    ("a rewind to no stage shows the default row", 10, [broadcast(20, "default", prev=10)],
     [("default", 20, "live")], 20, []),
]  # fmt: skip


@pytest.mark.parametrize(("cursor", "frames", "screen", "after", "told"), [c[1:] for c in R18], ids=[c[0] for c in R18])
def test_r18(cursor, frames, screen, after, told) -> None:
    book = holding(cursor=cursor, state_key=None if cursor is None else "upcoming").frames(*frames)
    assert (book.screen, book.cursor, book.told) == (screen, after, told)


def test_a_hole_is_reported_on_the_connection_it_came_by() -> None:
    book = holding(cursor=10, state_key="upcoming").frames(broadcast(30, prev=20))
    assert book.sent(HoleFrame) == [HoleFrame(TOPIC, 10, 20, 30)]


def test_a_replay_cut_short_shows_what_it_brought_and_resumes_from_there() -> None:
    book = holding(cursor=10, state_key="upcoming")
    book.frames(continuity(complete, 40, "ended"), broadcast(20, prev=10, replayed=True))
    assert book.screen == []
    book.lose()
    assert book.screen == [("live", 20, "replayed")]
    book.reconnect()
    assert book.subscribed[0].topics == {TOPIC: 20}
    book.frames(continuity(complete, 40, "ended"), broadcast(40, "ended", prev=20, replayed=True))
    assert book.screen[1:] == [("ended", 40, "replayed")]


def test_two_sockets_feed_one_cursor() -> None:
    """R17: frames of both sockets are applied once, in whatever order, and a replay on one is ended by the other."""
    book = holding(cursor=10, state_key="upcoming").frames(continuity(complete, 10, "upcoming"), StaleFrame())
    first = book.conn
    book.reconnect()
    assert book.actions == [CloseSocket(first, 1000)]
    book.get(continuity(complete, 30, "live"))
    book.get(broadcast(20, "upcoming", prev=10, replayed=True))
    book.get(broadcast(30, "live", prev=20), conn=first)
    book.get(broadcast(30, "live", prev=20, replayed=True))
    assert book.screen == [("live", 30, "live")]


def test_a_replay_on_a_connection_left_for_another_is_cut_short() -> None:
    """What it brought is shown; the next replay ends where its own node says, though that knows less."""
    book = holding(cursor=10, state_key="upcoming").frames(StaleFrame(), continuity(complete, 40, "ended"))
    book.get(broadcast(20, prev=10, replayed=True))
    first = book.conn
    book.reconnect()
    assert book.screen == [("live", 20, "replayed")]
    book.get(continuity(complete, 50, "ended"), conn=first)
    book.frames(continuity(complete, 30, "live"), broadcast(30, "ended", prev=20, replayed=True))
    assert book.screen[1:] == [("ended", 30, "replayed")]


def test_a_replay_cut_short_by_leaving_does_not_go_on_after_the_return() -> None:
    book = holding(cursor=10, state_key="upcoming")
    book.frames(continuity(complete, 40, "ended"), broadcast(20, prev=10, replayed=True))
    book.device.stop()
    book.start()
    book.frames(continuity(complete, 30, "live"), broadcast(30, "live", prev=20, replayed=True))
    assert book.screen == [("live", 30, "replayed")]


def test_a_device_that_remembers_its_cursor_shows_what_it_stood_for() -> None:
    """From its storage, as soon as there is a map to show it from; not the stage that the clock calls for."""
    book = Playbook(cursor=100, state_key="live")
    assert book.screen == []
    book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES), 0.5)
    assert book.screen == [("live", 100, "refreshed")]
    book.start().get(continuity(complete, 100, "live"))
    assert len(book.screen) == 1
    later = Playbook(cursor=100, state_key="live")
    times = {"live": 100, "ended": T0}
    later.device.map_fetched(later.now, TOPIC, stage_map(*STAGES, times=times), 0.5)
    assert later.screen == [("ended", None, "provisional")]


def test_each_of_two_questions_with_cursor_null_is_answered_with_the_current_state() -> None:
    """A map that came before the first answer asked again; what happened in between is replayed to nobody."""
    book = holding()
    book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES, version=2), 0.5)
    book.frames(continuity(complete, 10, "upcoming"), continuity(complete, 20, "live"))
    assert book.screen == [("upcoming", 10, "continuity"), ("live", 20, "continuity")]


# R19
def test_an_expired_map_is_still_applied_and_refetched_in_its_own_time() -> None:
    book = holding()
    book.get(continuity(complete, 0))
    expiry = T0 + 3600 * 1000 * 0.75
    assert [a for a in book.at(int(expiry) - 1) if isinstance(a, FetchMap)] == []
    assert [a for a in book.at(int(expiry)) if isinstance(a, FetchMap)] == [FetchMap(TOPIC)]
    book.get(broadcast(book.now, "live"))
    assert book.screen[-1] == ("live", book.now, "live")
    assert book.device.renders[-1].fingerprint == stage_map(*STAGES).entries["live"].fingerprint


def test_a_missing_key_shows_the_default_row_and_asks_at_a_random_moment_never_at_once() -> None:
    book = holding().frames(continuity(complete, 0))
    book.draw = 0.25
    book.get(broadcast(20, "surprise"))
    assert book.screen[-1] == ("surprise", 20, "default")
    assert book.device.renders[-1].fingerprint == stage_map(*STAGES).default.fingerprint
    assert not [a for a in book.actions if isinstance(a, FetchMap)]
    assert book.at(T0 + 2_500) == []
    assert book.at(T0 + 2_501) == [FetchMap(TOPIC)]
    book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES, "surprise"), 0.5)
    assert book.screen[-1] == ("surprise", 20, "refreshed")


def test_a_draw_of_nothing_still_does_not_ask_at_once() -> None:
    book = holding().frames(continuity(complete, 0))
    book.draw = 0.0
    book.get(broadcast(20, "surprise"))
    assert book.device.tick(book.now, 0.0) == ()


def test_a_newer_version_is_refetched_over_the_window_a_moved_time_is_not() -> None:
    book = holding().frames(continuity(complete, 0), schedule(2, version=1, live=T0 + 99))
    assert not [a for a in book.at(T0 + 20_000) if isinstance(a, FetchMap)]
    book.get(schedule(3, version=2, live=T0 + 99))
    assert [a for a in book.at(T0 + 30_002) if isinstance(a, FetchMap)] == [FetchMap(TOPIC)]


def test_failed_fetches_keep_the_map_and_back_off() -> None:
    book = holding().frames(continuity(complete, 0), schedule(2, version=2))
    delays = []
    for _ in range(4):
        book.at(book.device.topics[TOPIC].refetch_at)
        book.device.map_failed(book.now, TOPIC, 0.5)
        delays.append(book.device.topics[TOPIC].refetch_at - book.now)
    assert delays == [10_000, 20_000, 40_000, 80_000]
    assert book.device.topics[TOPIC].stage_map is not None


@pytest.mark.parametrize("ttl_s", [0, -5])
def test_a_lifetime_of_nothing_is_no_reason_to_ask_all_the_time(ttl_s: int) -> None:
    book = holding().frames(continuity(complete, 0))
    book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES, ttl_s=ttl_s), 0.999)
    assert book.device.topics[TOPIC].refetch_at >= book.now + 1_000


def test_an_origin_that_lags_is_asked_ever_more_rarely() -> None:
    """Every device of an event is told of the new version: all would ask as often as the window is long, for ever."""
    book = holding().frames(continuity(complete, 0), schedule(2, version=2))
    delays = []
    for _ in range(4):
        book.at(book.device.topics[TOPIC].refetch_at)
        book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES, version=1), 0.5)
        delays.append(book.device.topics[TOPIC].refetch_at - book.now - 1)
    assert delays == [5_000, 10_000, 20_000, 40_000]
    book.at(book.device.topics[TOPIC].refetch_at)
    book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES, version=2), 0.5)
    book.get(schedule(3, version=3))
    assert book.device.topics[TOPIC].refetch_at == book.now + 1 + 5_000


def test_a_map_older_than_the_one_held_does_not_replace_it() -> None:
    """An origin may lag behind the log; the next refetch may find one that does not."""
    book = holding().frames(continuity(complete, 0))
    book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES, version=3), 0.5)
    book.at(book.device.topics[TOPIC].refetch_at)
    assert book.device.map_fetched(book.now, TOPIC, stage_map("live", version=2), 0.5) == ()
    state = book.device.topics[TOPIC]
    assert state.stage_map.version == 3
    assert state.refetch_at == book.now + 1 + 5_000
    assert not state.fetching


def test_without_a_network_nothing_is_fetched_and_its_return_is_no_herd() -> None:
    book = holding().frames(continuity(complete, 0))
    due = book.device.topics[TOPIC].refetch_at
    book.device.network(book.now, up=False, draw=0.5)
    assert book.at(due + 60_000) == []
    assert book.device.wake_at_ms == NEVER, "a time that is up must not keep it awake"
    book.device.network(book.now, up=True, draw=0.5)
    assert book.device.topics[TOPIC].refetch_at == book.now + 1 + 5_000
    assert FetchMap(TOPIC) in book.at(book.now + 5_001)


def test_a_map_with_other_content_for_what_is_shown_is_shown() -> None:
    book = holding().frames(continuity(complete, 10, "live"))
    book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES, version=2, text="new"), 0.5)
    assert book.screen == [("live", 10, "continuity"), ("live", 10, "refreshed")]
    book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES, version=2, text="new"), 0.5)
    assert len(book.screen) == 2


# R20
def test_offline_it_switches_by_the_servers_clock_and_continuity_ends_that() -> None:
    book = holding().frames(continuity(complete, 100, "upcoming"))
    due = T0 + OFFSET + 3_000
    book.get(schedule(2, upcoming=100, live=due, ended=due + 60_000))
    book.device.network(book.now, up=False, draw=0.5)
    book.at(T0 + 2_999)
    assert book.screen[-1] == ("upcoming", 100, "continuity")
    book.at(T0 + 3_000)
    assert book.screen[-1] == ("live", None, "provisional")
    book.device.network(book.now, up=True, draw=0.5)
    book.reconnect().get(continuity(complete, 100, "upcoming"))
    assert book.screen[-1] == ("upcoming", 100, "continuity"), "the start was moved while it was away"


@pytest.mark.parametrize(
    ("verdict", "frames", "last"),
    [
        ("ahead", [continuity("ahead", 50, "ended")], ("upcoming", 100, "continuity")),
        ("gap", [continuity("gap", 900, "ended")], ("ended", 900, "continuity")),
        ("complete", [continuity("complete", 900, "live"), broadcast(900, prev=100, replayed=True)],
         ("live", 900, "replayed")),
        ("pending", [continuity("pending", 900, "live")], ("live", None, "provisional")),
    ],
)  # fmt: skip
def test_what_ends_a_provisional_state(verdict, frames, last) -> None:
    book = holding().frames(continuity(complete, 100, "upcoming"), schedule(2, live=T0 + OFFSET + 10))
    book.lose()
    book.at(T0 + 10)
    assert book.screen[-1] == ("live", None, "provisional")
    book.reconnect().frames(*frames)
    assert book.screen[-1] == last


def test_a_newer_schedule_ends_a_provisional_state_it_no_longer_calls_for() -> None:
    """Nodes may be out of reach while the DGS is not: the last schedule it has is what counts."""
    due = T0 + OFFSET + 10
    book = holding().frames(continuity(complete, 100, "upcoming"), schedule(2, upcoming=100, live=due))
    book.lose()
    book.at(T0 + 10)
    assert book.screen[-1] == ("live", None, "provisional")
    later = stage_map(*STAGES, revision=3, text="new", times={"upcoming": 100, "live": due + 60_000})
    book.device.map_fetched(book.now, TOPIC, later, 0.5)
    assert book.screen[2:] == [("upcoming", 100, "refreshed")]
    assert book.device.renders[-1].fingerprint == later.entries["upcoming"].fingerprint


def test_online_the_clock_switches_nothing_however_late_the_broadcast() -> None:
    book = holding().frames(continuity(complete, 100, "upcoming"), schedule(2, live=T0 + 1))
    book.at(T0 + OFFSET + 30_000)
    assert book.screen == [("upcoming", 100, "continuity")]


def test_a_cancelled_event_is_not_revived_by_the_clock() -> None:
    book = holding().frames(continuity(complete, 100, "cancelled"), schedule(2, live=T0 + OFFSET + 10))
    book.lose()
    book.at(T0 + 500)
    assert [cause for _, _, cause in book.screen] == ["default"]


def test_a_lower_revision_is_ignored() -> None:
    book = holding().frames(schedule(5, live=500), schedule(4, live=400))
    assert book.device.topics[TOPIC].times == {"live": 500}


# R21
def test_the_window_is_the_goaways_else_the_last_one_heard() -> None:
    book = holding().frames(continuity(complete, 0))
    book.lose()
    assert book.device.reconnect_at_ms == T0 + 500
    book.reconnect().frames(WindowFrame(4_000, 9_000))
    book.lose()
    assert book.device.reconnect_at_ms == book.now + 2_000
    book.reconnect()
    book.get(GoawayFrame("drain", 10_000, 60_000))
    planned = book.now + 10_000
    assert book.device.reconnect_at_ms == planned
    book.lose(4000)
    assert book.device.reconnect_at_ms == planned, "the close that follows a goaway changes no plan"


def test_a_return_that_failed_is_spread_over_the_goaways_window() -> None:
    """The first try comes when the node said; were it refused, everybody else was, too."""
    book = holding().frames(continuity(complete, 0))
    book.get(GoawayFrame("drain", 10_000, 60_000))
    book.lose(4000)
    (opening,) = [a for a in book.at(book.device.reconnect_at_ms) if isinstance(a, OpenSocket)]
    book.lose(conn=opening.conn)
    assert book.device.reconnect_at_ms == book.now + 60_000


def test_a_goaway_whose_moment_passed_without_a_network_is_no_moment_to_return_at() -> None:
    """Whoever lost the network with it comes back together: over the goaway's window, then."""
    book = holding().frames(continuity(complete, 0), GoawayFrame("drain", 1_000, 60_000))
    book.device.network(book.now, up=False, draw=0.5)
    book.at(T0 + 20_000)
    book.device.network(book.now, up=True, draw=0.5)
    assert book.device.reconnect_at_ms == book.now + 30_000


def test_a_goaway_of_a_connection_it_left_is_not_for_the_one_in_use() -> None:
    book = holding().frames(continuity(complete, 0), StaleFrame())
    first = book.conn
    book.reconnect()
    book.get(GoawayFrame("drain", 10, 60_000), conn=first)
    assert book.device.reconnect_at_ms is None
    book.now += 5_000
    book.lose()
    assert book.device.reconnect_at_ms == book.now + 500


def test_windows_grow_per_failure_and_a_welcome_ends_that() -> None:
    book = holding().frames(continuity(complete, 0))
    book.lose()
    delays = []
    for _ in range(8):
        delays.append(book.device.reconnect_at_ms - book.now)
        (opening,) = [a for a in book.at(book.device.reconnect_at_ms) if isinstance(a, OpenSocket)]
        book.lose(conn=opening.conn)
    assert delays == [500, 1_000, 2_000, 4_000, 8_000, 16_000, 16_000, 16_000]
    book.reconnect()
    book.lose()
    assert book.device.reconnect_at_ms == book.now + 500


def test_a_node_that_welcomes_and_drops_everybody_is_asked_ever_more_rarely() -> None:
    """Each welcome ends the failures; the budget of returns remembers."""
    book = holding().frames(continuity(complete, 0))
    delays = []
    for _ in range(16):
        book.lose()
        delays.append(book.device.reconnect_at_ms - book.now)
        book.reconnect()
    assert delays == [500] * 10 + [1_000, 2_000, 4_000, 8_000, 16_000, 16_000]
    for forgotten in (60_000, 9 * 60_000):
        book.now += forgotten
        book.device.heard(book.now)
    book.lose()
    assert book.device.reconnect_at_ms == book.now + 500


def test_goaways_beyond_the_budget_are_spread_over_their_window() -> None:
    book = holding().frames(continuity(complete, 0))
    for number in range(12):
        book.get(GoawayFrame("drain", 1_000, 4_000))
        late = book.device.reconnect_at_ms - book.now - 1_000
        assert late == (0 if number < 10 else 4_000 << (number - 10))
        book.reconnect()


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011, 4000, 4001, 4499, 5000])
def test_it_comes_back_after(code: int) -> None:
    book = holding()
    assert GiveUp(code) not in book.lose(code)
    assert book.device.reconnect_at_ms is not None


@pytest.mark.parametrize("code", [4500, 4503, 4999])
def test_it_does_not_come_back_after(code: int) -> None:
    book = holding()
    assert GiveUp(code) in book.lose(code)
    assert book.device.reconnect_at_ms is None
    assert book.device.ended_by == code
    assert book.at(T0 + 10_000_000) == [FetchMap(TOPIC)], "its map still refreshes"


def test_who_may_not_come_back_opens_no_second_socket_either() -> None:
    """Its token is bad: the connection it has may last, and whatever that says, it is the last one."""
    book = holding().frames(StaleFrame())
    (opening,) = [a for a in book.at(book.device.reconnect_at_ms) if isinstance(a, OpenSocket)]
    assert GiveUp(4500) in book.lose(4500, conn=opening.conn)
    for frame in (StaleFrame(), GoawayFrame("drain", 10, 1_000)):
        assert book.get(frame).device.reconnect_at_ms is None
    assert book.device.online


def test_a_refused_second_socket_leaves_the_first_alone() -> None:
    book = holding().frames(StaleFrame())
    (opening,) = [a for a in book.at(book.device.reconnect_at_ms) if isinstance(a, OpenSocket)]
    book.lose(conn=opening.conn)
    assert book.device.online
    assert book.device.reconnect_at_ms == book.now + 1_000
    book.get(broadcast(20))
    assert book.cursor == 20


def test_retry_after_is_obeyed() -> None:
    book = holding()
    book.device.disconnected(book.now, book.conn, 1006, 0.5, retry_after_ms=7_000)
    assert book.device.reconnect_at_ms == T0 + 7_000 + 500


def test_retry_after_is_obeyed_each_time() -> None:
    """A node that is still full says so anew, and what it said before, or a goaway did, no longer counts."""
    book = holding().frames(continuity(complete, 0), GoawayFrame("drain", 100, 60_000))
    for failures, seconds in ((1, 2), (2, 30)):
        (opening,) = [a for a in book.at(book.device.reconnect_at_ms) if isinstance(a, OpenSocket)]
        book.device.disconnected(book.now, opening.conn, 1006, 0.5, retry_after_ms=seconds * 1000)
        over_ms = min(60_000 << failures, 120_000)
        assert book.device.reconnect_at_ms == book.now + seconds * 1000 + 500 + over_ms // 2


# the rest of the session
def test_a_subscribe_carries_cursors_and_the_maps_held() -> None:
    book = Playbook()
    book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES, version=7, revision=12), 0.5)
    (opening,) = book.device.start(book.now)
    (send,) = book.device.opened(book.now, opening.conn)
    assert send.frame.topics == {TOPIC: None}
    assert {topic: (held.version, held.revision) for topic, held in send.frame.held.items()} == {TOPIC: (7, 12)}


def test_a_newer_map_is_told_by_subscribing_again() -> None:
    """The node counts who holds which version (R7); the same version again, or a map fetched offline, is no news."""

    def told(version: int) -> list[tuple[dict[str, int | None], int]]:
        actions = book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES, version=version), 0.5)
        return [(a.frame.topics, a.frame.held[TOPIC].version) for a in actions if isinstance(a, Send)]

    book = holding().frames(continuity(complete, 10, "live"))
    assert told(1) == []
    assert told(2) == [({TOPIC: 10}, 2)]
    assert told(2) == []
    book.lose()
    assert told(3) == []
    book.reconnect()
    assert [frame.held[TOPIC].version for frame in book.subscribed] == [3]


@pytest.mark.parametrize(("draw", "due"), [(0.0, 0), (0.05, 500), (0.099, 990), (0.1, None), (0.9, None)])
def test_the_ack_lottery_is_one_draw(draw: float, due: int | None) -> None:
    book = holding().frames(continuity(complete, 0))
    book.draw = draw
    book.get(broadcast(20, ack=AckRequest(10, 1_000)))
    book.get(broadcast(20, ack=AckRequest(10, 1_000)))
    sent = [a.frame for a in book.at(T0 + 2_000) if isinstance(a, Send)]
    assert sent == ([] if due is None else [AckFrame(TOPIC, 20)])


def test_an_ack_waits_for_its_moment() -> None:
    book = holding().frames(continuity(complete, 0))
    book.draw = 0.05
    book.get(broadcast(20, ack=AckRequest(10, 1_000)))
    assert book.at(T0 + 499) == []
    assert book.at(T0 + 500) == [Send(book.conn, AckFrame(TOPIC, 20))]


def test_silence_breaks_a_connection_and_a_ping_keeps_it() -> None:
    """With a ping every 30 s: noticed after 38.5 s, before the node's own ping, pong deadline (10 s) and 2 s."""
    book = holding()
    book.at(T0 + 30_000)
    book.device.heard(book.now)
    book.at(T0 + 68_499)
    assert book.device.online
    assert CloseSocket(book.conn, 1001) in book.at(T0 + 68_500)
    assert not book.device.online
    assert book.device.reconnect_at_ms is not None


def test_a_socket_never_welcomed_counts_as_failed() -> None:
    book = Playbook(welcome_within_ms=3_000)
    (opening,) = book.device.start(book.now)
    assert CloseSocket(opening.conn, 1001) in book.at(T0 + 3_000)
    assert book.device.failures == 1


def test_following_and_leaving_while_connected() -> None:
    book = holding().frames(continuity(complete, 10, "live"))
    (send,) = book.device.follow(book.now, "event:other")
    assert send.frame == SubscribeFrame({"event:other": None})
    assert book.device.unfollow(TOPIC) == [Send(book.conn, UnsubscribeFrame([TOPIC]))]
    book.device.follow(book.now, TOPIC)
    assert book.cursor is None, "another audience starts at null"
    assert book.get(broadcast(1)).device.received(book.now, book.conn, broadcast(1), 0.5) == ()


def test_topics_are_bounded() -> None:
    device = Device("d", DeviceOptions())
    for number in range(64):
        device.follow(T0, f"event:{number}")
    with pytest.raises(InvalidRequest, match="at most 64"):
        device.follow(T0, "event:64")


def test_logs_are_bounded_and_say_what_they_dropped() -> None:
    book = holding(render_log_max=3, told_max=2)
    for step in range(1, 11):
        book.get(broadcast(step * 10, prev=step * 10 - 1))
        book.get(ErrorFrame("unknown_topic", "no", TOPIC))
    assert [timestamp for _, timestamp, _ in book.screen] == [80, 90, 100]
    assert (book.device.renders_dropped, book.device.told_dropped) == (7, 7)
    assert len(book.device.errors) == 10


def test_a_topic_unknown_today_is_asked_for_again() -> None:
    """A node whose store is being rebuilt refuses for a moment; silence for ever would be a missed broadcast."""
    book = Playbook().start()
    asked = []
    for _ in range(3):
        book.get(ErrorFrame("unknown_topic", "no", TOPIC))
        refused_at = book.now
        while not book.sent(SubscribeFrame):
            assert book.device.wake_at_ms < NEVER
            book.at(book.device.wake_at_ms)
        asked.append(book.now - refused_at)
        assert book.sent(SubscribeFrame)[0].topics == {TOPIC: None}
    assert asked == sorted(asked), "each refusal widens the window"
    book.get(continuity("complete", 0))
    book.get(broadcast(10))
    assert book.cursor == 10
    book.get(ErrorFrame("malformed_frame", "no", TOPIC))
    book.get(ErrorFrame("unknown_topic", "no", "event:other"))
    book.at(book.now + 20_000)
    assert not book.sent(SubscribeFrame), "only a refusal of a topic that is followed counts"


def test_a_node_with_too_many_topics_is_asked_again() -> None:
    """It says `try again later`: who never does waits for a broadcast that goes to others only."""
    book = Playbook().start()
    book.get(ErrorFrame("node_full", "no", TOPIC))
    book.at(book.now + 5_000)
    assert book.sent(SubscribeFrame)[0].topics == {TOPIC: None}


def test_a_lost_connection_ends_the_wait_for_another_try() -> None:
    """The next connection subscribes to everything anyway."""
    book = Playbook().start()
    book.get(ErrorFrame("unknown_topic", "no", TOPIC))
    book.lose()
    book.reconnect()
    book.get(continuity("complete", 0))
    book.at(book.now + 20_000)
    assert not book.sent(SubscribeFrame)


def test_the_channels_state_is_applied_before_its_cursor_is_used() -> None:
    book = Playbook()
    book.device.map_fetched(book.now, TOPIC, stage_map(*STAGES), 0.5)
    book.device.adopt(book.now, TOPIC, "live", 500, 0.5)
    assert (book.screen, book.cursor) == ([("live", 500, "continuity")], 500)
    assert book.device.adopt(book.now, TOPIC, "ended", 900, 0.5) == ()


def test_a_new_token_is_kept_and_stop_is_final() -> None:
    book = holding().frames(TokenFrame("fresh"))
    assert book.device.token == "fresh"
    assert book.device.stop() == [CloseSocket(book.conn, 1000)]
    assert book.device.wake_at_ms == NEVER
    assert book.lose(1000) == ()


def test_frames_of_a_topic_it_does_not_follow_are_ignored() -> None:
    book = Playbook()
    book.device.unfollow(TOPIC)
    book.start()
    book.frames(broadcast(1), continuity(complete, 1, "live"), schedule(1))
    assert book.screen == []


def test_a_network_lost_while_connecting() -> None:
    book = Playbook()
    (opening,) = book.device.start(book.now)
    actions = book.device.network(book.now, up=False, draw=0.5)
    assert CloseSocket(opening.conn, 1001) in actions
    assert book.device.reconnect_at_ms is None
    book.device.network(book.now, up=True, draw=0.5)
    assert book.device.failures == 0
    assert book.device.opened(book.now, opening.conn) == [CloseSocket(opening.conn, 1000)]


def test_pictures_are_held_with_the_map() -> None:
    picture = {"kind": "WIDE", "url": "/artwork/a.svg", "width": 1, "height": 1}
    rows = [{"heading": "h", "titles": [{"id": "a", "artwork": [picture, picture]}]}]
    answer = {"event": {"id": "fight"}, "version": 1, "revision": 1, "ttlSeconds": 60, "serverTime": T0}
    by_key = {"live": {"key": "live", "startsAt": None, "rows": rows}, "default": {"key": "default"}}
    book = Playbook()
    book.device.map_fetched(book.now, TOPIC, stage_map_from_answer({**answer, "byKey": by_key}), 0.5)
    assert book.device.artwork_missing(TOPIC) == 1
    book.device.artwork_fetched(frozenset({"/artwork/a.svg"}))
    assert book.device.artwork_missing(TOPIC) == 0


@pytest.mark.parametrize(
    "broken",
    [{}, {"byKey": {}}, {"byKey": {"default": 3}}, {"byKey": None},
     {"byKey": {"default": {}, "live": {"startsAt": "soon"}}}, {"byKey": {"default": {}, "live": {"startsAt": True}}}],
)  # fmt: skip
def test_a_broken_map_names_itself(broken) -> None:
    answer = {"event": {"id": "fight"}, "version": 1, "revision": 1, "ttlSeconds": 60, "serverTime": T0}
    with pytest.raises(InvalidRequest, match="not a stage map"):
        stage_map_from_answer({**answer, **broken})


def test_fingerprints_do_not_depend_on_the_order_of_fields() -> None:
    one, other = stage_map("live"), stage_map("live")
    assert one.entries["live"].fingerprint == other.entries["live"].fingerprint
    assert one.entries["live"].fingerprint == entry_fingerprint(one.entries["live"].content)
    assert one.entries["live"].fingerprint != one.default.fingerprint


def test_a_welcome_for_a_connection_it_left_changes_nothing() -> None:
    book = holding()
    before = book.device.clock_offset_ms
    book.get(welcome(server_time=0), conn=99)
    assert book.device.clock_offset_ms == before


def test_a_topic_followed_between_handshake_and_welcome_is_asked_for():
    """Every socket that was opened has sent its subscribe: a topic that comes later must be sent on it too."""
    book = Playbook()
    (opening,) = book.device.start(T0)
    assert book.device.follow(T0, "event:early") == ()
    book.device.opened(T0, opening.conn)
    (asked,) = book.device.follow(T0, "event:late")
    assert (asked.conn, asked.frame) == (opening.conn, SubscribeFrame({"event:late": None}))
    assert book.device.unfollow("event:late") == [Send(opening.conn, UnsubscribeFrame(["event:late"]))]


def test_a_topic_followed_while_two_sockets_overlap_is_asked_for_on_both():
    """Make before break: the old socket is left at the welcome, and what only it was asked for would be lost."""
    book = holding().frames(GoawayFrame("drain", 0, 1_000))
    (opening,) = [a for a in book.at(book.device.reconnect_at_ms) if isinstance(a, OpenSocket)]
    (asked,) = book.device.follow(book.now, "event:before")
    assert asked.conn == book.conn, "the new socket has sent nothing yet and will name it"
    book.device.opened(book.now, opening.conn)
    asked = book.device.follow(book.now, "event:between")
    assert [action.conn for action in asked] == [book.conn, opening.conn]
    left = book.device.unfollow("event:between")
    assert [action.conn for action in left] == [book.conn, opening.conn]


def test_a_socket_lost_before_its_welcome_is_asked_nothing():
    book = Playbook()
    (opening,) = book.device.start(T0)
    book.device.opened(T0, opening.conn)
    book.lose(conn=opening.conn)
    assert book.device.follow(T0, "event:late") == ()
