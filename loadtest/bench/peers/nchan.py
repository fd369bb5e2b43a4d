"""nchan (nginx) as a subject: one worker, messages in its memory store, published by POST."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

import aiohttp

from contract.broadcast import Broadcast
from contract.tokens import KeyRing
from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.push.dialect import Dialect, Marker, bare
from loadtest.bench.push.line_member import on_core
from loadtest.cluster.member import Member, port_answers, program
from loadtest.cluster.ports import PortBlocks, reserve_ports

__all__ = ["NchanPeer", "nginx_configuration"]

_HOST: Final = "127.0.0.1"
_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
_FOLDERS: Final = (Path("/usr/sbin"), Path("/usr/local/sbin"))
_PACKAGES: Final = "nginx libnginx-mod-nchan"
_TIMEOUT_S: Final = 10.0


def nginx_configuration(directory: Path, *, port: int, module: Path | None) -> str:
    """One process, no logs, one channel that keeps one message; `module` None: nchan is compiled in."""
    load = f"load_module {module};\n" if module is not None else ""
    return (
        load
        + f"""
daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nchan.log warn;
events {{ worker_connections 19000; multi_accept on; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    nchan_shared_memory_size 128M;
    server {{
        listen {_HOST}:{port} backlog=4096;
        location = /publish {{
            nchan_publisher;
            nchan_channel_id event;
            nchan_message_buffer_length 1;
            nchan_message_timeout 1h;
        }}
        location = /subscribe {{
            nchan_subscriber websocket;
            nchan_channel_id event;
            nchan_subscriber_first_message -1;
        }}
    }}
}}
"""
    )


class NchanPeer(Member):
    role: ClassVar[str] = "nchan"
    does: ClassVar[str] = "upgrade, 1 channel, 1 message replayed, which is most of its cost; no token"

    def __init__(self, directory: Path, *, core: int) -> None:
        super().__init__("nchan", directory / "nchan")
        self._core = core
        self._ports: PortBlocks | None = None

    @property
    def port(self) -> int:
        assert self._ports is not None, "not started"
        return self._ports[0]

    @property
    def dialect(self) -> Dialect:
        return bare("/subscribe", (Marker(1, '"type":"broadcast"'),))

    @property
    def token_ring(self) -> KeyRing | None:
        return None

    def command(self) -> Sequence[str]:
        return on_core(self._core, [_nginx(), "-p", str(self.directory), "-c", str(self._configuration)])

    async def prepare(self) -> None:
        nginx = _nginx()
        self.directory.chmod(0o755)
        module = _MODULE if _MODULE.is_file() else None
        if module is None and "nchan" not in await _built_with(nginx):
            raise CouldNotRun(
                f"nginx has no nchan module; install it, on Debian and Ubuntu: apt-get install {_PACKAGES}"
            )
        if self._ports is None:
            self._ports = reserve_ports(1)
        self._configuration.write_text(nginx_configuration(self.directory, port=self.port, module=module))

    async def stop(self) -> int | None:
        code = await super().stop()
        if self._ports is not None:
            self._ports.close()
        return code

    async def until_ready(self) -> None:
        await port_answers(_HOST, self.port)

    async def publish(self, broadcast: Broadcast, payload: bytes) -> None:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            try:
                async with session.post(f"http://{_HOST}:{self.port}/publish", data=payload) as response:
                    if response.status not in (200, 201, 202):
                        raise CouldNotRun(f"nchan answered a publish with {response.status}{self.log_end()}")
            except (aiohttp.ClientError, TimeoutError) as exc:
                raise CouldNotRun(f"nchan took no publish: {exc!r}{self.log_end()}") from exc

    @property
    def _configuration(self) -> Path:
        return self.directory / "nginx.conf"


def _nginx() -> str:
    try:
        return program("nginx", _PACKAGES, also_in=_FOLDERS)
    except CouldNotRun as exc:
        raise CouldNotRun(f"peer nchan: {exc}") from exc


async def _built_with(nginx: str) -> str:
    process = await asyncio.create_subprocess_exec(nginx, "-V", stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    return said.decode(errors="replace")
