"""Memory of a herd: processes by role, and what the kernel holds for both ends of every connection."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from loadtest.machine.facts import tcp_memory_pages

__all__ = ["Footprint", "KernelMemory", "available_bytes", "read_footprint", "read_kernel_memory"]

_PROC: Final = Path("/proc")
_PSS: Final = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)
_ANON: Final = re.compile(r"^Pss_Anon:\s+(\d+) kB", re.MULTILINE)
_PAGE_BYTES: Final = resource.getpagesize()


class KernelMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Of the whole machine, all but files' pages."""

    slab_bytes: int
    """Sockets, open files, watches, tracked connections, and whatever else lives in slabs."""
    tcp_bytes: int
    """Frames on their way."""
    tables_bytes: int
    """Page tables and kernel stacks of processes; tables of open files."""

    @property
    def all_bytes(self) -> int:
        return self.slab_bytes + self.tcp_bytes + self.tables_bytes

    def __sub__(self, other: KernelMemory) -> KernelMemory:
        return KernelMemory(
            slab_bytes=self.slab_bytes - other.slab_bytes,
            tcp_bytes=self.tcp_bytes - other.tcp_bytes,
            tables_bytes=self.tables_bytes - other.tables_bytes,
        )


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """One reading. Proportional: pages shared by several processes are shared out among them."""

    pss_bytes: Mapping[str, int]
    """By role: everything, programs and libraries included."""
    own_bytes: Mapping[str, int]
    """By role: what processes allocated themselves."""
    kernel: KernelMemory
    available_bytes: int


def read_footprint(roles: Mapping[str, Iterable[int]]) -> Footprint:
    """Of these processes, by role. The kernel walks all their pages: a second for a million devices. Blocks."""
    pss: dict[str, int] = {}
    own: dict[str, int] = {}
    for role, pids in roles.items():
        pss[role] = own[role] = 0
        for pid in pids:
            try:
                text = (_PROC / str(pid) / "smaps_rollup").read_text()
            except OSError:  # it ended, or is not ours to look at
                continue
            pss[role] += _kib(_PSS, text) * 1024
            own[role] += _kib(_ANON, text) * 1024
    return Footprint(pss_bytes=pss, own_bytes=own, kernel=read_kernel_memory(), available_bytes=available_bytes())


def read_kernel_memory() -> KernelMemory:
    """Now."""
    found = _meminfo()
    tables = sum(found.get(name, 0) for name in ("PageTables", "SecPageTables", "KernelStack", "VmallocUsed", "Percpu"))
    return KernelMemory(
        slab_bytes=found.get("Slab", 0) * 1024,
        tcp_bytes=tcp_memory_pages() * _PAGE_BYTES,
        tables_bytes=tables * 1024,
    )


def available_bytes() -> int:
    """What new processes could still get."""
    return _meminfo()["MemAvailable"] * 1024


def _meminfo() -> dict[str, int]:
    lines = (_PROC / "meminfo").read_text().splitlines()
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}


def _kib(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return int(found[1]) if found else 0
