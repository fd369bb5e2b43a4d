"""The known name somebody probably meant. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["meant"]


def meant(written: str, known: Iterable[str]) -> str:
    """`; nearest: devices`, or everything there is when nothing is near; empty when there is nothing."""
    names = sorted(known)
    near = get_close_matches(written, names, n=1, cutoff=0.5)
    if near:
        return f"; nearest: {near[0]}"
    return f"; there are: {', '.join(names)}" if names else ""
