"""What is sampled in every run: the metrics pages of the system that is up just now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from loadtest.report.sampling import Sampler, Source
from loadtest.report.sources import Metric, MetricsPages
from loadtest.report.tracks import Kind

__all__ = ["ROLES", "CurrentPages", "watch_system"]

ROLES: Final = ("system", "ranking service", "devices", "load")
"""Of processes: what is under test, what it depends on, who is connected, who asks."""
_CLASSES: Final = ("critical", "degraded", "best_effort", "bulk")


class CurrentPages:
    """A feed of metrics pages that come and go with the systems of a run; none: sources say nothing."""

    def __init__(self) -> None:
        self._urls: list[str] = []
        self._pages: MetricsPages | None = None
        self._retired: list[MetricsPages] = []

    def add(self, urls: Iterable[str]) -> Callable[[], None]:
        """Read these too, until the returned function is called."""
        mine = list(urls)
        self._set([*self._urls, *mine])
        return lambda: self._set([url for url in self._urls if url not in mine])

    async def read(self) -> None:
        await self._close_retired()
        if self._pages is not None:
            await self._pages.read()

    async def aclose(self) -> None:
        self._set([])
        await self._close_retired()

    async def _close_retired(self) -> None:
        while self._retired:
            await self._retired.pop().aclose()

    def source(self, metric: Metric) -> Source:
        def value() -> float | None:
            return None if self._pages is None else self._pages.source(metric)()

        return value

    def _set(self, urls: list[str]) -> None:
        if urls == self._urls:
            return
        self._urls = urls
        if self._pages is not None:
            self._retired.append(self._pages)
        self._pages = MetricsPages(urls) if urls else None


def watch_system(sampler: Sampler, pages: CurrentPages) -> None:
    """Charts of what the DGS and the push node say of themselves."""

    def watch(title: str, unit: str, metrics: Mapping[str, Metric], explains: str, kind: Kind = "rate") -> None:
        sampler.watch(
            title, unit, {name: pages.source(each) for name, each in metrics.items()}, kind=kind, explains=explains
        )

    watch(
        "Requests at the DGS",
        "requests/s",
        {kind: Metric("stagecue_dgs_requests_total", {"kind": kind}) for kind in ("graphql", "artwork")},
        "By its own count.",
    )
    watch(
        "Served by class",
        "requests/s",
        {each: Metric("stagecue_dgs_class_requests_total", {"class": each, "outcome": "served"}) for each in _CLASSES},
        "What the DGS served, by the class its rules gave.",
    )
    watch(
        "Sheds by class",
        "requests/s",
        {each: Metric("stagecue_dgs_class_requests_total", {"class": each, "outcome": "shed"}) for each in _CLASSES},
        "What the DGS refused to protect the rest.",
    )
    watch(
        "Queue delay of the DGS",
        "s",
        {"longest wait": Metric("stagecue_dgs_queue_delay_seconds")},
        "Longest wait in its queue since the sample before.",
        "value",
    )
    watch(
        "Connected devices",
        "devices",
        {"connected": Metric("stagecue_push_connections")},
        "Sessions at the push node.",
        "value",
    )
    watch(
        "Handshakes at the push node",
        "handshakes/s",
        {
            outcome: Metric("stagecue_push_handshakes_total", {"outcome": outcome})
            for outcome in ("accepted", "too_fast", "full", "lost")
        },
        "By what became of them; too_fast is a refusal that names a moment to return.",
    )
    watch(
        "Deliveries",
        "frames/s",
        {kind: Metric("stagecue_push_deliveries_total", {"kind": kind}) for kind in ("live", "replayed", "coalesced")},
        "Broadcast frames written to devices.",
    )
