"""What this machine's kernel says of itself: read from /proc, nothing is changed. Linux."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Final

from loadtest.machine.needs import MachineFacts

__all__ = ["read_machine", "tcp_memory_pages"]

_SYS: Final = Path("/proc/sys")
_UNLIMITED: Final = 1 << 31


def read_machine() -> MachineFacts:
    """What there is now. What /proc does not have is None. Raises OSError where there is no /proc at all."""
    memory = _memory_kib()
    _, files_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low, high = _numbers("net/ipv4/ip_local_port_range") or (32_768, 60_999)
    tcp_pages = _numbers("net/ipv4/tcp_mem")
    opened = _numbers("fs/file-nr")
    return MachineFacts(
        cores=os.cpu_count() or 1,
        memory_bytes=memory["MemTotal"] * 1024,
        memory_available_bytes=memory["MemAvailable"] * 1024,
        page_bytes=resource.getpagesize(),
        files_per_process=_UNLIMITED if files_hard == resource.RLIM_INFINITY else files_hard,
        files_max=_number("fs/file-max"),
        files_open=opened[0] if opened else 0,
        processes_max=_processes_max(),
        processes_running=sum(name.name.isdigit() for name in Path("/proc").iterdir()),
        port_range=(low, high),
        tracked_max=_number("net/netfilter/nf_conntrack_max"),
        tracked_now=_number("net/netfilter/nf_conntrack_count") or 0,
        tcp_pages_max=tcp_pages[2] if tcp_pages else None,
        tcp_pages_now=tcp_memory_pages(),
        backlog_max=_number("net/core/somaxconn"),
        epoll_watches_max=_number("fs/epoll/max_user_watches"),
    )


def tcp_memory_pages() -> int:
    """Pages of memory that TCP's buffers hold now, all processes together; 0 where the kernel does not tell."""
    try:
        lines = Path("/proc/net/sockstat").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        words = line.split()
        if words[0] == "TCP:" and "mem" in words:
            return int(words[words.index("mem") + 1])
    return 0


def _processes_max() -> int | None:
    _, own = resource.getrlimit(resource.RLIMIT_NPROC)
    bounds = [own] if own != resource.RLIM_INFINITY else []
    bounds += [bound for bound in (_number("kernel/pid_max"), _number("kernel/threads-max")) if bound is not None]
    return min(bounds, default=None)


def _memory_kib() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}


def _number(setting: str) -> int | None:
    found = _numbers(setting)
    return found[0] if found else None


def _numbers(setting: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in (_SYS / setting).read_text().split())
    except (OSError, ValueError):
        return ()
