"""One client's connection: requests in, answers out in the order of the requests.

Bounded on both sides: of pipelined requests at most `pipelined_max` are under way, what comes on top waits as bytes,
and a client that keeps sending without reading is let go. Answers that are ready together go out in one write.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, cast

from dgs.http.answer import CONTINUE, malformed_answer, written
from dgs.http.cors import opened
from dgs.http.exchange import Exchange
from dgs.http.known_heads import KnownHeads
from dgs.http.limits import ServerLimits
from dgs.http.malformed import Malformed
from dgs.http.request_reader import RequestReader

__all__ = ["Connection", "ConnectionHost"]

_TOO_SLOW = Malformed(408, "took too long to arrive", "request")


class ConnectionHost(Protocol):
    """What a connection asks of its server."""

    known_heads: KnownHeads
    limits: ServerLimits
    draining: bool
    date_line: bytes

    def now_s(self) -> float: ...

    def opened(self, connection: Connection) -> bool:
        """Whether there is room for it."""
        ...

    def lost(self, connection: Connection) -> None: ...

    def arrived(self, exchange: Exchange, now_s: float) -> None:
        """A request is whole."""
        ...

    def finished(self, exchange: Exchange) -> None:
        """It has its answer, or its client has left."""
        ...

    def refused(self, malformed: Malformed) -> None:
        """What came was no request."""
        ...

    def let_go(self) -> None:
        """A client was cut off, for it did not read, or sent more than it may."""
        ...

    def flush_soon(self, connection: Connection) -> None:
        """Call `flush` at the end of this turn."""
        ...


class Connection(asyncio.Protocol):
    __slots__ = (
        "_arrived_s",
        "_begun_s",
        "_eof",
        "_flush_due",
        "_host",
        "_last_told",
        "_lingering",
        "_out",
        "_paused",
        "_reader",
        "_reading",
        "_server",
        "_since_s",
        "_transport",
        "_waiting",
    )

    def __init__(self, server: ConnectionHost, host: str | None = None) -> None:
        self._server = server
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._reader = cast(RequestReader, None)  # made with the connection
        self._waiting: deque[Exchange] = deque()
        """Requests under way and those answered behind them, in order."""
        self._out: list[bytes] = []
        self._flush_due = False
        self._reading = False
        """Requests are being taken in: whoever is answered meanwhile is written to after it."""
        self._eof = False
        """The client asks nothing beyond what is here."""
        self._paused = False
        """The client does not take what it asked for: nothing more is served to it until it does."""
        self._lingering = False
        """It has its last answer; what it still sends is thrown away until it closes."""
        self._arrived_s = 0.0
        """When the last request did, or the connection."""
        self._begun_s: float | None = None
        """When the first byte of an unfinished request came."""
        self._last_told = False
        """The answer made last says that the connection ends; a stop that begins after it was made is told later."""
        self._since_s = 0.0
        """When it was paused, or began to linger."""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        limits = self._server.limits
        if self._host is None:
            peer = transport.get_extra_info("peername")
            self._host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        self._reader = RequestReader(
            self._host,
            max_head_bytes=limits.max_head_bytes,
            max_body_bytes=limits.max_body_bytes,
            known_heads=self._server.known_heads,
        )
        self._arrived_s = self._server.now_s()
        if not self._server.opened(self):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        self._take(data)
        reader = self._reader
        if reader.held_bytes > self._server.limits.max_held_bytes:
            self._server.let_go()
            self.abort()
        elif self._out or reader.continue_wanted or reader.malformed is not None:
            self.flush()

    def eof_received(self) -> bool:
        """A client may close its half once it has asked all it wants; whatever it asked is answered.

        One that has left altogether looks the same: a reset shows the difference, at the latest when it is written to.
        """
        if self._lingering or not (self._waiting or self._out):
            return False
        self._eof = True
        return True

    def pause_writing(self) -> None:
        self._paused = True
        self._since_s = self._server.now_s()

    def resume_writing(self) -> None:
        self._paused = False
        if not self._lingering:
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._transport = None
        self._out.clear()
        for exchange in waiting:
            if exchange.answer is None:
                exchange.abandon()
                self._server.finished(exchange)
        self._server.lost(self)

    # Requests.

    def _take(self, data: bytes) -> None:
        """Take in what is whole by now, as far as there is room."""
        server, reader, waiting = self._server, self._reader, self._waiting
        now_s = server.now_s()
        most = 0 if self._paused else server.limits.pipelined_max
        self._reading = True
        while True:
            room = most - len(waiting)
            asks = reader.feed(data, now_s, room)
            for ask in asks:
                exchange = Exchange(self, ask)
                waiting.append(exchange)
                server.arrived(exchange, now_s)
            if asks:
                self._arrived_s = now_s
                self._begun_s = None
            if not asks or len(asks) < room:
                break
            data = b""
        self._reading = False
        if not reader.begun:
            self._begun_s = None
        elif self._begun_s is None:
            self._begun_s = now_s

    def answered(self, exchange: Exchange) -> None:
        """Called by `exchange` as it gets its answer."""
        server = self._server
        server.finished(exchange)
        waiting = self._waiting
        if waiting[0] is not exchange:
            return  # its turn comes
        while waiting and (answer := waiting[0].answer) is not None:
            ask = waiting.popleft().ask
            if b"origin" in ask.fields:
                answer = opened(ask, answer)
            self._last_told = not waiting and self._ends()
            self._out.append(
                written(
                    answer,
                    head_only=ask.method == "HEAD",
                    close=self._last_told,
                    date_line=server.date_line,
                )
            )
        if self._reading:
            return  # which flushes
        if not waiting:
            self.flush()
        elif not self._flush_due:
            self._flush_due = True
            server.flush_soon(self)

    def _ends(self) -> bool:
        """Whether nothing is to be answered behind those that wait."""
        reader = self._reader
        if reader.last:
            return True
        return (self._eof or self._server.draining) and not reader.begun and reader.malformed is None

    def flush(self) -> None:
        """Write what is ready, and go on to what waits behind it."""
        self._flush_due = False
        transport, reader, waiting = self._transport, self._reader, self._waiting
        if transport is None or self._lingering:
            return
        out = self._out
        while not self._paused:
            if out:
                data = out[0] if len(out) == 1 else b"".join(out)
                out.clear()
                transport.write(data)
            if reader.begun and not self._paused and len(waiting) < self._server.limits.pipelined_max:
                self._take(b"")
            if not out:
                break
        if waiting or self._paused:
            return
        if reader.malformed is not None:
            self._refuse(reader.malformed)
        elif self._eof or self._last_told:
            self._end()
        elif reader.continue_wanted:
            reader.continue_wanted = False
            transport.write(CONTINUE)

    def _refuse(self, malformed: Malformed) -> None:
        """The last this connection is told."""
        self._server.refused(malformed)
        assert self._transport is not None
        self._transport.write(
            written(malformed_answer(malformed), head_only=False, close=True, date_line=self._server.date_line)
        )
        self._end()

    def _end(self) -> None:
        """Close our half; the client reads what there is and closes its own."""
        self._lingering = True
        self._since_s = self._server.now_s()
        transport = self._transport
        assert transport is not None
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Time.

    def on_time(self, now_s: float) -> None:
        """Called every tick: let go whoever has had its time."""
        limits = self._server.limits
        if self._lingering:
            if now_s - self._since_s >= limits.linger_s:
                self.abort()
        elif self._paused:
            if now_s - self._since_s >= limits.request_timeout_s:
                self._server.let_go()
                self.abort()
        elif self._waiting:
            # The endpoint's own deadline is the nearer one: this is for an endpoint that lost a request.
            if now_s - self._arrived_s >= 2 * limits.request_timeout_s:
                self.abort()
        elif self._begun_s is not None:
            if now_s - self._begun_s >= limits.request_timeout_s:
                self._refuse(_TOO_SLOW)
        elif now_s - self._arrived_s >= limits.idle_timeout_s:
            self._end()

    def on_drain(self, now_s: float, began_s: float) -> None:
        """Called often while the server stops: end it once it rests."""
        self.on_time(now_s)
        if self._lingering or self._paused or self._waiting or self._out or self._reader.begun:
            return
        limits = self._server.limits
        if now_s - began_s >= limits.drain_quiet_s and now_s - self._arrived_s >= limits.drain_fresh_s:
            self._end()
