"""Shadow events as values: their form, what is refused, when they are over."""

from __future__ import annotations

import msgspec
import pytest

from contract.errors import InvalidRequest
from contract.names import topic_of
from message_producer.model import Anchor, EventDraft, Stage
from message_producer.published_schedule import topic_schedules
from message_producer.shadows import ShadowPlan, is_over, outlived, shadow_draft
from message_producer.timeline import after_cancel, plan
from message_producer.validation import check_draft

HOUR = 3_600_000
NOW = 1_731_000_000_000
NIGHT = EventDraft(
    event_id="night",
    title="Night",
    starts_at=NOW + 100 * HOUR,
    ends_at=NOW + 102 * HOUR,
    time_zone="Europe/London",
    stages=(
        Stage(key="upcoming", offset_ms=-24 * HOUR, headline="Tonight"),
        Stage(key="live", headline="Live"),
        Stage(key="goal", anchor=Anchor.MANUAL),
        Stage(key="ended", anchor=Anchor.END),
    ),
)
IN_A_MINUTE = ShadowPlan(begins_in_ms=10_000, over_ms=60_000)


def shadow(event: EventDraft = NIGHT, how: ShadowPlan = IN_A_MINUTE) -> EventDraft:
    return shadow_draft(event, "shadow-1", how, NOW)


def test_its_topics_are_unlike_the_real_ones_and_say_whose_shadow_it_is() -> None:
    (schedule,) = topic_schedules(plan(shadow(), NOW).state)
    assert (schedule.topic, schedule.shadow_of) == (topic_of("shadow-1", shadow=True), "night")
    assert schedule.topic == "shadow:shadow-1"
    # 26 hours in a minute: a second for each of two gaps, the other 58 by their length.
    first = NOW + 10_000
    assert schedule.times() == {
        "upcoming": first,
        "live": first + 1_000 + 58_000 * 24 // 26,
        "goal": None,
        "ended": first + 60_000,
    }
    assert [stage.headline for stage in schedule.stages] == ["Tonight", "Live", "", ""]


def test_a_factor_compresses_too_and_never_below_a_second_each() -> None:
    def length(factor: float) -> int:
        times = topic_schedules(plan(shadow(how=ShadowPlan(begins_in_ms=0, factor=factor)), NOW).state)[0].times()
        known = [at for at in times.values() if at is not None]
        return max(known) - min(known)

    assert length(100) == 26 * HOUR // 100
    assert length(1e6) == 2_000


@pytest.mark.parametrize(
    ("how", "field"),
    [
        (ShadowPlan(begins_in_ms=0, over_ms=1_999), "over"),
        (ShadowPlan(begins_in_ms=0, over_ms=3_600_001), "over"),
        (ShadowPlan(begins_in_ms=900_001, over_ms=60_000), "begins_in"),
        (ShadowPlan(begins_in_ms=-1, over_ms=60_000), "begins_in"),
        (ShadowPlan(begins_in_ms=0, factor=0.5), "compress"),
        (ShadowPlan(begins_in_ms=0, factor=2), "compress"),
        (ShadowPlan(begins_in_ms=0, factor=50, over_ms=60_000), "compress"),
    ],
)
def test_what_cannot_be_played_is_refused_by_field(how: ShadowPlan, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        shadow(how=how)
    assert refused.value.field == field


def test_a_shadow_has_no_shadow_and_an_event_without_times_none_either() -> None:
    with pytest.raises(InvalidRequest, match="rehearses 'night' itself"):
        shadow(shadow())
    with pytest.raises(InvalidRequest, match="no stage with a time"):
        shadow(msgspec.structs.replace(NIGHT, stages=(Stage(key="goal", anchor=Anchor.MANUAL),)))


def test_only_a_shadow_comes_from_the_source_of_shadows() -> None:
    check_draft(shadow())
    for wrong in (msgspec.structs.replace(NIGHT, source="shadow"), msgspec.structs.replace(shadow(), source="api")):
        with pytest.raises(InvalidRequest) as refused:
            check_draft(wrong)
        assert refused.value.field == "source"


def test_it_is_over_after_its_last_stage_or_when_cancelled_and_outlived_an_hour_later() -> None:
    state = plan(shadow(), NOW).state
    last = NOW + 70_000
    assert not is_over(state, last - 1)
    assert is_over(state, last)
    assert not outlived(state, last + HOUR - 1)
    assert outlived(state, last + HOUR)
    cancelled = after_cancel(state, NOW + 5).state
    assert is_over(cancelled, NOW + 5)
    assert outlived(cancelled, NOW + 5 + HOUR)
