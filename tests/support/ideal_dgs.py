"""A server that does under overload what is promised, or the opposite: `python ideal_dgs.py PER_S POLITE`.

It serves PER_S requests a second, each after 10 ms, first prefetches before refreshes if POLITE is 1, and refuses the
rest at once; with DGS_RULESET_PATH set it refuses everybody.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

PER_S, POLITE = float(sys.argv[1]), sys.argv[2] == "1"
REFUSING = "DGS_RULESET_PATH" in os.environ
BODY = b'{"data":{"prefetchEvent":{"stages":[]}}}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
BUSY = b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n"


class Bucket:
    """Room for so many a second, a twentieth of it at once."""

    def __init__(self) -> None:
        self.room, self.at_s = PER_S / 20, 0.0

    def take(self, now_s: float, *, critical: bool) -> bool:
        self.room = min(PER_S / 20, self.room + (now_s - self.at_s) * PER_S)
        self.at_s = now_s
        # What is critical may use the last of the room, others leave some for it.
        if self.room < (1 if critical or not POLITE else PER_S / 40):
            return False
        self.room -= 1
        return True


async def main() -> None:
    loop, bucket, ended = asyncio.get_running_loop(), Bucket(), asyncio.Event()

    class Connection(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.buffer = transport, b""

        def data_received(self, data: bytes) -> None:
            self.buffer += data
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]) if found else 0
            if not found or len(rest) < length:
                return
            self.buffer = rest[length:]
            if REFUSING or not bucket.take(loop.time(), critical=b"If-None-Match" not in head):
                self.transport.write(BUSY)  # type: ignore[attr-defined]
            else:
                loop.call_later(0.01, self.transport.write, GOOD)  # type: ignore[attr-defined]

    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=4096)
    loop.add_reader(0, lambda: os.read(0, 4096) or ended.set())
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
