"""Clusters as declared, who goes where, and how large each should be: tables."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

import dgs
from contract.errors import InvalidRequest
from contract.schedule import PlannedStage, TopicSchedule
from dgs.sharding.choice import ClusterChoice
from dgs.sharding.clusters import Clusters, parse_clusters, single_cluster
from dgs.sharding.clusters_file import load_clusters
from dgs.sharding.ramp import hot_window, place, share
from dgs.sharding.scaling import Step, desired_capacity, scaling_report

EXAMPLE = Path(dgs.__file__).parent.parent / "deploy" / "nginx" / "clusters.toml"
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
START_MS = 1_731_700_800_000
OPEN_MS = 12 * HOUR_MS

PARTS = """
[clusters.prefetch]
urls = ["http://{name}/graphql"]
[clusters.push]
urls = ["ws://{name}/v1/stream"]
"""


def cluster(name: str, more: str = "") -> str:
    return f'[[clusters]]\nname = "{name}"\n{more}\n{PARTS.format(name=name)}'


HOME = cluster("main")
NIGHT = cluster("night", "dedicated = true")


def event(
    event_id: str = "tyson-paul", *, starts_ms: int = START_MS, length_ms: int = HOUR_MS, **more: object
) -> TopicSchedule:
    return TopicSchedule(
        event_id=event_id,
        title="A night",
        revision=1,
        version=1,
        starts_at=starts_ms,
        **{"topic": f"event:{event_id}", "ends_at": starts_ms + length_ms, **more},  # type: ignore[arg-type]
    )


def test_the_example_is_usable() -> None:
    """deploy/nginx/clusters.toml, as the DGS reads it."""
    clusters = load_clusters(EXAMPLE, named="night")
    assert (clusters.home.name, list(clusters.by_name)) == ("main", ["main", "night"])
    night = clusters.by_name["night"]
    assert clusters.dedicated_to("tyson-paul") is night
    assert clusters.dedicated_to("harbour-cam") is None
    # `night` is named by an event, and so for those that name it.
    assert clusters.dedicated_to("another") is None
    assert clusters.times_ms("tyson-paul", night) == (6 * HOUR_MS, 30 * MINUTE_MS, HOUR_MS, 30 * MINUTE_MS)
    assert clusters.expected("tyson-paul").devices == 4_000_000
    assert clusters.expected("harbour-cam").requests_per_s == 200
    assert clusters.expected("another").devices == 20_000


UNUSABLE = [
    ("clusters = [", "mine: Invalid value (at end of document)"),
    ("a = 1\nb = \n", "mine: Invalid value (at line 2"),
    ("", "mine: Object missing required field `clusters`"),
    ("clusters = []", "mine: clusters: 1 to 100 clusters"),
    ("clusters = 7", "mine: clusters: Expected `array`, got `int`"),
    (HOME + "[more]\n", "mine: Object contains unknown field `more`"),
    (cluster("main", "dedicted = true"), "mine: clusters[0]: Object contains unknown field `dedicted`"),
    (HOME + "maximum = 3\n", "mine: clusters[0].push: Object contains unknown field `maximum`"),
    (HOME + NIGHT + "max = -1\n", "mine: clusters[1].push.max: min 0 and max -1"),
    (HOME + "min = 5\nmax = 4\n", "mine: clusters[0].push.max: min 5 and max 4"),
    (HOME + "min = 1.5\n", "mine: clusters[0].push.min: Expected `int`, got `float`"),
    (HOME + "per_instance = 0\n", "mine: clusters[0].push.per_instance: must be above 0"),
    (HOME + "per_instance = nan\n", "mine: clusters[0].push.per_instance: must be above 0"),
    (HOME + 'lead_time = "soon"\n', "mine: clusters[0].push.lead_time: 'soon' is no duration"),
    (HOME + 'lead_time = "P2D"\n', "mine: clusters[0].push.lead_time: P2D is more than 24 hours"),
    (HOME + cluster("night", 'dedicated = true\nramp_in = "-PT1H"'), "clusters[1].ramp_in: -PT1H is negative"),
    (cluster("Main"), "clusters[0].name: 'Main' is not 1-32 of a-z 0-9 -"),
    (HOME + cluster("main", "dedicated = true"), "clusters[1].name: 'main' is there twice"),
    (HOME + cluster("other"), "mine: clusters: exactly one must not be dedicated, here main, other"),
    (NIGHT, "mine: clusters: exactly one must not be dedicated, here none"),
    (HOME.replace("http://", "ws://"), "clusters[0].prefetch.urls[0]: not a http:// or https:// URL"),
    (HOME.replace("ws://", "//"), "clusters[0].push.urls[0]: not a ws:// or wss:// URL"),
    (HOME.replace('["ws://main/v1/stream"]', "[]"), "clusters[0].push.urls: at least one URL"),
    (HOME + "[[events]]\n", "mine: events[0]: Object missing required field `id`"),
    (HOME + '[[events]]\nid = "A b"\n', "events[0].id: 'A b' is not a valid name"),
    (HOME + '[[events]]\nid = "a"\n[[events]]\nid = "a"\n', "events[1].id: 'a' is there twice"),
    (HOME + '[[events]]\nid = "a"\ncluster = "night"\n', "events[0].cluster: no cluster 'night'; there are main"),
    (HOME + '[[events]]\nid = "a"\ndevices = -1\n', "events[0].devices: must be 0 or more"),
    (HOME + '[[events]]\nid = "a"\nhot_after = "P1M"\n', "events[0].hot_after: 'P1M' has years or months"),
    (HOME + "[expected]\ndevices = inf\n", "mine: expected.devices: must be 0 or more"),
    (HOME + "[expected]\npeople = 3\n", "mine: expected: Object contains unknown field `people`"),
    ("#" * (1024 * 1024 + 1), "mine: larger than 1024 KiB"),
    ("a = " + "[" * 5_000, "mine: "),
]  # fmt: skip


@pytest.mark.parametrize(("text", "why"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_files_that_cannot_be_used(text: str, why: str) -> None:
    """Told by file, and by line or field."""
    with pytest.raises(InvalidRequest) as refused:
        parse_clusters(text, source="mine")
    assert refused.value.field == "DGS_CLUSTERS_PATH"
    assert why in refused.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "clusters.toml"
    with pytest.raises(InvalidRequest, match="No such file"):
        load_clusters(path)
    path.write_bytes(b'# fine\nname = "\xff"\n')
    with pytest.raises(InvalidRequest, match=r"clusters\.toml: line 2: not UTF-8"):
        load_clusters(path)
    path.write_text(HOME)
    with pytest.raises(InvalidRequest, match="no cluster 'night'") as refused:
        load_clusters(path, named="night")
    assert refused.value.field == "DGS_CLUSTER"
    assert load_clusters(path, named="main").home.name == "main"


WINDOW = hot_window(100, 200, before_ms=20, after_ms=10, ramp_in_ms=40, ramp_out_ms=20)


@pytest.mark.parametrize(
    ("now_ms", "expected"),
    [
        (0, 0.0),
        (40, 0.0),
        (50, 0.25),
        (60, 0.5),
        (80, 1.0),
        (209, 1.0),
        (210, 1.0),
        (220, 0.5),
        (229, 0.05),
        (230, 0.0),
    ],
)
def test_the_share_over_a_night(now_ms: int, expected: float) -> None:
    assert (WINDOW.opens_ms, WINDOW.full_ms, WINDOW.ebbs_ms, WINDOW.over_ms) == (40, 80, 210, 230)
    assert share(now_ms, WINDOW) == pytest.approx(expected)


def test_windows_without_ramps_and_backwards() -> None:
    """A ramp of nothing is a step; an end before the start makes no negative window."""
    step = hot_window(100, 200, before_ms=0, after_ms=0, ramp_in_ms=0, ramp_out_ms=0)
    assert [share(now, step) for now in (99, 100, 199, 200)] == [0.0, 1.0, 1.0, 0.0]
    odd = hot_window(100, 50, before_ms=0, after_ms=0, ramp_in_ms=0, ramp_out_ms=10)
    assert odd.ebbs_ms == 100
    assert share(105, odd) == 0.5


def choice(text: str) -> ClusterChoice:
    return ClusterChoice(parse_clusters(text), open_ended_ms=OPEN_MS)


def share_in(chosen: ClusterChoice, name: str, now_ms: int, *events: TopicSchedule) -> float:
    people = [f"p-{number}" for number in range(400)]
    return sum(chosen.urls(person, events, now_ms).cluster == name for person in people) / len(people)


def test_profiles_move_in_and_out_around_the_hot_window() -> None:
    """Home for everybody, then some, then nobody, and back; the URLs are the cluster's."""
    chosen = choice(HOME + NIGHT)
    for at_ms, expected in (
        (START_MS - 2 * HOUR_MS, 0.0), (START_MS - 75 * MINUTE_MS, 0.5), (START_MS, 1.0),
        (START_MS + 90 * MINUTE_MS, 1.0), (START_MS + 105 * MINUTE_MS, 0.5), (START_MS + 3 * HOUR_MS, 0.0),
    ):  # fmt: skip
        assert share_in(chosen, "night", at_ms, event()) == pytest.approx(expected, abs=0.1)
    assert chosen.urls("p-1", [event()], START_MS) == ("night", "http://night/graphql", "ws://night/v1/stream")
    assert chosen.urls("p-1", [], START_MS).cluster == "main"
    assert chosen.urls("p-1", [event(cancelled=True)], START_MS).cluster == "main"


def test_an_event_without_an_end_is_hot_as_long_as_is_assumed() -> None:
    """The same length as for its token, and at least until its last stage."""
    chosen = choice(HOME + NIGHT)
    late = PlannedStage(key="replay", order=3, due_at=START_MS + 20 * HOUR_MS)
    assert share_in(chosen, "night", START_MS + 12 * HOUR_MS, event(ends_at=None)) == 1.0
    assert share_in(chosen, "night", START_MS + 14 * HOUR_MS, event(ends_at=None)) == 0.0
    assert share_in(chosen, "night", START_MS + 20 * HOUR_MS, event(stages=(late,))) == 1.0


def test_the_largest_event_decides() -> None:
    """Of several events in one call, each with a cluster: the expected audience, then the earlier start."""
    text = (
        HOME + cluster("one", "dedicated = true") + cluster("two", "dedicated = true")
        + '[[events]]\nid = "small"\ncluster = "one"\ndevices = 5\n'
        + '[[events]]\nid = "large"\ncluster = "two"\ndevices = 6\n'
        + '[[events]]\nid = "equal"\ncluster = "one"\ndevices = 6\n'
    )  # fmt: skip
    chosen = choice(text)
    assert chosen.urls("p", [event("small"), event("large")], START_MS).cluster == "two"
    assert chosen.urls("p", [event("large"), event("equal", starts_ms=START_MS - 1)], START_MS).cluster == "one"
    assert (
        chosen.urls("p", [event("large", starts_ms=START_MS + 9 * HOUR_MS), event("small")], START_MS).cluster == "one"
    )
    assert chosen.urls("p", [event("unlisted")], START_MS).cluster == "main"


def test_push_nodes_in_turn_prefetch_by_profile() -> None:
    """A device that asks again gets another node; a profile keeps its DGS, and all DGS are used."""
    chosen = ClusterChoice(single_cluster(("ws://a", "ws://b")), open_ended_ms=OPEN_MS)
    assert [chosen.urls("p", [event()], START_MS).push for _ in range(3)] == ["ws://a", "ws://b", "ws://a"]
    assert chosen.urls("p", [event()], START_MS).prefetch == ""
    several = choice(HOME.replace('["http://main/graphql"]', '["http://a/g", "http://b/g", "http://c/g"]'))
    first = {f"p-{number}": several.urls(f"p-{number}", [], 0).prefetch for number in range(60)}
    assert set(first.values()) == {"http://a/g", "http://b/g", "http://c/g"}
    assert all(several.urls(person, [], 0).prefetch == url for person, url in first.items())


def test_a_map_is_refreshed_where_its_event_has_the_profile() -> None:
    """Each event for itself, by the profile's hash there; without clusters nothing is said."""
    chosen = choice(HOME + NIGHT)
    half_ms = START_MS - 75 * MINUTE_MS
    people = [f"p-{number}" for number in range(100)]
    told = {person: chosen.refresh_url(person, event(), half_ms) for person in people}
    assert set(told.values()) == {"http://main/graphql", "http://night/graphql"}
    assert all(chosen.urls(person, [event()], half_ms).prefetch == url for person, url in told.items())
    assert chosen.refresh_url("p-1", event(cancelled=True), START_MS) == "http://main/graphql"
    assert ClusterChoice(single_cluster(("ws://a",)), open_ended_ms=0).refresh_url("p", event(), START_MS) is None


def test_a_moved_schedule_moves_its_audience_anew() -> None:
    """What is reckoned once for a schedule is not kept for the next one of its topic."""
    chosen = choice(HOME + NIGHT)
    assert chosen.refresh_url("p", event(), START_MS) == "http://night/graphql"
    later = event(starts_ms=START_MS + 9 * HOUR_MS)
    assert chosen.refresh_url("p", later, START_MS) == "http://main/graphql"


def scaled(name: str, part: str, **bounds: object) -> str:
    lines = "".join(f"{field} = {json.dumps(value)}\n" for field, value in bounds.items())
    return cluster(name, "dedicated = true" if name == "night" else "").replace(
        f"[clusters.{part}]\n", f"[clusters.{part}]\n{lines}"
    )


NIGHTS: Clusters = parse_clusters(
    scaled("main", "push", per_instance=1_000, min=2, max=50, lead_time="PT10M")
    + scaled("night", "push", per_instance=1_000, max=50, lead_time="PT15M")
    + '[expected]\ndevices = 500\n[[events]]\nid = "tyson-paul"\ncluster = "night"\ndevices = 40_000\n'
)


@pytest.mark.parametrize(
    ("minutes", "night", "home"),
    [
        # The event is hot from -60, its audience gathers from -90; 40 instances, a quarter of that at home at most.
        (-200, 0, 2),
        (-110, 0, 2),
        (-105, 0, 2),
        (-100, 7, 2),  # 5 of 30 minutes later a sixth of 40,000 is there
        (-90, 20, 9),  # at home p(1 - p), a third having come
        (-80, 34, 10),
        (-75, 40, 10),
        (-60, 40, 2),
        (0, 40, 2),
        (90, 40, 9),  # over at 60, hot until 90, moved out at 120
        (100, 27, 10),
        (119, 2, 2),
        (120, 0, 2),
    ],
)
def test_desired_push_nodes_over_a_night(minutes: int, night: int, home: int) -> None:
    """Asked for a lead ahead, within bounds, from the schedule alone."""
    found = desired_capacity(NIGHTS, [event()], START_MS + minutes * MINUTE_MS, open_ended_ms=OPEN_MS)
    assert (found["night"]["push"].desired, found["main"]["push"].desired) == (night, home)
    assert "prefetch" not in found["main"]


def test_the_steps_to_come() -> None:
    """What will be desired over the next day, as changes: from nothing up to all, and back to nothing."""
    steps = desired_capacity(NIGHTS, [event()], START_MS - 6 * HOUR_MS, open_ended_ms=OPEN_MS)["night"]["push"].steps
    assert steps[0] == Step(START_MS - 6 * HOUR_MS, 0)
    assert steps[-1] == Step(START_MS + 120 * MINUTE_MS, 0)
    top = max(steps, key=lambda step: step.desired)
    assert (top.desired, top.at) == (40, START_MS - 75 * MINUTE_MS)
    assert all(earlier.at < later.at for earlier, later in pairwise(steps))


def test_bounds_several_events_and_audiences() -> None:
    """`needed` tells what `max` hides; events add up at home; audiences of an event count once."""
    many = [event(f"e-{number}") for number in range(120)]
    capacity = desired_capacity(NIGHTS, many, START_MS, open_ended_ms=OPEN_MS)["main"]["push"]
    assert (capacity.desired, capacity.needed, capacity.demand) == (50, 60, 60_000)
    both = [event(), event(topic="event:tyson-paul@east", starts_ms=START_MS + 5 * HOUR_MS)]
    for minutes, desired in ((0, 40), (300, 40), (360, 40), (500, 0)):
        at_ms = START_MS + minutes * MINUTE_MS
        assert desired_capacity(NIGHTS, both, at_ms, open_ended_ms=OPEN_MS)["night"]["push"].desired == desired
    assert (
        desired_capacity(NIGHTS, [event(cancelled=True)], START_MS, open_ended_ms=OPEN_MS)["night"]["push"].needed == 0
    )


def test_the_report_is_json_for_an_autoscaler() -> None:
    """`clusters.<name>.<part>.desired` is a number; the example's own clusters, both parts."""
    clusters = load_clusters(EXAMPLE)
    report = json.loads(scaling_report(clusters, [event()], START_MS, open_ended_ms=OPEN_MS))
    assert report["at"] == START_MS
    assert report["clusters"]["night"]["push"] == {
        "desired": 267, "needed": 267, "demand": 4_000_000, "unit": "devices", "perInstance": 15_000, "min": 0,
        "max": 400, "leadMs": 900_000, "steps": report["clusters"]["night"]["push"]["steps"],
    }  # fmt: skip
    assert report["clusters"]["night"]["prefetch"]["desired"] == 5
    assert report["clusters"]["main"]["prefetch"]["desired"] == 2
    assert json.loads(scaling_report(single_cluster(("ws://a",)), [event()], 0, open_ended_ms=0)) == {
        "at": 0,
        "clusters": {"home": {}},
    }


def test_places_differ_between_events() -> None:
    """The profiles that move first for one event are not those that always do."""
    early = {f"p-{number}" for number in range(500) if place(f"p-{number}", "one") < 0.2}
    both = [person for person in early if place(person, "two") < 0.2]
    assert 60 < len(early) < 140
    assert len(both) < 45
