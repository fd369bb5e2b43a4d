"""What `stagecue device` tells of a pure device: its lines are right because the device's state is."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest

from contract.frames import (
    BroadcastFrame,
    ContinuityFrame,
    ErrorFrame,
    ScheduleFrame,
    ServerFrame,
    TokenFrame,
    WelcomeFrame,
    WindowFrame,
)
from device_sim.actions import OpenSocket
from device_sim.device import Device, DeviceOptions
from device_sim.stage_map import MapEntry, StageMap
from device_sim.topic import Render
from stagecue.device_screen_changes import (
    Change,
    changes_between,
    close_reason,
    length,
    of_broadcast,
    of_continuity,
    of_render,
    see,
    token_expiry_ms,
)

TOPIC = "event:night"
EMPTY = MapEntry("0", b"{}")


def stage_map(version: int = 1, server_time: int = 0) -> StageMap:
    return StageMap(
        event_id="night", version=version, revision=1, ttl_s=3600, server_time=server_time,
        entries={"live": EMPTY}, default=EMPTY, times={"soon": 50_000, "live": 90_000},
    )  # fmt: skip


class Watched:
    """A device, connected, and what is told of it."""

    def __init__(self) -> None:
        self.now = 1_000
        self.device = Device("d-1", DeviceOptions(), token="one")
        self.device.follow(self.now, TOPIC)
        self.device.map_fetched(self.now, TOPIC, stage_map(server_time=self.now), 0.0)
        (opening,) = self.device.start(self.now)
        assert isinstance(opening, OpenSocket)
        self.conn = opening.conn
        self.device.opened(self.now, self.conn)
        self.seen = see(self.device, TOPIC)
        self.hear(
            WelcomeFrame("n", self.now, 3600.0, 30.0, 10_000, 60_000), ContinuityFrame(TOPIC, "complete", None, 0)
        )

    def hear(self, *frames: ServerFrame) -> list[Change]:
        for frame in frames:
            self.device.received(self.now, self.conn, frame, 0.5)
        return self.told()

    def told(self) -> list[Change]:
        before, self.seen = self.seen, see(self.device, TOPIC)
        return changes_between(before, self.seen, self.now)


def lines(changes: list[Change]) -> list[tuple[str, str]]:
    return [(change.what, change.text) for change in changes]


def test_nothing_happened_nothing_is_told() -> None:
    assert Watched().told() == []


def test_a_schedule_says_what_moved_and_that_a_new_map_is_to_be_had() -> None:
    watched = Watched()
    told = watched.hear(ScheduleFrame(TOPIC, 2, 2, {"live": 690_000, "overtime": None}))
    assert lines(told) == [
        ("schedule", "revision 2: live moves by +10:00; overtime is new; soon is gone"),
        ("refetch", "the map is to be had anew: in 30.0 s, of 1:00"),
    ]
    assert told[0].facts["moved"] == {"live": [90_000, 690_000], "overtime": [None, None]}
    watched.now += 30_001
    watched.device.tick(watched.now, 0.0)
    watched.device.map_fetched(watched.now, TOPIC, stage_map(2, watched.now), 0.0)
    assert lines(watched.told()) == [("map", "version 2, kept for 1:00:00")]


def test_a_shift_of_all_stages_is_told_in_one() -> None:
    watched = Watched()
    told = watched.hear(ScheduleFrame(TOPIC, 2, 1, {"soon": 30_000, "live": 70_000}))
    assert lines(told) == [("schedule", "revision 2: every stage moves by -20.0 s")]


def test_a_map_that_cannot_be_had_is_told_and_that_the_old_one_stays() -> None:
    watched = Watched()
    watched.device.map_failed(watched.now, TOPIC, 0.5)
    assert lines(watched.told()) == [("refetch", "the map could not be had; once more in 1:00; the one held stays")]


def test_holes_gaps_and_errors_are_told_once() -> None:
    watched = Watched()
    told = watched.hear(BroadcastFrame(TOPIC, "live", 500, 400), ErrorFrame("too_fast", "slower, please"))
    assert [(change.what, dict(change.facts)) for change in told] == [
        ("hole", {"above": 0, "upto": 400}),
        ("error", {"code": "too_fast", "message": "slower, please"}),
    ]
    assert watched.hear() == []
    assert [change.what for change in watched.hear(ContinuityFrame(TOPIC, "gap", "live", 900))] == ["gap"]
    many = [BroadcastFrame(TOPIC, "live", at, at - 1) for at in range(1_000, 2_000, 2)]
    watched.hear(*many[:200])
    assert len(watched.hear(*many[200:220])) == 20  # the list is bounded and has dropped its oldest


def test_a_new_token_says_how_long_it_is_good_and_a_new_window_how_long_it_is() -> None:
    watched = Watched()
    claims = base64.urlsafe_b64encode(json.dumps({"exp": 3601}).encode()).rstrip(b"=").decode()
    told = watched.hear(TokenFrame(f"e30.{claims}.x"), WindowFrame(30_000, 120_000))
    assert lines(told) == [
        ("token", "renewed by the node, good for 1:00:00"),
        ("window", "come back within 30.0 s, refetch within 2:00"),
    ]


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "a.!.c", "e30.e30.x", "e30.W10.x", f"e30.{'x' * 7}.y"])
def test_a_token_that_cannot_be_read_has_no_expiry(token: str) -> None:
    assert token_expiry_ms(token) is None


def test_a_lost_connection_plans_a_return_and_failures_widen_its_window() -> None:
    watched = Watched()
    watched.device.disconnected(watched.now, watched.conn, 1006, 0.25)
    assert lines(watched.told()) == [("reconnect", "another connection in 2.5 s (first try; window 10.0 s)")]
    watched.now += 2_500
    (opening,) = watched.device.tick(watched.now, 0.0)
    assert isinstance(opening, OpenSocket)
    watched.device.disconnected(watched.now, opening.conn, 1006, 0.5)
    assert lines(watched.told()) == [("reconnect", "another connection in 10.0 s (failure 1; window 20.0 s)")]


def test_a_code_that_forbids_to_return_is_the_end() -> None:
    watched = Watched()
    watched.device.disconnected(watched.now, watched.conn, 4502, 0.5)
    assert lines(watched.told()) == [
        ("end", "the node said not to come back: 4502, token does not allow this"),
    ]


def test_a_broadcast_says_how_late_it_came_or_why_it_does_not_count() -> None:
    frame = BroadcastFrame(TOPIC, "live", 500, 400)
    assert of_broadcast(1_012, frame, cursor=400, due_at_ms=1_000).text == "live, 12 ms after it was due"
    assert of_broadcast(1_012, frame, cursor=500, due_at_ms=1_000).text == "live, known already, dropped"
    replayed = msgspec.structs.replace(frame, replayed=True, skipped=(100, 200))
    change = of_broadcast(1_012, replayed, cursor=None, due_at_ms=1_000)
    assert change.text == "live, replayed, passes over 2 older"
    assert msgspec.json.decode(change.as_json()) == {
        "at_ms": 1_012, "what": "broadcast", "state_key": "live", "timestamp": 500, "prev": 400, "replayed": True,
        "applied": True, "after_due_ms": None, "ack_asked": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "cursor", "text"),
    [
        ("complete", None, "complete: the state is live"),
        ("complete", 500, "complete: nothing was missed, the state is live"),
        ("complete", 400, "complete: all that was missed follows"),
        ("gap", 400, "gap: what was missed is gone, the state is live"),
        ("ahead", 600, "ahead: this device knows more than the node's log"),
        ("pending", 400, "pending: the node is still reading; the answer follows"),
    ],
)
def test_a_verdict_says_what_it_means_for_this_device(verdict: str, cursor: int | None, text: str) -> None:
    frame = ContinuityFrame(TOPIC, verdict, "live", 500)  # type: ignore[arg-type]
    assert of_continuity(1, frame, cursor=cursor).text == text


def test_a_screen_is_told_with_its_rows() -> None:
    render = Render(5, TOPIC, "live", None, "provisional", "f")
    change = of_render(render, headline="Live", rows=[{"heading": "Now", "titles": [{"name": "A"}, {"name": "B"}]}])
    assert change.text == "live: not connected, by the clock and the schedule held"
    assert change.facts["provisional"] is True
    assert change.facts["rows"] == [{"heading": "Now", "titles": ["A", "B"]}]


def test_lengths_are_said_as_a_person_says_them() -> None:
    said = [length(ms) for ms in (0, 850, 4_200, 59_999, 725_000, 10_857_000, 172_800_000, -600_000)]
    assert said == ["0 ms", "850 ms", "4.2 s", "60.0 s", "12:05", "3:00:57", "2 days", "-10:00"]
    assert close_reason(4001) == "4001, connection lifetime reached"
    assert close_reason(1006) == "1006, broken, or not to be had"
    assert close_reason(4321) == "4321"
