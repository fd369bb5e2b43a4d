"""Goal: the judge tells live from replayed, missed from told, right rows from wrong ones."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.frames import BroadcastFrame, ContinuityFrame
from device_sim.audit import DeviceLog, OutboxBroadcast, audit_fleet, distinct_map_share, outbox_from_json, percentile
from device_sim.stage_map import entry_fingerprint, stage_map_from_answer
from device_sim.topic import Render, Told

TOPIC = "event:fight"
OUTBOX = [
    OutboxBroadcast(topic=TOPIC, state_key="upcoming", timestamp=100, prev=0, due_at=100),
    OutboxBroadcast(topic=TOPIC, state_key="live", timestamp=205, prev=100, due_at=200),
    OutboxBroadcast(topic=TOPIC, state_key="ended", timestamp=300, prev=205, due_at=300),
]


def body(text: str = "", version: int = 1) -> bytes:
    by_key = {key: {"key": key, "headline": f"é {key} {text}"} for key in ("upcoming", "live", "ended", "default")}
    scalars = {"version": version, "revision": 1, "ttlSeconds": 60, "serverTime": 0}
    stage_map = {"event": {"id": "fight", "topic": TOPIC}, **scalars, "byKey": by_key}
    return json.dumps({"data": {"prefetchEvent": stage_map}}).encode()


def answer(device: str = "d-1", *, at_ms: int = 0, text: str = "", version: int = 1) -> Any:
    return SimpleNamespace(at_ms=at_ms, device_id=device, body=body(text, version))


def shown(key: str, timestamp: int | None, *, at_ms: int = 1000, text: str = "", look: str | None = None) -> Render:
    held = stage_map_from_answer(json.loads(body(text))["data"]["prefetchEvent"])
    return Render(at_ms, TOPIC, key, timestamp, "live", held.lookup(look or key)[0].fingerprint)


def frame(index: int, at_ms: float, **more: Any) -> Any:
    entry = OUTBOX[index]
    fields = {"topic": TOPIC, "state_key": entry.state_key, "timestamp": entry.timestamp, "prev": entry.prev, **more}
    return SimpleNamespace(at_ms=at_ms, frame=BroadcastFrame(**fields))


def continuity(latest: int, verdict: Any = "complete", at_ms: float = 0.0) -> Any:
    return SimpleNamespace(at_ms=at_ms, frame=ContinuityFrame(TOPIC, verdict, None, latest))


def log(*arrivals: Any, cursor: int | None = 300, renders: Any = (), told: Any = (), device: str = "d-1") -> DeviceLog:
    return DeviceLog(
        device_id=device, profile_id="p-1", cursors={TOPIC: cursor}, arrivals=arrivals, renders=renders, told=told
    )


def counts(audit: Any) -> list[tuple[int, int, int, int, int, int]]:
    return [
        (each.devices, each.delivered_live, each.replayed, each.skipped, each.missed, each.untold)
        for each in audit.broadcasts
    ]


def test_live_replayed_and_times() -> None:
    first = log(continuity(0), frame(0, 104.5), frame(1, 207.25), frame(2, 301.0))
    second = log(continuity(0), frame(0, 105.5), frame(2, 309.0), frame(1, 400.0, replayed=True), device="d-2")
    audit = audit_fleet(OUTBOX, [first, second])
    assert counts(audit) == [(2, 2, 0, 0, 0, 0), (2, 1, 1, 0, 0, 0), (2, 2, 0, 0, 0, 0)]
    assert [(each.p50_ms, each.last_ms) for each in audit.broadcasts] == [(4.5, 5.5), (7.25, 7.25), (1.0, 9.0)]
    assert audit.broadcasts[1].replayed_last_ms == 200.0
    assert (audit.missed, audit.not_newest, audit.unknown_frames, audit.devices) == (0, 0, 0, 2)


def test_what_lies_below_the_first_continuity_is_not_owed() -> None:
    audit = audit_fleet(OUTBOX, [log(continuity(0, "pending"), continuity(205), continuity(0), frame(2, 301))])
    assert counts(audit) == [(0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 0), (1, 1, 0, 0, 0, 0)]


def test_missed_is_missed_even_when_told_but_untold_is_worse() -> None:
    told = log(continuity(0), frame(2, 301), told=[Told("hole", TOPIC, 0, 205)])
    untold = log(continuity(0), frame(2, 301), device="d-2")
    audit = audit_fleet(OUTBOX, [told, untold])
    assert (audit.missed, audit.untold) == (4, 2)


def test_skipped_and_jumped_to_are_not_missed() -> None:
    listed = log(continuity(0), frame(0, 101), frame(2, 301, skipped=(205,)))
    jumped = log(continuity(0), continuity(300, "gap"), renders=[shown("ended", 300)], device="d-2")
    audit = audit_fleet(OUTBOX, [listed, jumped])
    assert [each.skipped for each in audit.broadcasts] == [0, 1, 1]
    assert audit.missed == 2, "what a gap leaves out stays missed"


def test_frames_the_outbox_does_not_have_or_has_differently() -> None:
    strange = SimpleNamespace(at_ms=1.0, frame=BroadcastFrame(TOPIC, "live", 999, 300))
    changed = SimpleNamespace(at_ms=1.0, frame=BroadcastFrame(TOPIC, "ended", 205, 100))
    audit = audit_fleet(OUTBOX, [log(continuity(205), strange, changed, frame(2, 301))])
    assert audit.unknown_frames == 2


def test_devices_that_never_subscribed_or_stand_still() -> None:
    audit = audit_fleet(OUTBOX, [log(cursor=None), log(continuity(0), *[frame(i, 400) for i in range(3)], cursor=205)])
    assert (audit.unsubscribed, audit.not_newest) == (1, 1)


@pytest.mark.parametrize(
    ("renders", "not_newest"),
    [
        ([], 0),  # a fleet without a log of its screens
        ([shown("live", 205), shown("ended", 300)], 0),
        ([shown("ended", 300), shown("ended", 300, text="a new map")], 0),
        ([shown("live", 205)], 1),  # its cursor moved on, its screen did not
        ([shown("ended", 300), shown("ended", None)], 1),  # never confirmed
    ],
)
def test_a_screen_that_stays_behind_its_cursor_is_not_in_the_newest_state(renders: list[Any], not_newest: int) -> None:
    everything = [frame(index, 400) for index in range(3)]
    assert audit_fleet(OUTBOX, [log(continuity(0), *everything, renders=renders)]).not_newest == not_newest


def test_the_screen_never_goes_back() -> None:
    renders = [shown("ended", 300), shown("live", 205), shown("live", None), shown("ended", 300)]
    audit = audit_fleet(OUTBOX, [log(continuity(300), renders=renders)])
    assert (audit.out_of_order, audit.provisional_renders) == (1, 1)


def test_wrong_rows_are_seen() -> None:
    recorded = {"p-1": [answer(), answer(at_ms=500, text="new"), answer("d-9", at_ms=600, text="other device")]}
    right = [
        shown("default", 0, at_ms=1),
        shown("upcoming", 100, at_ms=400),
        shown("live", 205, at_ms=600, text="new"),
        shown("surprise", None, at_ms=700, text="new", look="default"),
    ]
    audit = audit_fleet(OUTBOX, [log(continuity(300), renders=right)], recorded)
    assert audit.wrong_renders == 0
    wrong = [
        shown("live", 205, at_ms=600),  # the old map
        shown("ended", 300, look="live", text="new"),  # another row
        shown("live", 100, text="new"),  # another stage than was announced
        shown("live", 77, text="new"),  # never dispatched
        shown("live", None, look="ended", text="new"),  # provisional, and wrong
        Render(1000, TOPIC, "ended", 300, "live", ""),  # nothing at all
    ]
    for render in wrong:
        audit = audit_fleet(OUTBOX, [log(continuity(300), renders=[render])], recorded)
        assert audit.wrong_renders == 1, render


def test_an_answer_of_an_origin_that_lags_is_not_what_a_device_shows() -> None:
    """It came later and is older: a device keeps the newer one it holds."""
    recorded = {"p-1": [answer(text="new", version=2), answer(at_ms=500, text="old")]}
    for text, wrong in (("new", 0), ("old", 1)):
        audit = audit_fleet(OUTBOX, [log(continuity(300), renders=[shown("ended", 300, text=text)])], recorded)
        assert audit.wrong_renders == wrong


def test_distinct_maps() -> None:
    assert distinct_map_share({}) == 0.0
    assert distinct_map_share({"a": [answer()], "b": [answer(text="x")], "c": [answer()]}) == 2 / 3


def test_percentile_is_the_nearest_rank() -> None:
    assert percentile([], 0.5) is None
    values = list(range(1, 101))
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]


def test_the_producers_items_are_read() -> None:
    item = {"topic": TOPIC, "state_key": "live", "timestamp": 5, "prev": 0, "due_at": "2024-11-15T20:00:00Z"}
    (found,) = outbox_from_json([{**item, "due_at_ms": 4, "dispatched_at_ms": 5}])
    assert (found.due_at, found.dispatched_at) == (4, 5)
    (found,) = outbox_from_json([item])
    assert found.due_at is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from("abcdefgh"), JSON))
def test_judge_and_device_agree_on_fingerprints(entry: dict[str, Any]) -> None:
    """They share no code, so that a mistake in one does not excuse itself in the other."""
    from device_sim import audit

    canonical = msgspec.json.encode(entry, order="sorted")
    assert audit._fingerprint(entry) == entry_fingerprint(canonical)
