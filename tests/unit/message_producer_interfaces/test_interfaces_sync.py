"""Templates and synchronisation: a feed's entries become events, move them, and never double them."""

from __future__ import annotations

import msgspec
import pytest

from contract.errors import InvalidRequest, StoreUnavailable
from message_producer.feeds.model import FeedContents, FeedEntry, Rejection
from message_producer.feeds.sync import sync_feed
from message_producer.feeds.template import DEFAULT_TEMPLATE, draft_of, load_template
from message_producer.model import Anchor, Stage, WriteContext
from tests.support.fake_operations import FakeOperations

START = 1_731_718_800_000
HOUR = 3_600_000
ENTRY = FeedEntry(
    uid="u1", event_id="fight-1", title="Fight", starts_at=START, ends_at=START + 5 * HOUR,
    time_zone="America/New_York", line=4,
)  # fmt: skip


async def synced(operations, *entries, rejected=(), dry_run=False, source="feed"):
    return await sync_feed(
        FeedContents(entries=entries, rejected=tuple(rejected)),
        operations,
        source=source,
        actor="test",
        from_ms=START - 24 * HOUR,
        until_ms=START + 1000 * HOUR,
        dry_run=dry_run,
    )


def ids(changes):
    return [change.event_id for change in changes]


def test_the_default_template_covers_the_night_with_headlines():
    draft = draft_of(ENTRY, DEFAULT_TEMPLATE, "feed")
    assert [(stage.key, stage.anchor.value, stage.offset_ms) for stage in draft.stages] == [
        ("upcoming", "start", -24 * HOUR),
        ("starting_soon", "start", -HOUR // 4),
        ("live", "start", 0),
        ("ended", "end", 0),
        ("replay", "end", HOUR // 2),
    ]
    assert draft.stages[2].headline == "Live now: Fight"
    assert (draft.source, draft.source_uid, draft.time_zone) == ("feed", "u1", "America/New_York")


def test_a_template_is_read_from_toml():
    template = load_template(
        '[[stages]]\nkey = "soon"\noffset = "-PT5M"\nheadline = "Soon: {title}"\n'
        '[[stages]]\nkey = "goal"\nanchor = "manual"\n'
    )
    assert template.stages_for("Cup") == (
        Stage(key="soon", offset_ms=-300_000, headline="Soon: Cup"),
        Stage(key="goal", anchor=Anchor.MANUAL),
    )
    assert len(template.stages_for("x" * 200)[0].headline) == 200


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("not toml", "template"),
        ("", "stages"),
        ("stages = []", "stages"),
        ("stages = [1]", "stages[0]"),
        ('other = 1\n[[stages]]\nkey = "a"', "other"),
        ('[[stages]]\nkey = "a"\nofset = "PT1M"', "stages[0].ofset"),
        ('[[stages]]\nanchor = "start"', "stages[0].key"),
        ("[[stages]]\nkey = 5", "stages[0].key"),
        ('[[stages]]\nkey = "Live!"', "stages[0].key"),
        ('[[stages]]\nkey = "cancelled"', "stages[0].key"),
        ('[[stages]]\nkey = "a"\n[[stages]]\nkey = "a"', "stages[1].key"),
        ('[[stages]]\nkey = "a"\nanchor = "absolute"', "stages[0].anchor"),
        ('[[stages]]\nkey = "a"\noffset = "5m"', "stages[0].offset"),
        ('[[stages]]\nkey = "a"\nanchor = "manual"\noffset = "PT5M"', "stages[0].offset"),
        ('[[stages]]\nkey = "a"\nheadline = "{name}"', "stages[0].headline"),
    ],
)
def test_a_bad_template_names_the_field(text, field):
    with pytest.raises(InvalidRequest) as caught:
        load_template(text)
    assert caught.value.field == field
    assert caught.value.rule


async def test_the_same_feed_twice_creates_once():
    operations = FakeOperations()
    first = await synced(operations, ENTRY)
    again = await synced(operations, ENTRY)
    assert ids(first.created) == ["fight-1"]
    assert (again.created, again.unchanged) == ((), 1)
    assert len(operations.events) == 1


async def test_a_moved_entry_moves_the_event_and_keeps_its_stages():
    operations = FakeOperations()
    await synced(operations, ENTRY)
    stages = (Stage(key="live", headline="edited by an operator"),)
    event = operations.events["fight-1"]
    operations.events["fight-1"] = msgspec.structs.replace(event, stages=stages)
    later = msgspec.structs.replace(ENTRY, starts_at=START + HOUR, ends_at=None, title="Fight!", event_id="other-id")
    report = await synced(operations, later)
    (moved,) = report.moved
    assert moved.before == {"title": "Fight", "starts_at": START, "ends_at": START + 5 * HOUR}
    assert moved.after == {"title": "Fight!", "starts_at": START + HOUR, "ends_at": None}
    event = operations.events["fight-1"]
    assert (event.starts_at, event.ends_at, event.title, event.stages) == (START + HOUR, None, "Fight!", stages)
    assert len(operations.events) == 1


async def test_a_new_title_alone_is_a_change_and_no_move():
    operations = FakeOperations()
    await synced(operations, ENTRY)
    report = await synced(operations, msgspec.structs.replace(ENTRY, title="Fight night"))
    assert (ids(report.changed), report.moved) == (["fight-1"], ())


async def test_a_cancelled_entry_cancels_a_known_event_once_and_creates_none():
    operations = FakeOperations()
    await synced(operations, ENTRY)
    off = msgspec.structs.replace(ENTRY, cancelled=True)
    unknown = msgspec.structs.replace(ENTRY, uid="u2", event_id="fight-2", cancelled=True)
    report = await synced(operations, off, unknown)
    assert (ids(report.cancelled), report.unchanged) == (["fight-1"], 1)
    assert operations.events["fight-1"].cancelled
    assert (await synced(operations, off)).unchanged == 1
    # Back in the calendar: devices were told it is off, so it stays off.
    assert (await synced(operations, ENTRY)).unchanged == 1
    assert operations.events["fight-1"].cancelled


async def test_a_vanished_entry_is_reported_and_left_alone():
    operations = FakeOperations()
    other = msgspec.structs.replace(ENTRY, uid="u2", event_id="fight-2")
    await synced(operations, ENTRY, other)
    await synced(operations, msgspec.structs.replace(ENTRY, uid="u9", event_id="elsewhere"), source="another")
    report = await synced(operations, ENTRY)
    assert report.missing == ("fight-2",)
    assert not operations.events["fight-2"].cancelled


async def test_what_was_rejected_is_not_called_missing():
    operations = FakeOperations()
    slot = msgspec.structs.replace(ENTRY, uid="s", occurrence=START, event_id="show-1")
    await synced(operations, ENTRY, slot)
    broken = [
        Rejection(line=9, field="DTSTART", message="bad", uid="u1"),
        Rejection(line=20, field="DTSTART", message="bad", uid="s", occurrence=START),
    ]
    assert (await synced(operations, rejected=broken)).missing == ()
    # A whole series that cannot be read covers all its slots.
    broken[1] = Rejection(line=20, field="RRULE", message="bad", uid="s")
    assert (await synced(operations, rejected=broken)).missing == ()


async def test_a_dry_run_reports_the_same_and_changes_nothing():
    operations = FakeOperations()
    await synced(operations, ENTRY)
    before = dict(operations.events)
    moved = msgspec.structs.replace(ENTRY, starts_at=START + HOUR)
    new = msgspec.structs.replace(ENTRY, uid="u2", event_id="fight-2")
    taken = msgspec.structs.replace(ENTRY, uid="u3", event_id="fight-1")
    dry = await synced(operations, moved, new, taken, dry_run=True)
    assert operations.events == before
    wet = await synced(operations, moved, new, taken)
    assert (ids(dry.created), ids(dry.moved)) == (ids(wet.created), ids(wet.moved)) == (["fight-2"], ["fight-1"])
    assert [item.uid for item in dry.rejected] == [item.uid for item in wet.rejected] == ["u3"]


async def test_an_entry_the_rules_refuse_stops_no_other():
    operations = FakeOperations()
    backwards = msgspec.structs.replace(ENTRY, uid="u0", event_id="back", ends_at=START - 1, line=3)
    report = await synced(operations, backwards, ENTRY, rejected=[Rejection(line=1, field="UID", message="missing")])
    assert ids(report.created) == ["fight-1"]
    assert [(item.line, item.field) for item in report.rejected] == [(1, "UID"), (3, "ends_at")]


async def test_a_store_that_is_away_is_no_fault_of_the_entry():
    operations = FakeOperations()
    operations.fail_with = StoreUnavailable("locked")
    with pytest.raises(StoreUnavailable):
        await synced(operations, ENTRY)
    assert ids((await synced(operations, ENTRY)).created) == ["fight-1"]


async def test_an_id_that_an_operator_uses_is_not_taken_over():
    operations = FakeOperations()
    await operations.create(draft_of(ENTRY, DEFAULT_TEMPLATE, "api"), WriteContext(actor="ann"))
    report = await synced(operations, ENTRY)
    assert report.created == ()
    assert "fight-1" in report.rejected[0].message
