"""Where materialised picks are kept, in every composition: for the job that writes them and the DGS that reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from contract.clock import Clock
from contract.kv.redis import Client
from dgs.adapters.materialised_file import FileMaterialised
from dgs.adapters.materialised_redis import RedisMaterialised
from dgs.settings import DgsSettings
from stagecue.settings import InstallationSettings

__all__ = ["materialised_directory", "materialised_store"]

_FOLDER: Final = "materialised"


def materialised_directory(settings: InstallationSettings, chosen: DgsSettings, *, kv: bool) -> Path | None:
    """DGS_MATERIALISED_PATH; else none where there is a KV store, and one in the data directory where there is not."""
    if chosen.materialised_path is not None:
        return chosen.materialised_path
    return None if kv else settings.data_dir / _FOLDER


def materialised_store(
    settings: InstallationSettings,
    chosen: DgsSettings,
    clock: Clock,
    *,
    catalog: Callable[[], str],
    kv: Client | None,
) -> FileMaterialised | RedisMaterialised:
    """The store; `catalog` tells the digest in use, `kv` is the installation's Redis if it has one. Close it."""
    directory = materialised_directory(settings, chosen, kv=kv is not None)
    if directory is not None:
        return FileMaterialised(directory, clock, catalog=catalog)
    assert kv is not None
    return RedisMaterialised(kv, catalog=catalog)
