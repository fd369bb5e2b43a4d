"""Named points at which a test may kill the process as `kill -9` would.

Production code calls `failpoint(name)` before and after every commit, publish and acknowledgement. Nothing happens
unless the composition armed that name from its settings; disarmed it costs one comparison.
"""

from __future__ import annotations

import os
import signal

__all__ = ["FAILPOINTS", "arm", "failpoint"]

FAILPOINTS: frozenset[str] = frozenset(
    {
        "producer.dispatch.before_commit",
        "producer.dispatch.after_commit",
        "producer.schedule.before_commit",
        "producer.schedule.after_commit",
        "producer.publish.before_send",
        "producer.publish.after_send",
        "producer.publish.after_mark",
        "router.append.before",
        "router.append.after",
        "router.deliver.before_send",
        "router.deliver.after_ack",
        "router.commit.before",
        "router.commit.after",
        "node.deliver.before_write",
        "node.deliver.after_write",
        "node.deliver.before_ack",
        "node.deliver.after_ack",
    }
)

_armed: str | None = None
_skip = 0


def arm(name: str | None, *, skip: int = 0) -> None:
    """Kill this process at the (`skip` + 1)th passing of `name`; None disarms."""
    global _armed, _skip
    if name is not None and name not in FAILPOINTS:
        raise ValueError(f"no failpoint {name!r}; there are {', '.join(sorted(FAILPOINTS))}")
    _armed, _skip = name, skip


def failpoint(name: str) -> None:
    """Die here without any clean-up if `name` is armed."""
    global _skip
    if _armed is None or name != _armed:
        return
    if _skip > 0:
        _skip -= 1
        return
    os.kill(os.getpid(), signal.SIGKILL)
