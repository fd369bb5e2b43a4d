"""The garbage collector of a process full of devices: what was built stays, so that looking through it is in vain."""

from __future__ import annotations

import gc
from typing import Final

__all__ = ["settle_memory"]

_THRESHOLDS: Final = (50_000, 20, 100)
"""Connecting makes a few objects per device, none of which is garbage: looking often finds nothing."""


def settle_memory() -> None:
    """Collect once; then take all there is for permanent, and look seldom at what comes. For a process of its own."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
