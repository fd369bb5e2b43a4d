"""The router as a whole, with a scripted log, a store that fails as told, and nodes at the end of real links."""

from __future__ import annotations

import asyncio

import pytest
from router_world import TOPIC, World, eventually, night, schedule, world

from contract.broadcast import Broadcast
from contract.coverage import CoverageShare, TopicCoverage
from contract.reach import ReachCount
from contract.runtime.system_clock import SystemClock
from message_router import rebuild


async def committed(here: World) -> None:
    await eventually(lambda: here.log.committed.get(0) == here.log.end(0), what=f"committed {here.log.committed}")


async def test_a_broadcast_is_stored_delivered_and_committed() -> None:
    """The plain path: store, then the interested node, then the offset; nobody else hears of it."""
    async with world() as here:
        node, other = await here.node("n1", TOPIC), await here.node("n2", "event:other")
        broadcasts = night(3)
        here.log.publish(*broadcasts)
        await committed(here)
        assert node.broadcasts == broadcasts
        assert other.broadcasts == []
        assert (await here.store.read(TOPIC)).entries == tuple(broadcasts)
        assert here.readiness.ready
        assert here.metric("broadcasts_routed_total") == here.metric("route_seconds_count") == 3
        await eventually(lambda: here.metric("commit_lag_seconds_count") >= 1)


async def test_a_node_that_never_acknowledges_delays_nobody() -> None:
    """One silent node: the other gets everything at once, offsets are committed past it, and it catches up later."""
    async with world() as here:
        good, silent = await here.node("good", TOPIC), await here.node("silent", TOPIC, acking=False)
        first, *rest = night(6)
        here.log.publish(first)
        await committed(here)
        assert here.metric("nodes_behind") == 1
        loop = asyncio.get_running_loop()
        for broadcast in rest:
            published_s = loop.time()
            here.log.publish(broadcast)
            await eventually(lambda: good.broadcasts[-1] == broadcast)  # noqa: B023 - awaited at once
            assert good.arrived_s[-1] - published_s < here.settings.node_deadline_s / 2
        await committed(here)
        await eventually(lambda: silent.timestamps == good.timestamps, what="it is still sent to")
        await silent.ack_all()
        await eventually(lambda: here.metric("nodes_behind") == 0, what="caught up")
        assert not silent.closed


async def test_awaited_nodes_hold_the_commit_until_they_acknowledge() -> None:
    async with world(node_deadline_s=5.0) as here:
        node = await here.node("n1", TOPIC, acking=False)
        here.log.publish(*night(2))
        await eventually(lambda: len(node.broadcasts) == 2)
        await asyncio.sleep(0.05)
        assert 0 not in here.log.committed
        await node.ack_all()
        await committed(here)


async def test_a_closed_link_holds_nothing_and_is_told_nothing() -> None:
    async with world(node_deadline_s=5.0) as here:
        node = await here.node("n1", TOPIC, acking=False)
        here.log.publish(*night(1))
        await eventually(lambda: len(node.broadcasts) == 1)
        await node.stop()
        await committed(here)
        assert here.metric("links") == 0


async def test_delivery_does_not_wait_for_a_store_in_trouble() -> None:
    """R11: with the store away broadcasts go out after the patience, in order; the offset waits; then it is made up."""
    async with world() as here:
        node = await here.node("n1", TOPIC)
        before, *during = night(5)
        here.log.publish(before)
        await committed(here)
        here.store.failing = True
        published_s = asyncio.get_running_loop().time()
        here.log.publish(*during[:2])
        await eventually(lambda: len(node.broadcasts) == 3)
        assert node.arrived_s[1] - published_s >= here.settings.store_patience_s * 0.9
        here.log.publish(*during[2:])
        await eventually(lambda: node.broadcasts == [before, *during], what="late lanes deliver at once, in order")
        await asyncio.sleep(0.1)
        assert here.log.committed[0] == here.log.entries[0][0].offset + 1
        assert "router.kv" in here.readiness.failing()
        here.store.failing = False
        await committed(here)
        assert (await here.store.read(TOPIC)).entries == (before, *during)
        await eventually(lambda: here.readiness.ready, what="recovers by itself")
        assert len(node.broadcasts) == 5, "delivered once"


async def test_a_slow_store_is_not_waited_for_either() -> None:
    async with world() as here:
        node = await here.node("n1", TOPIC)
        here.store.pause_s = 2.0
        started_s = asyncio.get_running_loop().time()
        here.log.publish(*night(1))
        await eventually(lambda: len(node.broadcasts) == 1)
        assert node.arrived_s[0] - started_s < 1.5
        await committed(here)


async def test_another_topics_trouble_is_not_ours() -> None:
    """One topic's refused append waits for a reread that hangs; another topic's broadcast goes straight through."""
    async with world(store_patience_s=60.0) as here:
        node = await here.node("n1", TOPIC, "event:calm")
        gate = asyncio.Event()
        reread = here.log.reread

        async def stuck(partition: int, *, since_ms: int):  # type: ignore[no-untyped-def]
            await gate.wait()
            async for entry in reread(partition, since_ms=since_ms):
                yield entry

        here.log.reread = stuck  # type: ignore[method-assign]
        here.log.publish(night(2)[1])
        await asyncio.sleep(0.02)
        here.log.publish(*night(1, topic="event:calm"))
        await eventually(lambda: len(node.broadcasts) == 1)
        assert node.broadcasts[0].topic == "event:calm"
        gate.set()
        await committed(here)


async def test_an_assignment_rebuilds_the_store_and_delivers_only_above_the_commit() -> None:
    """R10: an empty store is filled from the window; what was committed is not delivered again."""
    broadcasts = night(5)
    async with world(assign=False) as here:
        node = await here.node("n1", TOPIC)
        here.log.publish(*broadcasts)
        here.log.publish_schedule(schedule(3))
        here.log.committed[0] = here.log.entries[0][2].offset + 1
        here.log.assign(0)
        await committed(here)
        assert (await here.store.read(TOPIC)).entries == tuple(broadcasts)
        assert node.broadcasts == broadcasts[3:]
        assert (await here.view.schedules([TOPIC]))[TOPIC].revision == 3
        assert node.schedules
        assert {one.revision for one in node.schedules} == {3}


async def test_a_rebuild_gives_up_only_what_is_older_than_the_window() -> None:
    """The window begins in the middle of a chain: the floor is the last timestamp before it."""
    now_ms = SystemClock().now_ms()
    old = night(3, start=now_ms - 500_000, step=10)
    fresh = night(3, start=now_ms - 50_000, step=10, prev=old[-1].timestamp)
    async with world(assign=False, replay_window_s=100.0) as here:
        here.log.publish(*old, *fresh)
        here.log.assign(0)
        await committed(here)
        snapshot = await here.store.read(TOPIC)
        assert (snapshot.floor, snapshot.entries) == (old[-1].timestamp, tuple(fresh))


async def test_a_rebuild_alone_restores_what_was_committed_long_ago() -> None:
    """Nothing is left to deliver: the store is whole again all the same, from the window's start upwards."""
    now_ms = SystemClock().now_ms()
    old = night(2, start=now_ms - 500_000, step=10)
    fresh = night(3, start=now_ms - 50_000, step=10, prev=old[-1].timestamp)
    async with world(assign=False, replay_window_s=100.0) as here:
        node = await here.node("n1", TOPIC)
        here.log.publish(*old, *fresh)
        here.log.committed[0] = here.log.end()
        here.log.assign(0)
        await eventually(lambda: here.metric("rebuilds_total") == 1)
        snapshot = await here.store.read(TOPIC)
        assert (snapshot.floor, snapshot.entries) == (old[-1].timestamp, tuple(fresh))
        assert node.broadcasts == []
        assert here.metric("conflicts_total") == 0


async def test_a_store_that_lost_everything_is_noticed_and_rebuilt() -> None:
    """Nothing failed, yet the store is empty (a failover): the tails tell within a comparison, and all is restored."""
    async with world() as here:
        other = night(2, topic="event:quiet")
        broadcasts = night(4)
        here.log.publish(*other, *broadcasts)
        await committed(here)
        here.store.lose_everything()
        await eventually(lambda: here.metric("rebuilds_total") >= 2, what="rebuilt")
        await eventually(lambda: TOPIC in here.store._logs and "event:quiet" in here.store._logs)
        assert (await here.store.read(TOPIC)).entries == tuple(broadcasts)
        assert (await here.store.read("event:quiet")).entries == tuple(other)


async def test_a_refused_append_is_filled_from_the_log() -> None:
    """The store lost its tail between two broadcasts: the next one is refused, the hole filled, and all delivered."""
    async with world(tail_check_interval_s=30.0, store_patience_s=2.0) as here:
        node = await here.node("n1", TOPIC)
        broadcasts = night(5)
        here.log.publish(*broadcasts[:4])
        await committed(here)
        here.store.lose_everything()
        await here.store.append(broadcasts[0])
        here.log.publish(broadcasts[4])
        await committed(here)
        assert (await here.store.read(TOPIC)).entries == tuple(broadcasts)
        assert node.broadcasts == broadcasts
        assert here.metric("floors_raised_total") == 0
        assert here.metric("delivered_unstored_total") == 0, "filled within the patience"


async def test_what_the_log_no_longer_has_raises_the_floor() -> None:
    """The log was trimmed past the hole: the floor rises to where it begins, and the broadcast is stored above it."""
    async with world() as here:
        node = await here.node("n1", TOPIC)
        broadcasts = night(5)
        here.log.publish(broadcasts[3], broadcasts[4])
        await committed(here)
        snapshot = await here.store.read(TOPIC)
        assert (snapshot.floor, snapshot.entries) == (broadcasts[2].timestamp, tuple(broadcasts[3:]))
        assert node.broadcasts == broadcasts[3:]
        assert here.metric("floors_raised_total") == 1


async def test_duplicates_are_delivered_again_and_stale_ones_dropped() -> None:
    async with world() as here:
        node = await here.node("n1", TOPIC)
        broadcasts = night(3)
        here.log.publish(*broadcasts, broadcasts[1])
        await committed(here)
        assert node.broadcasts == [*broadcasts, broadcasts[1]]
        await here.store.trim(TOPIC, keep=1, before=0)
        here.log.publish(broadcasts[0])
        await committed(here)
        assert len(node.broadcasts) == 4
        assert here.metric("appends_total", outcome="stale") == 1


async def test_a_contradiction_is_delivered_and_alarms() -> None:
    """Same timestamp, another state; and a chain that is not the stored one: neither may block the partition."""
    async with world() as here:
        node = await here.node("n1", TOPIC)
        broadcasts = night(3)
        here.log.publish(*broadcasts)
        last = broadcasts[-1]
        here.log.publish(
            Broadcast(topic=TOPIC, state_key="other", timestamp=last.timestamp, prev=last.prev, event_id="night"),
            Broadcast(topic=TOPIC, state_key="fork", timestamp=last.timestamp + 5, prev=last.prev, event_id="night"),
        )
        await committed(here)
        assert [one.state_key for one in node.broadcasts] == ["s0", "s1", "s2", "other", "fork"]
        assert here.metric("conflicts_total") == 2
        stored = await here.store.read(TOPIC)
        assert (stored.floor, [one.state_key for one in stored.entries]) == (last.timestamp, ["fork"])
        await asyncio.sleep(4 * here.settings.tail_check_interval_s)
        assert here.metric("rebuilds_total") == 1, "what cannot be stored is not missed by the store"


async def test_a_store_restored_from_another_night_gives_way_to_the_log() -> None:
    """Its entries are no part of tonight's chain: tonight's newest is stored above them, and nothing older is told."""
    async with world(assign=False) as here:
        for foreign in night(3, start=1_000):
            await here.store.append(foreign)
        broadcasts = night(4)
        here.log.publish(*broadcasts[:3])
        here.log.assign(0)
        await committed(here)
        stored = await here.store.read(TOPIC)
        assert (stored.floor, stored.entries) == (1_020, tuple(broadcasts[:3]))
        here.store.lose_everything()
        for foreign in night(3, start=2_000):
            await here.store.append(foreign)
        here.log.publish(broadcasts[3])
        await committed(here)
        await eventually(lambda: here.store.tail(TOPIC) == broadcasts[3].timestamp)
        stored = await here.store.read(TOPIC)
        assert (stored.floor, stored.entries) == (2_020, tuple(broadcasts))


async def test_a_rebuild_holds_a_piece_of_the_window_not_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces, topics interleaved, chains that go across pieces: all of it is stored, in few atomic steps."""
    monkeypatch.setattr(rebuild, "_ENTRIES_AT_ONCE", 50)
    async with world(assign=False) as here:
        chains = {f"event:t{number}": night(100, topic=f"event:t{number}") for number in range(7)}
        for at in range(100):
            for chain in chains.values():
                here.log.publish(chain[at])
        here.log.committed[0] = here.log.end()
        here.log.assign(0)
        await eventually(lambda: here.router.status()["partitions"] == {"0": whole(here)})
        for topic, chain in chains.items():
            assert (await here.store.read(topic)).entries == tuple(chain)
        assert here.store.appends == 0
        assert here.store.extensions <= 7 * (700 // 50)


def whole(here: World) -> dict[str, object]:
    return {"committed": here.log.end(), "in_flight": 0, "whole": True}


async def test_two_routers_rebuild_the_same_partitions_and_do_no_harm() -> None:
    """A hand-over, and one that does not know yet that it lost them: the store ends whole, whoever comes first."""
    async with world(assign=False) as one, world(assign=False, store=one.store, view=one.view) as two:
        chains = {f"event:t{number}": night(30, topic=f"event:t{number}") for number in range(40)}
        for chain in chains.values():
            one.log.publish(*chain)
            two.log.publish(*chain)
        one.log.committed[0] = one.log.end()
        two.log.committed[0] = two.log.end()
        one.store.pause_s = 0.002
        one.log.assign(0)
        two.log.assign(0)
        for here in (one, two):
            await eventually(lambda: here.router.status()["partitions"] == {"0": whole(here)})  # noqa: B023
        for topic, chain in chains.items():
            assert (await one.store.read(topic)).entries == tuple(chain)
        assert one.metric("floors_raised_total") == two.metric("floors_raised_total") == 0
        assert one.metric("conflicts_total") == two.metric("conflicts_total") == 0


async def test_a_store_in_another_life_is_filled_again_though_no_call_ever_failed() -> None:
    """A restart between two calls: the schedules are gone too, which no comparison of tails can see."""
    async with world() as here:
        here.log.publish_schedule(schedule(3))
        await committed(here)
        assert here.view.marked == "life-1"
        here.view.begin_life("life-2")
        await eventually(lambda: here.view.marked == "life-2")
        assert (await here.view.schedules([TOPIC]))[TOPIC].revision == 3
        assert here.metric("rebuilds_total") == 2
        here.view.forget()
        await eventually(lambda: here.view.marked == "life-2", what="an emptied store is filled too")
        assert (await here.view.schedules([TOPIC]))[TOPIC].revision == 3
        await asyncio.sleep(4 * here.settings.tail_check_interval_s)
        assert here.metric("rebuilds_total") == 3


async def test_a_store_that_dies_during_its_rebuild_is_not_called_whole() -> None:
    """What is marked is the life the rebuild began in; a mark for a later one would hide what that one misses."""
    async with world(assign=False) as here:
        here.log.publish_schedule(schedule(3))
        here.log.publish(*night(3))
        here.view.dies_in_put = "life-2"
        here.log.assign(0)
        await eventually(lambda: here.view.marked == "life-2")
        assert (await here.view.schedules([TOPIC]))[TOPIC].revision == 3
        assert here.view.marks == ["life-1", "life-2"]
        assert here.view.held_at_mark["life-2"] == {TOPIC}


async def test_a_trouble_that_took_nothing_costs_no_rebuild() -> None:
    """The store was away for a moment and is the same as before: whoever waits for it goes on at once."""
    async with world() as here:
        node = await here.node("n1", TOPIC)
        broadcasts = night(4)
        here.log.publish(*broadcasts[:2])
        await committed(here)
        here.store.failing = True
        here.log.publish(*broadcasts[2:])
        await eventually(lambda: node.broadcasts == broadcasts)
        await eventually(lambda: "router.kv" in here.readiness.failing())
        here.store.failing = False
        await committed(here)
        await eventually(lambda: here.readiness.ready)
        assert (await here.store.read(TOPIC)).entries == tuple(broadcasts)
        assert here.metric("rebuilds_total") == 1


async def test_what_left_the_window_is_not_missed_for_ever() -> None:
    """A topic last active before the window, in a store that was emptied: one rebuild gives it up, not one a second."""
    async with world(replay_window_s=0.4) as here:
        here.log.publish(*night(2))
        await committed(here)
        await asyncio.sleep(0.5)
        here.store.lose_everything()
        await eventually(lambda: here.metric("rebuilds_total") == 2)
        await asyncio.sleep(6 * here.settings.tail_check_interval_s)
        assert here.metric("rebuilds_total") == 2
        assert here.readiness.ready


async def test_a_store_that_lost_many_topics_is_reread_once_not_once_for_each() -> None:
    """Every topic is refused at once: what serves them all is one rebuild."""
    async with world(tail_check_interval_s=30.0, max_in_flight=2_000) as here:
        chains = {f"event:t{number}": night(3, topic=f"event:t{number}") for number in range(60)}
        for chain in chains.values():
            here.log.publish(*chain[:2])
        await committed(here)
        read = here.log.rereads
        here.store.lose_everything()
        for chain in chains.values():
            here.log.publish(chain[2])
        await committed(here)
        assert here.log.rereads - read <= 3
        for topic, chain in chains.items():
            assert (await here.store.read(topic)).entries == tuple(chain)


async def test_schedules_are_stored_then_delivered_to_the_interested() -> None:
    async with world() as here:
        node, other = await here.node("n1", TOPIC), await here.node("n2", "event:other")
        here.log.publish_schedule(schedule(2))
        await committed(here)
        assert [one.revision for one in node.schedules] == [2]
        assert other.schedules == []
        here.view.failing = True
        here.log.publish_schedule(schedule(3))
        await eventually(lambda: [one.revision for one in node.schedules] == [2, 3], what="delivered all the same")
        assert (await here.view.schedules([TOPIC]))[TOPIC].revision == 2
        here.view.failing = False
        await committed(here)
        assert (await here.view.schedules([TOPIC]))[TOPIC].revision == 3


async def test_interest_counts_from_its_acknowledgement() -> None:
    """R14: whatever is published after the acknowledgement comes over this link; what is dropped no longer does."""
    async with world() as here:
        node = await here.node("n1")
        here.log.publish(*night(1))
        await committed(here)
        await node.want(1, TOPIC)
        fresh = night(2)[1]
        here.log.publish(fresh)
        await committed(here)
        assert node.broadcasts == [fresh]


async def test_a_revoked_partition_is_dropped_and_the_others_go_on() -> None:
    """Work stuck in a revoked partition neither blocks nor commits; given back, it starts at the commit."""
    async with world() as here:
        node = await here.node("n1", TOPIC, "event:other")
        here.log.assign(1)
        here.store.failing = True
        here.log.publish(*night(2), partition=1)
        await eventually(lambda: len(node.broadcasts) == 2)
        here.log.revoke(1)
        await asyncio.sleep(0.05)
        here.store.failing = False
        here.log.publish(*night(1, topic="event:other"))
        await committed(here)
        assert 1 not in here.log.committed
        here.log.assign(1)
        await eventually(lambda: here.log.committed.get(1) == here.log.end(1))
        assert len(node.broadcasts) == 5, "delivered again: nothing of it had been committed"


async def test_a_log_that_is_away_makes_not_ready_and_recovers() -> None:
    async with world(poll_timeout_s=0.05) as here:
        node = await here.node("n1", TOPIC)
        here.log.failing = True
        await eventually(lambda: "router.log" in here.readiness.failing())
        here.log.publish(*night(2))
        here.log.failing = False
        await committed(here)
        assert len(node.broadcasts) == 2
        assert here.readiness.ready


async def test_polling_pauses_while_too_much_is_in_flight() -> None:
    async with world(max_in_flight=4, poll_max_entries=4, node_deadline_s=5.0) as here:
        node = await here.node("n1", TOPIC, acking=False)
        here.log.publish(*night(20))
        await eventually(lambda: len(node.broadcasts) == 4)
        await asyncio.sleep(0.05)
        assert len(node.broadcasts) == 4
        node.acking = True
        await node.ack_all()
        await committed(here)
        assert len(node.broadcasts) == 20


async def test_a_node_that_reads_nothing_is_cut_at_the_bound_and_may_come_back() -> None:
    """Unacknowledged batches and waiting broadcasts are bounded; over the bound the link is closed."""
    async with world(max_unacked_batches=2, max_pending_broadcasts=5) as here:
        node = await here.node("n1", TOPIC, acking=False)
        for broadcast in night(12):
            here.log.publish(broadcast)
            await asyncio.sleep(0.005)
        await eventually(lambda: node.closed)
        await committed(here)
        assert here.metric("nodes_behind") == 0
        assert here.metric("links_closed_total", why="too far behind") == 1
        back = await here.node("n1", TOPIC)
        here.log.publish(*night(1, topic="event:other"))
        await committed(here)
        assert back.broadcasts == []
        assert here.metric("links") == 1


async def test_what_waits_behind_a_full_window_goes_out_with_the_next_acknowledgement() -> None:
    """One batch may be out: three broadcasts wait, and leave together once it is acknowledged."""
    async with world(max_unacked_batches=1, node_deadline_s=5.0, ping_interval_s=60.0, silence_s=200.0) as here:
        node = await here.node("n1", TOPIC, acking=False)
        broadcasts = night(4)
        here.log.publish(broadcasts[0])
        await eventually(lambda: len(node.broadcasts) == 1)
        here.log.publish(*broadcasts[1:])
        await asyncio.sleep(0.05)
        assert len(node.broadcasts) == 1
        await node.ack_all()
        await eventually(lambda: node.broadcasts == broadcasts)
        assert len(node.unacked) == 1
        await node.ack_all()
        await committed(here)


async def test_trimming_keeps_the_logs_bounded() -> None:
    async with world(replay_keep=3) as here:
        broadcasts = night(10)
        here.log.publish(*broadcasts)
        await eventually(lambda: TOPIC in here.store._logs and here.store._logs[TOPIC].floor == broadcasts[6].timestamp)
        assert (await here.store.read(TOPIC)).entries == tuple(broadcasts[7:])


async def test_a_stop_drains_and_commits_what_was_taken() -> None:
    """Stopped while the node still holds its acknowledgement back: the stop waits for it, then commits."""
    async with world(commit_interval_s=30.0, node_deadline_s=5.0, drain_s=3.0) as here:
        node = await here.node("n1", TOPIC, acking=False)
        here.log.publish(*night(2))
        await eventually(lambda: len(node.broadcasts) == 2)
        acknowledging = asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(node.ack_all()))
        assert 0 not in here.log.committed
    assert here.log.committed[0] == here.log.end()
    assert node.closed
    acknowledging.cancel()


async def test_reach_is_merged_and_survives_a_store_in_trouble() -> None:
    def count(written: int) -> ReachCount:
        return ReachCount(node_id="n1", incarnation="i1", topic=TOPIC, timestamp=5, written=written)

    async with world() as here:
        node = await here.node("n1", TOPIC)
        here.reach.failing = True
        await node.report(count(1))
        await asyncio.sleep(0.05)
        await node.report(count(7))
        assert here.reach.counts == {}
        here.reach.failing = False
        # The second report may still be on its way when the store comes back: the first alone may arrive before.
        await eventually(lambda: list(here.reach.counts.values()) == [count(7)])


async def test_coverage_is_put_to_the_node_of_its_link_and_survives_a_store_in_trouble() -> None:
    """Who reports is who said hello; of a topic the newest share is kept, and repeated reports are one write."""
    async with world() as here:
        node = await here.node("n1", TOPIC)
        here.reach.failing = True
        await node.report_coverage(1, CoverageShare(TOPIC, {1: 5}), CoverageShare("event:other", {3: 1}))
        await asyncio.sleep(0.05)
        await node.report_coverage(2, CoverageShare(TOPIC, {1: 2, 2: 3}))
        here.reach.failing = False
        newest = TopicCoverage(node_id="n1", incarnation="i1", begun_at=1_000, seq=2, topic=TOPIC, held={1: 2, 2: 3})
        await eventually(lambda: here.reach.coverage.get(("n1", "i1", TOPIC)) == newest)
        await eventually(lambda: ("n1", "i1", "event:other") in here.reach.coverage)


async def test_a_flood_of_coverage_reaches_the_store_in_bounded_pieces() -> None:
    """All devices of a fleet come back at once: nothing is lost, and no write is larger than the bound."""
    async with world(coverage_interval_s=0.02) as here:
        node = await here.node("n1", TOPIC)
        for start in range(0, 2_500, 500):
            shares = (CoverageShare(f"event:e{number}", {1: 1}) for number in range(start, start + 500))
            await node.report_coverage(1, *shares)
        await eventually(lambda: len(here.reach.coverage) == 2_500)
        assert max(here.reach.coverage_writes) <= 1_000


async def test_a_router_in_reserve_is_ready_without_a_partition() -> None:
    async with world(assign=False, poll_timeout_s=0.02) as here:
        await eventually(lambda: here.readiness.ready)


async def test_a_reread_that_the_store_cut_short_is_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log lends out few readers: one held by a failed rebuild would be missed by the next."""
    monkeypatch.setattr(rebuild, "_ENTRIES_AT_ONCE", 2)
    async with world(assign=False) as here:
        here.log.publish(*night(10))
        here.store.refuses_extensions = 3
        here.log.assign(0)
        await committed(here)
        assert here.log.most_open_rereads == 1


async def test_a_loss_during_a_rebuild_is_made_up_by_another_one() -> None:
    """What the rebuild just stored is gone: partitions are not called whole before it was stored again."""
    async with world(assign=False, tail_check_interval_s=30.0) as here:
        chains = {f"event:t{number}": night(3, topic=f"event:t{number}") for number in range(3)}
        for chain in chains.values():
            here.log.publish(*chain)
        extensions = 0

        def lose_all_at_the_third() -> None:
            nonlocal extensions
            extensions += 1
            if extensions == 3:
                here.store.lose_everything()
                here.router._relay._upkeep.rebuild_soon()

        here.store.after_extension = lose_all_at_the_third
        here.log.committed[0] = here.log.end()
        here.log.assign(0)
        await eventually(lambda: here.router.status()["partitions"] == {"0": whole(here)})
        for topic, chain in chains.items():
            assert (await here.store.read(topic)).entries == tuple(chain)


async def test_another_life_is_filled_even_if_another_router_called_it_whole_already() -> None:
    """Each router looks after its own partitions: the mark of one says nothing of the other's."""
    async with world() as here:
        here.log.publish_schedule(schedule(3))
        await committed(here)
        here.view.begin_life("life-2")
        here.view.marked = "life-2"
        await eventually(lambda: here.metric("rebuilds_total") == 2)
        assert (await here.view.schedules([TOPIC]))[TOPIC].revision == 3


async def test_a_look_at_the_store_that_a_rebuild_overtook_starts_no_other() -> None:
    """It began in the former life and ended in the new one, whole by then."""
    async with world() as here:
        here.log.publish(*night(2))
        await committed(here)
        here.store.tails_pause_s = 0.1
        here.view.begin_life("life-2")
        await eventually(lambda: here.metric("rebuilds_total") == 2)
        await asyncio.sleep(0.5)
        assert here.metric("rebuilds_total") == 2


async def test_a_router_in_reserve_calls_nothing_whole() -> None:
    """Without a partition it fills schedules only: what the logs must hold is for others to say."""
    async with world(assign=False) as here:
        await eventually(lambda: here.readiness.ready)
        assert here.view.marks == []
        here.view.begin_life("life-2")
        await asyncio.sleep(6 * here.settings.tail_check_interval_s)
        assert here.view.marks == []
        here.log.assign(0)
        await eventually(lambda: here.view.marks == ["life-2"])
