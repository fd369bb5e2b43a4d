"""One of our own services as a member: `python -m stagecue <service>`, ready when it says so."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.member import Member

__all__ = ["DgsMember", "ProducerMember", "PushMember", "RouterMember", "ServiceMember"]


class _ReadyLine(msgspec.Struct, frozen=True):
    """What `--ready-json` prints; unknown fields are ignored."""

    operator_token: str | None = None


class ServiceMember(Member):
    """A service of ours; `data_dir` is shared by all of a cluster, so that they have the same keys."""

    captures_output: ClassVar[bool] = True
    ready_within_s: ClassVar[float] = 45.0
    http_offset: ClassVar[int]
    """Its HTTP listener's port, above the port base."""

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        data_dir: Path,
        port_base: int,
        environment: Mapping[str, str] | None = None,
        log_level: str = "INFO",
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(name, directory, environment=environment)
        self.port_base = port_base
        self.data_dir = data_dir
        self.log_level = log_level
        self.options = tuple(options)

    @property
    def port(self) -> int:
        """Of its HTTP listener, which for a push node is the devices'."""
        return self.port_base + self.http_offset

    @property
    def url(self) -> str:
        """Where it answers over HTTP: /healthz, /readyz, /status, and what it is for."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return [
            sys.executable, "-m", "stagecue", self.role, "--ready-json", "--data-dir", str(self.data_dir),
            "--port-base", str(self.port_base), "--log-format", "json", "--log-level", self.log_level, *self.options,
        ]  # fmt: skip

    async def until_ready(self) -> None:
        line = await self.first_line()
        if not line:
            await self.wait()  # its end is what is reported
            return
        try:
            self.announced(msgspec.json.decode(line, type=_ReadyLine))
        except msgspec.MsgspecError as exc:
            raise CouldNotRun(f"{self.name} printed no ready line but {line!r}") from exc

    def announced(self, line: _ReadyLine) -> None:
        """What it said when it became ready."""
        return


class ProducerMember(ServiceMember):
    role: ClassVar[str] = "producer"
    http_offset: ClassVar[int] = 0
    operator_token: str | None = None
    """Once it is ready."""

    def announced(self, line: _ReadyLine) -> None:
        self.operator_token = line.operator_token


class RouterMember(ServiceMember):
    role: ClassVar[str] = "router"
    http_offset: ClassVar[int] = 4


class DgsMember(ServiceMember):
    role: ClassVar[str] = "dgs"
    http_offset: ClassVar[int] = 1


class PushMember(ServiceMember):
    role: ClassVar[str] = "push"
    http_offset: ClassVar[int] = 2

    @property
    def stream_url(self) -> str:
        """Its listener as devices address it, without the path."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def link_port(self) -> int:
        """Where it listens for routers."""
        return self.port_base + 3
