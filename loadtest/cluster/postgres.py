"""A PostgreSQL server of one's own: a data directory, a port on loopback, a process that dies and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL
from pathlib import Path
from typing import ClassVar, Final

from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.member import Member, program
from loadtest.cluster.unprivileged import unprivileged_account

__all__ = ["DATABASE", "PostgresServer"]

DATABASE: Final = "stagecue"
_USER: Final = "stagecue"
_HOST: Final = "127.0.0.1"
_LOOK_EVERY_S: Final = 0.03
_GONE_WITHIN_S: Final = 5.0
_SETTINGS: Final = {
    # Commits stay durable: whoever kills the server must find what was confirmed.
    "fsync": "on",
    "synchronous_commit": "on",
    "listen_addresses": _HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "max_wal_size": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    # In the data directory: a killed server leaves nothing in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


class PostgresServer(Member):
    """A cluster member. `url` is what PRODUCER_DATABASE_URL wants; password and data outlive a kill, a stop, a start.

    PostgreSQL refuses to run as root, so under root it runs as another account and its files belong to that.
    """

    role: ClassVar[str] = "postgres"
    stop_within_s: ClassVar[float] = 5.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # a fast shutdown: sessions end, what is committed is kept

    def __init__(self, directory: Path, port: int | None = None, *, name: str = "postgres") -> None:
        """Nothing is started yet; `port` None: a free one, kept from then on."""
        super().__init__(name, directory.absolute())
        self.port = _free_port() if port is None else port
        self.data = self.directory / "data"
        self._password = ""
        self._children: set[int] = set()

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the server's database; valid once it was started."""
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """SQLAlchemy URL of another database on this server, as `create_database` makes them."""
        return f"postgresql+psycopg://{_USER}:{self._password}@{_HOST}:{self.port}/{database}"

    async def create_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        await asyncio.to_thread(self._execute, f'CREATE DATABASE "{name}"')
        return self.url_of(name)

    async def drop_database(self, name: str) -> None:
        """Remove it and whoever is connected to it."""
        await asyncio.to_thread(self._execute, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def kill(self) -> None:
        """SIGKILL the whole server at once. `wait` afterwards: before, it refuses to start again."""
        if self.running:
            self._signal(signal.SIGSTOP)  # it must not start another process while they are counted
        super().kill()

    async def wait(self) -> int | None:
        """As every member's; and until none of its processes is left, who would hold its shared memory."""
        code = await super().wait()
        async with asyncio.timeout(_GONE_WITHIN_S):
            while any(_lives(child) for child in self._children):  # noqa: ASYNC110 - not our children: nobody tells us
                await asyncio.sleep(0.005)
        self._children.clear()
        return code

    def command(self) -> list[str]:
        options = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        return [*self._as_account(), _program("postgres"), "-D", str(self.data), "-p", str(self.port), *options]

    async def prepare(self) -> None:
        """Lay out the data directory, once."""
        await self.wait()
        password, account = self.directory / "password", unprivileged_account()
        if not password.exists():
            password.touch(mode=0o600)
            password.write_text(secrets.token_hex(16))
        self._password = password.read_text().strip()
        if account is not None:
            account.own(self.directory, password)
        if (self.data / "PG_VERSION").exists():
            self._forget_the_dead()
            return
        # Under another name until it is whole: a start that was killed leaves no half of one.
        making = self.directory / "data.new"
        shutil.rmtree(making, ignore_errors=True)
        command = [*self._as_account(), _program("initdb"), "-D", str(making), "--username", _USER]
        command += ["--pwfile", str(password), "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"]
        with self.log_path.open("ab") as log:
            initdb = await asyncio.create_subprocess_exec(
                *command, cwd=self.directory, stdin=DEVNULL, stdout=log, stderr=log
            )
            if await initdb.wait() != 0:
                raise CouldNotRun(f"initdb failed in {self.directory}{self.log_end()}")
        making.rename(self.data)

    async def until_ready(self) -> None:
        """It serves its database, which is made if need be."""
        import psycopg

        while True:
            try:
                await asyncio.to_thread(self._have_database)
            except psycopg.OperationalError:
                await asyncio.sleep(_LOOK_EVERY_S)
            else:
                return

    def _forget_the_dead(self) -> None:
        """Remove the lock file of a server that was killed and that nobody reaped: PostgreSQL takes it for alive."""
        lock = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError):
            if not _lives(int(lock.read_text().split()[0])):
                lock.unlink()

    def _as_account(self) -> list[str]:
        account = unprivileged_account()
        return [] if account is None else account.prefix(self.directory)

    def _have_database(self) -> None:
        if not self._execute("SELECT FROM pg_database WHERE datname = %s", DATABASE):
            self._execute(f'CREATE DATABASE "{DATABASE}"')

    def _execute(self, statement: str, *given: object) -> int:
        """Run one statement outside a transaction; returns how many rows it touched."""
        import psycopg

        with psycopg.connect(
            host=_HOST,
            port=self.port,
            user=_USER,
            password=self._password,
            dbname="postgres",
            autocommit=True,
            connect_timeout=5,
        ) as connection:
            return connection.execute(statement.encode(), given or None).rowcount

    def _signal(self, number: signal.Signals) -> None:
        """To every process of the server: each is a session of its own, so no process group holds them."""
        if number == self.stop_signal:
            super()._signal(number)  # the first process tells the others, in order
            return
        self._children = set(_children_of(self.pid))
        for one in (self.pid, *self._children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, number)


def _program(name: str) -> str:
    """Where `name` is; Debian keeps the server's programs off the PATH. Raises CouldNotRun."""
    packaged = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(packaged, key=lambda path: _version(path.parent.name), reverse=True)
    return program(name, "postgresql", also_in=newest_first)


def _version(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _children_of(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _lives(pid: int) -> bool:
    """Whether the process holds anything still; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port
