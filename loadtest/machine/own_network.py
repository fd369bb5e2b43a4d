"""A network of its own for a run: loopback alone, and a table of connections as large as the run. Linux, root.

Linux finds the socket of every packet in a hash table whose size was chosen at boot (`tcp_ehash_entries`: 262,144 rows
on 24 GB). Two million sockets lie eight to a row, and a look-up is as many cache misses. A network namespace gets a
table of its own, of the size its parent says (`tcp_child_ehash_entries`, Linux 6.1), and no program outside reaches
what listens in it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

__all__ = ["own_network", "table_rows", "wanted_rows"]

_SYS: Final = Path("/proc/sys/net")
_ROWS: Final = _SYS / "ipv4/tcp_ehash_entries"
_ROWS_OF_CHILD: Final = _SYS / "ipv4/tcp_child_ehash_entries"
_TAKEN_ALONG: Final = ("core/somaxconn", "ipv4/ip_local_port_range", "ipv4/tcp_max_syn_backlog")
"""What each namespace has of its own and a run may have asked for; the rest belongs to the machine."""
_ROWS_MAX: Final = 1 << 24
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_SIOCGIFFLAGS: Final = 0x8913  # linux/sockios.h
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1


def table_rows() -> int | None:
    """Rows of the table the caller's network finds sockets by; None where the kernel does not tell."""
    try:
        # Negative: shared with the parent namespace.
        return abs(int(_ROWS.read_text()))
    except (OSError, ValueError):
        return None


def wanted_rows(devices: int) -> int:
    """Twice as many as sockets, of which a device has two: a power of two, as the kernel wants it."""
    return min(_ROWS_MAX, 1 << max(0, 4 * devices - 1).bit_length())


@contextmanager
def own_network(rows: int) -> Iterator[None]:
    """Within it, the calling thread and all it starts are in a network namespace of their own, with loopback up.

    Threads that are there already stay where they are. Raises OSError where that is not allowed or not known; then
    nothing has changed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with _ROWS_OF_CHILD.open("r+") as rows_of_child, open("/proc/self/ns/net", "rb") as home:  # noqa: PTH123
        taken = {name: (_SYS / name).read_text() for name in _TAKEN_ALONG}
        before = rows_of_child.read()
        _write(rows_of_child, str(rows))
        try:
            _checked(libc.unshare(_CLONE_NEWNET), "unshare")
        finally:
            # The open file stays that of the network it was opened in.
            _write(rows_of_child, before)
        try:
            for name, value in taken.items():
                (_SYS / name).write_text(value)
            _loopback_up()
            yield
        finally:
            _checked(libc.setns(home.fileno(), _CLONE_NEWNET), "setns")


def _write(setting: TextIO, value: str) -> None:
    setting.seek(0)
    setting.write(value)
    setting.flush()


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sh14x", b"lo", 0)  # struct ifreq, linux/if.h
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _checked(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), call)
