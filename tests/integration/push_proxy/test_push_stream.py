"""A device on a real socket: welcome, verdict, replay, live, hand-over, troubles of store and link."""

from __future__ import annotations

import asyncio
import json

import pytest
from push_world import TOPIC, World, broadcast, eventually, schedule

from contract.reach import ReachCount
from contract.runtime.asgi import listen_on


def continuity(verdict: str, latest: int, state_key: str | None = "") -> dict[str, object]:
    key = f"s{latest}" if state_key == "" else state_key
    return {"type": "continuity", "topic": TOPIC, "verdict": verdict, "state_key": key, "latest": latest}


def counts(heard: dict[tuple[str, int], ReachCount]) -> dict[int, tuple[int, ...]]:
    return {at: (c.written, c.replayed, c.acked, c.gaps, c.holes) for (_, at), c in heard.items()}


async def test_connect_subscribe_and_live(world: World) -> None:
    """A device is welcomed, told where it stands, and gets what is broadcast then."""
    device = await world.connect()
    await device.subscribe(None)
    assert await device.next() == continuity("complete", 0, None)
    assert (await device.next())["type"] == "schedule"
    await world.publish(broadcast(1000, 0))
    assert await world.routers[0].deliver(broadcast(1000, 0)) == 1
    assert await device.next() == {
        "type": "broadcast",
        "topic": TOPIC,
        "state_key": "s1000",
        "timestamp": 1000,
        "prev": 0,
        "ack": {"one_in": 100, "within_ms": 30_000},
    }
    assert await world.routers[0].deliver(broadcast(1000, 0)) == 0, "a repeat is acknowledged and written to nobody"
    await device.quiet()


async def test_verdicts(world: World) -> None:
    """Complete with replay, null, gap, ahead: each said before anything replayed."""
    await world.publish(broadcast(10, 0), broadcast(20, 10), broadcast(30, 20), broadcast(40, 30))
    await world.log.trim(TOPIC, keep=2, before=0)  # floor 20
    said: dict[int | None, list[dict[str, object]]] = {}
    for cursor in (20, 30, None, 10, 41):
        device = await world.connect()
        await device.subscribe(cursor, held={TOPIC: {"version": 1, "revision": 1}})
        said[cursor] = [await device.next()]
        while said[cursor][-1].get("timestamp") != 40 and cursor in (20, 30):
            said[cursor].append(await device.next())
        await device.quiet(0.05)
    assert said[20][0] == continuity("complete", 40)
    assert [(f["timestamp"], f["prev"], f["replayed"]) for f in said[20][1:]] == [(30, 20, True), (40, 30, True)]
    assert [f.get("timestamp") for f in said[30]] == [None, 40]
    assert said[None] == [continuity("complete", 40)]
    assert said[10] == [continuity("gap", 40)]
    assert said[41] == [continuity("ahead", 40)]
    assert world.log.reads == 2, "one read for the topic, one more to be sure that the last device is ahead"


async def test_one_read_for_all_who_wait(world: World) -> None:
    """Twenty devices subscribe while the first read is under way: single flight, all answered the same."""
    await world.publish(broadcast(10, 0))
    world.log.gate = asyncio.Event()
    devices = [await world.connect() for _ in range(20)]
    for device in devices:
        await device.subscribe(0)
    await asyncio.sleep(0.1)
    assert world.log.reads == 1
    world.log.gate.set()
    for device in devices:
        assert await device.next() == continuity("complete", 10)
        assert (await device.next())["timestamp"] == 10
    assert world.log.reads == 1


async def test_metrics_show_at_once_what_is_counted_many_at_a_time(world: World) -> None:
    """Answers given alike are counted at the next look, which at rest is a second away: a scrape does not wait."""
    await world.publish(broadcast(10, 0))
    for _ in range(5):
        device = await world.connect()
        await device.subscribe(0)
        assert await device.next() == continuity("complete", 10)
    shown = world.node.metrics.render().decode()
    assert 'stagecue_push_verdicts_total{verdict="complete"} 5.0' in shown
    assert 'stagecue_push_deliveries_total{kind="replayed"} 5.0' in shown


async def test_replay_live_race(world: World) -> None:
    """Live frames during the first read are held back; the answer has all, in order, once; then live goes on."""
    await world.publish(broadcast(10, 0), broadcast(20, 10))
    world.log.gate = asyncio.Event()
    device = await world.connect()
    await device.subscribe(0)
    await asyncio.sleep(0.05)
    assert world.routers[0].topics == {TOPIC}, "interest first, then the read"
    await world.routers[0].send(broadcast(30, 20))
    await world.publish(broadcast(30, 20))
    await device.quiet(0.1)
    world.log.gate.set()
    assert await device.next() == continuity("complete", 30)
    assert [(await device.next())["timestamp"] for _ in range(3)] == [10, 20, 30]
    await world.routers[0].deliver(broadcast(40, 30))
    frame = await device.until("broadcast")
    assert (frame["timestamp"], frame.get("replayed")) == (40, None)
    await device.quiet()


async def test_pending_then_the_verdict(world: World) -> None:
    """The store does not answer: pending at the bound, live flows, the verdict follows when it does."""
    await world.publish(broadcast(10, 0))
    world.log.gate = asyncio.Event()
    device = await world.connect()
    await device.subscribe(0)
    assert await device.next() == continuity("pending", 0, None)
    assert (await device.next())["type"] == "schedule"
    await world.routers[0].send(broadcast(20, 10))
    frame = await device.next()
    assert (frame["timestamp"], frame["prev"]) == (20, 10), "the newest truth does not wait for the hole"
    await world.publish(broadcast(20, 10))
    world.log.gate.set()
    assert await device.next() == continuity("complete", 20)
    assert (await device.next())["timestamp"] == 10
    await device.quiet()


async def test_store_away_and_back(world: World) -> None:
    """While the store is away new devices are told pending; when it is back every topic is reread and settled."""
    await world.publish(broadcast(10, 0))
    first = await world.connect()
    await first.subscribe(0)
    await first.until("broadcast")
    world.log.down = True
    await asyncio.sleep(0.4)
    late = await world.connect()
    await late.subscribe(0)
    reads = world.log.reads
    # Memory was compared less than 3 s ago: it still answers.
    assert await late.next() == continuity("complete", 10)
    await world.publish(broadcast(20, 10))
    world.log.down = False
    assert (await first.until("broadcast"))["timestamp"] == 20, "anti-entropy finds what was never delivered"
    assert world.log.reads > reads


async def test_every_topic_is_reread_after_the_store_was_away(world: World) -> None:
    """R14: equal tails prove nothing about a store that was gone; what lies below them may have changed."""
    await world.publish(broadcast(10, 0))
    device = await world.connect()
    await device.subscribe(0)
    await device.until("broadcast")
    reads = world.log.reads
    await asyncio.sleep(0.4)
    assert world.log.reads == reads, "a store that answers is compared, not reread"
    world.log.down = True
    await eventually(lambda: world.node.metrics.value("store_failures") > 0)
    world.log.down = False
    await eventually(lambda: world.log.reads > reads)


async def test_hole_is_closed_from_the_log(world: World) -> None:
    """A lost delivery: the next one is held, the log read, both go out in order; the acknowledgement waits."""
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule")
    await world.publish(broadcast(10, 0), broadcast(20, 10))
    assert await world.routers[0].deliver(broadcast(20, 10)) == 1
    assert [(await device.next())["timestamp"] for _ in range(2)] == [10, 20]


async def test_hole_that_stays_open_does_not_hold_the_truth(world: World) -> None:
    """The log cannot fill it: after 500 ms the newest goes out with its own prev; the missing one follows late."""
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule")
    began = asyncio.get_running_loop().time()
    assert await world.routers[0].deliver(broadcast(20, 10)) == 1
    assert 0.4 < asyncio.get_running_loop().time() - began < 1.5
    assert (await device.next())["prev"] == 10
    late = await world.connect()
    await late.subscribe(0)
    assert (await late.next())["verdict"] == "pending"
    assert (await late.until("broadcast"))["timestamp"] == 20
    await world.publish(broadcast(10, 0), broadcast(20, 10))
    assert (await device.next())["timestamp"] == 10
    assert await late.until("continuity") == continuity("complete", 20)
    assert (await late.next())["timestamp"] == 10


async def test_resubscribe_replaces_the_cursor(world: World) -> None:
    """The same device asks again from further back: verdict and replay anew, live goes on once."""
    await world.publish(broadcast(10, 0), broadcast(20, 10))
    device = await world.connect()
    await device.subscribe(20)
    await device.until("schedule")
    await device.subscribe(10)
    assert (await device.next())["type"] == "continuity"
    assert (await device.next())["timestamp"] == 20
    await world.routers[0].deliver(broadcast(30, 20))
    assert (await device.until("broadcast"))["timestamp"] == 30
    await device.quiet()


async def test_unsubscribe_stops_live(world: World) -> None:
    """Nothing flows after it, and the topic is dropped after its linger time."""
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule")
    await device.send({"type": "unsubscribe", "topics": [TOPIC]})
    await asyncio.sleep(0.05)
    assert await world.routers[0].deliver(broadcast(10, 0)) == 0
    await device.quiet()


@pytest.mark.parametrize("world", [{"linger_s": 0.1}], indirect=True)
async def test_interest_is_withdrawn_after_the_linger_time(world: World) -> None:
    """The last subscriber left: routers are told, and a new one opens the topic afresh."""
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule")
    await device.connection.close()
    await eventually(lambda: not world.routers[0].topics)
    again = await world.connect()
    await again.subscribe(0)
    assert await again.next() == continuity("complete", 0, None)
    assert world.routers[0].topics == {TOPIC}


async def test_schedule_reaches_devices_by_revision(world: World) -> None:
    """A change is passed on; an older one is not; a device that holds it is not told again."""
    device = await world.connect()
    await device.subscribe(0, held={TOPIC: {"version": 1, "revision": 1}})
    assert (await device.next())["type"] == "continuity"
    await world.routers[0].deliver(schedules=[schedule(3)])
    frame = await device.next()
    assert (frame["type"], frame["revision"], frame["version"], frame["times"]) == ("schedule", 3, 1, {"live": 1003})
    await world.routers[0].deliver(schedules=[schedule(2)])
    await world.view.put(schedule(4))
    assert (await device.next())["revision"] == 4, "anti-entropy compares revisions too"


async def test_several_routers(world: World) -> None:
    """The same broadcast over two links is written once, acknowledged twice; a new router hears all topics."""
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule")
    second = world.router()
    await eventually(lambda: second.hello is not None)
    assert second.hello.topics == (TOPIC,)
    written = await asyncio.gather(world.routers[0].deliver(broadcast(10, 0)), second.deliver(broadcast(10, 0)))
    assert sorted(written) == [0, 1]
    assert (await device.until("broadcast"))["timestamp"] == 10
    await device.quiet()
    await second.ping()
    await eventually(lambda: second.pongs)


async def test_router_that_never_acknowledges_interest(world: World) -> None:
    """The bound is 500 ms: then the log is read all the same."""
    world.routers[0].ack_interest = False
    await world.publish(broadcast(10, 0))
    device = await world.connect()
    await device.subscribe(0)
    verdicts = [(await device.until("continuity"))["verdict"]]
    if verdicts == ["pending"]:
        verdicts.append((await device.until("continuity"))["verdict"])
    assert verdicts[-1] == "complete"
    assert (await device.until("broadcast"))["timestamp"] == 10


async def test_a_broadcast_found_in_the_log_first_is_routed_when_its_router_delivers_it(world: World) -> None:
    """Anti-entropy is sometimes faster than the link: the repeat that follows is still the routed hop."""
    device = await world.connect()
    await device.subscribe(None)
    await device.until("continuity")
    await world.publish(broadcast(10, 0))
    assert (await device.until("broadcast"))["timestamp"] == 10
    heard = world.routers[0].reach
    await eventually(lambda: (TOPIC, 10) in heard and heard[TOPIC, 10].written == 1)
    assert heard[TOPIC, 10].routed_at is None
    before_ms = world.clock.now_ms()
    await world.routers[0].deliver(broadcast(10, 0))
    await eventually(lambda: heard[TOPIC, 10].routed_at is not None)
    assert before_ms <= heard[TOPIC, 10].routed_at <= world.clock.now_ms()
    assert heard[TOPIC, 10].written == 1


async def test_reach_is_reported(world: World) -> None:
    """Written, replayed, acked, gaps and holes arrive as absolute counts; a new router hears them again."""
    await world.publish(broadcast(10, 0), broadcast(20, 10))
    await world.log.trim(TOPIC, keep=1, before=0)
    one, two = await world.connect(), await world.connect()
    await one.subscribe(10)
    await one.until("broadcast")
    await two.subscribe(5)
    assert (await two.until("continuity"))["verdict"] == "gap"
    before_ms = world.clock.now_ms()
    await world.routers[0].deliver(broadcast(30, 20))
    await one.until("broadcast")
    after_ms = world.clock.now_ms()
    await world.routers[0].deliver(broadcast(30, 20), broadcast(20, 10, "another"))  # a repeat, and a conflict
    for _ in range(2):  # the second is the same acknowledgement again
        await one.send({"type": "ack", "topic": TOPIC, "timestamp": 30})
    await two.send({"type": "hole", "topic": TOPIC, "cursor": 5, "prev": 20, "timestamp": 30})
    wanted = {20: (0, 1, 0, 1, 0), 30: (2, 0, 1, 0, 1)}
    for router in (world.routers[0], world.router()):
        await eventually(lambda heard=router.reach: counts(heard) == wanted)
        assert router.reach[TOPIC, 20].routed_at is None, "only the log brought it"
        assert before_ms <= router.reach[TOPIC, 30].routed_at <= after_ms
        if router is world.routers[0]:
            await router.close()


@pytest.mark.parametrize("world", [{"lease_s": 0.3, "ack_one_in": 0}], indirect=True)
async def test_isolation(world: World) -> None:
    """No router for two leases: not ready, stale said once to all; a router makes it ready again."""
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule")
    assert world.readiness.ready
    await world.routers[0].close()
    assert await device.next() == {"type": "stale"}
    assert "push.routers" in world.readiness.failing()
    await device.quiet(0.4)
    world.router()
    await eventually(lambda: world.readiness.ready)
    world.log.down = True
    assert await device.next() == {"type": "stale"}
    assert "push.store" in world.readiness.failing()
    world.log.down = False
    await eventually(lambda: world.readiness.ready)


@pytest.mark.parametrize("world", [{"lease_s": 0.3, "link_silence_s": 0.3}], indirect=True)
async def test_router_that_falls_silent(world: World) -> None:
    """A frozen router looks like a quiet one until it is asked: its link is ended, and the node knows it is alone."""
    await eventually(lambda: world.readiness.ready)
    await asyncio.sleep(0.8)
    assert world.readiness.ready, "an idle router that answers stays linked"
    world.routers[0].mute = True
    await eventually(lambda: "push.routers" in world.readiness.failing())
    assert world.routers[0].task.done()


@pytest.mark.parametrize("world", [{"max_topics": 1}], indirect=True)
async def test_topics_of_a_node_are_bounded(world: World) -> None:
    """One more is refused for now, named; those followed go on."""
    await world.view.put(schedule(topic="event:other"))
    device = await world.connect()
    await device.subscribe(0)
    await device.until("schedule")
    await device.subscribe(0, topic="event:other")
    error = await device.next()
    assert (error["code"], error["topic"]) == ("node_full", "event:other")
    await world.routers[0].deliver(broadcast(10, 0))
    assert (await device.until("broadcast"))["timestamp"] == 10


async def test_order_under_load(world: World) -> None:
    """Devices subscribe and ask again while broadcasts flow: each sees every broadcast above its cursor, in order."""
    devices = [await world.connect() for _ in range(20)]
    received: list[list[int]] = [[] for _ in devices]

    async def play() -> None:
        for timestamp in range(1, 101):
            await world.publish(broadcast(timestamp, timestamp - 1))
            sending = await world.routers[0].send(broadcast(timestamp, timestamp - 1))
            if timestamp % 10 == 0:
                await sending

    async def watch(number: int) -> None:
        device, seen = devices[number], received[number]
        await asyncio.sleep(number * 0.003)
        await device.subscribe(0)
        while not seen or seen[-1] < 100:
            frame = await device.next()
            if frame["type"] == "broadcast":
                seen.append(frame["timestamp"])

    await asyncio.gather(play(), *(watch(number) for number in range(20)))
    assert all(seen == list(range(1, 101)) for seen in received)


async def test_not_ready_until_a_router_is_linked() -> None:
    """A node that nobody delivers to does not ask for devices."""
    world = World()
    await world.start()
    assert world.readiness.failing() == {"push.routers": "no router linked yet"}
    world.router()
    await eventually(lambda: world.readiness.ready)
    await world.end()


async def test_two_nodes_in_one_process() -> None:
    """Nothing is shared: the composition may run several workers."""
    worlds = [World(node_id=f"n{number}") for number in range(2)]
    for made in worlds:
        await made.start()
        made.router()
    devices = [await made.connect() for made in worlds]
    for device in devices:
        await device.subscribe(0)
        await device.until("schedule")
    assert await worlds[0].routers[0].deliver(broadcast(10, 0)) == 1
    await devices[0].until("broadcast")
    await devices[1].quiet(0.1)
    for made in worlds:
        await made.end()
    listen_on("127.0.0.1", worlds[0].port).close()  # the port is free again


async def test_a_status_says_who_is_here_and_what_is_missing(world: World) -> None:
    """What `GET /status` answers, asked of the device listener like any supervisor would."""
    device = await world.connect()
    await device.subscribe(None)
    await device.until("continuity")
    await world.routers[0].deliver(broadcast(1000, 0))
    asked = await fetched(world, "/status")
    assert asked == world.node.status()
    assert asked == {
        "role": "push",
        "node": "n1",
        "incarnation": world.node.incarnation,
        "ready": True,
        "connections": 1,
        "topics": 1,
        "routers": 1,
        "open_holes": 0,
        "isolated": False,
    }
    await world.routers[0].send(broadcast(3000, 2000))
    await device.until("broadcast")
    await device.until("broadcast")
    assert world.node.status()["open_holes"] == 1


async def fetched(world: World, path: str) -> dict[str, object]:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: n\r\n\r\n".encode())
    _, _, body = (await asyncio.wait_for(reader.read(), 3)).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    answer = json.loads(body)
    assert isinstance(answer, dict)
    return answer
