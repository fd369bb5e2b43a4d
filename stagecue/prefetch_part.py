"""The DGS's settings in every composition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dgs.settings import DgsSettings
from stagecue.settings import InstallationSettings

__all__ = ["dgs_settings"]


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
