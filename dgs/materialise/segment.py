"""The form of a segment: an append-only file of frames, each whole or not there. Pure.

    frame    header, payload
    header   magic, kind, number of records, length of the payload, CRC-32 of the payload, expiry in ms since the epoch,
             CRC-32 of the header so far
    payload  of kind LAYOUT: one layout; of kind PICKS: for each record the profile's key, its place in the payload and
             its length, sorted by key, then the records

A writer that dies leaves at most one unfinished frame, and it is the last of its segment: readers stop before it, and
the next writer begins a segment of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from dgs.materialise.record import encode_layout, encode_record, layout_id, profile_key
from dgs.picks import Layout, Picks

__all__ = ["HEADER_BYTES", "LAYOUT", "PICKS", "Header", "Rows", "layout_frame", "picks_frame", "read_header", "rows_of"]

_MAGIC: Final = b"SCP1"
LAYOUT: Final = 1
PICKS: Final = 2
_HEAD: Final = Struct("<4sIIIIQ")
_CRC: Final = Struct("<I")
HEADER_BYTES: Final = _HEAD.size + _CRC.size
MAX_PAYLOAD_BYTES: Final = 256 * 1024 * 1024
_ROW: Final = np.dtype([("key", "<u8"), ("place", "<u4"), ("length", "<u4")])

Rows = npt.NDArray[np.void]
"""Of `_ROW`: key, place, length."""


class Header(NamedTuple):
    kind: int
    records: int
    length: int
    """Of the payload, in bytes."""
    crc: int
    until_ms: int
    """From then on the frame's records are none."""


def layout_frame(layout: Layout, *, until_ms: int) -> bytes:
    """What a segment needs before the first record of that layout."""
    return _framed(LAYOUT, 1, layout_id(layout) + encode_layout(layout), until_ms)


def picks_frame(picks: Mapping[str, Picks], *, until_ms: int) -> bytes:
    """All of them, sorted by key; of equal picks, equal bytes."""
    records = sorted((profile_key(profile_id), encode_record(profile_id, each)) for profile_id, each in picks.items())
    rows = np.empty(len(records), dtype=_ROW)
    place = rows.nbytes
    for number, (key, record) in enumerate(records):
        rows[number] = (key, place, len(record))
        place += len(record)
    return _framed(PICKS, len(records), rows.tobytes() + b"".join(record for _, record in records), until_ms)


def read_header(data: bytes) -> Header | None:
    """None for what is no header, or not all of one."""
    if len(data) < HEADER_BYTES or data[:4] != _MAGIC:
        return None
    if crc32(data[: _HEAD.size]) != _CRC.unpack_from(data, _HEAD.size)[0]:
        return None
    _, kind, count, length, crc, until_ms = _HEAD.unpack_from(data)
    return Header(kind, count, length, crc, until_ms) if length <= MAX_PAYLOAD_BYTES else None


def rows_of(header: Header, payload: bytes) -> Rows:
    """Where the records of a PICKS frame lie in its payload, whose checksum was found right."""
    rows: Rows = np.frombuffer(payload, dtype=_ROW, count=header.records)
    return rows


def _framed(kind: int, count: int, payload: bytes, until_ms: int) -> bytes:
    assert len(payload) <= MAX_PAYLOAD_BYTES
    head = _HEAD.pack(_MAGIC, kind, count, len(payload), crc32(payload), until_ms)
    return head + _CRC.pack(crc32(head)) + payload
