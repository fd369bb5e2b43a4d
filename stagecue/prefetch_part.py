"""The DGS in every composition: its settings, and what it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from contract.clock import Clock
from contract.kv.ports import ReplayLogReader, ScheduleViewReader
from contract.kv.redis import Client
from contract.runtime.runner import Readiness
from dgs.adapters.materialised_file import FileMaterialised
from dgs.adapters.materialised_redis import RedisMaterialised
from dgs.app import Dgs, build_dgs
from dgs.ports import MaterialisedStore
from dgs.settings import DgsSettings
from stagecue.keys import Keys
from stagecue.materialised_part import materialised_store
from stagecue.settings import InstallationSettings

__all__ = ["dgs_settings", "open_dgs"]


def dgs_settings(settings: InstallationSettings, *, catalog: Path | None, profiles: Path | None) -> DgsSettings:
    """The DGS's settings, sending devices to this installation's push node unless DGS_PUSH_URL says otherwise."""
    given = DgsSettings()
    update: dict[str, Any] = {}
    if "push_url" not in given.model_fields_set:
        update["push_url"] = settings.url("ws", settings.push_port) + "/v1/stream"
    if catalog is not None:
        update["catalog_path"] = catalog
    if profiles is not None:
        update["profiles_path"] = profiles
    return given.model_copy(update=update)


@asynccontextmanager
async def open_dgs(
    settings: InstallationSettings,
    chosen: DgsSettings,
    *,
    schedule_view: ScheduleViewReader,
    replay_log: ReplayLogReader,
    keys: Keys,
    clock: Clock,
    readiness: Readiness,
    kv: Client | None,
) -> AsyncIterator[Dgs]:
    """The composed DGS; its store of materialised picks is closed with it. `kv`: the installation's Redis, if any."""
    stores: list[FileMaterialised | RedisMaterialised] = []

    def open_store(catalog: Callable[[], str]) -> MaterialisedStore:
        stores.append(materialised_store(settings, chosen, clock, catalog=catalog, kv=kv))
        return stores[-1]

    dgs = build_dgs(
        chosen,
        schedule_view=schedule_view,
        replay_log=replay_log,
        device_ring=keys.device,
        profile_ring=keys.profile,
        clock=clock,
        readiness=readiness,
        open_store=open_store,
    )
    try:
        yield dgs
    finally:
        await dgs.aclose()
        for store in stores:
            await store.aclose()
