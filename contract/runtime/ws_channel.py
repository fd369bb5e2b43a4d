"""Node links between processes: a MessageChannel over one WebSocket, and both ways to get an authenticated one.

The node listens (`serve_links`), the router connects (`connect_link`); either hands out a channel only after both ends
have proven who they are (see link_handshake).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode

from contract.errors import MalformedFrame, NodeUnreachable, Unauthorized
from contract.node_link import LinkMessage, decode_link_message, encode_link_message
from contract.runtime.link_handshake import NodeIdentity, prove_as_node, prove_as_router
from contract.tokens import KeyRing

__all__ = ["MAX_LINK_MESSAGE_BYTES", "WebSocketChannel", "connect_link", "serve_links"]

MAX_LINK_MESSAGE_BYTES: Final = 32 * 1024 * 1024
"""A hello of 200,000 topics of the longest legal name, twice."""
_MAX_UNREAD: Final = 64
"""Messages read ahead per link; beyond it TCP pushes back on the sender."""
_PING_S: Final = 5.0
_CLOSE_S: Final = 0.5
"""Wait for the other side's half of a close. One that is frozen, or behind a black hole, is to be replaced soon."""
_CLOSE_REFUSED: Final = CloseCode.POLICY_VIOLATION
_log = structlog.get_logger(__name__)


class WebSocketChannel:
    """MessageChannel over an open WebSocket; also the wire of its handshake.

    Bounded both ways: `receive` reads `_MAX_UNREAD` messages ahead, `send` waits while the socket's buffer is full.
    """

    __slots__ = ("_closing", "_sending", "_socket")

    def __init__(self, socket: ClientConnection | ServerConnection) -> None:
        self._socket = socket
        self._closing: asyncio.Task[None] | None = None
        self._sending = 0

    async def send(self, message: LinkMessage) -> None:
        await self.send_bytes(encode_link_message(message))

    async def receive(self) -> LinkMessage:
        data = await self.receive_bytes()
        try:
            return decode_link_message(data)
        except (msgspec.DecodeError, AssertionError) as exc:
            self.close()
            raise NodeUnreachable(f"the other side does not speak the node link: {exc}") from exc

    async def send_bytes(self, message: bytes) -> None:
        if self._closing is not None:
            raise NodeUnreachable("link closed")
        self._sending += 1
        try:
            await self._socket.send(message, text=True)
        except (ConnectionClosed, OSError) as exc:
            raise NodeUnreachable(f"link closed: {exc}") from exc
        finally:
            self._sending -= 1

    async def receive_bytes(self) -> bytes:
        try:
            return await self._socket.recv(decode=False)
        except (ConnectionClosed, OSError) as exc:
            raise NodeUnreachable(f"link closed: {exc}") from exc

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Start closing; the other side is given a moment to answer, then cut off. Idempotent.

        A side that does not even read is cut off at once: no closing handshake fits through a full buffer.
        """
        if self._closing is None:
            if self._sending:
                self._socket.transport.abort()
            self._closing = asyncio.create_task(self._close(code, reason), name="node-link-close")

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._socket.close(code, reason)
        except TimeoutError:
            self._socket.transport.abort()

    async def wait_closed(self) -> None:
        """Return once the connection is gone, whoever closed it."""
        await self._socket.wait_closed()
        if self._closing is not None:
            await asyncio.wait({self._closing})


async def connect_link(
    address: str,
    *,
    ring: KeyRing,
    router_id: str,
    expected: NodeIdentity,
    timeout_s: float = 5.0,
    ssl_context: ssl.SSLContext | None = None,
) -> WebSocketChannel:
    """A link to the node at `address` (`host:port`), once it proved to be `expected`.

    Raises NodeUnreachable, Unauthorized or MalformedFrame, within `timeout_s`; leaves nothing open then.
    """
    scheme = "wss" if ssl_context is not None else "ws"
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    try:
        socket = await connect(
            f"{scheme}://{address}/",
            ssl=ssl_context,
            proxy=None,
            compression=None,
            open_timeout=timeout_s,
            close_timeout=_CLOSE_S,
            ping_interval=_PING_S,
            ping_timeout=_PING_S,
            max_size=MAX_LINK_MESSAGE_BYTES,
            max_queue=_MAX_UNREAD,
        )
    except (OSError, TimeoutError, WebSocketException) as exc:
        raise NodeUnreachable(f"no node link at {address}: {exc}") from exc
    channel = WebSocketChannel(socket)
    try:
        left_s = max(0.0, deadline_s - loop.time())
        await prove_as_router(channel, ring=ring, router_id=router_id, expected=expected, timeout_s=left_s)
    except BaseException:
        channel.close(_CLOSE_REFUSED, "refused")
        raise
    return channel


@asynccontextmanager
async def serve_links(
    host: str,
    port: int,
    *,
    ring: KeyRing,
    identity: NodeIdentity,
    on_link: Callable[[WebSocketChannel, str], None],
    max_links: int = 64,
    handshake_timeout_s: float = 5.0,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Listen for routers; yields the address (`host:port`) to put into the node's lease.

    `on_link(channel, router_id)` is called once per authenticated link and must not block; whoever it gives the
    channel to closes it. Leaving the context closes the listener and every link. At most `max_links` at once, those
    still in their handshake included; OSError if the address cannot be bound.
    """
    open_links = 0

    async def handle(socket: ServerConnection) -> None:
        nonlocal open_links
        if open_links >= max_links:
            _log.warning("node_link_refused", why="too many links", links=open_links)
            await socket.close(CloseCode.TRY_AGAIN_LATER, "too many links")
            return
        open_links += 1
        channel = WebSocketChannel(socket)
        try:
            router_id = await prove_as_node(channel, ring=ring, identity=identity, timeout_s=handshake_timeout_s)
            on_link(channel, router_id)
            await channel.wait_closed()
        except (Unauthorized, MalformedFrame) as exc:
            _log.warning("node_link_refused", why=str(exc), peer=str(socket.remote_address))
            await socket.close(_CLOSE_REFUSED, "refused")
        except NodeUnreachable as exc:
            _log.info("node_link_unfinished", why=str(exc), peer=str(socket.remote_address))
            await socket.close()
        finally:
            open_links -= 1

    server: Server = await serve(
        handle,
        host,
        port,
        ssl=ssl_context,
        compression=None,
        server_header=None,
        open_timeout=handshake_timeout_s,
        close_timeout=_CLOSE_S,
        ping_interval=_PING_S,
        ping_timeout=_PING_S,
        max_size=MAX_LINK_MESSAGE_BYTES,
        max_queue=_MAX_UNREAD,
    )
    try:
        bound_host, bound_port = server.sockets[0].getsockname()[:2]
        yield f"[{bound_host}]:{bound_port}" if ":" in bound_host else f"{bound_host}:{bound_port}"
    finally:
        server.close()
        await server.wait_closed()
