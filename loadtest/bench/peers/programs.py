"""The benchmark's C programs, compiled when first needed and kept."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Final

from loadtest.bench.outcome import CouldNotRun
from loadtest.cluster.member import program

__all__ = ["COMPILER_FLAGS", "cache_directory", "compiled", "run_tool"]

COMPILER_FLAGS: Final = ("-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror")
_HERE: Final = Path(__file__).parent
_COMPILED_WITHIN_S: Final = 60.0


async def compiled(name: str) -> Path:
    """The program of `<name>.c`, compiled unless this source was before. Raises CouldNotRun that says what is missing.

    Kept under the user's cache by the hash of its source and flags, so no stale one is ever run.
    """
    source = _HERE / f"{name}.c"
    parts = (source, _HERE / "control.h")
    if missing := [part.name for part in parts if not part.is_file()]:
        raise CouldNotRun(f"{' and '.join(missing)} missing beside {__name__}: run from a checkout of the repository")
    digest = hashlib.sha256(" ".join(COMPILER_FLAGS).encode() + b"".join(part.read_bytes() for part in parts))
    kept = cache_directory() / f"{name}-{digest.hexdigest()[:16]}"
    if kept.is_file():
        return kept
    compiler = program("gcc", "gcc")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Made beside its name and given it at once: two benchmarks may compile at the same time.
        with tempfile.TemporaryDirectory(dir=kept.parent) as making:
            made = Path(making) / name
            command = (compiler, *COMPILER_FLAGS, "-o", str(made), str(source))
            await run_tool(*command, called=compiler, failed=f"{' '.join(command)} failed", within_s=_COMPILED_WITHIN_S)
            made.replace(kept)
    except OSError as exc:
        raise CouldNotRun(f"{kept.parent} cannot be used ({exc.strerror}); set XDG_CACHE_HOME") from exc
    return kept


async def run_tool(*command: str, called: str, failed: str, within_s: float, where: Path | None = None) -> None:
    """Run a tool that makes something once. Raises CouldNotRun: `called` took too long, or `failed` and why."""
    process = await asyncio.create_subprocess_exec(*command, cwd=where, stdout=PIPE, stderr=STDOUT)
    try:
        async with asyncio.timeout(within_s):
            said, _ = await process.communicate()
    except TimeoutError:
        raise CouldNotRun(f"{called} took longer than {within_s:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise CouldNotRun(f"{failed}:\n{said.decode(errors='replace')[-2000:]}")


def cache_directory() -> Path:
    """Where benchmarks keep what is dear to make, per user."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "stagecue" / "bench"
