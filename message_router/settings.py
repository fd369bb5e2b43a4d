"""Settings of the message router, read from `ROUTER_*`."""

from __future__ import annotations

import ipaddress

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from contract.runtime.settings import ServiceSettings

__all__ = ["RouterSettings"]


class RouterSettings(ServiceSettings):
    """How long the router waits for whom, and what it holds at most."""

    model_config = SettingsConfigDict(env_prefix="ROUTER_")

    router_id: str = Field("router-1", description="Name told to push nodes; unique among routers.")
    replay_window_s: float = Field(
        86_400.0,
        gt=0,
        description="How far back a rebuild reads the log: a device away for a day is still replayed to.",
    )
    replay_keep: int = Field(
        1_000, ge=1, description="Newest broadcasts kept per topic: an event has dozens, its rewinds and cues included."
    )
    node_deadline_s: float = Field(
        0.5, gt=0, description="A node that has not acknowledged by then is behind and no longer awaited."
    )
    store_patience_s: float = Field(
        0.2, gt=0, description="An append that takes longer is made up later: the audience does not wait for the store."
    )
    max_unacked_batches: int = Field(
        128, ge=1, description="Batches out to one node at once; what comes meanwhile goes out in larger ones."
    )
    max_pending_broadcasts: int = Field(
        4_096, ge=1, description="Broadcasts waiting for one slow node before its link is closed and it starts over."
    )
    max_batch_items: int = Field(256, ge=1, description="Broadcasts and schedules in one batch; about 64 KB.")
    max_in_flight: int = Field(
        20_000, ge=1, description="Entries taken from the log and not yet finished, per router; polling pauses there."
    )
    max_concurrent_appends: int = Field(
        64, ge=1, description="Appends under way at once; one per topic, spread over the store's connections."
    )
    max_recent_topics: int = Field(10_000, ge=1, description="Topics whose stored tails are compared every second.")
    max_topics_per_link: int = Field(200_000, ge=1, description="Topics one node may be interested in.")
    max_pending_reach: int = Field(
        50_000, ge=1, description="Reach counts waiting for the store; beyond it the oldest go (nodes repeat them)."
    )
    max_pending_coverage: int = Field(
        50_000,
        ge=1,
        description="Shares of coverage waiting for the store; beyond it the oldest go (nodes repeat).",
    )
    poll_max_entries: int = Field(500, ge=1, description="Entries taken from the log at once.")
    poll_timeout_s: float = Field(1.0, gt=0, description="How long one poll waits for the first entry.")
    commit_interval_s: float = Field(
        0.2, gt=0, description="Pause between commits: a crash repeats at most this much, and repeats are dropped."
    )
    tail_check_interval_s: float = Field(1.0, gt=0, description="Pause between comparisons of stored tails with ours.")
    reach_interval_s: float = Field(0.25, gt=0, description="Pause between writes of reach counts.")
    coverage_interval_s: float = Field(
        1.0, gt=0, description="Pause between writes of coverage; below a third of the 15 s after which a share is old."
    )
    retry_first_s: float = Field(0.05, gt=0, description="First pause after a failed call to the log or the store.")
    retry_cap_s: float = Field(1.0, gt=0, description="Longest such pause: recovery is noticed within a second.")
    hello_timeout_s: float = Field(2.0, gt=0, description="How long a new link may take to say hello.")
    ping_interval_s: float = Field(1.0, gt=0, description="Pause between pings on a link that is otherwise silent.")
    silence_s: float = Field(4.0, gt=0, description="A link from which nothing was heard for this long is closed.")
    allowed_networks: tuple[str, ...] = Field(
        ("127.0.0.0/8", "::1/128"),
        description="Networks push nodes may live in; a lease that names another address is ignored.",
    )
    discover_interval_s: float = Field(1.0, gt=0, description="Pause between looks for new push nodes in the leases.")
    connect_timeout_s: float = Field(2.0, gt=0, description="How long connecting to a node and its handshake may take.")
    max_nodes: int = Field(4_096, ge=1, description="Push nodes one router links to.")
    start_patience_s: float = Field(
        5.0, gt=0, description="How long start-up waits for the first rebuild before serving without it."
    )
    drain_s: float = Field(5.0, gt=0, description="How long a stop waits for acknowledgements before it commits.")

    @field_validator("allowed_networks")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network)
        return networks

    @model_validator(mode="after")
    def _relations(self) -> RouterSettings:
        if self.silence_s <= 3 * self.ping_interval_s:
            raise ValueError("silence_s must exceed three ping_interval_s: one lost ping is no dead node")
        if self.retry_first_s > self.retry_cap_s:
            raise ValueError("retry_first_s must not exceed retry_cap_s")
        if self.poll_max_entries > self.max_in_flight:
            raise ValueError("poll_max_entries must not exceed max_in_flight")
        return self
