"""How long a process keeps a core once it has it: for hundreds of processes that share a few cores.

A push node has a core to itself in production. Here a hundred loops share two, and each wakes the next by sending to
it: left alone, they take turns of a few events, and the changing costs more than the work.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

__all__ = ["take_long_turns"]

_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
_SCHED_BATCH: Final = 3


class _SchedAttr(ctypes.Structure):
    """`struct sched_attr`, first version; see sched_setattr(2)."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
    )


def take_long_turns(pid: int, turn_ms: float) -> bool:
    """Have a process, and what it starts from now on, run for `turn_ms` at a time while others wait.

    False: this system has no such thing, or does not let us; nothing was changed then.
    """
    number = _SCHED_SETATTR.get(os.uname().machine)
    if number is None:
        return False
    attr = _SchedAttr(size=ctypes.sizeof(_SchedAttr), sched_policy=_SCHED_BATCH, sched_runtime=int(turn_ms * 1e6))
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(number, pid, ctypes.byref(attr), 0)) == 0
