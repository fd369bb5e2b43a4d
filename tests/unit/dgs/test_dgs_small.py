"""Audience, request log, error form, durations, settings: the small pure pieces."""

from __future__ import annotations

import pytest
from graphql import GraphQLError
from pydantic import ValidationError

from contract.errors import Forbidden, InvalidRequest, NotFound, StoreUnavailable
from contract.schedule import PlannedStage, TopicSchedule
from dgs.audience import choose_audience, window_end_ms
from dgs.graphql_errors import INTERNAL_MESSAGE, UNAVAILABLE_MESSAGE, error_code, format_error, to_error
from dgs.request_log import RequestLog, noting
from dgs.schema import parse_within_ms
from dgs.serving import Ask, Seen
from dgs.settings import DgsSettings


def topic(name: str, *regions: str) -> TopicSchedule:
    return TopicSchedule(
        topic=name, event_id="e", title="E", revision=1, version=1, starts_at=1000, audience=name, regions=regions
    )


def test_a_region_follows_its_audience_or_the_one_for_everyone() -> None:
    """R6: exactly one topic, whatever the order of the schedules."""
    everyone, europe, mexico = topic("all"), topic("eu", "DE", "FR"), topic("mx", "MX")
    for schedules in ([everyone, europe, mexico], [mexico, europe, everyone]):
        assert choose_audience(schedules, "FR") is europe
        assert choose_audience(schedules, "MX") is mexico
        assert choose_audience(schedules, "US") is everyone


def test_an_event_for_other_regions_is_forbidden() -> None:
    """Without an audience for everyone a foreign profile is refused, naming the field."""
    with pytest.raises(Forbidden, match="e is not available in US") as refused:
        choose_audience([topic("eu", "DE")], "US", field="eventIds[1]")
    assert refused.value.field == "eventIds[1]"


def test_the_window_ends_with_the_last_thing_planned() -> None:
    """End, assumed end, or a later stage."""
    stages = (PlannedStage(key="replay", order=0, due_at=9_000), PlannedStage(key="cued", order=1))
    plan = TopicSchedule(topic="t", event_id="e", title="E", revision=1, version=1, starts_at=1_000)
    assert window_end_ms(plan, open_ended_ms=500) == 1_500
    late = TopicSchedule(
        topic="t", event_id="e", title="E", revision=1, version=1, starts_at=1_000, ends_at=2_000, stages=stages
    )
    assert window_end_ms(late, open_ended_ms=500) == 9_000


def test_the_request_log_counts_a_window() -> None:
    """Half-open window, kinds apart."""
    log = RequestLog(window_ms=10_000, started_ms=1_000)
    for at in (1_000, 1_500, 2_000, 2_000):
        log.note("graphql", at)
    log.note("artwork", 2_500)
    counts = log.counts(1_500, 2_500)
    assert (counts.graphql, counts.artwork, counts.complete_since_ms) == (3, 0, 1_000)
    assert log.counts(2_500, 2_501).artwork == 1
    assert log.counts(0, 0).graphql == 0


def test_the_request_log_forgets_and_says_so() -> None:
    """By age alone; `complete_since_ms` tells from when on a count can be trusted, and quiet costs nothing of it."""
    log = RequestLog(window_ms=1_000, started_ms=0)
    for at in (10, 20, 30, 40):
        log.note("graphql", at)
    log.note("artwork", 1_025)
    assert (log.counts(0, 99).graphql, log.counts(0, 99).complete_since_ms) == (2, 21)
    log.note("artwork", 90_000)
    counts = log.counts(0, 99_999)
    assert (counts.graphql, counts.artwork, counts.complete_since_ms) == (0, 1, 1_026)
    assert log.totals == {"graphql": 4, "artwork": 2}


def test_the_request_log_holds_a_busy_window_whole() -> None:
    """Twenty in every millisecond of the window: nothing is forgotten before its time, and memory is what it was."""
    log = RequestLog(window_ms=2_000, started_ms=0)
    for at in range(0, 4_000, 2):
        for _ in range(40):
            log.note("graphql", at)
    counts = log.counts(2_000, 4_000)
    assert (counts.graphql, counts.complete_since_ms) == (40_000, 1_999 - 1_999 % 2 + 1)


def test_a_clock_that_falls_out_of_the_window_says_so() -> None:
    """Back by more than the window: nothing of before is known, and no window before it counts as proof."""
    log = RequestLog(window_ms=1_000, started_ms=50_000)
    log.note("graphql", 50_500)
    log.note("graphql", 10_000)
    assert (log.counts(0, 99_999).graphql, log.counts(0, 99_999).complete_since_ms) == (1, 50_501)


def test_whatever_arrives_is_noted_by_its_path() -> None:
    log = RequestLog(window_ms=1_000, started_ms=0)
    seen = Seen("x")
    look = noting(lambda ask: seen, log, lambda: 7)
    for path in ("/graphql", "/artwork/a.svg", "/metrics", "/graphql/x"):
        assert look(Ask("GET", path, "", {}, b"", "", 0.0)) is seen
    assert log.totals == {"graphql": 1, "artwork": 1}


def test_a_clock_step_does_not_hide_a_request() -> None:
    """Arrivals out of order, as after a backward step of the clock, are still counted."""
    log = RequestLog(window_ms=100_000, started_ms=0)
    for at in (5_000, 6_000, 4_000):
        log.note("graphql", at)
    assert log.counts(5_500, 7_000).graphql == 1


def test_our_errors_keep_code_field_and_rule() -> None:
    """What a person can act on reaches them; a retryable error says when."""
    ours = GraphQLError("x", original_error=NotFound("no event 'x'", field="eventId"))
    assert format_error(
        GraphQLError(str(ours.original_error), original_error=ours.original_error), retry_after_ms=7
    ) == {
        "message": "eventId: no event 'x'",
        "extensions": {"code": "not_found", "field": "eventId"},
    }
    down = format_error(
        GraphQLError("down", original_error=StoreUnavailable("10.0.0.7:6379 is down")), retry_after_ms=7
    )
    assert down["message"] == UNAVAILABLE_MESSAGE, "no address of ours"
    assert down["extensions"] == {"code": "store_unavailable", "retryAfterMs": 7}
    own = StoreUnavailable("down", retry_after_s=1.5)
    assert to_error(own)["extensions"] == {"code": "store_unavailable", "retryAfterMs": 1500}


def test_unexpected_errors_are_masked_and_graphqls_own_are_not() -> None:
    """A bug's text stays in the log; a bad document's is told."""
    bug = GraphQLError("secret path", original_error=ValueError("secret path"), path=["prefetchEvent"])
    assert format_error(bug, retry_after_ms=1) == {
        "message": INTERNAL_MESSAGE,
        "extensions": {"code": "internal"},
        "path": ["prefetchEvent"],
    }
    wrapped = GraphQLError("outer", original_error=GraphQLError("inner", original_error=KeyError("secret")))
    assert error_code(wrapped) == "internal"
    assert format_error(GraphQLError("Cannot query field"), retry_after_ms=1)["extensions"] == {
        "code": "invalid_request"
    }


@pytest.mark.parametrize(
    ("text", "ms"), [("PT6H", 21_600_000), ("P1DT30M", 88_200_000), ("P1W", 604_800_000), ("PT0S", 0)]
)
def test_durations(text: str, ms: int) -> None:
    """The contract's durations, from nothing to 31 days."""
    assert parse_within_ms(text) == ms


@pytest.mark.parametrize("text", ["", "P", "PT", "P1DT", "6H", "-PT1H", "PT1.5H", "P1M", "P32D", "PT٣H", "PT99999999S"])
def test_bad_durations(text: str) -> None:
    """Anything else, and anything over 31 days, is refused by field and rule."""
    with pytest.raises(InvalidRequest) as refused:
        parse_within_ms(text)
    assert refused.value.field == "within"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("push_url", "http://x"),
        ("push_url", "ws://x,http://y"),
        ("push_url", "ws://x,"),
        ("artwork_base_url", "ftp://x"),
        ("artwork_base_url", "https://x/"),
        ("limit_min", 2000),
        ("cluster", "night"),
        ("titles_per_row", 7),
        ("ttl_spread", 1.0),
        ("default_region", "Germany"),
        ("unknown", 1),
    ],
)
def test_settings_are_checked(field: str, value: object) -> None:
    """A wrong setting stops the service at start and names itself."""
    with pytest.raises(ValidationError, match=field):
        DgsSettings(**{field: value})  # type: ignore[arg-type]


def test_a_cluster_without_a_file_of_clusters_names_both() -> None:
    with pytest.raises(ValidationError, match="DGS_CLUSTER is 'night', but DGS_CLUSTERS_PATH names no file"):
        DgsSettings(cluster="night")


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefix DGS_."""
    monkeypatch.setenv("DGS_PUSH_URL", "wss://push.test/v1/stream")
    assert DgsSettings().push_url == "wss://push.test/v1/stream"
