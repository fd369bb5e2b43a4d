"""The KV store's contract: the memory adapter, the Redis adapter on a fake with Lua, and on a real server, alike."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from contract.broadcast import Broadcast
from contract.clock import ManualClock
from contract.errors import InvalidRequest, StoreUnavailable
from contract.kv.memory import MemoryNodeLeases, MemoryReplayLog, MemoryScheduleView
from contract.kv.ports import MAX_EXTEND, NodeLease, NodeLeases, ReplayLog, ScheduleView, StoreLife
from contract.kv.redis import Client, RedisNodeLeases, RedisReplayLog, RedisScheduleView, connect_redis
from contract.replay_log import AppendOutcome, AppendResult, TopicLog
from contract.schedule import PlannedStage, TopicSchedule
from stagecue.apart.kv import open_kv

TOPIC = "event:night"
BASE = 1_731_722_400_000


class Store:
    """One backend: its three ports, and a way to let its time pass."""

    def __init__(
        self,
        replay_log: ReplayLog,
        view: ScheduleView,
        leases: NodeLeases,
        *,
        clock: ManualClock | None = None,
        client: Client | None = None,
    ) -> None:
        self.replay_log = replay_log
        self.view = view
        self.leases = leases
        self.client = client
        self._clock = clock

    async def let_pass(self, seconds: float) -> None:
        if self._clock is None:
            await asyncio.sleep(seconds)
        else:
            self._clock.advance_ms(round(seconds * 1000))


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[int]:
    """A redis-server of our own without persistence; yields its port, picked free."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.fail("redis-server is not on PATH")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            yield port
        finally:
            server.terminate()
            server.wait(10)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of one: all slots on one server, yet keys of two slots in one command are refused as in a large one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        bus = str(probe.getsockname()[1])
    options = ("--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-announce-ip", "127.0.0.1")
    with redis_server(tmp_path_factory.mktemp("cluster"), *options) as port:
        yield f"redis://127.0.0.1:{port}/0"


async def _form_cluster(url: str) -> None:
    """Give the one server every slot, once."""
    single = connect_redis(url, **PATIENT)
    await _answering(single)
    if (await single.execute_command("CLUSTER INFO"))["cluster_slots_assigned"] != "16384":
        await single.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
    for _ in range(200):
        if (await single.execute_command("CLUSTER INFO"))["cluster_state"] == "ok":
            break
        await asyncio.sleep(0.02)
    await single.aclose()


async def _answering(client: Redis) -> None:
    for _ in range(200):
        try:
            await client.ping()
        except (OSError, RedisError):  # not listening yet
            await asyncio.sleep(0.02)
        else:
            return
    pytest.fail("redis-server did not start")


PATIENT = {"timeout_s": 20.0, "connect_timeout_s": 20.0}
"""Of clients whose time is not what a test is about."""
EXTERNAL = pytest.mark.external_service


@pytest.fixture(
    params=["memory", "fakeredis", pytest.param("redis", marks=EXTERNAL), pytest.param("cluster", marks=EXTERNAL)]
)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        clock = ManualClock()
        yield Store(MemoryReplayLog(), MemoryScheduleView(), MemoryNodeLeases(clock), clock=clock)
        return
    if request.param == "fakeredis":
        client = FakeAsyncRedis()
    elif request.param == "cluster":
        url = request.getfixturevalue("cluster_url")
        await _form_cluster(url)
        client = connect_redis(url.replace("redis:", "redis+cluster:"), **PATIENT)
        assert isinstance(client, RedisCluster)
        await client.flushall()
    else:
        client = connect_redis(request.getfixturevalue("redis_url"), **PATIENT)
        await _answering(client)
        await client.flushall()
    yield Store(RedisReplayLog(client), RedisScheduleView(client), RedisNodeLeases(client), client=client)
    await client.aclose()


def broadcast(at: int, prev: int = 0, *, state: str = "live", topic: str = TOPIC) -> Broadcast:
    return Broadcast(
        topic=topic,
        state_key=state,
        timestamp=BASE + at,
        prev=BASE + prev if prev else 0,
        event_id="night",
        due_at=BASE,
    )


def schedule(revision: int, topic: str = TOPIC, event_id: str = "night") -> TopicSchedule:
    stages = (PlannedStage(key="live", order=1, due_at=BASE), PlannedStage(key="ad", order=2))
    return TopicSchedule(
        topic=topic, event_id=event_id, title="Á night", revision=revision, version=1, starts_at=BASE, stages=stages
    )


class TestAppend:
    async def test_an_untouched_topic_is_empty(self, store: Store) -> None:
        snapshot = await store.replay_log.read(TOPIC)
        assert (snapshot.topic, snapshot.floor, snapshot.entries, snapshot.tail) == (TOPIC, 0, (), 0)
        assert await store.replay_log.tails([TOPIC]) == {TOPIC: 0}

    async def test_a_chain_is_appended_and_read_back_whole(self, store: Store) -> None:
        chain = [broadcast(10), broadcast(20, 10), broadcast(35, 20, state="over")]
        for one in chain:
            assert await store.replay_log.append(one) == AppendResult(AppendOutcome.APPENDED, one.timestamp)
        assert (await store.replay_log.read(TOPIC)).entries == tuple(chain)

    async def test_a_repeat_is_a_duplicate_wherever_it_lies(self, store: Store) -> None:
        for one in (broadcast(10), broadcast(20, 10)):
            await store.replay_log.append(one)
        for one in (broadcast(10), broadcast(20, 10)):
            assert await store.replay_log.append(one) == AppendResult(AppendOutcome.DUPLICATE, BASE + 20)
        assert len((await store.replay_log.read(TOPIC)).entries) == 2

    async def test_a_repeat_with_other_details_is_the_same_to_a_device(self, store: Store) -> None:
        """Only state key and chain make a payload: another dispatch time is no conflict."""
        await store.replay_log.append(broadcast(10))
        again = msgspec.structs.replace(broadcast(10), dispatched_at=BASE + 11)
        assert (await store.replay_log.append(again)).outcome is AppendOutcome.DUPLICATE

    @pytest.mark.parametrize(
        "other",
        [broadcast(20, 10, state="other"), broadcast(20, 5), broadcast(15, 10)],
        ids=["state", "prev", "unknown timestamp"],
    )
    async def test_another_payload_at_or_below_the_tail_is_a_conflict(self, store: Store, other: Broadcast) -> None:
        for one in (broadcast(10), broadcast(20, 10)):
            await store.replay_log.append(one)
        before = await store.replay_log.read(TOPIC)
        assert await store.replay_log.append(other) == AppendResult(AppendOutcome.CONFLICT, BASE + 20)
        assert await store.replay_log.read(TOPIC) == before

    async def test_a_hole_is_refused_and_the_tail_named(self, store: Store) -> None:
        await store.replay_log.append(broadcast(10))
        assert await store.replay_log.append(broadcast(30, 20)) == AppendResult(AppendOutcome.REFUSED, BASE + 10)
        assert await store.replay_log.append(broadcast(30, 5)) == AppendResult(AppendOutcome.REFUSED, BASE + 10)
        assert len((await store.replay_log.read(TOPIC)).entries) == 1

    async def test_at_or_below_the_floor_is_stale(self, store: Store) -> None:
        for one in (broadcast(10), broadcast(20, 10), broadcast(30, 20)):
            await store.replay_log.append(one)
        await store.replay_log.trim(TOPIC, keep=1, before=0)
        for at in (10, 20):
            assert await store.replay_log.append(broadcast(at)) == AppendResult(AppendOutcome.STALE, BASE + 30)

    async def test_topics_are_apart(self, store: Store) -> None:
        await store.replay_log.append(broadcast(10))
        assert (await store.replay_log.append(broadcast(10, topic="event:night@eu"))).outcome is AppendOutcome.APPENDED
        assert len((await store.replay_log.read(TOPIC)).entries) == 1


class TestExtend:
    """One atomic step: the log must end where the caller saw it end, and floor and entries come together."""

    async def test_a_chain_at_once(self, store: Store) -> None:
        await store.replay_log.append(broadcast(10))
        chain = [broadcast(20, 10), broadcast(35, 20, state="over")]
        appended = AppendResult(AppendOutcome.APPENDED, BASE + 35)
        assert await store.replay_log.extend(chain, tail=BASE + 10) == appended
        snapshot = await store.replay_log.read(TOPIC)
        assert (snapshot.floor, snapshot.entries) == (0, (broadcast(10), *chain))

    async def test_a_floor_gives_up_what_is_stored_and_names_the_new_state_at_once(self, store: Store) -> None:
        await store.replay_log.append(broadcast(10))
        result = await store.replay_log.extend([broadcast(40, 30)], tail=BASE + 10, floor=BASE + 30)
        assert result == AppendResult(AppendOutcome.APPENDED, BASE + 40)
        snapshot = await store.replay_log.read(TOPIC)
        assert (snapshot.floor, snapshot.entries) == (BASE + 30, (broadcast(40, 30),))
        assert (await store.replay_log.append(broadcast(50, 40))).outcome is AppendOutcome.APPENDED

    async def test_of_an_empty_log(self, store: Store) -> None:
        await store.replay_log.extend([broadcast(40, 30)], tail=0, floor=BASE + 30)
        assert await store.replay_log.tails([TOPIC]) == {TOPIC: BASE + 40}
        for at in (10, 30):
            assert await store.replay_log.append(broadcast(at)) == AppendResult(AppendOutcome.STALE, BASE + 40)

    async def test_another_chain_is_given_up_up_to_its_end(self, store: Store) -> None:
        """What is stored belongs to another night: the truth begins above it."""
        for one in (broadcast(10), broadcast(20, 10)):
            await store.replay_log.append(one)
        result = await store.replay_log.extend([broadcast(30, 15)], tail=BASE + 20, floor=BASE + 20)
        assert result.outcome is AppendOutcome.APPENDED
        assert (await store.replay_log.read(TOPIC)).entries == (broadcast(30, 15),)

    @pytest.mark.parametrize("tail", [0, 15, 30])
    async def test_a_log_that_ends_elsewhere_is_left_alone(self, store: Store, tail: int) -> None:
        """Two routers rebuild the same topic: the one that comes second learns where the log ends now."""
        for one in (broadcast(10), broadcast(20, 10)):
            await store.replay_log.append(one)
        before = await store.replay_log.read(TOPIC)
        saw = BASE + tail if tail else 0
        refused = AppendResult(AppendOutcome.REFUSED, BASE + 20)
        late = Broadcast(topic=TOPIC, state_key="x", timestamp=BASE + 50, prev=saw, event_id="night")
        assert await store.replay_log.extend([late], tail=saw) == refused
        assert await store.replay_log.extend([broadcast(50, 45)], tail=saw, floor=BASE + 45) == refused
        assert await store.replay_log.read(TOPIC) == before

    async def test_as_many_as_one_step_may_take(self, store: Store) -> None:
        chain = [broadcast(number, number - 1) for number in range(1, MAX_EXTEND + 1)]
        assert (await store.replay_log.extend(chain, tail=0)).tail == BASE + MAX_EXTEND
        assert (await store.replay_log.read(TOPIC)).entries == tuple(chain)


class TestRevisions:
    async def test_many_at_once(self, store: Store) -> None:
        """More topics than one call takes; those that do not exist are left out."""
        topics = [f"event:e{number}" for number in range(1_203)]
        for number, topic in enumerate(topics[::100]):
            await store.view.put(schedule(number + 1, topic, f"e{number}"))
        found = await store.view.revisions(topics)
        assert found == {topic: number + 1 for number, topic in enumerate(topics[::100])}


class TestLife:
    async def test_whole_once_marked_in_this_life_and_in_no_other(self, store: Store) -> None:
        """The mark names the life it was made in: one left by a former life says nothing."""
        life = await store.view.life()
        assert life.name == (await store.view.life()).name
        await store.view.mark_whole(life.name)
        assert await store.view.life() == StoreLife(life.name, whole=True)

    async def test_an_emptied_store_is_not_whole(self, store: Store) -> None:
        if store.client is None:
            assert (await store.view.life()).whole, "memory is emptied by the end of its process only"
            return
        await store.view.mark_whole((await store.view.life()).name)
        await store.client.flushall()
        assert not (await store.view.life()).whole
        await store.view.mark_whole("a former life")
        assert not (await store.view.life()).whole


class TestTrim:
    async def fill(self, store: Store, count: int) -> None:
        for number in range(1, count + 1):
            await store.replay_log.append(broadcast(number * 10, (number - 1) * 10))

    async def test_beyond_the_newest_kept(self, store: Store) -> None:
        await self.fill(store, 5)
        assert await store.replay_log.trim(TOPIC, keep=2, before=0) == 3
        snapshot = await store.replay_log.read(TOPIC)
        assert (snapshot.floor, len(snapshot.entries)) == (BASE + 30, 2)

    async def test_older_than_a_time(self, store: Store) -> None:
        await self.fill(store, 5)
        assert await store.replay_log.trim(TOPIC, keep=100, before=BASE + 30) == 2
        assert (await store.replay_log.read(TOPIC)).floor == BASE + 20

    async def test_the_newest_always_stays(self, store: Store) -> None:
        await self.fill(store, 3)
        assert await store.replay_log.trim(TOPIC, keep=1, before=BASE + 1_000) == 2
        snapshot = await store.replay_log.read(TOPIC)
        assert [entry.timestamp for entry in snapshot.entries] == [BASE + 30]
        assert await store.replay_log.trim(TOPIC, keep=1, before=BASE + 1_000) == 0

    async def test_nothing_to_trim(self, store: Store) -> None:
        assert await store.replay_log.trim(TOPIC, keep=1, before=BASE) == 0
        assert await store.replay_log.read(TOPIC) == await store.replay_log.read(TOPIC)


class TestTails:
    async def test_many_at_once_with_unknown_ones_at_zero(self, store: Store) -> None:
        """More topics than one pipeline takes, so that the parts are put together rightly."""
        topics = [f"event:e{number}" for number in range(1_203)]
        for number, topic in enumerate(topics[::100]):
            await store.replay_log.append(broadcast(number + 1, topic=topic))
        tails = await store.replay_log.tails(topics)
        assert list(tails) == topics
        assert [tails[topic] for topic in topics[::100]] == [BASE + number + 1 for number in range(13)]
        assert sum(1 for tail in tails.values() if tail == 0) == len(topics) - 13

    async def test_of_nothing(self, store: Store) -> None:
        assert await store.replay_log.tails([]) == {}


OPERATION = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 12), st.integers(0, 11), st.sampled_from(["live", "over"])),
    st.tuples(st.just("extend"), st.integers(0, 12), st.integers(0, 3), st.integers(1, 3), st.booleans()),
    st.tuples(st.just("trim"), st.integers(1, 4), st.integers(0, 13)),
)


def links_of(topic: str, prev: int, count: int) -> list[Broadcast]:
    """A chain of `count` that begins after `prev`."""
    chain: list[Broadcast] = []
    for _ in range(count):
        timestamp = max(prev, BASE) + 2
        chain.append(Broadcast(topic=topic, state_key="live", timestamp=timestamp, prev=prev, event_id="night"))
        prev = timestamp
    return chain


class TestAgainstTheRules:
    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(operations=st.lists(OPERATION, max_size=25))
    async def test_any_sequence_does_what_the_pure_log_does(self, store: Store, operations: list[tuple]) -> None:  # type: ignore[type-arg]
        """Random appends, floors and trims, each answer and the whole state compared with contract.replay_log."""
        topic = f"event:h{id(operations)}-{await self.unused(store)}"
        model = TopicLog(topic)
        for operation in operations:
            match operation:
                case ("append", at, prev, state) if prev < at:
                    one = broadcast(at, prev, state=state, topic=topic)
                    assert await store.replay_log.append(one) == model.append(one)
                case ("extend", saw, lost, count, fits):
                    tail = model.tail if fits else (BASE + saw if saw else 0)
                    prev = max(tail + lost, BASE if lost else 0)
                    chain = links_of(topic, prev, count)
                    floor = prev if lost else None
                    result = await store.replay_log.extend(chain, tail=tail, floor=floor)
                    assert result == model.extend(chain, tail=tail, floor=floor)
                case ("trim", keep, before):
                    dropped = await store.replay_log.trim(topic, keep=keep, before=BASE + before)
                    assert dropped == model.trim(keep=keep, before=BASE + before)
            assert await store.replay_log.read(topic) == model.snapshot()
            assert await store.replay_log.tails([topic]) == {topic: model.tail}

    async def unused(self, store: Store) -> int:
        self.count = getattr(self, "count", 0) + 1
        return self.count


class TestScheduleView:
    async def test_the_higher_revision_wins(self, store: Store) -> None:
        assert await store.view.put(schedule(3))
        assert not await store.view.put(schedule(2))
        assert not await store.view.put(schedule(3))
        assert (await store.view.schedules([TOPIC]))[TOPIC].revision == 3
        assert await store.view.put(schedule(12))
        assert await store.view.schedules([TOPIC, "event:unknown"]) == {TOPIC: schedule(12)}
        assert await store.view.revisions([TOPIC, "event:unknown"]) == {TOPIC: 12}

    async def test_topics_of_an_event(self, store: Store) -> None:
        assert await store.view.topics_of("night") == ()
        for topic in ("event:night@us", "event:night", "event:night@eu"):
            await store.view.put(schedule(1, topic))
        await store.view.put(schedule(1, "event:day", "day"))
        assert await store.view.topics_of("night") == ("event:night", "event:night@eu", "event:night@us")
        assert await store.view.events() == ("day", "night")

    async def test_a_shadow_is_found_by_its_id_and_listed_nowhere(self, store: Store) -> None:
        played = msgspec.structs.replace(schedule(1, "shadow:s-1", "s-1"), shadow_of="night")
        await store.view.put(schedule(1))
        await store.view.put(played)
        assert await store.view.events() == ("night",)
        assert await store.view.topics_of("s-1") == ("shadow:s-1",)
        assert await store.view.schedules(["shadow:s-1"]) == {"shadow:s-1": played}

    async def test_nothing_asked_nothing_found(self, store: Store) -> None:
        assert await store.view.schedules([]) == {}
        assert await store.view.revisions([]) == {}
        assert await store.view.events() == ()


def lease(node_id: str, incarnation: str = "a", address: str = "127.0.0.1:9000") -> NodeLease:
    return NodeLease(node_id=node_id, incarnation=incarnation, link_address=address)


class TestNodeLeases:
    async def test_alive_until_they_expire(self, store: Store) -> None:
        await store.leases.renew(lease("n1"), lifetime_s=0.2)
        await store.leases.renew(lease("n2"), lifetime_s=30)
        assert sorted(await store.leases.alive(), key=lambda one: one.node_id) == [lease("n1"), lease("n2")]
        await store.let_pass(0.35)
        assert list(await store.leases.alive()) == [lease("n2")]
        await store.leases.renew(lease("n1"), lifetime_s=30)
        assert len(list(await store.leases.alive())) == 2

    async def test_a_restart_replaces_its_former_self(self, store: Store) -> None:
        await store.leases.renew(lease("n1", "a"), lifetime_s=30)
        await store.leases.renew(lease("n1", "b", "127.0.0.1:9001"), lifetime_s=30)
        assert list(await store.leases.alive()) == [lease("n1", "b", "127.0.0.1:9001")]

    async def test_a_late_release_does_not_touch_the_newer_incarnation(self, store: Store) -> None:
        await store.leases.renew(lease("n1", "b"), lifetime_s=30)
        await store.leases.release(lease("n1", "a"))
        assert list(await store.leases.alive()) == [lease("n1", "b")]
        await store.leases.release(lease("n1", "b"))
        await store.leases.release(lease("n1", "b"))
        assert list(await store.leases.alive()) == []


class TestRedisAlone:
    async def test_a_server_that_does_not_answer_is_store_unavailable(self) -> None:
        """Nobody listens on the port: every port method says the same."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
            client = connect_redis(f"redis://127.0.0.1:{taken.getsockname()[1]}", timeout_s=0.2, connect_timeout_s=0.2)
            log, view, leases = RedisReplayLog(client), RedisScheduleView(client), RedisNodeLeases(client)
            for call in (
                log.append(broadcast(10)),
                log.extend([broadcast(10)], tail=0),
                log.trim(TOPIC, keep=1, before=1),
                log.read(TOPIC),
                log.tails([TOPIC]),
                view.put(schedule(1)),
                view.schedules([TOPIC]),
                view.revisions([TOPIC]),
                view.topics_of("night"),
                view.events(),
                view.life(),
                view.mark_whole("x"),
                leases.renew(lease("n1"), lifetime_s=1),
                leases.release(lease("n1")),
                leases.alive(),
            ):
                with pytest.raises(StoreUnavailable):
                    await call
            await client.aclose()

    async def test_a_silent_server_is_store_unavailable_within_the_timeout(self) -> None:
        """A server that accepts and never answers costs the timeout, not for ever."""

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(hold, "127.0.0.1", 0)
        client = connect_redis(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=0.1)
        async with asyncio.timeout(3):
            with pytest.raises(StoreUnavailable):
                await RedisReplayLog(client).read(TOPIC)
        await client.aclose()
        server.close()
        await server.wait_closed()

    async def test_a_silent_server_is_asked_once_one_that_hung_up_twice(self) -> None:
        """A timeout is not repeated: whoever waits has a deadline. A connection closed while idle is."""
        asked = 0

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            asked += 1
            if hang_up:
                writer.close()
            else:
                await reader.read()
                writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        client = connect_redis(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=0.1)
        for hang_up, times in ((False, 1), (True, 2)):  # noqa: B007 - read by the server
            asked = 0
            with pytest.raises(StoreUnavailable):
                await RedisReplayLog(client).read(TOPIC)
            assert asked == times
        await client.aclose()
        server.close()
        await server.wait_closed()

    @pytest.mark.external_service
    async def test_a_cluster_is_opened_by_its_address_and_nothing_else_is(self, cluster_url: str) -> None:
        """`redis+cluster://` says what is there; a plain address of a cluster's node is refused."""
        await _form_cluster(cluster_url)
        async with open_kv(cluster_url.replace("redis:", "redis+cluster:")) as kv:
            await kv.schedule_view.put(schedule(1))
            assert await kv.schedule_view.revisions([TOPIC]) == {TOPIC: 1}
        with pytest.raises(InvalidRequest, match="in mode cluster"):
            async with open_kv(cluster_url):
                pytest.fail("opened")

    async def test_what_is_not_ours_is_store_unavailable(self) -> None:
        """A corrupted entry is an error of the store, never a crash of the reader."""
        client = FakeAsyncRedis()
        for rubbish in (b"rubbish", b'{"topic":"\xff"}'):
            await client.flushall()
            await client.zadd("stagecue:{event:night}:log", {rubbish: BASE})
            with pytest.raises(StoreUnavailable, match="not ours"):
                await RedisReplayLog(client).read(TOPIC)
        await client.aclose()

    async def test_scripts_survive_a_server_that_forgot_them(self) -> None:
        """SCRIPT FLUSH stands for a restart or a failover: the next call brings the text along."""
        client = FakeAsyncRedis()
        log = RedisReplayLog(client)
        await log.append(broadcast(10))
        await client.script_flush()
        assert (await log.append(broadcast(20, 10))).outcome is AppendOutcome.APPENDED
        await client.aclose()
