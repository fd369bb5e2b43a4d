"""Goal: our DGS and its peers answer the same operation for the same profiles alike, and are held to it.

Method: the real servers in processes of their own, a few profiles, one round.
"""

from __future__ import annotations

import pytest

from device_sim.client import now_ms
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.prefetch.arena import COLD, OURS, WITHOUT_TOKENS, Contender, open_arena
from loadtest.bench.prefetch.asking import Secret
from loadtest.bench.prefetch.command import PrefetchOptions, measure_prefetch
from loadtest.bench.prefetch.night import profile_id, schedule_of
from loadtest.bench.prefetch.picked import pick_for_all
from loadtest.bench.push.cores import choose_cores
from loadtest.bench.report import Reporter

PROFILES = 120


async def _measure(peers: str) -> None:
    options = PrefetchOptions(profiles=PROFILES, peers=peers, rounds=1)
    found = await measure_prefetch(options, Reporter(as_json=True))
    named = [each for each in peers.split(",") if each]
    assert list(found.rounds) == [OURS, WITHOUT_TOKENS, COLD, *named]
    # Once in the warm-up, all servers, and once in the round, all but the one whose profiles are fresh.
    assert found.compared == 2 * PROFILES
    keys = found.keys()
    assert 1_500 < keys["bytes"] < 3_000
    assert all(rounds[0].run.good_count == PROFILES for rounds in found.rounds.values())
    assert all(keys["peers"][name]["rps_per_core"] > 0 for name in named)
    found.tabulate(Reporter(as_json=True))


@pytest.mark.slow
async def test_strawberry_answers_what_ours_does() -> None:
    await _measure("strawberry")


@pytest.mark.external_service
async def test_mercurius_answers_what_ours_does() -> None:
    await _measure("mercurius")


@pytest.mark.external_service
@pytest.mark.parametrize("peer", ["mercurius", "strawberry"])
async def test_a_peer_refuses_tokens_of_another_secret_or_profile(peer: str) -> None:
    """Its verification is part of what it is measured with."""
    schedule, cores = schedule_of(now_ms()), choose_cores()
    picked = pick_for_all(schedule, PROFILES)
    async with open_arena([peer], schedule=schedule, picked=picked, cores=cores) as arena:
        contender = arena.contenders[peer]
        await contender.ask(profile_id, PROFILES)
        contender._secret = Secret("k1", b"another secret of thirty-two byt")
        with pytest.raises(CouldNotRun, match=peer):
            await contender.ask(profile_id, PROFILES)
        stranger = Contender(
            contender.subject, contender._load, secret=None, directory=contender._directory, series=contender._series
        )
        with pytest.raises(CouldNotRun, match=peer):
            await stranger.ask(profile_id, PROFILES)
