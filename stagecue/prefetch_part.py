"""The DGS in every composition: its settings, and its server."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

from starlette.types import ASGIApp

from contract.clock import Clock
from contract.runtime.runner import Readiness
from dgs.http.asgi_bridge import AsgiBridge
from dgs.http.limits import ServerLimits
from dgs.http.server import DgsServer
from dgs.settings import DgsSettings
from stagecue.settings import InstallationSettings

__all__ = ["dgs_server", "dgs_settings"]

_LONGER_S: Final = 2.0
"""Than what runs inside: its own time-outs tell more."""


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


def dgs_server(
    settings: DgsSettings, app: ASGIApp, sock: socket.socket, *, clock: Clock, readiness: Readiness
) -> DgsServer:
    """The service that answers with `app` on `sock`."""
    return DgsServer(
        sock,
        endpoint=AsgiBridge(app, deadline_s=settings.request_timeout_s + _LONGER_S),
        limits=ServerLimits.of(settings),
        clock=clock,
        readiness=readiness,
    )
