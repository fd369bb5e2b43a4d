"""Settings of an installation on one machine; each service's own settings stand beside these."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from contract.runtime.settings import ServiceSettings

__all__ = ["InstallationSettings"]


class InstallationSettings(ServiceSettings):
    """What `stagecue up` and the single-service commands are told, by option or by `STAGECUE_` variable."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="STAGECUE_", extra="ignore", env_nested_delimiter="__", hide_input_in_errors=True
    )

    data_dir: Path = Field(Path("stagecue-data"), description="Database, keys and operator token live here.")
    host: str = Field("127.0.0.1", description="Address to listen on; loopback until somebody decides otherwise.")
    port_base: int = Field(
        8400,
        ge=1,
        le=65000,
        description="Producer API; then DGS, push node; apart also its listener for routers, the router's health.",
    )
    public_host: str | None = Field(
        None, description="Host name devices are told in broadcastChannel; default: the listening address."
    )
    link_host: str = Field(
        "127.0.0.1",
        description="Address of the push node's listener for routers when services run apart; told in its lease.",
    )
    link_told: str | None = Field(
        None,
        description="ip:port of the push node's listener for routers as its lease tells it, where something stands "
        "between, a proxy or NAT; with several workers it is the first one's, the others' ports rise by two. Default: "
        "link_host and its port.",
    )
    push_workers: int = Field(
        1, ge=1, le=128, description="Push nodes behind the one device port, a process each; one per core is plenty."
    )
    worker_port_base: int | None = Field(
        None,
        ge=1,
        le=65_000,
        description="With several push workers: worker 0's own health and metrics, then its listener for routers, then "
        "worker 1's two, and so on, all on link_host; default: port_base + 100.",
    )
    kv_url: str | None = Field(
        None,
        description="redis:// or redis+cluster:// address of the KV store; services apart need it. Default: in memory.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG shows every decision; INFO what changed; WARNING and ERROR what wants a person."
    )
    log_format: Literal["json", "console"] | None = Field(
        None, description="json or console; default: console on a terminal."
    )
    stop_deadline_s: float = Field(
        20.0, gt=0, description="Whole drain after SIGTERM; keep it below the supervisor's kill time."
    )
    failpoint: str | None = Field(None, description="Tests only: die at this named point as kill -9 would.")
    failpoint_skip: int = Field(0, ge=0, description="Tests only: pass the failpoint this often first.")

    @field_validator("link_host")
    @classmethod
    def _link_host_can_be_told(cls, host: str) -> str:
        try:
            useless = ipaddress.ip_address(host).is_unspecified
        except ValueError:
            raise ValueError("an IP address: routers ask no resolver") from None
        if useless:
            raise ValueError("an address routers can connect to, not the one that means all of them")
        return host

    @field_validator("link_told")
    @classmethod
    def _link_told_is_an_address(cls, told: str | None) -> str | None:
        if told is None:
            return None
        host, _, port = told.rpartition(":")
        if not port.isdecimal() or not 0 < int(port) < 65_536:
            raise ValueError("ip:port, as in 10.0.0.7:8403")
        cls._link_host_can_be_told(host.removeprefix("[").removesuffix("]"))
        return told

    @model_validator(mode="after")
    def _workers_have_ports(self) -> Self:
        if self.push_workers == 1:
            return self
        first, end = self.worker_pages_port(0), self.worker_link_port(self.push_workers - 1)
        if first <= self.router_port and self.port_base <= end:
            raise ValueError(f"worker_port_base: ports {first} to {end} of the workers meet those from port_base on")
        return self

    @property
    def producer_port(self) -> int:
        return self.port_base

    @property
    def dgs_port(self) -> int:
        return self.port_base + 1

    @property
    def push_port(self) -> int:
        return self.port_base + 2

    @property
    def link_port(self) -> int:
        """The push node's internal listener for routers, when services run apart."""
        return self.port_base + 3

    @property
    def router_port(self) -> int:
        """The router's listener for health, readiness and metrics, when services run apart."""
        return self.port_base + 4

    def worker_pages_port(self, index: int) -> int:
        """Where worker `index` of several answers /healthz, /readyz, /status and /metrics itself."""
        base = self.port_base + 100 if self.worker_port_base is None else self.worker_port_base
        return base + 2 * index

    def worker_link_port(self, index: int) -> int:
        """The listener for routers of worker `index` of several."""
        return self.worker_pages_port(index) + 1

    def worker_link_told(self, index: int) -> str | None:
        """What the lease of worker `index` tells: `link_told` is worker 0's, its port rises as theirs do."""
        if self.link_told is None:
            return None
        host, _, port = self.link_told.rpartition(":")
        return f"{host}:{int(port) + 2 * index}"

    def url(self, scheme: str, port: int) -> str:
        host = self.public_host or self.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
