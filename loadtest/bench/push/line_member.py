"""A process of a benchmark that obeys commands, one per line, and answers each with one line of JSON, on one core."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec

from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.member import Member, program

__all__ = ["LineMember", "on_core"]

_ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024


def on_core(core: int, command: Sequence[str]) -> list[str]:
    """`command`, kept on `core` from its first instruction on. Raises CouldNotRun."""
    return [program("taskset", "util-linux"), "-c", str(core), *command]


class LineMember(Member):
    """Says one line when ready; ends with its input. Calls of `ask` wait for each other."""

    captures_output: ClassVar[bool] = True
    takes_commands: ClassVar[bool] = True
    output_line_max: ClassVar[int] = _ANSWER_BYTES_MAX

    def __init__(self, name: str, directory: Path, *, core: int, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(name, directory, environment=environment)
        self.core = core
        self._turn = asyncio.Lock()

    @abstractmethod
    def program(self) -> Sequence[str]:
        """What is run on the core. Raises CouldNotRun."""

    def ready(self, said: Mapping[str, Any]) -> None:
        """What it said when it became ready."""
        return

    def command(self) -> Sequence[str]:
        return on_core(self.core, self.program())

    async def until_ready(self) -> None:
        line = await self.first_line()
        if not line:
            await self.wait()  # its end is what is reported
            return
        self.ready(self._decoded(line))

    async def ask(self, command: str, *, within_s: float = 20.0) -> dict[str, Any]:
        """Its answer to one command. Raises CouldNotRun when it ended or does not answer in time."""
        async with self._turn:
            await self.tell(command)
            return await self.answer(within_s=within_s)

    async def tell(self, command: str) -> None:
        """Say one line; whoever tells reads what is answered."""
        assert "\n" not in command, "one line"
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command.encode() + b"\n")
            await self._process.stdin.drain()
        except ConnectionError as exc:
            raise CouldNotRun(f"{self.name} ended{self.log_end()}") from exc

    async def answer(self, *, within_s: float) -> dict[str, Any]:
        """The next line it says. Raises CouldNotRun."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise CouldNotRun(f"{self.name} did not answer within {within_s:.0f} s{self.log_end()}") from None
        except ValueError as exc:  # asyncio's word for a line above the limit
            raise CouldNotRun(f"{self.name} said more than {_ANSWER_BYTES_MAX} bytes at once") from exc
        if not line:
            raise CouldNotRun(f"{self.name} ended{self.log_end()}")
        return self._decoded(line)

    def _decoded(self, line: bytes) -> dict[str, Any]:
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError as exc:
            raise CouldNotRun(f"{self.name} said {line[:200]!r}, no JSON object") from exc
