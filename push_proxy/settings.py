"""Settings of a push node; environment prefix PUSH_."""

from __future__ import annotations

import socket
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from contract.runtime.settings import ServiceSettings

__all__ = ["PushSettings"]


class PushSettings(ServiceSettings):
    """Everything a push node can be told. Times carry their unit in their name."""

    model_config = SettingsConfigDict(env_prefix="PUSH_")

    node_id: str = Field("", description="Name of this node; empty: host name and port, unique on one network.")

    # Connections.
    max_connections: int = Field(
        18_000, ge=1, description="Connections held at most; below the 20,000 open files a process commonly gets."
    )
    backlog: int = Field(4096, ge=1, description="Connections the kernel may queue while the loop is busy.")
    handshake_timeout_s: float = Field(5.0, gt=0, description="From accept to a complete request; ends slow requests.")
    max_request_head_bytes: int = Field(16_384, ge=1024, description="Request line and headers; a token fits 20 times.")
    subscribe_deadline_s: float = Field(10.0, gt=0, description="A connection that asks for nothing is closed.")
    close_timeout_s: float = Field(2.0, gt=0, description="Wait for the peer's half of a close, then cut off.")
    slow_consumer_bytes: int = Field(
        262_144, ge=4096, description="Unsent bytes after which a reader is too slow: about 2,000 broadcasts."
    )
    max_errors: int = Field(100, ge=1, description="Error frames after which a connection is closed; above 64 topics.")

    # Life of a connection.
    lifetime_min_s: float = Field(1_800.0, gt=0, description="Shortest life of a connection before its goaway.")
    lifetime_max_s: float = Field(
        5_400.0, gt=0, description="Longest; three times the shortest, since a narrow spread makes echoes of a herd."
    )
    ping_s: float = Field(30.0, gt=0, description="Interval of pings; below the 60 s after which middleboxes forget.")
    pong_deadline_s: float = Field(10.0, gt=0, description="Wait for a pong; finds half-open connections.")
    token_lifetime_s: float = Field(43_200.0, gt=0, description="Life of a token renewed in-band; outlives an event.")
    token_renew_before_s: float = Field(300.0, ge=0, description="How long before its end; 0 switches renewal off.")
    reconnect_window_ms: int = Field(10_000, ge=0, description="Window over which devices spread their return (R21).")
    refetch_window_ms: int = Field(60_000, ge=0, description="Window over which devices spread fetches (R19).")
    drain_s: float = Field(5.0, ge=0, description="Time over which goaways are spread; less than a supervisor waits.")

    # Topics.
    max_topics: int = Field(10_000, ge=1, description="Topics followed at most by this node.")
    verdict_wait_s: float = Field(0.5, gt=0, description="Wait of a subscriber before it is told `pending` (R14).")
    interest_ack_s: float = Field(0.5, gt=0, description="Bound on the routers' acknowledgement of interest (R14).")
    linger_s: float = Field(30.0, ge=0, description="A topic is followed this long after its last subscriber left.")
    ack_one_in: int = Field(100, ge=0, description="Share of devices asked to acknowledge a broadcast; 0: none.")
    ack_within_ms: int = Field(30_000, ge=1, description="Time over which those acknowledgements are spread.")

    # Store and routers.
    link_ping_s: float = Field(1.0, gt=0, description="Pause between pings on a router's link that is otherwise quiet.")
    link_silence_s: float = Field(4.0, gt=0, description="A link over which nothing was heard for this long is closed.")
    lease_s: float = Field(5.0, gt=0, description="Two of these without store or router isolate the node (R17).")
    kv_timeout_s: float = Field(2.0, gt=0, description="Bound on one read of the store; below the 3 s freshness lasts.")
    anti_entropy_s: float = Field(1.0, gt=0, description="Mean interval of comparing memory with the log, jittered.")
    reach_report_s: float = Field(1.0, gt=0, description="Interval at which changed reach counts are reported.")

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.lifetime_max_s < self.lifetime_min_s:
            raise ValueError("lifetime_max_s must be at least lifetime_min_s")
        if self.pong_deadline_s >= self.ping_s:
            raise ValueError("pong_deadline_s must be below ping_s")
        if self.link_silence_s <= 3 * self.link_ping_s:
            raise ValueError("link_silence_s must exceed three link_ping_s: one lost ping is no dead router")
        if self.link_ping_s >= self.lease_s:
            raise ValueError("link_ping_s must be below lease_s: a quiet router is heard within two leases")
        if self.anti_entropy_s + self.kv_timeout_s > 3.0:
            raise ValueError("anti_entropy_s + kv_timeout_s must not exceed the 3 s for which memory counts as fresh")
        if self.token_renew_before_s >= 0.9 * self.token_lifetime_s:
            raise ValueError("token_renew_before_s must be below 0.9 of token_lifetime_s, the shortest life drawn")
        return self

    def resolved_node_id(self, port: int) -> str:
        """The configured name, or one made of host name and port."""
        return self.node_id or f"{socket.gethostname()}-{port}"
