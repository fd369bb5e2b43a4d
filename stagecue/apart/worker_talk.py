"""What supervisor and worker say to each other over the worker's standard input and output."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stagecue.apart.lifecycle import ServiceAddress

if TYPE_CHECKING:
    from stagecue.settings import InstallationSettings

__all__ = [
    "STOP",
    "WorkerEnded",
    "WorkerOrder",
    "WorkerReady",
    "WorkerReport",
    "decode_report",
    "encode_order",
    "encode_report",
    "read_order",
]

STOP: Final = b"stop\n"
"""Supervisor to worker, after the order. It may come twice, and beside a signal: stopping once more changes nothing."""
_LENGTH_BYTES: Final = 4


class WorkerOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Supervisor to worker, once, behind its length: on a pipe, since an address may hold a password."""

    index: int
    workers: int
    siblings_fd: int
    """An inherited descriptor."""
    kv_url: str
    settings: dict[str, Any]

    def installation(self) -> InstallationSettings:
        from stagecue.settings import InstallationSettings

        return InstallationSettings(**self.settings)


class WorkerReady(msgspec.Struct, frozen=True, tag="ready"):
    """Worker to supervisor: `/readyz` says yes for the first time."""

    address: ServiceAddress


class WorkerEnded(msgspec.Struct, frozen=True, tag="ended"):
    """Worker to supervisor: why it ends, a line for each thing."""

    lines: tuple[str, ...]


WorkerReport = WorkerReady | WorkerEnded
_reports: Final = msgspec.json.Decoder(WorkerReport)


def encode_order(order: WorkerOrder) -> bytes:
    body = msgspec.json.encode(order)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def read_order(fd: int) -> WorkerOrder | None:
    """The order that comes first on `fd`, and not a byte more; waits for it. None: the input ended before."""
    head = _read_exactly(fd, _LENGTH_BYTES)
    body = _read_exactly(fd, int.from_bytes(head, "big")) if head else b""
    return msgspec.json.decode(body, type=WorkerOrder) if body else None


def encode_report(report: WorkerReport) -> bytes:
    """One line."""
    return msgspec.json.encode(report) + b"\n"


def decode_report(line: bytes) -> WorkerReport | None:
    """None: a line that is no report, printed by some library."""
    try:
        report: WorkerReport = _reports.decode(line)
    except msgspec.MsgspecError:
        return None
    return report


def _read_exactly(fd: int, count: int) -> bytes:
    """b"" where the input ends before."""
    found = b""
    while len(found) < count:
        part = os.read(fd, count - len(found))
        if not part:
            return b""
        found += part
    return found
