"""fastify and mercurius with its JIT as a subject; what runs in its process is `mercurius/server.mjs`."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from loadtest.bench.outcome import CouldNotRun
from loadtest.bench.peers.programs import cache_directory, run_tool
from loadtest.bench.prefetch.asking import PREPARED, Form
from loadtest.bench.prefetch.peer_night import PeerNight
from loadtest.bench.push.line_member import LineMember
from loadtest.cluster.member import program

__all__ = ["MercuriusPeer", "node_modules"]

_HERE: Final = Path(__file__).parent / "mercurius"
_LISTED: Final = ("package.json", "package-lock.json")
_INSTALLED_WITHIN_S: Final = 180.0


class MercuriusPeer(LineMember):
    role: ClassVar[str] = "mercurius"
    does: ClassVar[str] = "HS256 verified, persisted operation, JIT, objects from memory"
    takes_tokens: ClassVar[bool] = True

    def __init__(self, directory: Path, *, core: int, night: PeerNight) -> None:
        super().__init__("mercurius", directory, core=core)
        self._night = night
        self._modules: Path | None = None
        self._port = 0

    @property
    def port(self) -> int:
        return self._port

    @property
    def form(self) -> Form:
        return PREPARED

    async def prepare(self) -> None:
        program("node", "nodejs")
        self._modules = await node_modules()

    def program(self) -> Sequence[str]:
        assert self._modules is not None, "prepared first"
        node = program("node", "nodejs")
        return [
            "env",
            "NODE_ENV=production",
            node,
            str(_HERE / "server.mjs"),
            str(self._modules),
            str(self._night.path),
        ]

    def ready(self, said: Mapping[str, Any]) -> None:
        self._port = int(said["port"])


async def node_modules() -> Path:
    """The directory of its packages, installed once per lock file into the user's cache. Raises CouldNotRun."""
    if missing := [name for name in (*_LISTED, "server.mjs") if not (_HERE / name).is_file()]:
        raise CouldNotRun(f"{' and '.join(missing)} missing in {_HERE}: run from a checkout of the repository")
    digest = hashlib.sha256(b"".join((_HERE / name).read_bytes() for name in _LISTED)).hexdigest()[:16]
    kept = cache_directory() / f"mercurius-{digest}"
    if not (kept / "node_modules").is_dir():
        npm = program("npm", "npm")
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Installed beside its name and given it at once: two benchmarks may do so at the same time.
        with tempfile.TemporaryDirectory(dir=kept.parent) as making:
            made = Path(making) / "mercurius"
            made.mkdir()
            for name in _LISTED:
                shutil.copy(_HERE / name, made)
            await run_tool(
                *(npm, "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"),
                called="mercurius: npm ci",
                failed="mercurius: npm ci failed (it needs the network once)",
                within_s=_INSTALLED_WITHIN_S,
                where=made,
            )
            try:
                made.rename(kept)
            except OSError:  # the other one was first
                if not (kept / "node_modules").is_dir():
                    raise
    return kept / "node_modules"
