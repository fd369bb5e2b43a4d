"""A redis-server with the shipped configuration, which can lose what it holds as a crash or a failover would."""

from __future__ import annotations

import asyncio
import math
import shutil
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.member import Member, program

__all__ = ["RedisServer"]

_CONFIGURATION: Final = Path(__file__).parents[2] / "deploy" / "redis" / "redis.conf"
_HOST: Final = "127.0.0.1"
_LOOK_EVERY_S: Final = 0.02
_PONG: Final = b"+PONG"


class RedisServer(Member):
    """Keeps its data in `<directory>/data` from start to start."""

    role: ClassVar[str] = "redis"
    ready_within_s: ClassVar[float] = 15.0

    def __init__(
        self,
        directory: Path,
        *,
        port: int,
        name: str = "redis",
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """`options` are redis-server's own, after the configuration's: `--requirepass`, `secret`."""
        super().__init__(name, directory, environment=environment)
        self.port = port
        self._options = tuple(options)

    @property
    def url(self) -> str:
        return f"redis://{_HOST}:{self.port}"

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    def command(self) -> Sequence[str]:
        if not _CONFIGURATION.is_file():
            raise CouldNotRun(
                f"{_CONFIGURATION} is missing: a local cluster is started from a checkout of the repository"
            )
        return [
            program("redis-server", "redis-server"), str(_CONFIGURATION),
            "--port", str(self.port), "--bind", _HOST, "--dir", str(self.data_dir), *self._options,
        ]  # fmt: skip

    async def prepare(self) -> None:
        self.data_dir.mkdir(exist_ok=True)

    async def until_ready(self) -> None:
        while True:
            # An error other than "still loading" (a password is wanted, say) is an answer, too.
            if (answer := await self._ping()).startswith(_PONG) or (answer[:1] == b"-" and b"LOADING" not in answer):
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def lose_everything(self) -> None:
        """Killed, and its data gone. It is left ended: `start` brings it back, empty."""
        await self._dead()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    async def lose_last(self, seconds: float) -> None:
        """Killed, and what it acknowledged in its last `seconds` gone (and up to a second and a half more).

        It is left ended: `start` brings it back. Call it while it runs or soon after its end: the seconds count from
        now. Raises CouldNotRun when its file cannot be cut there.
        """
        assert seconds >= 0
        ended_s = time.time()
        await self._dead()
        # The file is marked once a second, with the whole second in which a write began: cut before that one.
        keep_until_s = math.floor(ended_s - seconds) - 1
        manifest = self.data_dir / "appendonlydir" / "appendonly.aof.manifest"
        tool = await asyncio.create_subprocess_exec(
            program("redis-check-aof", "redis-tools"), "--truncate-to-timestamp", str(keep_until_s), str(manifest),
            stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
        )  # fmt: skip
        said, _ = await tool.communicate()
        if tool.returncode != 0:
            raise CouldNotRun(f"{manifest} cannot be cut at second {keep_until_s}: {said.decode(errors='replace')}")

    async def _dead(self) -> None:
        self.kill()
        await self.wait()

    async def _ping(self) -> bytes:
        """What answers PING; b"" for nothing."""
        try:
            reader, writer = await asyncio.open_connection(_HOST, self.port)
        except OSError:
            return b""
        try:
            writer.write(b"PING\r\n")
            return await reader.readline()
        except OSError:
            return b""
        finally:
            writer.close()
