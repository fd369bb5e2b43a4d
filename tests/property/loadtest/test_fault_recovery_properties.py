"""Goal: for any pattern of late, replayed and absent receipts, recovery agrees with its definition spelt out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loadtest.bench.faults.recovery import LIVE_WITHIN_MS, Announced, Phase, Receipt, arrival_counts, recovery_of

DEVICES = (0, 1)
FOLLOWERS = {0: {0, 1}, 1: {1}}
ROWS = [Announced(channel, f"t{channel}", 1 + at, 1 + at) for channel in (0, 1) for at in range(0, 4_000, 400)]
PHASE = Phase(name="killed", at_ms=800.0, until_ms=3_500.0, bound_s=2.0)

fates = st.one_of(st.none(), st.tuples(st.floats(0, 2_500), st.booleans()))
"""Of one broadcast at one device: never there, or (delay, live)."""


@given(st.data())
def test_recovery_is_the_first_broadcast_from_which_on_all_were_live(data: st.DataObject) -> None:
    fate = {(device, row.topic, row.timestamp): data.draw(fates) for row in ROWS for device in FOLLOWERS[row.channel]}
    receipts = [
        Receipt(device, topic, timestamp, timestamp + each[0], each[1])
        for (device, topic, timestamp), each in fate.items()
        if each is not None
    ]
    found = recovery_of(PHASE, ROWS, arrival_counts(ROWS, receipts), FOLLOWERS)

    def live(row: Announced) -> bool:
        fates_of = [fate[device, row.topic, row.timestamp] for device in FOLLOWERS[row.channel]]
        return all(each is not None and each[1] and each[0] <= LIVE_WITHIN_MS for each in fates_of)

    ends = []
    for channel, devices in FOLLOWERS.items():
        rows = [r for r in ROWS if r.channel == channel and PHASE.at_ms <= r.since_ms < PHASE.until_ms - 300]
        starts = [r for r in rows if all(live(later) for later in rows if later.since_ms >= r.since_ms)]
        if not starts:
            assert found.seconds is None
            return
        first = starts[0]
        ends.append(max(first.since_ms + fate[d, first.topic, first.timestamp][0] for d in devices))  # type: ignore[index]
    assert found.seconds is not None
    assert abs(found.seconds - (max(ends) - PHASE.at_ms) / 1000) < 1e-6


@given(st.lists(st.tuples(st.sampled_from(DEVICES), st.sampled_from(ROWS), st.floats(0, 3_000), st.booleans())))
def test_no_receipts_make_a_broadcast_live_at_more_devices_than_received_it(
    received: list[tuple[int, Announced, float, bool]],
) -> None:
    receipts = [
        Receipt(device, row.topic, row.timestamp, row.since_ms + late, live) for device, row, late, live in received
    ]
    for (topic, timestamp), count in arrival_counts(ROWS, receipts).items():
        assert count.devices <= len({r.device for r in receipts if (r.topic, r.timestamp) == (topic, timestamp)})
