"""What time, changes, cues and cancellations do to an event's stages (R1, R4)."""

from __future__ import annotations

import msgspec
import pytest

from contract.broadcast import Cause
from contract.names import topic_of
from message_producer.drafts import draft_of, shifted
from message_producer.model import Anchor, Audience, EventDraft, EventState, OccurrenceState, Stage
from message_producer.timeline import Outcome, after_cancel, after_change, after_content, after_cue, due_now, plan

START = 1_731_722_400_000
MINUTE = 60_000
LATE = 5_000
TOPIC = topic_of("tyson-paul")


def draft(**changes: object) -> EventDraft:
    night = EventDraft(
        event_id="tyson-paul",
        title="Tyson vs. Paul",
        starts_at=START,
        ends_at=START + 180 * MINUTE,
        stages=(
            Stage(key="upcoming", offset_ms=-600 * MINUTE),
            Stage(key="starting_soon", offset_ms=-15 * MINUTE),
            Stage(key="live"),
            Stage(key="overtime", anchor=Anchor.MANUAL),
            Stage(key="replay", anchor=Anchor.END, offset_ms=10 * MINUTE),
        ),
    )
    return msgspec.structs.replace(night, **changes)


class Night:
    """Plays decisions one after the other and remembers what went out."""

    def __init__(self, given: EventDraft | None = None, *, now: int = START - 24 * 60 * MINUTE) -> None:
        self.state = plan(given or draft(), now).state
        self.said: list[tuple[str, Cause]] = []

    def at(self, minutes: float, *, seconds: float = 0) -> Night:
        return self.take(due_now(self.state, when(minutes, seconds), late_after_ms=LATE))

    def shift(self, by_min: float, *, at: float) -> Night:
        return self.change(shifted(draft_of(self.state.event), round(by_min * MINUTE)), at=at)

    def change(self, to: EventDraft, *, at: float) -> Night:
        return self.take(after_change(self.state, to, when(at), late_after_ms=LATE))

    def cue(self, key: str, *, at: float, topics: tuple[str, ...] = (TOPIC,)) -> Night:
        return self.take(after_cue(self.state, key, topics, when(at)))

    def cancel(self, *, at: float) -> Night:
        return self.take(after_cancel(self.state, when(at)))

    def take(self, outcome: Outcome) -> Night:
        self.state = outcome.state
        self.last = outcome
        self.said += [(one.broadcast.state_key, one.broadcast.cause) for one in outcome.sent]
        return self

    def states(self, topic: str = TOPIC) -> dict[str, str]:
        return {o.stage_key: o.state.value for o in self.state.event.occurrences if o.topic == topic}

    def arming(self, key: str) -> int:
        return next(o.arming for o in self.state.occurrences if o.stage_key == key)


def when(minutes: float, seconds: float = 0) -> int:
    return START + round(minutes * MINUTE + seconds * 1000)


def keys(night: Night) -> list[str]:
    return [key for key, _ in night.said]


def test_a_plan_arms_timed_stages_and_leaves_manual_ones_planned() -> None:
    night = Night(draft(ends_at=None))
    assert night.states() == {
        "upcoming": "armed",
        "starting_soon": "armed",
        "live": "armed",
        "overtime": "planned",
        "replay": "planned",  # anchored to an end nobody knows yet
    }
    assert night.state.event.revision == night.state.event.version == 1


def test_stages_go_out_at_their_times_and_never_before() -> None:
    night = Night()
    night.at(-15, seconds=-0.001)
    assert keys(night) == ["upcoming"]
    night.at(-15)
    night.at(-15)
    assert night.said == [("upcoming", Cause.SCHEDULED), ("starting_soon", Cause.SCHEDULED)]


def test_only_the_stage_true_now_goes_out_however_late_and_earlier_ones_are_superseded() -> None:
    night = Night().at(45)
    assert keys(night) == ["live"]
    assert night.states()["upcoming"] == night.states()["starting_soon"] == "superseded"
    assert night.last.sent[0].broadcast.due_at == START


def test_of_stages_due_together_the_later_in_order_wins() -> None:
    night = Night(draft(stages=(Stage(key="one"), Stage(key="two")))).at(0)
    assert keys(night) == ["two"]
    assert night.states() == {"one": "superseded", "two": "dispatched"}


def test_timestamps_rise_per_event_across_topics_and_chain_per_topic() -> None:
    """R1 and R8: two audiences due at once share the event's timestamps and keep their own chains."""
    two = draft(audiences=(Audience(), Audience(name="late", regions=("JP",))))
    night = Night(two).at(-600)
    first = [one.broadcast for one in night.last.sent]
    assert [b.timestamp for b in first] == [when(-600), when(-600) + 1]
    assert [b.prev for b in first] == [0, 0]
    night.at(-15)
    second = [one.broadcast for one in night.last.sent]
    assert [b.prev for b in second] == [b.timestamp for b in first]
    assert night.state.event.last_timestamp == second[-1].timestamp


def test_a_clock_that_steps_back_still_gives_rising_timestamps() -> None:
    night = Night().at(-15)
    before = night.state.event.last_timestamp
    night.cue("live", at=-20)
    assert night.state.event.last_timestamp == before + 1


def test_audiences_have_their_own_offsets_and_stages() -> None:
    given = draft(
        audiences=(
            Audience(),
            Audience(name="west", regions=("US",), offsets_ms={"live": 5 * MINUTE}, stages=("live", "replay")),
        )
    )
    night = Night(given).at(0)
    assert keys(night) == ["live"]
    assert night.states("event:tyson-paul@west") == {"live": "armed", "replay": "armed"}
    night.at(5)
    assert [one.broadcast.topic for one in night.last.sent] == ["event:tyson-paul@west"]


def test_an_opted_out_event_misses_what_is_too_late_and_keeps_what_is_not() -> None:
    night = Night(draft(announce_late=False)).at(-600, seconds=4.9)
    assert keys(night) == ["upcoming"]
    night.at(0, seconds=5.1)
    assert keys(night) == ["upcoming"]
    assert night.states()["live"] == night.states()["starting_soon"] == "superseded"
    assert night.state.event.revision == 2, "devices offline must learn that it never went out"
    night.change(msgspec.structs.replace(draft_of(night.state.event), title="New"), at=1)
    assert keys(night) == ["upcoming"], "a missed stage stays missed"


def test_moving_the_start_arms_every_stage_anew_also_dispatched_ones() -> None:
    night = Night().at(-15)
    night.shift(60, at=-10)
    assert night.arming("upcoming") == night.arming("live") == night.arming("replay") == 2
    assert night.states()["starting_soon"] == "armed"
    assert night.arming("overtime") == 1


def test_a_move_that_makes_the_announced_stage_untrue_rewinds() -> None:
    night = Night().at(-600).at(-15).shift(60, at=-10)
    assert night.said[-1] == ("upcoming", Cause.REWIND)
    assert night.last.sent[0].broadcast.due_at is None
    night.at(45)
    assert night.said[-1] == ("starting_soon", Cause.SCHEDULED)
    assert night.arming("starting_soon") == 2


def test_a_rewind_with_no_stage_left_announces_the_default() -> None:
    night = Night(draft(stages=(Stage(key="live"),))).at(0).shift(30, at=1)
    assert night.said == [("live", Cause.SCHEDULED), ("default", Cause.REWIND)]
    night.at(30)
    assert night.said[-1] == ("live", Cause.SCHEDULED)
    assert "default" not in night.states()
    night.shift(30, at=31)
    assert night.arming("default") == 2


def test_a_move_forward_in_time_announces_what_became_true_at_once() -> None:
    night = Night().at(-600).at(-15).shift(-30, at=-14)
    assert night.said[-1] == ("live", Cause.REWIND)
    assert night.states()["starting_soon"] == "superseded"


def test_what_is_announced_and_still_true_is_not_repeated_after_a_move() -> None:
    """The new arming counts as dispatched by the broadcast that already went out."""
    night = Night().at(0)
    told = night.state.event.last_timestamp
    night.shift(-5, at=10).at(11)
    assert keys(night) == ["live"]
    live = next(o for o in night.state.occurrences if o.stage_key == "live")
    assert (live.state, live.arming, live.timestamp) == (OccurrenceState.DISPATCHED, 2, told)
    assert night.states()["upcoming"] == "superseded"


def test_a_move_before_anything_was_announced_broadcasts_nothing_by_itself() -> None:
    night = Night().shift(-24 * 60, at=-24 * 60 + 1)
    assert night.said == []
    night.at(-24 * 60 + 1)
    assert night.said == [("live", Cause.SCHEDULED)]


def test_a_changed_title_leaves_stages_alone_and_raises_the_version() -> None:
    night = Night().at(0)
    night.change(draft(title="Paul vs. Tyson"), at=1)
    assert (night.state.event.revision, night.state.event.version) == (2, 2)
    assert night.last.touched == ()


def test_a_moved_time_does_not_make_maps_stale() -> None:
    night = Night().shift(10, at=-700)
    assert (night.state.event.revision, night.state.event.version) == (2, 1)


def test_announced_content_raises_the_version_only() -> None:
    night = Night()
    night.take(after_content(night.state, START))
    assert (night.state.event.revision, night.state.event.version, night.last.touched) == (2, 2, ())


def test_a_removed_stage_that_was_announced_is_rewound_and_may_come_back() -> None:
    night = Night().at(0)
    without = tuple(s for s in draft().stages if s.key != "live")
    night.change(draft(stages=without), at=1)
    assert night.said[-1] == ("starting_soon", Cause.REWIND)
    assert "live" not in night.states()
    night.change(draft(), at=2)
    assert night.said[-1] == ("live", Cause.REWIND)
    assert night.arming("live") == 2
    assert night.state.added_at_version["live"] == 3


def test_a_removed_audience_is_cancelled_for_its_devices() -> None:
    west = Audience(name="west", regions=("US",))
    night = Night(draft(audiences=(Audience(), west))).at(0)
    night.change(draft(), at=1)
    assert night.said[-1] == ("cancelled", Cause.CANCELLED)
    assert night.at(190).said[-1] == ("replay", Cause.SCHEDULED)
    assert len(night.last.sent) == 1
    night.change(draft(audiences=(Audience(), west)), at=191)
    assert night.last.sent[0].broadcast.topic == "event:tyson-paul@west"
    assert night.last.sent[0].broadcast.prev > 0, "its chain goes on"


def test_a_cue_ahead_of_time_consumes_the_stage_and_supersedes_earlier_ones() -> None:
    night = Night().at(-600).cue("live", at=-20)
    assert night.said[-1] == ("live", Cause.CUE)
    assert (night.states()["live"], night.states()["starting_soon"]) == ("dispatched", "superseded")
    night.at(-15).at(0).at(5)
    assert keys(night) == ["upcoming", "live"], "neither the earlier stage nor the cued one goes out again"
    assert night.arming("live") == 1
    assert night.at(190).said[-1][0] == "replay"


def test_a_cue_of_a_dispatched_stage_gets_a_new_arming() -> None:
    night = Night().at(0).cue("live", at=10)
    assert keys(night) == ["live", "live"]
    assert night.arming("live") == 2
    assert [one.arming for one in night.last.sent] == [2]


def test_a_cue_back_lets_the_plan_continue_after_it() -> None:
    """Live was cued by mistake; cueing the stage before restores the appointment."""
    night = Night().at(-600).cue("live", at=-20).cue("starting_soon", at=-19)
    assert (night.states()["live"], night.arming("live")) == ("armed", 2)
    night.at(-15).at(0)
    assert keys(night) == ["upcoming", "live", "starting_soon", "live"]


def test_a_manual_stage_goes_out_only_when_cued_and_gives_way_to_the_next() -> None:
    night = Night().at(0).at(100)
    assert "overtime" not in keys(night)
    night.cue("overtime", at=101).at(190)
    assert keys(night) == ["live", "overtime", "replay"]


def test_a_move_after_a_cue_takes_the_cue_back_with_what_it_overtook() -> None:
    given = draft(
        stages=(
            Stage(key="upcoming", anchor=Anchor.ABSOLUTE, at=START - 60 * MINUTE),
            Stage(key="doors", anchor=Anchor.ABSOLUTE, at=START - 10 * MINUTE),
            Stage(key="live"),
        )
    )
    night = Night(given).at(-60).cue("live", at=-20).at(-10)
    assert keys(night) == ["upcoming", "live"]
    night.shift(60, at=-5)
    assert night.said[-1] == ("doors", Cause.REWIND)


def test_a_cue_on_one_audience_leaves_the_others_alone() -> None:
    night = Night(draft(audiences=(Audience(), Audience(name="west", regions=("US",))))).at(-600)
    night.cue("live", at=-20, topics=("event:tyson-paul@west",))
    assert night.states()["live"] == "armed"
    assert night.states("event:tyson-paul@west")["live"] == "dispatched"


def test_cancelling_broadcasts_where_something_was_announced_and_stops_the_rest() -> None:
    west = Audience(name="west", regions=("US",), stages=("live",))
    night = Night(draft(audiences=(Audience(), west))).at(-600).cancel(at=-500)
    assert night.said[-1] == ("cancelled", Cause.CANCELLED)
    assert [one.broadcast.topic for one in night.last.sent] == [TOPIC]
    assert night.states()["live"] == night.states()["overtime"] == "cancelled"
    assert night.at(0).last.sent == ()
    assert night.state.event.cancelled


def test_cancelling_before_anything_was_announced_says_nothing() -> None:
    assert Night().cancel(at=-700).said == []


def test_a_known_end_arms_what_waited_for_it() -> None:
    night = Night(draft(ends_at=None)).at(0)
    night.change(draft(ends_at=START + 60 * MINUTE), at=10)
    assert night.states()["replay"] == "armed"
    assert night.at(70).said[-1] == ("replay", Cause.SCHEDULED)


def test_a_race_between_a_change_and_the_dispatcher_is_not_a_rewind() -> None:
    """Live came due a moment before an unrelated change: it still goes out as scheduled."""
    night = Night().at(-15)
    night.change(draft(title="New"), at=0)
    assert night.last.sent == ()
    assert night.at(0).said[-1] == ("live", Cause.SCHEDULED)


def test_a_dispatched_occurrence_is_never_dispatched_again() -> None:
    night = Night().at(0)
    state: EventState = night.state
    assert due_now(state, START + MINUTE, late_after_ms=LATE).sent == ()


@pytest.mark.parametrize("key", ["upcoming", "live", "replay"])
def test_cues_work_before_anything_was_announced(key: str) -> None:
    night = Night().cue(key, at=-700)
    assert night.said == [(key, Cause.CUE)]


def test_a_missed_stage_is_owed_once_a_move_made_the_announced_one_untrue() -> None:
    """An event that opts out of late announcements must still not leave a state on the screens that is not true.

    `fixed` was missed, `live` was cued, then the start moved: of what has happened only `fixed` is true.
    """
    given = draft(
        announce_late=False,
        stages=(Stage(key="live"), Stage(key="fixed", anchor=Anchor.ABSOLUTE, at=START)),
    )
    night = Night(given, now=START).cue("live", at=1).shift(60, at=1)
    assert night.said == [("live", Cause.CUE)]
    night.at(1)
    assert night.said[-1] == ("fixed", Cause.SCHEDULED)
    assert night.states() == {"live": "armed", "fixed": "dispatched"}


def test_what_is_announced_is_never_passed_over_as_missed() -> None:
    """Moved into the past, the stage on the screens counts as told, however late its new due time makes it look."""
    given = draft(
        announce_late=False,
        stages=(Stage(key="live"), Stage(key="fixed", anchor=Anchor.ABSOLUTE, at=START)),
    )
    night = Night(given, now=START).cue("live", at=1).shift(-60, at=1).at(1)
    assert night.said == [("live", Cause.CUE)]
    assert night.states() == {"live": "dispatched", "fixed": "superseded"}


@pytest.mark.parametrize("started", [False, True], ids=["nothing-said", "back-to-the-default-row"])
def test_moved_far_into_the_past_a_stage_is_missed_whatever_row_comes_before_it(started: bool) -> None:
    """To an event that opts out, nothing said yet and the default row again are the same: before its first stage."""
    night = Night(draft(announce_late=False, stages=(Stage(key="live"),)), now=START - 1000)
    if started:
        night.at(0).shift(60, at=1)
    said = list(night.said)
    night.shift(-3600, at=1).at(1)
    assert night.said == said
    assert night.states() == {"live": "superseded"}
