"""Who may ask for whose maps: every mode, every root field that names a profile, over the real server."""

from __future__ import annotations

from typing import Any

import pytest
from dgs_world import CHANNEL, PREFETCH, World
from graphql import build_schema as parse_sdl

from contract.tokens import DeviceClaims, KeyRing, ProfileClaims
from dgs.schema import build_schema

FIELDS = {
    "prefetchEvent": '{{ prefetchEvent(eventId: "tyson-paul", profileId: "{0}") {{ version }} }}',
    "prefetchHome": '{{ prefetchHome(profileId: "{0}") {{ version }} }}',
    "prefetchTitle": '{{ prefetchTitle(titleId: "x", profileId: "{0}") {{ version }} }}',
    "broadcastChannel": '{{ broadcastChannel(eventIds: ["tyson-paul"], profileId: "{0}", device: {{kind: TV}}) '
    "{{ token }} }}",
}


async def asked(world: World, query: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    answer = await world.http.post("/graphql", json={"query": query}, headers=headers)
    return answer.status_code, answer.json()


def code_of(answer: dict[str, Any]) -> str | None:
    return answer["errors"][0]["extensions"]["code"] if "errors" in answer else None


def test_the_fields_below_are_all_that_name_a_profile() -> None:
    """A new root field is tried here, too."""
    query = parse_sdl(build_schema().as_str(), assume_valid=True).query_type
    assert query is not None
    assert {name for name, field in query.fields.items() if "profileId" in field.args} == set(FIELDS)


@pytest.mark.parametrize(
    ("mode", "verdicts"),
    [
        (
            "required",
            {
                "own": (200, None),
                "none": (200, "unauthorized"),
                "other": (200, "forbidden"),
                "bad": (401, "unauthorized"),
            },
        ),
        (
            "optional",
            {"own": (200, None), "none": (200, None), "other": (200, "forbidden"), "bad": (401, "unauthorized")},
        ),
        ("off", dict.fromkeys(("own", "none", "other", "bad"), (200, None))),
    ],
)
async def test_the_matrix(bare_world: World, mode: str, verdicts: dict[str, tuple[int, str | None]]) -> None:
    """Mode, token and root field: what is answered, and for a refusal its field and path."""
    world = bare_world
    headers = {
        "own": world.token("p-1"),
        "other": world.token("p-2"),
        "bad": {"Authorization": "Bearer nonsense"},
        "none": {},
    }
    async with world.client(world.build(tokens=mode)) as world.http:
        await world.plan()
        for field, query in FIELDS.items():
            for shown, (status, code) in verdicts.items():
                found, answer = await asked(world, query.format("p-1"), headers[shown])
                assert (found, code_of(answer)) == (status, code), (field, shown, answer)
                if code == "forbidden":
                    (error,) = answer["errors"]
                    assert (error["extensions"]["field"], error["path"]) == ("profileId", [field])
                    assert not answer["data"] or answer["data"][field] is None


async def test_tokens_that_are_none(bare_world: World) -> None:
    """401 with the scheme that is asked for; nothing of the token is repeated."""
    world = bare_world
    now_s = world.clock.now_ms() // 1000
    device = KeyRing("stagecue.device", {"k1": b"p" * 32}, "k1")
    foreign = KeyRing("stagecue.profile", {"k1": b"x" * 32}, "k1")
    async with world.client(world.build(tokens="required")) as world.http:
        for shown in (
            world.token("p-1", lifetime_s=-60)["Authorization"],
            "Bearer " + device.sign(DeviceClaims(sub="p-1", dev="d", exp=now_s + 60)),
            "Bearer " + foreign.sign(ProfileClaims(sub="p-1", exp=now_s + 60)),
            "Basic cC0xOng=",
            "Bearer eyJhbGciOiJFZERTQSIsImtpZCI6ImsxIn0.e30.AA",
        ):
            answer = await world.http.post("/graphql", json={"query": "{__typename}"}, headers={"Authorization": shown})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert shown.partition(" ")[2] not in answer.text
            assert answer.json()["errors"][0]["extensions"]["code"] == "unauthorized"


async def test_one_request_for_two_profiles_gets_its_own_alone(bare_world: World) -> None:
    """A token opens its own root field, and no alias beside it."""
    world = bare_world
    query = (
        '{ mine: prefetchTitle(titleId: "x", profileId: "p-1") { version } '
        'theirs: prefetchTitle(titleId: "x", profileId: "p-2") { version } }'
    )
    async with world.client(world.build(tokens="required")) as world.http:
        _, answer = await asked(world, query, world.token("p-1"))
    (error,) = answer["errors"]
    assert (error["path"], error["extensions"]["code"]) == (["theirs"], "forbidden")


async def test_what_names_nobody_needs_no_token(bare_world: World) -> None:
    """A gateway's questions, artwork and the operators' pages; a variable as well as a literal names a profile."""
    world = bare_world
    async with world.client(world.build(tokens="required")) as world.http:
        await world.plan()
        assert (await asked(world, "{ __typename _service { sdl } }"))[1]["data"]["__typename"] == "Query"
        assert (await world.http.get("/healthz")).status_code == 200
        device = {"kind": "TV"}
        variables: dict[str, Any] = {"event": "tyson-paul", "profile": "p-1", "device": device}
        assert (await world.ask(PREFETCH, world.token("p-1"), **variables))["data"]["prefetchEvent"]["version"] == 7
        assert code_of(await world.ask(PREFETCH, world.token("p-2"), **variables)) == "forbidden"
        assert code_of(await world.ask(CHANNEL, events=["tyson-paul"], profile="p-1", device=device)) == "unauthorized"


def test_tokens_cannot_be_demanded_without_a_ring(bare_world: World) -> None:
    world = bare_world
    world.profile_ring = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="no profile ring"):
        world.build(tokens="required")
