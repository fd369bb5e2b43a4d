"""Settings of the log between producer and router when it is Kafka, read from `KAFKA_*`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from contract.kafka_topics import KafkaTopic, declared_topics
from contract.runtime.settings import ServiceSettings

__all__ = ["KafkaSettings"]


class KafkaSettings(ServiceSettings):
    """Where the brokers are, who we are to them, what their topics look like, and how long we wait for them."""

    model_config = SettingsConfigDict(env_prefix="KAFKA_")

    bootstrap_servers: str | None = Field(
        None, description="host:port of one or more brokers, by commas; none: the log is the producer's own outbox."
    )
    client_id: str = Field("stagecue", description="Name under which brokers log and meter us.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="What the brokers' listener speaks; in the clear only on a trusted network."
    )
    ca_file: Path | None = Field(
        None, description="PEM certificates that sign the brokers'; none: those the system trusts."
    )
    certificate_file: Path | None = Field(
        None, description="Our own PEM certificate, key included or in key_file, for brokers that ask for one."
    )
    key_file: Path | None = Field(None, description="PEM private key of certificate_file, not encrypted.")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How we log in where the protocol says SASL; PLAIN sends the password itself."
    )
    sasl_username: str | None = Field(None, description="Needed where the protocol says SASL.")
    sasl_password: SecretStr | None = Field(None, description="Needed where the protocol says SASL.")
    partitions: int = Field(
        12,
        ge=1,
        le=10_000,
        description="Of stage.broadcasts and stage.schedule: the most routers that share the work; fixed for good.",
    )
    replication_factor: int = Field(
        1, ge=1, le=9, description="Copies of each partition; 1 for one broker, 3 in production."
    )
    min_insync_replicas: int = Field(
        1, ge=1, le=9, description="Copies that must have a broadcast before it counts; 2 in production."
    )
    broadcast_retention_s: float = Field(
        604_800.0,
        ge=60,
        description="How long stage.broadcasts keeps what happened; longer than the router's replay window: a week.",
    )
    connect_timeout_s: float = Field(
        3.0, gt=0, le=8, description="How long one broker may take to answer at a start, which says why within 10 s."
    )
    send_timeout_s: float = Field(
        2.0,
        gt=0,
        description="How long a broadcast may take to be durable before it counts as failed and other topics go on.",
    )
    renew_after_s: float = Field(
        15.0, gt=0, description="A client that got nowhere for this long is replaced by a new one."
    )
    session_timeout_ms: int = Field(
        6_000, ge=1_000, description="A router silent for this long loses its partitions to the others."
    )
    heartbeat_interval_ms: int = Field(
        500, ge=50, description="Pause between a router's signs of life, and how soon it learns of a rebalance."
    )
    max_poll_interval_ms: int = Field(
        300_000, ge=10_000, description="A router that takes nothing from the log for this long leaves the group."
    )
    health_interval_s: float = Field(
        1.0, gt=0, description="Pause between questions to the brokers that tell readiness and lag."
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers(cls, servers: str | None) -> str | None:
        if servers is None or not servers.strip():
            return None
        for server in servers.split(","):
            host, colon, port = server.strip().rpartition(":")
            if not host or not colon or not port.isdecimal() or not 0 < int(port) < 65_536:
                raise ValueError("host:port, several by commas, as in kafka-1:9092,kafka-2:9092")
        return servers

    @model_validator(mode="after")
    def _relations(self) -> KafkaSettings:
        if self.uses_sasl and (self.sasl_username is None or self.sasl_password is None):
            raise ValueError("security_protocol with SASL needs sasl_username and sasl_password")
        if self.session_timeout_ms < 3 * self.heartbeat_interval_ms:
            raise ValueError("session_timeout_ms must be at least three heartbeat_interval_ms: one lost is no death")
        if self.min_insync_replicas > self.replication_factor:
            raise ValueError("min_insync_replicas must not exceed replication_factor: nothing could be written")
        if self.renew_after_s <= self.send_timeout_s:
            raise ValueError("renew_after_s must exceed send_timeout_s: a slow broker is not a broken client")
        if self.key_file is not None and self.certificate_file is None:
            raise ValueError("key_file needs certificate_file")
        return self

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    @property
    def uses_tls(self) -> bool:
        return self.security_protocol.endswith("SSL")

    @property
    def servers(self) -> tuple[str, ...]:
        """host:port of each broker named; empty without Kafka."""
        return tuple(server.strip() for server in (self.bootstrap_servers or "").split(",") if server.strip())

    @property
    def topics(self) -> tuple[KafkaTopic, ...]:
        """The Kafka topics as these settings declare them."""
        return declared_topics(
            partitions=self.partitions,
            replication_factor=self.replication_factor,
            min_insync_replicas=self.min_insync_replicas,
            retention_ms=round(self.broadcast_retention_s * 1000),
        )
