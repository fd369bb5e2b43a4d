"""Settings of a push node; environment prefix PUSH_."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from contract.errors import InvalidRequest
from contract.runtime.settings import ServiceSettings
from push_proxy.admission import AdmissionLimits, capacity, parse_networks
from push_proxy.origins import parse_origins
from push_proxy.reconnect_window import WindowRule

__all__ = ["PushSettings"]


class PushSettings(ServiceSettings):
    """Everything a push node can be told. Times carry their unit in their name."""

    model_config = SettingsConfigDict(env_prefix="PUSH_")

    node_id: str = Field("", description="Name of this node; empty: host name and port, unique on one network.")

    # Connections.
    max_connections: int = Field(
        18_000, ge=1, description="Connections held at most; below the 20,000 open files a process commonly gets."
    )
    reserved_files: int = Field(
        200, ge=0, description="Open files left for links, stores and logs; connections take what is left at most."
    )
    backlog: int = Field(4096, ge=1, description="Connections the kernel may queue while the loop is busy.")
    handshake_timeout_s: float = Field(5.0, gt=0, description="From accept to a complete request; ends slow requests.")
    max_request_head_bytes: int = Field(16_384, ge=1024, description="Request line and headers; a token fits 20 times.")
    subscribe_deadline_s: float = Field(10.0, gt=0, description="A connection that asks for nothing is closed.")
    authentication_deadline_s: float = Field(
        5.0, gt=0, description="graphql-transport-ws: from upgrade to connection_init with its token."
    )
    close_timeout_s: float = Field(2.0, gt=0, description="Wait for the peer's half of a close, then cut off.")
    slow_consumer_bytes: int = Field(
        65_536,
        ge=4096,
        description="Bytes held back, coalesced, for a reader that takes no more; 64 KiB are written already.",
    )
    slow_consumer_s: float = Field(20.0, gt=0, description="How long a device may lag behind what waits for it.")
    max_errors: int = Field(100, ge=1, description="Error frames after which a connection is closed; above 64 topics.")

    # Admission.
    handshakes_per_s: float = Field(
        5_000.0, gt=0, description="Connects admitted in the long run: about 40 % of a core; lower it with TLS."
    )
    handshake_burst: int = Field(
        20_000, ge=1, description="Connects admitted at once: a node is filled in seconds, cheaper than refusing."
    )
    connections_per_address: int = Field(
        2_000, ge=1, description="Connections of one address, an IPv6 /64; a carrier's NAT holds that many."
    )
    handshakes_per_address_per_s: float = Field(
        20.0, gt=0, description="Connects of one address in the long run: its devices' lifetimes need one a second."
    )
    handshake_burst_per_address: int = Field(
        2_000, ge=1, description="Connects of one address at once: all its devices return from an outage together."
    )
    exempt_networks: str = Field(
        "127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7",
        description="No limits per address here: proxies and load balancers, each many devices; by commas.",
    )
    allowed_origins: str = Field(
        "*",
        description="Pages that may connect, by commas: https://tv.example.com, https://*.example.com, null; * allows "
        "all, since the token admits and pages of others have none; empty: no page.",
    )
    tls_cert_file: Path | None = Field(
        None, description="PEM certificate chain: devices then speak wss here. Unset: plain, TLS ends in front."
    )
    tls_key_file: Path | None = Field(None, description="PEM key of it, unencrypted; unset: in the same file.")

    # Life of a connection.
    lifetime_min_s: float = Field(60.0, gt=0, description="Shortest life of a connection before its goaway.")
    lifetime_max_s: float = Field(
        14_400.0, gt=0, description="Longest; the mean is about a quarter of it. A narrow range makes echoes of a herd."
    )
    stage_guard_s: float = Field(
        60.0, ge=0, description="No life and no expired token ends a connection this close to a due stage."
    )
    stage_guard_longest_s: float = Field(
        900.0,
        gt=0,
        description="Guards that run into each other for longer are not kept; nor is any token spared longer.",
    )
    ping_s: float = Field(30.0, gt=0, description="Interval of pings; below the 60 s after which middleboxes forget.")
    pong_deadline_s: float = Field(10.0, gt=0, description="Wait for a pong; finds half-open connections.")
    token_lifetime_s: float = Field(43_200.0, gt=0, description="Life of a token renewed in-band; outlives an event.")
    token_renew_before_s: float = Field(
        1_800.0, ge=0, description="Renewals are spread over this time before the end; 0 switches renewal off."
    )
    token_grace_s: float = Field(
        21_600.0,
        ge=0,
        description="A device back this long after its token's end is let in and renewed, not sent away.",
    )
    token_expiry_spread_s: float = Field(
        60.0, ge=0, description="Connections whose token was not renewed are closed over this time after its end."
    )
    reconnect_window_ms: int = Field(
        2_000,
        ge=0,
        description="Shortest window over which devices spread their return (R21); it grows with the fleet.",
    )
    reconnect_window_max_ms: int = Field(120_000, ge=0, description="Longest; then refusals and their growth pace.")
    accept_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of handshakes_per_s a return may use; the rest of the core is for broadcasts.",
    )
    refetch_window_ms: int = Field(60_000, ge=0, description="Window over which devices spread fetches (R19).")
    drain_s: float = Field(5.0, ge=0, description="Time over which goaways are spread; less than a supervisor waits.")
    drain_guard_s: float = Field(
        30.0, ge=0, description="No drain begins within this of a due stage, nor ends this shortly before one."
    )
    drain_defer_max_s: float = Field(
        10.0,
        ge=0,
        description="A drain waits this long for that at most; below the supervisor's kill time less drain_s.",
    )

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
    reach_report_s: float = Field(
        1.0, gt=0, description="Interval at which changed counts of reach and coverage are reported."
    )
    coverage_repeat_s: float = Field(
        10.0, gt=0, description="Interval at which unchanged coverage is repeated; it counts for three of these."
    )

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
        if self.reconnect_window_max_ms < self.reconnect_window_ms:
            raise ValueError("reconnect_window_max_ms must be at least reconnect_window_ms")
        if self.stage_guard_longest_s < 2 * self.stage_guard_s + self.reconnect_window_max_ms / 1000:
            raise ValueError(
                "stage_guard_longest_s must be at least two stage_guard_s and reconnect_window_max_ms: "
                "else no guard is ever kept"
            )
        if self.tls_key_file is not None and self.tls_cert_file is None:
            raise ValueError("tls_key_file needs tls_cert_file: a key without its certificate")
        return self

    @model_validator(mode="after")
    def _lists(self) -> Self:
        try:
            parse_networks(self.exempt_networks, field="exempt_networks")
            parse_origins(self.allowed_origins, field="allowed_origins")
        except InvalidRequest as exc:
            raise ValueError(str(exc)) from exc
        return self

    def admission_limits(self, file_limit: int | None) -> AdmissionLimits:
        """Limits of this node's Admission, under the process's limit of open files (None: there is none)."""
        return AdmissionLimits(
            capacity=capacity(self.max_connections, file_limit=file_limit, reserved_files=self.reserved_files),
            handshakes_per_s=self.handshakes_per_s,
            handshake_burst=self.handshake_burst,
            connections_per_address=self.connections_per_address,
            handshakes_per_address_per_s=self.handshakes_per_address_per_s,
            handshake_burst_per_address=self.handshake_burst_per_address,
            exempt=parse_networks(self.exempt_networks, field="exempt_networks"),
        )

    def window_rule(self) -> WindowRule:
        return WindowRule(self.reconnect_window_ms, self.reconnect_window_max_ms, self.accept_share)

    @property
    def grace_s(self) -> float:
        """How long an expired token still lets a device in: not at all where nothing would renew it."""
        return self.token_grace_s if self.token_renew_before_s > 0 else 0.0

    def resolved_node_id(self, port: int) -> str:
        """The configured name, or one made of host name and port."""
        return self.node_id or f"{socket.gethostname()}-{port}"
