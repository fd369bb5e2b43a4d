"""Goal: `stagecue device` leaves when it is asked to, whatever it waits for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(30)


async def test_it_leaves_a_dgs_that_never_answers_when_asked_to(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    command = [sys.executable, "-m", "stagecue", "device", "--event", "fight", "--dgs", url]
    with (tmp_path / "said").open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, "NO_COLOR": "1"}
        )
    try:
        async with asyncio.timeout(20):
            await asked.wait()
            process.send_signal(signal.SIGINT)
            # It would be given ten seconds, four times.
            async with asyncio.timeout(5):
                assert await process.wait() == 0, (tmp_path / "said").read_text()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        server.close()
