"""Goal: `bench connect` computes and judges what it says; no server needed."""

from __future__ import annotations

import msgspec

from loadtest.bench.push.connect import ConnectFigures, ConnectSide
from loadtest.bench.push.contender import ConnectRound

DEVICES = 15_000


def side(name: str, us: list[float], sizes: list[float]) -> ConnectSide:
    rounds = [ConnectRound(us_per_connect=each, wall_s=2.0, load_cores=0.5) for each in us]
    return ConnectSide(name=name, does="something", rounds=rounds, bytes_per_device=sizes)


def figures(ours: ConnectSide, **variants: ConnectSide) -> ConnectFigures:
    peer = side("nchan", [25.0] * len(ours.rounds), [10_400.0] * len(ours.rounds))
    return ConnectFigures(devices=DEVICES, sides=[ours, peer], variants=variants, others_cores=0.0, cores_shared=False)


def test_costs_are_medians_and_memory_is_told_first_after_reconnects_and_last() -> None:
    ours = side("stagecue", [50.0, 90.0, 60.0, 55.0, 56.0], [2000.0, 2010.0, 2020.0, 2030.0, 2040.0])
    found = figures(ours).keys()
    assert found["us_per_connect"] == 56.0
    assert (found["bytes_per_device"], found["bytes_per_device_after"], found["bytes_per_device_last"]) == (
        2000,
        2030,
        2040,
    )
    assert found["peers"]["nchan"]["us_per_connect"] == 25.0
    assert found["peers"]["nchan"]["ratio"] == 2.24
    assert found["connects_per_s"] == 7500
    assert "eddsa_us_per_connect" not in found


def test_variants_tell_what_they_are_for() -> None:
    ours = side("stagecue", [50.0], [2000.0])
    found = figures(
        ours,
        eddsa=side("eddsa", [170.0], [2000.0]),
        graphql=side("graphql", [80.0], [2500.4]),
        sse=side("sse", [60.0], [1800.0]),
    ).keys()
    assert found["eddsa_us_per_connect"] == 170.0
    assert "eddsa_bytes_per_device" not in found
    assert (found["graphql_bytes_per_device"], found["sse_bytes_per_device"]) == (2500, 1800)


def test_the_promise_holds_at_its_limits() -> None:
    assert figures(side("stagecue", [75.0], [2500.0])).shortfalls() == []


def test_cost_size_and_growth_fall_short_each_by_itself() -> None:
    assert "a connect costs 75.1 us" in figures(side("stagecue", [75.1], [2000.0])).shortfalls()[0]
    assert "takes 2501 bytes, promised" in figures(side("stagecue", [50.0], [2501.0])).shortfalls()[0]
    grown = side("stagecue", [50.0] * 4, [2000.0, 2050.0, 2080.0, 2150.0])
    assert figures(grown).shortfalls() == ["memory grew with reconnects, from 2000 to 2150 bytes"]
    assert "bytes after reconnects" in figures(side("stagecue", [50.0] * 2, [2480.0, 2510.0])).shortfalls()[0]


def test_what_an_allocator_takes_at_once_is_no_growth() -> None:
    """With few devices a megabyte more is a large share of little."""
    few = msgspec.structs.replace(figures(side("stagecue", [50.0] * 2, [1000.0, 2000.0])), devices=200)
    assert few.shortfalls() == []


def test_variants_are_no_part_of_the_promise_but_of_its_validity() -> None:
    dear = side("graphql", [500.0], [9000.0])
    assert figures(side("stagecue", [50.0], [2000.0]), graphql=dear).shortfalls() == []
    busy = msgspec.structs.replace(figures(side("stagecue", [50.0], [2000.0])), others_cores=0.9)
    assert "0.90 cores" in busy.invalid_because()[0]
