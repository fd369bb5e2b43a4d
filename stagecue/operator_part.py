"""The producer's side of every composition: the operator API and the feeds."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from contract.clock import Clock
from contract.runtime.asgi import AsgiService
from contract.runtime.runner import Readiness, Service
from contract.tokens import KeyRing
from message_producer.api import create_app
from message_producer.feeds.poller import FeedPoller, FeedSource
from message_producer.feeds.template import DEFAULT_TEMPLATE, StageTemplate, load_template
from message_producer.ports import Operations
from stagecue.apart.health import Status, with_status

__all__ = ["feed_pollers", "operator_services", "stage_template"]


def operator_services(
    operations: Operations,
    *,
    operator_ring: KeyRing,
    clock: Clock,
    readiness: Readiness,
    sock: socket.socket,
    feeds: tuple[str, ...],
    template_file: Path | None,
    registries: Sequence[CollectorRegistry] = (),
    status: Status | None = None,
) -> list[Service]:
    """The operator API on `sock`, with `GET /status` where there is a `status`, and a poller per feed.

    Raises InvalidRequest naming the template's field, OSError.
    """
    template = stage_template(template_file)
    api = create_app(
        operations,
        operator_ring=operator_ring,
        readiness=readiness,
        clock=clock,
        stage_template=template,
        registries=registries,
    )
    app = api if status is None else with_status(api, status)
    return [AsgiService("producer-api", app, sock), *feed_pollers(feeds, operations, clock, template)]


def stage_template(path: Path | None) -> StageTemplate:
    """The stages of events that name none. Raises InvalidRequest naming the field, OSError."""
    return DEFAULT_TEMPLATE if path is None else load_template(path.read_text("utf-8"))


def feed_pollers(
    locations: tuple[str, ...], operations: Operations, clock: Clock, template: StageTemplate
) -> list[FeedPoller]:
    """One poller per feed; a feed's name is its file's or its address's, so that a restart recognises its events."""
    pollers = []
    for location in locations:
        parts = urlsplit(location)
        name = f"{parts.netloc}{parts.path}" if parts.scheme in ("http", "https") else Path(location).name
        source = FeedSource(name=name, location=location)
        pollers.append(FeedPoller(source, operations, clock=clock, draw=random.random, template=template))
    return pollers
