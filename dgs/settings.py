"""Settings of the DGS, read once from `DGS_...` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from contract.runtime.settings import ServiceSettings
from dgs.sources.catalog import DEMO_CATALOG

__all__ = ["DgsSettings"]


class DgsSettings(ServiceSettings):
    """Every value of the service; `build_dgs` hands the parts on."""

    model_config = SettingsConfigDict(env_prefix="DGS_")

    catalog_path: Path = Field(default=DEMO_CATALOG, description="CSV or JSON; the demo's 3,201 films by default.")
    catalog_strict: bool | None = Field(
        default=None,
        description="Refuse a catalog with a bad row, or (false) keep its good rows; unset: refuse all but the demo's.",
    )
    catalog_newest_year: int | None = Field(
        default=None,
        ge=1900,
        le=2200,
        description="Later years are read as 100 years earlier; unset: 2012 (demo) or 2035.",
    )
    catalog_repair: Literal["none", "mac-roman"] | None = Field(
        default=None, description="Undo a wrong decoding of the file; unset: mac-roman for the demo catalog, else none."
    )
    profiles_path: Path | None = Field(
        default=None, description="CSV profile_id,title_id[,region]; unset: profiles are generated from their ids."
    )
    default_region: str = Field(
        default="US", pattern=r"^[A-Z]{2}$", description="Region of CSV profiles without one (ISO 3166-1 alpha-2)."
    )
    profile_seed: int = Field(default=1, description="Seed of generated profiles; another seed is another audience.")
    titles_per_row: int = Field(default=4, ge=4, le=6, description="Titles in a row: each costs a device one picture.")
    artwork_base_url: str = Field(default="", description="Origin of artwork URLs, e.g. a CDN; empty: relative.")

    push_url: str = Field(
        default="ws://127.0.0.1:8402/v1/stream",
        description="Where broadcastChannel sends devices: one URL, or several separated by commas, handed out in "
        "turn; stagecue names its installation's push node when unset.",
    )
    connect_window_ms: int = Field(
        default=30_000,
        ge=0,
        description="Devices connect at a random moment of it; 0: at once, for demos.",
    )
    token_min_lifetime_s: int = Field(
        default=3600, ge=60, description="A device token lives at least this long, also for an event already over."
    )
    token_jitter_s: int = Field(
        default=3600,
        ge=0,
        description="Spread of token expiry, so that renewals make no herd.",
    )
    open_ended_event_s: int = Field(
        default=12 * 3600, ge=60, description="Length assumed of an event without an end, for its token."
    )

    ttl_mean_s: int = Field(default=6 * 3600, ge=10, description="Mean lifetime of a stage map on a device.")
    ttl_spread: float = Field(
        default=0.5,
        ge=0.0,
        lt=1.0,
        description="Half width of the range; narrow ranges echo as herds for days.",
    )
    ttl_stage_guard_s: int = Field(default=900, ge=0, description="No map expires this close to a stage of its event.")

    max_event_ids: int = Field(default=20, ge=1, le=200, description="Events in one broadcastChannel call.")
    max_home_events: int = Field(default=10, ge=1, le=50, description="Stage maps in one prefetchHome answer.")
    max_body_bytes: int = Field(default=64 * 1024, ge=1024, description="Longest GraphQL request body.")
    max_query_depth: int = Field(default=12, ge=4, description="Deepest GraphQL document; the schema itself needs 5.")
    max_query_aliases: int = Field(default=15, ge=0, description="Aliases in a document: each may repeat the work.")
    max_maps_per_request: int = Field(default=20, ge=1, description="Stage maps in one answer, whatever the document.")
    retry_after_mean_ms: int = Field(
        default=4_000,
        ge=100,
        description="Mean wait told with a retryable error, +-50 %.",
    )
    max_query_tokens: int = Field(
        default=1_000,
        ge=100,
        description="Tokens in a GraphQL document; a check may cost by their square, and the devices' own have 85.",
    )
    request_timeout_s: float = Field(
        default=10.0, gt=0, description="From the first byte of a request to its answer; reading the body counts."
    )
    profile_cache_entries: int = Field(
        default=100_000, ge=0, description="Profiles whose region and language are kept; some 300 B each."
    )
    title_cache_entries: int = Field(default=50_000, ge=0, description="Titles dressed for devices; under 1 KB each.")
    artwork_cache_entries: int = Field(default=4_096, ge=0, description="Drawn pictures kept; about 3 KB each.")
    max_head_bytes: int = Field(default=16 * 1024, ge=1024, description="Longest request line and header fields.")
    max_connections: int = Field(default=16_000, ge=1, description="Connections held at once; more are cut off.")
    idle_timeout_s: float = Field(default=75.0, gt=0, description="A connection without a request is closed after it.")
    pipelined_max: int = Field(default=16, ge=1, description="Requests of one connection that may wait for answers.")

    tokens: Literal["required", "optional", "off"] = Field(
        default="optional",
        description="Profile tokens: `required` on every prefetch; `optional`: one that is shown must be good and "
        "name the profile asked for.",
    )
    operations_path: Path | None = Field(
        default=None, description="JSON manifest of persisted operations, id to document; unset: the device's own."
    )
    operations_mode: Literal["any", "apq", "manifest"] = Field(
        default="any",
        description="`manifest`: only its operations; `apq`: and automatic ones by hash; `any`: whole documents, too.",
    )
    apq_entries: int = Field(default=1_000, ge=0, description="Automatic persisted operations kept.")
    apq_bytes: int = Field(default=4 * 1024 * 1024, ge=0, description="Bytes of documents kept for them.")
    introspection: bool = Field(default=False, description="Answer introspection; development only.")
    graphiql: bool = Field(default=False, description="Serve GraphiQL at GET /graphql; implies introspection.")

    recommendations: str = Field(
        default="materialised,catalog",
        description="Where picks come from, in order: `materialised`, `http`, `catalog`, or the name of a plug-in.",
    )
    catalog_source: str = Field(default="file", description="`file`, `sql`, or the name of a plug-in.")
    catalog_url: str = Field(default="", description="SQLAlchemy URL of the catalog for `sql`.")
    catalog_query: str = Field(default="SELECT * FROM titles", description="Its query; columns as in the CSV.")
    catalog_stamp_query: str = Field(
        default="", description="A query whose row changes with the catalog; unset: every look reads all of it."
    )
    profiles_source: str = Field(
        default="", description="`seeded`, `file`, or the name of a plug-in; unset: `file` if there is a path."
    )
    catalog_reload_s: float = Field(default=30.0, ge=0, description="How often the catalog is looked at; 0: never.")
    ranking_url: str = Field(default="", description="The ranking service of source `http`.")
    ranking_batch: int = Field(default=8, ge=1, description="Profiles asked for at once.")
    ranking_batch_wait_ms: float = Field(default=2.0, ge=0, description="How long a batch waits for more profiles.")
    ranking_concurrency: int = Field(default=64, ge=1, description="Calls of the ranking service under way at once.")
    ranking_deadline_ms: int = Field(default=250, ge=1, description="After it the next source is asked.")
    ranking_stale_s: float = Field(default=3600.0, ge=0, description="How old an answer of it may be when it fails.")
    picks_cache_bytes: int = Field(default=64 * 1024 * 1024, ge=0, description="Memory for picks; some 300 B each.")
    picks_ttl_s: float = Field(default=600.0, gt=0, description="Mean age at which picks are asked for anew.")
    fragment_cache_bytes: int = Field(default=64 * 1024 * 1024, ge=0, description="Memory for rendered titles.")
    materialised_path: Path | None = Field(
        default=None, description="Directory of materialised picks, read without a network; unset: the KV store."
    )
    materialised_keep_s: int = Field(default=7 * 24 * 3600, ge=60, description="How long those are kept.")
    schedule_poll_s: float = Field(default=1.0, gt=0, description="How often schedules are compared with the view.")
    schedule_stale_s: float = Field(default=900.0, gt=0, description="How long they are served while it is silent.")
    distinct_budget: int = Field(
        default=0, ge=0, description="Distinct answers per stage; beyond it profiles share their cohort's. 0: any."
    )
    cohorts: int = Field(default=256, ge=1, description="Cohorts profiles are sorted into when answers are shared.")

    ruleset_path: Path | None = Field(default=None, description="TOML rules of priorities; unset: the ones that ship.")
    ruleset_reload_s: float = Field(default=2.0, gt=0, description="How often that file is looked at.")
    queue_target_ms: float = Field(default=5.0, gt=0, description="Wait in the queue above which load is shed.")
    queue_max: int = Field(default=4_096, ge=16, description="Requests that may wait; the least important go first.")
    limit_min: int = Field(default=8, ge=1, description="Least concurrency of a dependency the limiter allows.")
    limit_max: int = Field(default=1_024, ge=1, description="Most concurrency of it.")
    cold_per_turn: int = Field(default=2, ge=1, description="Rankings computed before others are looked at again.")
    trusted_networks: str = Field(
        default="", description="Peers whose X-Stagecue-Class header may raise a class, networks by commas."
    )
    clusters_path: Path | None = Field(default=None, description="TOML of clusters and their scaling; unset: one.")
    cluster: str = Field(default="", description="Which of them this process belongs to.")

    trace_sample_per_s: float = Field(
        default=2.0, ge=0, le=1_000, description="Requests followed a second of the service's own choice; 0: none."
    )
    trace_asked_per_s: float = Field(
        default=20.0, ge=0, le=1_000, description="Requests followed a second because their `traceparent` is sampled."
    )
    request_log_window_s: int = Field(
        default=600, ge=10, le=7_200, description="How far back GET /requests can count; 8 KB of memory a second."
    )

    @property
    def push_urls(self) -> tuple[str, ...]:
        """Every URL of `push_url`."""
        return tuple(url.strip() for url in self.push_url.split(","))

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if not all(url.startswith(("ws://", "wss://")) for url in self.push_urls):
            raise ValueError("push_url: every URL must start with ws:// or wss://")
        if self.artwork_base_url and not self.artwork_base_url.startswith(("http://", "https://")):
            raise ValueError("artwork_base_url: must be empty or start with http:// or https://")
        if self.artwork_base_url.endswith("/"):
            raise ValueError("artwork_base_url: must not end with /")
        if self.cluster and self.clusters_path is None:
            raise ValueError(f"cluster: DGS_CLUSTER is {self.cluster[:40]!r}, but DGS_CLUSTERS_PATH names no file")
        if self.limit_min > self.limit_max:
            raise ValueError(f"limit_min: {self.limit_min} is above limit_max, {self.limit_max}")
        return self
