"""Records that say nothing to us: kept in a Kafka topic of their own with the reason, while their partition waits."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from contract.errors import InvalidRequest, LogUnavailable
from contract.records import dead_letter_record
from contract.runtime.kafka_sender import KafkaSender
from contract.runtime.runner import Readiness
from message_router.adapters.kafka_member import GroupMember

__all__ = ["DeadLetters"]

_CONDITION: Final = "router.dead-letters"
_RETRY_S: Final = 1.0
_REMEMBERED: Final = 10_000
_log = structlog.get_logger(__name__)


class DeadLetters:
    """At most one record per partition is on its way; nothing behind it is taken before it is kept."""

    def __init__(self, sender: KafkaSender, readiness: Readiness) -> None:
        self._sender = sender
        self._readiness = readiness
        self._moving: dict[int, asyncio.Task[None]] = {}
        self._kept: dict[int, set[int]] = {}
        """Offsets that are with the dead letters and not committed yet."""

    def take(self, member: GroupMember, partition: int, record: Any, reason: str) -> None:
        """Let the partition wait, keep the record, go on behind it. Returns at once."""
        assert partition not in self._moving, f"partition {partition} waits already"
        member.wait_at(partition, record.offset)
        task = asyncio.create_task(self._move(member, partition, record, reason), name=f"dead-letter-{partition}")
        self._moving[partition] = task

    def holds(self, partition: int) -> bool:
        """Whether the partition waits."""
        return partition in self._moving

    def beyond(self, partition: int, offset: int) -> int:
        """`offset`, moved on over dead letters: those are finished, too."""
        kept = self._kept.get(partition)
        if not kept:
            return offset
        self._kept[partition] = kept = {one for one in kept if one >= offset}
        while offset in kept:
            offset += 1
        return offset

    def forget(self, partition: int) -> None:
        """The partition is no longer ours; who has it now finds the record, too."""
        self._kept.pop(partition, None)
        if (task := self._moving.pop(partition, None)) is not None:
            task.cancel()
            self._held()

    def close(self) -> None:
        for partition in list(self._moving):
            self.forget(partition)

    async def _move(self, member: GroupMember, partition: int, record: Any, reason: str) -> None:
        letter = dead_letter_record(
            kafka_topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            headers=record.headers,
            reason=reason,
        )
        _log.error(
            "undecodable_record",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            why=reason,
        )
        while True:
            try:
                await self._sender.send(letter)
                break
            except LogUnavailable as exc:
                self._readiness.fail(_CONDITION, str(exc))
                await asyncio.sleep(_RETRY_S)
            except InvalidRequest as exc:
                # Too large even for the dead letters: its place and its reason are worth more than waiting for ever.
                _log.exception("dead_letter_refused", why=str(exc))
                break
        del self._moving[partition]
        self._held()
        kept = self._kept.setdefault(partition, set())
        if len(kept) < _REMEMBERED:
            kept.add(record.offset)
        member.go_on_at(partition, record.offset + 1)
        await self._commit_alone(member, partition, record)

    async def _commit_alone(self, member: GroupMember, partition: int, record: Any) -> None:
        """Finish a dead letter that nothing unfinished comes before: no other commit may follow for long."""
        if member.committed(partition) != record.offset:
            return
        try:
            await member.commit({partition: self.beyond(partition, record.offset)})
        except LogUnavailable as exc:
            _log.warning("dead_letter_not_committed", why=str(exc))  # after a restart it is found, and kept, again

    def _held(self) -> None:
        if not self._moving:
            self._readiness.hold(_CONDITION)
