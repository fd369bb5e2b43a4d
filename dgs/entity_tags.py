"""If-None-Match as a client writes it (RFC 9110, 13.1.2), read in one pass whatever it holds. Pure."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["names_tag"]

_LEADING: Final = re.compile(rb"[ \t,]*")
_ELEMENT: Final = re.compile(rb'(?:W/)?"([!#-~\x80-\xff]*)"[ \t]*(?:,[ \t,]*|\Z)')
"""One entity tag and the comma behind it: whoever reads on from there meets every octet once."""


def names_tag(said: bytes | None, opaque: bytes) -> bool:
    """Whether the field `said` is `*` or a list that has this tag, by weak comparison.

    `opaque`: the tag between its quotes. A list is read as far as it is well formed.
    """
    if said is None:
        return False
    if said == b'W/"%b"' % opaque:  # what a client that holds one answer sends
        return True
    if said.strip(b" \t") == b"*":
        return True
    leading = _LEADING.match(said)
    at = leading.end() if leading is not None else 0
    while at < len(said):
        element = _ELEMENT.match(said, at)
        if element is None:
            return False
        if element[1] == opaque:
            return True
        at = element.end()
    return False
