"""XOR with a client's masking key (RFC 6455, 5.3): the `websockets` package's loop in C, or in Python where none is.

A module of its own, because it is the one thing of that package the codec may know.
"""

from __future__ import annotations

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - a platform without the C extension
    from websockets.utils import apply_mask

__all__ = ["apply_mask"]
