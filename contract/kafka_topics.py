"""The Kafka topics, pure: how producer and router declare them, and where one that exists differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from contract.names import KAFKA_BROADCASTS, KAFKA_DEAD_LETTERS, KAFKA_SCHEDULE

__all__ = ["KafkaTopic", "declared_topics", "differences"]

_NO_LIMIT: Final = 9_223_372_036_854_775_807
"""The largest value Kafka takes for a number of milliseconds."""


class KafkaTopic(msgspec.Struct, frozen=True, kw_only=True):
    """One Kafka topic as it is created."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


def declared_topics(
    *, partitions: int, replication_factor: int, min_insync_replicas: int, retention_ms: int
) -> tuple[KafkaTopic, ...]:
    """What must exist before anything is sent or taken."""
    common = {
        "min.insync.replicas": str(min_insync_replicas),
        # A replica that fell behind would take acknowledged broadcasts back.
        "unclean.leader.election.enable": "false",
        # A record's timestamp is the broadcast's cursor (R1): whoever's clock is wrong, it is not refused.
        "message.timestamp.type": "CreateTime",
        "message.timestamp.after.max.ms": str(_NO_LIMIT),
        "message.timestamp.before.max.ms": str(_NO_LIMIT),
    }
    delete = {**common, "cleanup.policy": "delete", "retention.ms": str(retention_ms)}
    return (
        KafkaTopic(name=KAFKA_BROADCASTS, partitions=partitions, replication_factor=replication_factor, config=delete),
        KafkaTopic(
            name=KAFKA_SCHEDULE,
            partitions=partitions,
            replication_factor=replication_factor,
            config={**common, "cleanup.policy": "compact"},
        ),
        KafkaTopic(name=KAFKA_DEAD_LETTERS, partitions=1, replication_factor=replication_factor, config=delete),
    )


def differences(declared: KafkaTopic, partitions: int, config: Mapping[str, str]) -> tuple[str, ...]:
    """Where an existing topic would break a rule, for people; retention may be longer than declared.

    Replicas are not compared: whoever runs the brokers may move and add them.
    """
    found = []
    if partitions != declared.partitions:
        # Another number would send an event's broadcasts to two partitions, out of order.
        found.append(
            f"{declared.name} has {partitions} partitions, {declared.partitions} are declared (KAFKA_PARTITIONS)"
        )
    for name in ("cleanup.policy", "message.timestamp.type"):
        wanted = declared.config.get(name)
        if wanted is not None and config.get(name, wanted) != wanted:
            found.append(f"{declared.name} has {name}={config[name]}, it must be {wanted}")
    for name in ("retention.ms", "message.timestamp.after.max.ms", "message.timestamp.before.max.ms"):
        wanted, has = declared.config.get(name), config.get(name)
        if wanted is not None and has is not None and 0 <= int(has) < int(wanted):
            found.append(f"{declared.name} has {name}={has}, it must be at least {wanted}{_SETTING.get(name, '')}")
    return tuple(found)


_SETTING: Final = {"retention.ms": " (KAFKA_BROADCAST_RETENTION_S)"}
