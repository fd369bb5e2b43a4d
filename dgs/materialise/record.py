"""Picks as bytes: what a store keeps per profile, some 100 bytes. Pure.

A record is, little-endian:

    CRC-32 of the rest   4 bytes
    width of a cell      1 byte: 2 or 4
    length of the id     1 byte
    layout               8 bytes, see `layout_id`
    digest of the picks  8 bytes
    made at              8 bytes, ms since the epoch
    profile id           ASCII
    cells                to the end

Layouts are few and kept beside the records, by their id.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Final
from zlib import crc32

import msgspec

from dgs.picks import Layout, Picks

__all__ = [
    "MATERIALISED",
    "decode_layout",
    "decode_record",
    "encode_layout",
    "encode_record",
    "layout_id",
    "layout_of_record",
    "profile_key",
]

MATERIALISED: Final = "materialised"
"""`Picks.source` of what was read back."""
_HEAD: Final = Struct("<BB8s8sq")
_CRC: Final = Struct("<I")
_LEAST: Final = _CRC.size + _HEAD.size
_NARROW, _WIDE = 2, 4
_BIG: Final = sys.byteorder == "big"
assert array("H").itemsize == _NARROW
assert array("I").itemsize == _WIDE


def encode_layout(layout: Layout) -> bytes:
    return msgspec.msgpack.encode(layout)


def decode_layout(data: bytes) -> Layout:
    """Raises msgspec.DecodeError."""
    return msgspec.msgpack.decode(data, type=Layout)


@lru_cache(maxsize=1024)
def layout_id(layout: Layout) -> bytes:
    """8 bytes: equal for equal layouts, in every process."""
    return blake2b(encode_layout(layout), digest_size=8, person=b"picks-layout").digest()


def profile_key(profile_id: str) -> int:
    """64 bits to find a profile's record by; two profiles may share one, which the record's id tells apart."""
    return int.from_bytes(blake2b(profile_id.encode(), digest_size=8).digest(), "little")


def encode_record(profile_id: str, picks: Picks) -> bytes:
    cells = picks.cells
    width = _NARROW if max(cells, default=0) <= 0xFFFF else _WIDE
    packed = array("H", cells) if width == _NARROW else array("I", cells)
    if _BIG:
        packed.byteswap()
    name = profile_id.encode("ascii")
    head = _HEAD.pack(width, len(name), layout_id(picks.layout), picks.digest, picks.made_at_ms)
    rest = head + name + packed.tobytes()
    return _CRC.pack(crc32(rest)) + rest


def layout_of_record(record: bytes) -> bytes | None:
    """Id of the layout that is needed to read it; None for what is no record."""
    if len(record) < _LEAST:
        return None
    found: bytes = _HEAD.unpack_from(record, _CRC.size)[2]
    return found


def decode_record(record: bytes, profile_id: str, layout: Callable[[bytes], Layout | None]) -> Picks | None:
    """The picks of that profile; None for a damaged record, one of another profile, or of a layout nobody knows."""
    if len(record) < _LEAST or crc32(record[_CRC.size :]) != _CRC.unpack_from(record)[0]:
        return None
    width, length, of, digest, made_at_ms = _HEAD.unpack_from(record, _CRC.size)
    if record[_LEAST : _LEAST + length] != profile_id.encode():
        return None
    found = layout(of)
    body = record[_LEAST + length :]
    if found is None or len(body) != width * found.cells:
        return None
    cells = array("I" if width == _WIDE else "H", body)
    if _BIG:
        cells.byteswap()
    if width == _NARROW:
        cells = array("I", cells)
    return Picks(found, cells, digest, made_at_ms, MATERIALISED)
