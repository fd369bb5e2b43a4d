"""One process of a local cluster: started until ready, killed, frozen, stopped, started again on the same data."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import time
from abc import ABC, abstractmethod
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

from loadtest.bench.outcome import CouldNotRun

__all__ = ["Member", "dying_with_us", "port_answers", "program", "unprivileged_user"]

_KILL_WITHIN_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.05
_UNPRIVILEGED: Final = ("postgres", "nobody")


class Member(ABC):
    """A process of its own session, so that what it forks is frozen and killed with it.

    It dies with the process that started it, however that ends. Subclasses give `command` and `until_ready`; where
    needed `prepare`, and `_signal` and `wait` if they have processes outside their group. One event loop each.
    """

    role: ClassVar[str]
    ready_within_s: ClassVar[float] = 30.0
    stop_within_s: ClassVar[float] = 15.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, name: str, directory: Path, *, environment: Mapping[str, str] | None = None) -> None:
        """`directory` is the member's own: log, data, configuration."""
        self.name = name
        self.directory = directory
        self.environment: dict[str, str] = dict(environment or {})
        """Settings of the next start, on top of this process's environment."""
        self.kills = 0
        self.started_at_s = 0.0
        """Wall clock of the last start, seconds since the epoch."""
        self.ready_after_s = 0.0
        """How long the last start took until ready."""
        self._process: Process | None = None
        self._frozen = False

    # What a subclass says

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Program and arguments of the next start. Raises CouldNotRun when the program is missing."""

    async def prepare(self) -> None:
        """Before each start: configuration, first initialisation. Raises CouldNotRun."""
        return

    @abstractmethod
    async def until_ready(self) -> None:
        """Return once it serves. Is cancelled when the process ends or `ready_within_s` is over."""

    # What others use

    @property
    def log_path(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def running(self) -> bool:
        """Started and not ended; a frozen one runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def frozen(self) -> bool:
        return self.running and self._frozen

    @property
    def pid(self) -> int:
        """Its process id, which is its process group's and session's, too."""
        assert self._process is not None, f"{self.name} is not started"
        return self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, *, within_s: float | None = None) -> None:
        """Start it and wait until it serves, at most `within_s` (None: what its kind takes).

        Raises CouldNotRun with its log's end; then, or cancelled, it is gone.
        """
        if self.running:
            raise CouldNotRun(f"{self.name} is running already")
        self.directory.mkdir(parents=True, exist_ok=True)
        begun_s = time.monotonic()
        await self.prepare()
        await self._spawn()
        try:
            await self._until_ready_or_ended(self.ready_within_s if within_s is None else within_s)
        except BaseException:
            await self._end_now()
            raise
        self.ready_after_s = time.monotonic() - begun_s

    def kill(self) -> None:
        """`kill -9` of all its processes: no chance to tidy up. `wait` afterwards."""
        if self.running:
            self._signal(signal.SIGKILL)
            self.kills += 1

    def freeze(self) -> None:
        """Stop its processes where they stand, sockets open."""
        if self.running:
            self._frozen = True
            self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self.running:
            self._signal(signal.SIGCONT)
        self._frozen = False

    async def wait(self) -> int | None:
        """Wait for its end, however it comes: the exit code, negative for a signal; None if it was not started."""
        process = self._process
        if process is None:
            return None
        return await process.wait()

    async def stop(self) -> int | None:
        """Ask it to end, thawed, and kill it if it does not in time. The exit code. Idempotent."""
        process = self._process
        if process is None:
            return None
        if process.returncode is None:
            self.thaw()
            self._signal(self.stop_signal)
            try:
                async with asyncio.timeout(self.stop_within_s):
                    await self.wait()
            except TimeoutError:
                await self._end_now()
            except asyncio.CancelledError:
                await self._end_now()
                raise
        return process.returncode

    def log_end(self, lines: int = 12) -> str:
        """The end of its log, for an error message."""
        if not self.log_path.exists():
            return ""
        found = self.log_path.read_text(errors="replace").splitlines()[-lines:]
        return "; its log ends:\n" + "\n".join(found) if found else "; it logged nothing"

    # How

    async def first_line(self) -> bytes:
        """The first line it prints; for members that announce themselves (see `captures_output`)."""
        assert self._process is not None
        assert self._process.stdout is not None, "its output goes to its log"
        return await self._process.stdout.readline()

    captures_output: ClassVar[bool] = False
    """Standard output is read (`first_line`) instead of logged."""
    takes_commands: ClassVar[bool] = False
    """Standard input is a pipe of ours; it sees the end of it when we end."""
    output_line_max: ClassVar[int] = 65_536
    """Bytes of the longest line it prints, if that is read."""

    async def _spawn(self) -> None:
        command = dying_with_us(self.command())
        self.started_at_s = time.time()
        self._frozen = False
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=PIPE if self.takes_commands else DEVNULL,
                stdout=PIPE if self.captures_output else log,
                stderr=log,
                limit=self.output_line_max,
                cwd=self.directory,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    async def _until_ready_or_ended(self, within_s: float) -> None:
        assert self._process is not None
        ready = asyncio.create_task(self.until_ready(), name=f"{self.name}.until-ready")
        ended = asyncio.create_task(self._process.wait(), name=f"{self.name}.ended")
        try:
            await asyncio.wait({ready, ended}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not (ended.done() and ready.exception() is None):
                return ready.result()
            if ended.done():
                raise CouldNotRun(f"{self.name} ended with code {ended.result()} before it was ready{self.log_end()}")
            raise CouldNotRun(f"{self.name} was not ready within {within_s:.0f} s{self.log_end()}")
        finally:
            for task in (ready, ended):
                task.cancel()
            await asyncio.wait({ready, ended})

    async def _end_now(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._signal(signal.SIGKILL)
        async with asyncio.timeout(_KILL_WITHIN_S):
            await asyncio.shield(self.wait())

    def _signal(self, number: signal.Signals) -> None:
        """Send it to all its processes, if it runs at all."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return  # it ended meanwhile


async def port_answers(host: str, port: int) -> None:
    """Return once something accepts connections there. Bound it from outside."""
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(_LOOK_EVERY_S)
        else:
            writer.close()
            return


def program(name: str, package: str, *, also_in: Sequence[Path] = ()) -> str:
    """Path of a program. Raises CouldNotRun naming the package to install."""
    found = shutil.which(name) or next((str(folder / name) for folder in also_in if (folder / name).is_file()), None)
    if found is None:
        raise CouldNotRun(f"{name} is not on PATH; install it, on Debian and Ubuntu: apt-get install {package}")
    return found


def unprivileged_user() -> str | None:
    """Who to run a server as that refuses to run as root; None when we are not root. Raises CouldNotRun."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise CouldNotRun(f"running as root, and none of the users {', '.join(_UNPRIVILEGED)} exists to run a server as")


def dying_with_us(command: Sequence[str]) -> list[str]:
    """`command`, told to die when its parent does.

    setpriv ends by becoming the command, so that its process id is the member's. A command that begins with setpriv
    itself, to become somebody else, says it there: the kernel forgets it when the account changes. Raises CouldNotRun.
    """
    if "--pdeathsig" in command:
        return list(command)
    return [program("setpriv", "util-linux"), "--pdeathsig", "KILL", "--", *command]
