"""Settings of the producer, read from PRODUCER_* variables."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from contract.runtime.settings import ServiceSettings

__all__ = ["ProducerSettings"]


class ProducerSettings(ServiceSettings):
    """Where the schedule lives, how the lease runs, and how late is late."""

    model_config = SettingsConfigDict(env_prefix="PRODUCER_")

    data_dir: Path = Field(
        default=Path("stagecue-data"),
        description="Directory of the SQLite database when `database_url` is not set; unset: STAGECUE_DATA_DIR.",
    )
    database_url: str | None = Field(
        default=None, description="SQLAlchemy URL of the schedule store; unset: producer.db in `data_dir`."
    )
    lease_length_s: float = Field(
        default=1.5, gt=0, le=60, description="How long a dead producer keeps others waiting; embedded nobody waits."
    )
    lease_renew_every_s: float = Field(
        default=0.4, gt=0, description="Three renewals fit into a lease, so that one slow commit does not lose it."
    )
    busy_timeout_s: float = Field(
        default=2.0, gt=0, le=60, description="How long a write waits for another process's lock on a SQLite file."
    )
    lock_wait_s: float = Field(
        default=2.0, ge=0, le=60, description="How long a start waits for another producer on the same file to end."
    )
    late_after_ms: int = Field(
        default=5_000,
        ge=0,
        description="Overdue by more than this, a stage of an event that opts out of late announcements is missed.",
    )

    coverage_fresh_s: float = Field(
        default=30.0,
        gt=0,
        description="A push node not heard from for this long no longer counts in coverage: three of its repeats.",
    )

    @model_validator(mode="after")
    def _relations(self) -> ProducerSettings:
        if self.lease_length_s <= 3 * self.lease_renew_every_s:
            raise ValueError("lease_length_s must be more than three times lease_renew_every_s")
        return self

    def url(self) -> str:
        """The database's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.data_dir / 'producer.db'}"
