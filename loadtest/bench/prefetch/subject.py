"""A server under test, whoever made it, and our DGS as one."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import msgspec

from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.prefetch.asking import DOCUMENT, FORMS, HASH, Form, request_of
from loadtest.bench.prefetch.dgs_setup import DgsSetup
from loadtest.bench.prefetch.night import OPERATION, OPERATION_HASH, profile_id
from loadtest.bench.push.line_member import LineMember

__all__ = ["DgsSubject", "Subject", "ask_once"]

_SETTINGS_PREFIX: Final = "DGS_"
_ASKED_WITHIN_S: Final = 10.0


class Subject(Protocol):
    """Started by `start`, on its core."""

    name: str
    does: ClassVar[str]
    """What one answer asks of it, for the table."""

    @property
    def pid(self) -> int: ...

    @property
    def port(self) -> int: ...

    @property
    def form(self) -> Form:
        """How it is asked; known once it is started."""
        ...

    @property
    def takes_tokens(self) -> bool: ...

    async def start(self) -> None:
        """Raises CouldNotRun, naming what is missing."""
        ...

    async def stop(self) -> object: ...


class DgsSubject(LineMember):
    """Production defaults: settings of the caller's environment do not reach it, only what is given here."""

    role: ClassVar[str] = "dgs"
    does: ClassVar[str] = "HS256 verified, metrics, limits, shedding, ETag"

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        core: int,
        setup: DgsSetup,
        environment: Mapping[str, str] | None = None,
        takes_tokens: bool = True,
        form: str | None = None,
    ) -> None:
        """`form`: of FORMS; None: the hash of the operation if it knows that, else the whole document."""
        own = {
            "DGS_TOKENS": "required" if takes_tokens else "off",
            "DGS_OPERATIONS_PATH": str(directory / "operations.json"),
        }
        super().__init__(name, directory, core=core, environment={**own, **(environment or {})})
        self.takes_tokens = takes_tokens
        self._setup = setup
        self._wanted = form
        self._form = DOCUMENT if form is None else FORMS[form]
        self._port = 0

    @property
    def port(self) -> int:
        return self._port

    @property
    def form(self) -> Form:
        return self._form

    def program(self) -> Sequence[str]:
        inherited = [name for name in os.environ if name.startswith(_SETTINGS_PREFIX)]
        unset = [part for name in inherited if name not in self.environment for part in ("-u", name)]
        return ["env", *unset, sys.executable, "-m", "loadtest.bench.prefetch.dgs_child", str(self._setup_path)]

    async def prepare(self) -> None:
        self._setup_path.touch(mode=0o600)
        self._setup_path.write_bytes(msgspec.json.encode(self._setup))
        (self.directory / "operations.json").write_bytes(msgspec.json.encode({OPERATION_HASH: OPERATION}))

    def ready(self, said: Mapping[str, Any]) -> None:
        self._port = int(said["port"])

    async def start(self, *, within_s: float | None = None) -> None:
        """Started, and asked once to learn how it takes the operation."""
        await super().start(within_s=within_s)
        try:
            if self._wanted is None:
                self._form = await self._learn_form()
        except BaseException:
            await self.stop()
            raise

    async def _learn_form(self) -> Form:
        said = b""
        profile = profile_id(0)
        token = self._setup.secret.signer()(profile, 2**33) if self.takes_tokens else None
        for form in (HASH, DOCUMENT):
            said = await ask_once(self.port, request_of(form, self.port, profile, token))
            if b'"prefetchEvent":{' in said:
                return form
        raise CouldNotRun(f"{self.name} gives no map, but {said[:400].decode(errors='replace')}{self.log_end()}")

    @property
    def _setup_path(self) -> Path:
        return self.directory / f"{self.name}.setup.json"


async def ask_once(port: int, request: bytes) -> bytes:
    """The answer to one request, with its head. Raises CouldNotRun."""
    request = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    try:
        async with asyncio.timeout(_ASKED_WITHIN_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                return await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError) as exc:
        raise CouldNotRun(f"port {port} does not answer: {exc!r}") from exc
