"""Every metric of the DGS, in a registry of its own so that several services fit in one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["DgsMetrics"]


class DgsMetrics:
    """Labels are low-cardinality: kinds, error codes and root fields of the schema, never ids."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        requests = Counter(
            "stagecue_dgs_requests", "Requests by kind, counted on arrival.", ["kind"], registry=self.registry
        )
        self.graphql_requests = requests.labels("graphql")
        self.artwork_requests = requests.labels("artwork")
        self.graphql_errors = Counter(
            "stagecue_dgs_graphql_errors", "Errors in GraphQL answers by code.", ["code"], registry=self.registry
        )
        self.graphql_seconds = Histogram(
            "stagecue_dgs_graphql_seconds",
            "From the body read to the answer encoded.",
            buckets=(0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.5, 2.0),
            registry=self.registry,
        )
        self.artwork_misses = Counter(
            "stagecue_dgs_artwork_not_found", "Artwork URLs that name nothing.", registry=self.registry
        )
        self.catalog_titles = Gauge("stagecue_dgs_catalog_titles", "Titles served.", registry=self.registry)
        self.catalog_rejected = Gauge(
            "stagecue_dgs_catalog_rejected_rows", "Catalog rows left out.", registry=self.registry
        )
