"""The night as files for servers that are not ours: what they answer is looked up, never computed."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from contract.schedule import TopicSchedule
from dgs.picks import Layout
from dgs.stage_map import stage_heads
from dgs.words import because_around
from loadtest.bench.prefetch.asking import AUDIENCE, Secret
from loadtest.bench.prefetch.night import OPERATION, OPERATION_HASH
from loadtest.bench.prefetch.picked import PickedProfiles, demo_catalog, production

__all__ = ["PeerNight", "ttl_range_s", "write_night"]

_LANGUAGE = "en"


class PeerNight(NamedTuple):
    path: Path
    """A JSON object; names two binary files beside it."""


def ttl_range_s() -> tuple[int, int]:
    """Lifetimes as they are drawn where no stage is near."""
    settings = production()
    half = settings.ttl_mean_s * settings.ttl_spread
    return round(settings.ttl_mean_s - half), round(settings.ttl_mean_s + half)


def write_night(directory: Path, schedule: TopicSchedule, picked: PickedProfiles, secret: Secret) -> PeerNight:
    """Everything a peer needs, readable by its owner only: the secret is in it."""
    picked.cells.tofile(directory / "night.cells")
    picked.which.tofile(directory / "night.which")
    path = directory / "night.json"
    path.touch(mode=0o600)
    path.write_bytes(
        msgspec.json.encode(
            {
                "event": {"id": schedule.event_id, "title": schedule.title, "topic": schedule.topic},
                "version": schedule.version,
                "revision": schedule.revision,
                "ttl_s": ttl_range_s(),
                "because": because_around(_LANGUAGE)[0],
                "layouts": [_stages(schedule, layout) for layout in picked.layouts],
                "titles": [(title.id, title.name) for title in demo_catalog().titles],
                "profiles": len(picked),
                "prefix": "p-",
                "width": picked.cells.shape[1],
                "cells": "night.cells",
                "which": "night.which",
                "document": OPERATION,
                "hash": OPERATION_HASH,
                "secret": b64encode(secret.key).decode(),
                "kid": secret.kid,
                "audience": AUDIENCE,
            }
        )
    )
    return PeerNight(path)


def _stages(schedule: TopicSchedule, layout: Layout) -> list[dict[str, Any]]:
    """What stands in each stage but its titles; `default` is the last and no one asks for it."""
    heads = stage_heads(schedule, layout, _LANGUAGE)
    return [
        {
            "key": head.key,
            "startsAt": head.starts_at,
            "headline": head.headline,
            "rows": [
                {"heading": heading, "because": row.because, "titles": row.titles}
                for row, heading in zip(rows, head.headings, strict=True)
            ],
        }
        for head, (_, rows) in zip(heads, layout.stages, strict=True)
    ][:-1]
