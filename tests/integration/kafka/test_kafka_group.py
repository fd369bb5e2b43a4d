"""Routers share the log: partitions move between them, and nothing is lost, stuck or taken back."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownMemberIdError
from aiokafka.protocol.commit import OffsetCommitRequest

from contract.names import KAFKA_SCHEDULE
from contract.runtime.kafka_connect import ensure_topics
from contract.runtime.kafka_settings import KafkaSettings
from contract.schedule import TopicSchedule
from message_router.adapters.kafka_member import GroupMember
from tests.integration.kafka.kafka_world import BASE, broadcast, polled, publisher
from tests.support.kafka_server import kafka, kafka_group, kafka_server

__all__ = ["kafka", "kafka_group", "kafka_server"]
pytestmark = [pytest.mark.external_service, pytest.mark.timeout(180)]

EVENTS = [f"e{number}" for number in range(12)]


async def test_a_lone_router_gets_every_partition_of_both_topics(kafka: KafkaSettings, kafka_group: str) -> None:
    """Broadcasts and schedules arrive, each partition's in order, and what is committed is not given out again."""
    async with publisher(kafka) as log:
        async with polled(kafka, kafka_group) as router:
            await log.publish_schedule(
                TopicSchedule(topic="event:e0", event_id="e0", title="E", revision=1, version=1, starts_at=BASE)
            )
            for event in EVENTS:
                await log.publish_broadcast(broadcast(event, 1))
            await router.until(lambda: len(router.places) == len(EVENTS) + 1)
            assert sorted(router.ours) == [0, 1, 2, 1_000_000, 1_000_001, 1_000_002]
            assert {entry.schedule.topic for entry in router.entries if entry.schedule} == {"event:e0"}
            assert all(entry.traceparent for entry in router.entries)
            await router.commit()
        async with polled(kafka, kafka_group) as again:
            await log.publish_broadcast(broadcast("e0", 2))
            await again.until(lambda: bool(again.entries))
            assert [one.timestamp for one in again.broadcasts] == [BASE + 2]


async def test_routers_come_and_go_and_nothing_is_lost(kafka: KafkaSettings, kafka_group: str) -> None:
    """Three routers join and leave while broadcasts flow; everything is given out, per topic without a gap."""
    numbers = 60
    async with publisher(kafka) as log:

        async def night() -> None:
            for number in range(1, numbers + 1):
                for event in EVENTS:
                    await log.publish_broadcast(broadcast(event, number))
                await asyncio.sleep(0.05)

        async with polled(kafka, kafka_group) as first:
            await first.until(lambda: bool(first.ours))
            publishing = asyncio.create_task(night())
            async with polled(kafka, kafka_group) as second:
                await second.until(lambda: bool(second.ours))
                await first.until(lambda: 0 < len(first.ours) < 6)
                async with polled(kafka, kafka_group) as third:
                    await third.until(lambda: bool(third.ours))
                    await asyncio.sleep(0.3)
                seen = {(one.topic, one.timestamp) for one in (*second.broadcasts, *third.broadcasts)}
            await publishing
            wanted = {(f"event:{event}", BASE + number) for event in EVENTS for number in range(1, numbers + 1)}

            def everything() -> bool:
                late = (*first.broadcasts, *second.broadcasts, *third.broadcasts)
                return wanted <= seen | {(one.topic, one.timestamp) for one in late}

            await first.until(everything)
            await first.until(lambda: first.log.lag == 0)
            assert len(first.ours) == 6


async def test_what_was_not_committed_is_given_out_again(kafka: KafkaSettings, kafka_group: str) -> None:
    """A router that took entries and went away without finishing them loses nothing."""
    async with publisher(kafka) as log:
        async with polled(kafka, kafka_group, commits=False) as first:
            await first.until(lambda: len(first.ours) == 6)
            for number in range(1, 11):
                await log.publish_broadcast(broadcast("e0", number))
            await first.until(lambda: len(first.places) == 10)
            partition = first.entries[0].partition
            await first.log.commit({partition: 5})
        async with polled(kafka, kafka_group) as second:
            await second.until(lambda: len(second.places) == 5)
            assert [one.timestamp for one in second.broadcasts] == [BASE + number for number in range(6, 11)]


async def test_topics_that_appear_later_are_shared_out_soon(kafka: KafkaSettings, kafka_group: str) -> None:
    """Goal: a router that asked before its broker knew both Kafka topics does not wait a minute for its partitions."""
    (schedule,) = (topic for topic in kafka.topics if topic.name == KAFKA_SCHEDULE)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(schedule.name, schedule.partitions, 1, topic_configs=dict(schedule.config))])
    await admin.close()
    member = await GroupMember.join(kafka, kafka_group)
    try:
        await asyncio.sleep(2.0)
        await ensure_topics(kafka)
        found: dict[int, int] | None = None
        async with asyncio.timeout(20):
            while found is None or len(found) < 2 * kafka.partitions:
                await member.take(1, 0.1)
                if member.changed():
                    found = await member.positions()
                    member.handed_out(found or {})
    finally:
        await member.close()


async def test_a_commit_never_goes_backwards_nor_touches_what_is_not_ours(
    kafka: KafkaSettings, kafka_group: str
) -> None:
    """Lower offsets and partitions of others are left out without an error."""
    async with publisher(kafka) as log:
        async with polled(kafka, kafka_group, commits=False) as first:
            await first.until(lambda: len(first.ours) == 6)
            for number in range(1, 11):
                await log.publish_broadcast(broadcast("e0", number))
            await first.until(lambda: len(first.places) == 10)
            partition = first.entries[0].partition
            await first.log.commit({partition: 8})
            await first.log.commit({partition: 3, 77: 1})
        await first.log.commit({partition: 1})  # closed: whoever has it now goes on
        async with polled(kafka, kafka_group) as second:
            await second.until(lambda: bool(second.ours))
            assert second.ours[partition] == 8


async def test_a_router_that_polls_no_more_gives_its_partitions_up(kafka: KafkaSettings, kafka_group: str) -> None:
    """Goal: what a router that hangs was given reaches the audience by another one; it is back as soon as it polls."""
    hasty = kafka.model_copy(update={"max_poll_interval_ms": 10_000})
    async with publisher(kafka) as log, polled(hasty, kafka_group) as here, polled(hasty, kafka_group) as hung:

        def shared() -> bool:
            hung.check()
            return 0 < len(here.ours) < 6 and len(here.ours) + len(hung.ours) == 6

        await here.until(shared)
        await hung.stop()
        for event in EVENTS:
            await log.publish_broadcast(broadcast(event, 1))
        await here.until(lambda: len({one.topic for one in here.broadcasts}) == len(EVENTS))
        assert len(here.ours) == 6
        hung.go_on()
        await here.until(shared)


async def test_a_router_that_finds_no_place_to_start_from_joins_anew(kafka: KafkaSettings, kafka_group: str) -> None:
    """Goal: a client that broke is replaced even if it broke before it said where its new partitions begin."""
    hasty = kafka.model_copy(
        update={"renew_after_s": 3.0, "health_interval_s": 0.2, "session_timeout_ms": 2_000, "send_timeout_s": 1.0}
    )
    async with publisher(kafka) as log, polled(hasty, kafka_group) as here:
        await here.until(lambda: len(here.ours) == 6)
        broken = here.log._member
        broken._consumer._fetcher._fetch_task.cancel()
        async with polled(hasty, kafka_group) as there:
            await here.until(lambda: here.log._member is not broken)
            for event in EVENTS:
                await log.publish_broadcast(broadcast(event, 1))
            await here.until(lambda: len({one.topic for one in (*here.broadcasts, *there.broadcasts)}) == len(EVENTS))
            await here.until(lambda: 0 < len(here.ours) < 6 and len(here.ours) + len(there.ours) == 6)


async def test_a_router_whose_client_fails_unforeseen_joins_anew(kafka: KafkaSettings, kafka_group: str) -> None:
    """Goal: what looks after a client goes on, and has it replaced, whatever that client raises."""
    hasty = kafka.model_copy(update={"health_interval_s": 0.2})

    async def mistake() -> None:
        raise KeyError(1)

    async with publisher(kafka) as log, polled(hasty, kafka_group) as router:
        await router.until(lambda: len(router.ours) == 6)
        broken = router.log._member
        broken._look = mistake
        await router.until(lambda: router.log._member not in (broken, None) and len(router.ours) == 6)
        await log.publish_broadcast(broadcast("e0", 1))
        await router.until(lambda: bool(router.broadcasts))


async def test_a_commit_that_is_given_up_on_its_way_ends_unnoticed(kafka: KafkaSettings, kafka_group: str) -> None:
    """Goal: that an expelled router's commit is refused is no error that somebody lost."""
    lost: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: lost.append(told))
    on_its_way, refuse = asyncio.Event(), asyncio.Event()
    async with polled(kafka, kafka_group, commits=False) as router:
        await router.until(lambda: len(router.ours) == 6)
        member = router.log._member
        coordinator = member._consumer._coordinator
        send = coordinator._send_req

        async def refused(request: Any) -> Any:
            if not isinstance(request, OffsetCommitRequest):
                return await send(request)
            on_its_way.set()
            await refuse.wait()
            raise UnknownMemberIdError(kafka_group)

        coordinator._send_req = refused
        committing = asyncio.create_task(router.log.commit({0: 1}))
        await on_its_way.wait()
        member.on_partitions_revoked([])
        await committing
        refuse.set()
        await asyncio.sleep(0.1)
    gc.collect()
    assert not lost


async def test_reserve(kafka: KafkaSettings, kafka_group: str) -> None:
    """More routers than partitions: one is given none, polls without trouble, and steps in."""
    one = kafka.model_copy(update={"partitions": 1})
    async with publisher(one), polled(one, kafka_group) as first:
        await first.until(lambda: len(first.ours) == 2)
        async with polled(one, kafka_group) as second, polled(one, kafka_group) as third:
            await first.until(lambda: len(first.ours) + len(second.ours) + len(third.ours) == 2)
            await asyncio.sleep(1.5)
            assert sorted((len(first.ours), len(second.ours), len(third.ours))) == [0, 1, 1]
            assert not [*first.troubles, *second.troubles, *third.troubles]
        await first.until(lambda: len(first.ours) == 2)
