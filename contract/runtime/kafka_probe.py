"""Whether something that accepts connections is a Kafka broker: one ApiVersions request, without a client library."""

from __future__ import annotations

import asyncio
import struct
from typing import Final

__all__ = ["NotKafka", "is_kafka"]

_API_VERSIONS: Final = 18
_CORRELATION: Final = 0x57C0
_ANSWER_MAX_BYTES: Final = 1 << 20
_NO_ERROR_OR_VERSION: Final = (0, 35)


class NotKafka(Exception):
    """It accepts connections and does not speak Kafka's protocol in the clear; `str()` says what it did instead."""

    def __init__(self, what: str, *, answered: bool = False) -> None:
        super().__init__(what)
        self.answered = answered
        """It said something else: no broker that is only slow, stopping or frozen."""


async def is_kafka(host: str, port: int, *, timeout_s: float) -> None:
    """Return if a Kafka listener without TLS answers there.

    Raises OSError or TimeoutError if nothing accepts connections there in time, NotKafka if something else does.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.timeout(timeout_s):
            client = b"stagecue-probe"
            body = struct.pack(">hhih", _API_VERSIONS, 0, _CORRELATION, len(client)) + client
            writer.write(struct.pack(">i", len(body)) + body)
            await writer.drain()
            size, correlation, error = struct.unpack(">iih", await reader.readexactly(10))
    except TimeoutError:
        raise NotKafka(f"does not answer within {timeout_s:g} s") from None
    except (OSError, asyncio.IncompleteReadError):
        raise NotKafka("closes the connection") from None
    finally:
        writer.close()
    if correlation != _CORRELATION or not 0 < size <= _ANSWER_MAX_BYTES or error not in _NO_ERROR_OR_VERSION:
        raise NotKafka("answers something else", answered=True)
