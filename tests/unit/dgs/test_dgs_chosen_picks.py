"""Sources that know titles become picks: asked together where they need as much, missing each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from contract.clock import Clock
from contract.errors import NotFound
from contract.schedule import PlannedStage, TopicSchedule
from dgs.caches.chosen_picks import ChosenPicks
from dgs.catalogs import CatalogIndex, CatalogInUse
from dgs.model import Profile, Title
from dgs.picks import Missing, Picks, Wanted
from dgs.ports import Need, ProfileSource
from dgs.shelf import fits
from dgs.sources.answers import Chosen
from dgs.stage_map import Recommendations

TITLES = [Title(id=f"t{number}", name=f"Title {number}", genres=("Drama",), votes=number) for number in range(60)]


def schedule(topic: str, *keys: str) -> TopicSchedule:
    return TopicSchedule(
        topic=topic,
        event_id=topic.removeprefix("event:"),
        title="Fight",
        revision=1,
        version=1,
        starts_at=1_000,
        ends_at=None,
        stages=tuple(PlannedStage(key=key, order=number) for number, key in enumerate(keys)),
    )


SCHEDULES = {"event:a": schedule("event:a", "upcoming", "live"), "event:b": schedule("event:b", "upcoming")}


class Profiles:
    def profile(self, profile_id: str) -> Profile:
        if profile_id == "nobody":
            raise NotFound("no such profile", field="profileId")
        return Profile(id=profile_id, region="US")


class Stopped:
    def now_ms(self) -> int:
        return 1_234


class Sources:
    """Chooses the first titles for everybody, and for `unlucky` what a source said before."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], Need]] = []

    async def choose(self, profiles: Sequence[Profile], need: Need, deadline_s: float) -> Sequence[Chosen]:
        assert deadline_s > 0
        self.asked.append(([profile.id for profile in profiles], need))
        good = Recommendations(tuple(TITLES[: need.k]))
        return [
            Chosen(
                good, "http", degraded=profile.id == "unlucky", why="http: late" if profile.id == "unlucky" else None
            )
            for profile in profiles
        ]


async def test_each_gets_its_picks_and_who_is_unknown_is_missing_alone() -> None:
    catalogs, sources = CatalogInUse(CatalogIndex(TITLES, cohorts=4)), Sources()
    picks = ChosenPicks(
        sources, catalogs, cast("ProfileSource", Profiles()), SCHEDULES.get, cast("Clock", Stopped()), per_row=4
    )
    one, two = Wanted("event:a", 1, 1, "p1"), Wanted("event:a", 1, 1, "unlucky")
    other, nobody, gone = (
        Wanted("event:b", 1, 1, "p1"),
        Wanted("event:a", 1, 1, "nobody"),
        Wanted("event:c", 1, 1, "p1"),
    )
    assert picks.at_once(one) is None
    found = await picks.find([one, nobody, other, two, gone], 1.0)
    assert [sorted(ids) for ids, _ in sources.asked] == [["p1", "unlucky"], ["p1"]]
    assert sources.asked[0][1].k > sources.asked[1][1].k, "two stages need more titles than one"
    assert isinstance(found[nobody], Missing)
    assert isinstance(found[gone], Missing)
    for wanted in (one, two, other):
        each = found[wanted]
        assert isinstance(each, Picks)
        assert fits(each, SCHEDULES[wanted.topic], catalogs.current.digest)
        assert (each.source, each.made_at_ms) == ("http", 1_234)
    lucky, unlucky = found[one], found[two]
    assert isinstance(lucky, Picks)
    assert isinstance(unlucky, Picks)
    assert (lucky.degraded, lucky.why) == (False, "")
    assert (unlucky.degraded, unlucky.why) == (True, "http: late")
    assert lucky.digest == unlucky.digest
