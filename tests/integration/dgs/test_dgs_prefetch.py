"""prefetchEvent, prefetchHome and broadcastChannel over HTTP, against in-memory stores."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from dgs_world import CHANNEL, HOUR_MS, POLL_S, PREFETCH, World

HOME = """
query Home($profile: ID!, $within: Duration) {
  prefetchHome(profileId: $profile, within: $within) { event { id topic } ttlSeconds byKey }
}
"""
TV = {"kind": "TV"}


async def test_a_stage_map(world: World) -> None:
    """Every stage, `cancelled` and `default`, with times and counters of the schedule, and rows that differ."""
    topic = await world.plan()
    found = await world.prefetch()
    now = world.clock.now_ms()
    assert found["event"] == {
        "id": "tyson-paul",
        "title": "Tyson vs. Paul",
        "topic": topic,
        "startsAt": now + HOUR_MS,
        "endsAt": now + 3 * HOUR_MS,
        "cancelled": False,
    }
    assert (found["version"], found["revision"], found["serverTime"]) == (7, 12, now)
    assert [(entry["key"], entry["startsAt"]) for entry in found["stages"]] == [
        ("upcoming", now),
        ("starting_soon", now + HOUR_MS - 900_000),
        ("live", now + HOUR_MS),
        ("ended", now + 3 * HOUR_MS),
        ("cancelled", None),
    ]
    rows = [str([title["id"] for row in entry["rows"] for title in row["titles"]]) for entry in found["stages"]]
    assert len(set(rows)) == len(rows)


async def test_by_key_is_the_same_entries_as_one_object(world: World) -> None:
    """The scalar and the typed fields cannot drift apart: same keys, same field names, same values."""
    await world.plan()
    found = await world.prefetch()
    assert found["byKey"] == {entry["key"]: entry for entry in [*found["stages"], found["default"]]}


async def test_lifetimes_are_jittered_and_keep_off_stages(bare_world: World) -> None:
    """Different draws give different ttlSeconds, none of which ends within 15 minutes of a stage."""
    world = bare_world
    draws = iter(step / 40 for step in range(40))
    async with world.client(world.build(draw=lambda: next(draws), ttl_mean_s=2 * 3600)) as world.http:
        await world.plan()
        answers = [await world.prefetch() for _ in range(40)]
    lifetimes = {found["ttlSeconds"] for found in answers}
    assert len(lifetimes) == 40
    assert 3600 <= min(lifetimes) <= max(lifetimes) <= 3 * 3600
    for found in answers:
        expiry = found["serverTime"] + found["ttlSeconds"] * 1000
        assert all(abs(expiry - (entry["startsAt"] or 0)) >= 900_000 for entry in found["stages"])


async def test_a_revised_schedule_is_seen_within_a_poll(world: World) -> None:
    """Nothing of an older revision is served from a cache."""
    await world.plan()
    before = await world.prefetch()
    await world.plan(revision=13, starts_in_ms=2 * HOUR_MS)
    await asyncio.sleep(4 * POLL_S)
    after = await world.prefetch()
    assert (after["revision"], after["event"]["startsAt"] - before["event"]["startsAt"]) == (13, HOUR_MS)
    assert after["byKey"]["live"]["startsAt"] == after["event"]["startsAt"]


async def test_the_device_decides_artwork_only(world: World) -> None:
    """Shape, size and language follow the device, titles do not; the profile's locale stands in for a missing one."""
    await world.plan()
    seen = {}
    for kind, screen, locale in (("TV", "LARGE", "de-DE"), ("PHONE", "SMALL", "fr")):
        found = await world.prefetch(kind=kind, screen=screen, locale=locale)
        title = found["byKey"]["live"]["rows"][0]["titles"][0]
        (picture,) = title["artwork"]
        seen[title["id"]] = picture
        assert f"/{picture['kind'].lower()}-{picture['width']}x{picture['height']}-{locale[:2]}-" in picture["url"]
    assert len(seen) == 1


async def test_answers_repeat_for_one_profile_and_differ_between_profiles(world: World) -> None:
    """The same profile gets the same rows; of 40 profiles nearly all get their own."""
    await world.plan()
    once, again = await world.prefetch("p-1"), await world.prefetch("p-1")
    assert once == again
    maps = {str((await world.prefetch(f"p-{number}"))["byKey"]) for number in range(40)}
    assert len(maps) >= 38


async def test_the_channel_names_one_topic_an_event_by_region(world: World) -> None:
    """R6: a German profile follows the European audience, an American the one for everyone."""
    everyone = await world.plan()
    europe = await world.plan(audience="eu", regions=("DE", "FR", "GB"))
    topics: dict[str, set[str]] = {}
    for number in range(60):
        answer = await world.ask(CHANNEL, events=["tyson-paul"], profile=f"p-{number}", device=TV)
        (entry,) = answer["data"]["broadcastChannel"]["topics"]
        found = await world.prefetch(f"p-{number}")
        assert found["event"]["topic"] == entry["topic"]
        topics.setdefault(entry["topic"], set()).add(f"p-{number}")
    assert set(topics) == {everyone, europe}


async def test_an_event_for_other_regions_only(world: World) -> None:
    """A profile without an audience is refused by field, not given somebody else's topic."""
    await world.plan(audience="aq", regions=("AQ",))
    error = await world.refused(CHANNEL, events=["tyson-paul"], profile="p-1", device=TV)
    assert error["extensions"]["code"] == "forbidden"
    assert error["extensions"]["field"] == "eventIds[0]"
    assert (await world.refused(PREFETCH, event="tyson-paul", profile="p-1"))["extensions"]["field"] == "eventId"


async def test_state_and_cursor_come_from_one_log_entry(world: World) -> None:
    """Null and 0 before the first broadcast; then the newest entry's two facts."""
    topic = await world.plan()

    async def state() -> dict[str, Any]:
        answer = await world.ask(CHANNEL, events=["tyson-paul"], profile="p-1", device=TV)
        (entry,) = answer["data"]["broadcastChannel"]["topics"]
        return entry  # type: ignore[no-any-return]

    assert await state() == {"eventId": "tyson-paul", "topic": topic, "stateKey": None, "lastBroadcastAt": 0}
    await world.broadcast(topic, "upcoming")
    at = await world.broadcast(topic, "live")
    world.clock.advance_ms(1_000)  # newest broadcasts are remembered for half a second
    assert await state() == {"eventId": "tyson-paul", "topic": topic, "stateKey": "live", "lastBroadcastAt": at}


async def test_the_token_is_for_these_topics_and_outlives_the_window(bare_world: World) -> None:
    """Claims: profile, device, exactly the resolved topics, expiry spread after the last event's window."""
    world = bare_world
    draws = iter([0.0, 0.25, 0.5, 0.75])
    async with world.client(world.build(draw=lambda: next(draws))) as world.http:
        one = await world.plan("one", starts_in_ms=HOUR_MS)
        two = await world.plan("two", starts_in_ms=5 * HOUR_MS, ends_at=None)
        expiries = []
        for _ in range(4):
            answer = await world.ask(
                CHANNEL, {"X-Device-Id": "living-room"}, events=["one", "two", "one"], profile="p-1", device=TV
            )
            claims = world.ring.verify_device(
                answer["data"]["broadcastChannel"]["token"], now_s=world.clock.now_ms() / 1000
            )
            assert (claims.sub, claims.dev, claims.topics) == ("p-1", "living-room", (one, two))
            expiries.append(claims.exp)
    # Without an end the window is 12 hours from the start, and the token lives an hour longer.
    base = world.clock.now_ms() // 1000 + 5 * 3600 + 12 * 3600 + 3600
    assert expiries == [base, base + 900, base + 1800, base + 2700]


async def test_a_token_for_an_event_long_over_still_lives_an_hour(world: World) -> None:
    """Somebody who comes late gets a working token for the replay."""
    await world.plan(starts_in_ms=-50 * HOUR_MS)
    answer = await world.ask(CHANNEL, events=["tyson-paul"], profile="p-1", device=TV)
    now_s = world.clock.now_ms() // 1000
    claims = world.ring.verify_device(answer["data"]["broadcastChannel"]["token"], now_s=now_s)
    assert 3600 <= claims.exp - now_s <= 7200


async def test_a_device_without_an_id_gets_one_by_its_looks(world: World) -> None:
    """The derived id is stable, and tells a phone from a television."""
    await world.plan()

    async def device_of(kind: str) -> str:
        answer = await world.ask(CHANNEL, events=["tyson-paul"], profile="p-1", device={"kind": kind})
        token = answer["data"]["broadcastChannel"]["token"]
        return world.ring.verify_device(token, now_s=world.clock.now_ms() / 1000).dev

    assert await device_of("TV") == await device_of("TV") != await device_of("PHONE")


async def test_settings_reach_the_channel(bare_world: World) -> None:
    """URL and window are the operator's; 0 is allowed."""
    world = bare_world
    app = world.build(push_url="wss://push.test/v1/stream", connect_window_ms=0)
    async with world.client(app) as world.http:
        await world.plan()
        answer = await world.ask(CHANNEL, events=["tyson-paul"], profile="p-1", device=TV)
    channel = answer["data"]["broadcastChannel"]
    assert (channel["url"], channel["subprotocol"], channel["connectWindowMs"]) == (
        "wss://push.test/v1/stream",
        "stagecue.v1",
        0,
    )


async def test_push_nodes_are_handed_out_in_turn(bare_world: World) -> None:
    """Every node gets its share of the devices, whoever asks."""
    world = bare_world
    app = world.build(push_url="ws://a.test/v1/stream, ws://b.test/v1/stream", connect_window_ms=0)
    async with world.client(app) as world.http:
        await world.plan()
        answers = [await world.ask(CHANNEL, events=["tyson-paul"], profile="p-1", device=TV) for _ in range(4)]
    urls = [answer["data"]["broadcastChannel"]["url"] for answer in answers]
    assert urls == ["ws://a.test/v1/stream", "ws://b.test/v1/stream"] * 2


async def test_home_has_what_is_near(world: World) -> None:
    """Running and soon, soonest first; over, cancelled, too late and other regions' events are left out."""
    await world.plan("running", starts_in_ms=-HOUR_MS)
    await world.plan("soon", starts_in_ms=2 * HOUR_MS)
    await world.plan("later", starts_in_ms=20 * HOUR_MS)
    await world.plan("over", starts_in_ms=-20 * HOUR_MS)
    await world.plan("off", cancelled=True)
    await world.plan("away", audience="aq", regions=("AQ",))

    async def near(**variables: Any) -> list[str]:
        answer = await world.ask(HOME, profile="p-1", **variables)
        return [found["event"]["id"] for found in answer["data"]["prefetchHome"]]

    assert await near() == ["running", "soon", "later"]
    assert await near(within="PT3H") == ["running", "soon"]
    assert (await world.refused(HOME, profile="p-1", within="soon"))["extensions"]["field"] == "within"


@pytest.mark.parametrize(
    ("variables", "code", "field"),
    [
        ({"event": "nobody-vs-nobody"}, "not_found", "eventId"),
        ({"event": "NO PE"}, "invalid_request", "eventId"),
        ({"event": ""}, "invalid_request", "eventId"),
        ({"profile": "a b"}, "invalid_request", "profileId"),
        ({"device": {"kind": "TV", "locale": "!!"}}, "invalid_request", "device.locale"),
    ],
)
async def test_what_is_unknown_or_malformed_is_named(
    world: World, variables: dict[str, Any], code: str, field: str
) -> None:
    """Code, field and a path to the GraphQL field; no data."""
    await world.plan()
    error = await world.refused(PREFETCH, **{"event": "tyson-paul", "profile": "p-1", **variables})
    assert (error["extensions"]["code"], error["extensions"]["field"]) == (code, field)
    assert error["path"] == ["prefetchEvent"]


async def test_the_channel_bounds_its_events(world: World) -> None:
    """None, more than 20, or one unknown among them: refused whole, naming which."""
    await world.plan()
    for events, field in (([], "eventIds"), (["tyson-paul"] * 21, "eventIds"), (["tyson-paul", "nope"], "eventIds[1]")):
        error = await world.refused(CHANNEL, events=events, profile="p-1", device=TV)
        assert error["extensions"]["field"] == field
    answer = await world.ask(CHANNEL, {"X-Device-Id": "a b"}, events=["tyson-paul"], profile="p-1", device=TV)
    assert answer["errors"][0]["extensions"]["field"] == "X-Device-Id"


async def test_a_users_catalog_and_profiles(bare_world: World, tmp_path: Any) -> None:
    """Both files of a user: maps from that catalog alone, unknown profiles not found."""
    world = bare_world
    films = tmp_path / "mine.csv"
    films.write_text("id,title,year,genre\n" + "".join(f"f{n},Film {n},19{n},Drama\n" for n in range(50, 99)))
    people = tmp_path / "people.csv"
    people.write_text("profile_id,title_id,region\nada,f50,GB\nada,f51,GB\n")
    async with world.client(world.build(catalog_path=films, profiles_path=people)) as world.http:
        await world.plan()
        found = await world.prefetch("ada")
        shown = {title["id"] for entry in found["stages"] for row in entry["rows"] for title in row["titles"]}
        assert shown <= {f"f{n}" for n in range(52, 99)}
        assert found["byKey"]["live"]["rows"][1]["heading"] == "Because you watched Film 51"
        error = await world.refused(PREFETCH, event="tyson-paul", profile="bob")
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("not_found", "profileId")
