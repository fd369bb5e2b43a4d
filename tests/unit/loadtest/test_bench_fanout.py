"""Goal: `bench fanout` computes and judges what it says; no server needed."""

from __future__ import annotations

import msgspec
import pytest

from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.push.arena import check_peers, make_room_for
from loadtest.bench.push.contender import FanOutRound
from loadtest.bench.push.cores import choose_cores
from loadtest.bench.push.fanout import FanOutFigures
from loadtest.bench.push.judging import invalid_rounds
from loadtest.bench.push.load import Arrivals


def fan_out(
    us: float, *, missed: int = 0, bytes_each: int = 150, probe_ms: float = 5.0, blind_ms: float = 0.1
) -> FanOutRound:
    arrivals = Arrivals(
        received=4, repeated=0, bytes=bytes_each, at_ns=1_000_000, arrivals_us=[3000, 4000, 5000, 9000], probes=10,
        probe_us_max=int(probe_ms * 1000), probe_us_p50=200, lost=0, error="", blind_us_max=int(blind_ms * 1000),
    )  # fmt: skip
    return FanOutRound(us_per_delivery=us, missed=missed, sent_at_ns=3_000_000, arrivals=arrivals, load_cores=0.4)


def figures(ours: list[float], floor: list[float], nchan: list[float] | None = None) -> FanOutFigures:
    rounds = {"stagecue": [fan_out(us) for us in ours], "floor": [fan_out(us) for us in floor]}
    if nchan is not None:
        rounds["nchan"] = [fan_out(us) for us in nchan]
    probed = [fan_out(9.0), fan_out(9.0, probe_ms=12.0)]
    return FanOutFigures(devices=4, rounds=rounds, probed=probed, others_cores=0.0, cores_shared=False)


def test_ratios_are_of_rounds_and_arrivals_count_from_publication() -> None:
    found = figures([9.0, 20.0, 10.0], [8.0, 20.0, 8.0]).keys()
    assert found["us_per_delivery"] == 10.0
    assert found["peers"]["floor"]["us_per_delivery"] == 8.0
    assert found["ratio_to_floor"] == 1.125  # of 1.125, 1.0 and 1.25: not 10 / 8
    assert (found["ratio_q1"], found["ratio_q3"]) == (1.0625, 1.1875)
    assert (found["p50_ms"], found["last_ms"]) == (2.0, 7.0)  # published 2 ms after the load began to count
    assert found["probe_rtt_ms_max"] == 12.0
    assert found["missed"] == 0


def test_what_is_promised_holds_at_the_limit_and_not_beyond() -> None:
    assert figures([11.4], [10.0], [11.5]).shortfalls() == []
    beyond = figures([11.6], [10.0], [11.5]).shortfalls()
    assert len(beyond) == 2
    assert "1.160 times floor's" in beyond[0]
    assert "nchan's" in beyond[1]


def test_a_missed_delivery_and_a_probe_kept_waiting_fall_short() -> None:
    good = figures([10.0], [10.0])
    missed = msgspec.structs.replace(good, probed=[fan_out(9.0, missed=2)])
    assert missed.shortfalls() == ["2 deliveries missed"]
    slow = msgspec.structs.replace(good, probed=[fan_out(9.0, probe_ms=20.1)])
    assert "a probe waited 20.1 ms" in slow.shortfalls()[0]


def test_without_a_floor_there_is_no_ratio_to_it() -> None:
    rounds = {"stagecue": [fan_out(9.0)], "nchan": [fan_out(10.0)]}
    found = FanOutFigures(devices=4, rounds=rounds, probed=[fan_out(9.0)], others_cores=0.0, cores_shared=False)
    assert (found.keys()["ratio_to_floor"], found.keys()["ratio_q1"]) == (None, None)
    assert found.shortfalls() == []


def test_what_spoils_a_measurement_is_said() -> None:
    good = figures([10.0], [10.0])
    assert good.invalid_because() == []
    assert "1.50 cores" in msgspec.structs.replace(good, others_cores=1.5).invalid_because()[0]
    assert "one core" in msgspec.structs.replace(good, cores_shared=True).invalid_because()[0]
    uneven = {"stagecue": [fan_out(9.0)], "floor": [fan_out(9.0, bytes_each=149)]}
    assert msgspec.structs.replace(good, rounds=uneven).invalid_because() == [
        "servers sent messages of different sizes"
    ]
    blind = msgspec.structs.replace(good, probed=[fan_out(9.0, probe_ms=30.0, blind_ms=25.0)])
    assert "not looked at for up to 25.0 ms" in blind.invalid_because()[0]


def test_one_busy_round_spoils_no_median() -> None:
    rounds = [fan_out(9.0) for _ in range(3)]
    busy = msgspec.structs.replace(rounds[0], load_cores=0.99)
    assert invalid_rounds([*rounds, busy], others_cores=0.0, shared=False) == []
    assert "load generator" in invalid_rounds([busy, busy, rounds[0]], others_cores=0.0, shared=False)[0]


def test_peers_are_named_once_and_known() -> None:
    assert check_peers("floor, nchan,floor,") == ("floor", "nchan")
    assert check_peers("") == ()
    with pytest.raises(CouldNotRun, match="--peers: nginx is none of floor, websockets, nchan"):
        check_peers("nginx")


def test_more_devices_than_a_process_may_hold_are_refused() -> None:
    make_room_for(1)
    with pytest.raises(CouldNotRun, match="--devices: 1 to"):
        make_room_for(10_000_000)


def test_server_and_load_get_different_cores_where_there_are_two() -> None:
    two = choose_cores(frozenset({2, 5}))
    assert (two.server, two.load, two.shared) == (5, 2, False)
    assert choose_cores(frozenset({3})).shared
