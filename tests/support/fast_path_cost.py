"""What one answer of the fast path costs in Python, without sockets: `python -m tests.support.fast_path_cost`.

Distinct profiles with picks in memory, the demo's catalog, a persisted operation of about 2 KB per answer by POST, and
a token of each profile's own, as `stagecue bench prefetch` asks. Prints microseconds per `serve` for every part
left out in turn; the least of several rounds, since neighbours of the machine only ever add.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import msgspec

from contract.clock import ManualClock
from contract.schedule import PlannedStage, TopicSchedule
from contract.tokens import KeyRing, ProfileClaims
from dgs.callers import ANYBODY, Caller, Callers
from dgs.model import Profile, Viewing
from dgs.picks import Picks, Wanted
from dgs.serving import Answer, Ask
from dgs.settings import DgsSettings
from dgs.sources.catalog import demo_options, load_catalog
from tests.support.fast_world import POSTED, FastWorld

OPERATION = """query Bench($e: ID!, $p: ID!, $d: DeviceContext) {
  prefetchEvent(eventId: $e, profileId: $p, device: $d) {
    event { id topic } version revision ttlSeconds serverTime
    stages { key startsAt headline rows { heading titles { id name } } }
  }
}"""
PROFILES = 4_000
ROUNDS = 7
NOW_MS = 1_731_700_000_000


class Held:
    """Picks of every profile, made before."""

    def __init__(self, picks: Mapping[str, Picks]) -> None:
        self._picks = picks

    def at_once(self, wanted: Wanted) -> Picks | None:
        return self._picks.get(wanted.profile_id)


def world() -> FastWorld:
    path = DgsSettings().catalog_path
    titles = load_catalog(path, options=demo_options(path)).titles
    profiles = [
        Profile(
            id=f"p-{number}",
            region="US",
            locale="en-US",
            history=tuple(Viewing(titles[(number * 37 + step * 101) % len(titles)].id) for step in range(8)),
        )
        for number in range(PROFILES)
    ]
    keys = ("upcoming", "starting_soon", "live", "ended", "replay")
    schedule = TopicSchedule(
        topic="event:e",
        event_id="e",
        title="Tyson vs. Paul",
        revision=12,
        version=7,
        starts_at=NOW_MS + 3_600_000,
        ends_at=NOW_MS + 9_000_000,
        stages=tuple(
            PlannedStage(key=key, order=order, due_at=NOW_MS + order * 1_800_000) for order, key in enumerate(keys)
        ),
    )
    return FastWorld(titles, profiles, [schedule], manifest={"bench": OPERATION}, now_ms=NOW_MS)


def measure(made: FastWorld, asks: Sequence[Ask]) -> tuple[float, Answer]:
    """(microseconds per request, the last answer)."""
    last: list[Answer] = []
    best_s = float("inf")
    for _ in range(ROUNDS):
        last.clear()
        took = time.perf_counter()
        serve, reply = made.fast.serve, last.append
        for ask in asks:
            serve(ask, reply)
        best_s = min(best_s, time.perf_counter() - took)
    assert len(last) == len(asks)
    assert made.fast.left == made.fast.faults == 0
    return best_s / len(asks) * 1e6, last[-1]


async def main() -> None:
    made = world()
    wanted = [Wanted("event:e", 12, 7, each) for each in made.profiles.by_id]
    picks = {each.profile_id: found for each in wanted if (found := made.picks.at_once(each)) is not None}
    made.fast._picks = Held(picks)  # type: ignore[assignment]
    ring = KeyRing("stagecue.profile", {"k1": b"p" * 32}, "k1")
    tokens = {each: ring.sign(ProfileClaims(sub=each, exp=NOW_MS // 1000 + 3600)) for each in picks}

    def asks(tokens_of: Mapping[str, str], operation: str = "bench") -> list[Ask]:
        return [
            Ask(
                "POST",
                "/graphql",
                "",
                POSTED | ({b"authorization": b"Bearer " + tokens_of[each].encode()} if tokens_of else {}),
                msgspec.json.encode(
                    {"id": operation, "variables": {"e": "e", "p": each, "d": {"kind": "TV", "locale": "en-US"}}}
                ),
                "127.0.0.1",
                0.0,
            )
            for each in picks
        ]

    callers = Callers(ring, "required", ManualClock(NOW_MS).now_ms)
    made.fast._caller_of = callers.caller
    cost, answer = measure(made, asks(tokens))
    print(f"{cost:6.2f} us  whole, {len(answer.body)} bytes, status {answer.status}")
    made.fast._caller_of = lambda fields: ANYBODY
    cost, _ = measure(made, asks({}))
    print(f"{cost:6.2f} us  without tokens")
    tag = answer.head.partition(b"ETag: ")[2].partition(b"\r\n")[0]
    one = asks({})[-1]
    again = one._replace(
        method="GET",
        query=urlencode({"id": "bench", "variables": msgspec.json.encode(msgspec.json.decode(one.body)["variables"])}),
        fields={b"if-none-match": tag},
    )
    cost, answer = measure(made, [again] * PROFILES)
    print(f"{cost:6.2f} us  304 by GET without tokens, status {answer.status}")
    looked = asks({})
    took = time.perf_counter()
    for ask in looked:
        made.fast.look(ask)
    print(f"{(time.perf_counter() - took) / len(looked) * 1e6:6.2f} us  look")


if __name__ == "__main__":
    assert Caller
    asyncio.run(main())
