"""Keys of the installation that is loaded, from its data directory: devices and profiles sign on as its own would."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from contract.token_rings import read_rings
from contract.tokens import Audience, KeyRing, ProfileClaims
from loadtest.bench.outcome import CouldNotRun

__all__ = ["device_ring", "profile_signer"]

_PROFILE_TOKEN_LIFETIME_S: Final = 6 * 3_600
"""Longer than any run; identity services keep theirs shorter."""


def device_ring(data_dir: Path) -> KeyRing:
    """Raises CouldNotRun where there are none to read."""
    return _ring(data_dir, "stagecue.device")


def profile_signer(data_dir: Path) -> Callable[[str], str]:
    """Profile id -> a token for its maps, as an identity service would sign it. Raises CouldNotRun."""
    ring = _ring(data_dir, "stagecue.profile")
    return lambda profile_id: ring.sign(ProfileClaims(sub=profile_id, exp=int(time.time()) + _PROFILE_TOKEN_LIFETIME_S))


def _ring(data_dir: Path, audience: Audience) -> KeyRing:
    path = data_dir / "keys.json"
    try:
        return read_rings(path.read_bytes())[audience].ring(audience, time.time())
    except (OSError, ValueError, LookupError) as exc:
        raise CouldNotRun(f"no keys of {audience} in {path}: {exc!r}") from exc
