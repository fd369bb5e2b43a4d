"""The DGS's HTTP server: every turn of the loop takes in what has arrived, then serves by importance.

Requests are read in sweeps and only looked at as they are read: classed, and put into the intake. What is most
important is then served, until the turn's time is over; the sockets come next, so that what arrives meanwhile finds its
class before anything less important is served. How long requests lie in the intake is how the gate knows of overload,
and refusing one costs its framing and one write.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Collection
from email.utils import formatdate
from typing import Final

import structlog

from contract.clock import Clock
from contract.runtime.listening import HandOver, close_listener, to_the_loop
from contract.runtime.log_limit import KindLimit
from contract.runtime.runner import Readiness
from contract.runtime.socket_table import AVAILABLE, ServedListener, SocketTable
from dgs.http.answer import MASKED, refusal
from dgs.http.connection import Connection
from dgs.http.cors import preflight
from dgs.http.exchange import Exchange
from dgs.http.intake import Intake
from dgs.http.known_heads import KnownHeads
from dgs.http.limits import ServerLimits
from dgs.http.malformed import Malformed
from dgs.http.open_gate import OpenGate, look_at_nothing
from dgs.serving import Answer, Ask, Class, Endpoint, Gate, Outcome, Seen, Verdict
from dgs.traces import FIELD, Traces, enter, tracing

__all__ = ["DgsServer"]

_DRAIN_LOOK_S: Final = 0.02
_SHEDS: Final = 0.05
"""Share of refused requests from which on the sockets are looked at once a `_PACE_S`."""
_PACE_S: Final = 0.002
"""A look costs what a refusal costs, and many at once cost less each. Whoever is refused waits that long, and so does
who is served beside them."""
_TIMEOUTS: Final = frozenset((408, 504))
_log = structlog.get_logger(__name__)


class DgsServer:
    """Service: answers HTTP on the listener `sock` with `endpoint`, as far as `gate` lets requests through.

    `look` says what a request is before anything is paid for it; `refuse` makes the answer of one that is turned away.
    Neither may block or raise. Without a gate everything is served.
    """

    name = "dgs"

    def __init__(
        self,
        sock: socket.socket,
        *,
        endpoint: Endpoint,
        gate: Gate | None = None,
        look: Callable[[Ask], Seen] = look_at_nothing,
        refuse: Callable[[Ask, Verdict], Answer] = refusal,
        limits: ServerLimits,
        clock: Clock,
        readiness: Readiness,
        tls: ssl.SSLContext | None = None,
        observe: Callable[[str, Class, int, float], None] | None = None,
        always: Collection[str] = (),
        traces: Traces | None = None,
    ) -> None:
        """`observe` hears of each request served: operation, class, status, seconds since it was admitted.

        `traces` chooses which are followed. Requests for the paths of `always` are served as they come, whatever the
        gate thinks.
        """
        self.limits = limits
        self.draining = False
        self.known_heads = KnownHeads(limits.max_body_bytes)
        self.date_line = b""
        self._sock = sock
        self._endpoint = endpoint
        self._gate: Gate = gate if gate is not None else OpenGate()
        self._look = look
        self._refusal = refuse
        self._clock = clock
        self._readiness = readiness
        self._tls = tls
        self._observe = observe
        self._always = frozenset(always)
        self._traces = traces
        self._table: SocketTable | None = None
        self._listener: asyncio.Server | ServedListener | None = None
        self._connections: dict[Connection, None] = {}
        self._intake: Intake[Exchange] = Intake(limits.queue_max)
        self._to_flush: list[Connection] = []
        self._turn_due = False
        self._flush_due = False
        self._failure_lines = KindLimit(burst=5, window_s=60.0)
        self._accepted = 0
        self._no_room = 0
        self._requests = 0
        self._served = 0
        self._refused = 0
        self._turned_away = 0
        self._expired = 0
        self._malformed = 0
        self._let_go = 0
        self._abandoned = 0
        self._failed = 0
        self._queue_delay_us_max = 0

    def stats(self) -> dict[str, int]:
        """Counts since the start, and what there is now; `queue_delay_us_max` since the last call."""
        longest, self._queue_delay_us_max = self._queue_delay_us_max, 0
        return {
            "connections": len(self._connections),
            "accepted": self._accepted,
            "no_room": self._no_room,
            "requests": self._requests,
            "served": self._served,
            "refused": self._refused,
            "turned_away": self._turned_away,
            "expired": self._expired,
            "malformed": self._malformed,
            "let_go": self._let_go,
            "abandoned": self._abandoned,
            "failed": self._failed,
            "queue_delay_us_max": longest,
        }

    def waiting(self) -> dict[Class, int]:
        """Requests in the intake, by class."""
        return self._intake.waiting()

    # Service

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Serve until `stop`; then answer what is under way within `drain_s`. Cancelled, it cuts everybody off."""
        self._tell_date()
        await self._listen()
        ticking = asyncio.create_task(self._tick(), name=f"{self.name}.tick")
        try:
            ready.set()
            await stop.wait()
            await self._drain()
        finally:
            ticking.cancel()
            if self._listener is not None:
                self._listener.close()
            for connection in tuple(self._connections):
                connection.abort()
            if self._table is not None:
                self._table.close()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        if AVAILABLE and self._tls is None:
            self._table = SocketTable(loop)
            self._listener = self._table.serve(self._sock, self._connection)
        else:
            patience_s = self.limits.request_timeout_s if self._tls is not None else None
            self._listener = await loop.create_server(
                self._connection,
                sock=self._sock,
                ssl=self._tls,
                ssl_handshake_timeout=patience_s,
                ssl_shutdown_timeout=patience_s,
            )
        self._readiness.hold("dgs.listener")

    def _connection(self, host: str | None = None) -> Connection:
        return Connection(self, host)

    async def _drain(self) -> None:
        self._readiness.expect("dgs.listener", "draining")
        assert self._listener is not None
        await close_listener(self._listener, self._sock, self._hand_over())
        self.draining = True
        began_s = now_s = looked_s = self.now_s()
        late = False
        while self._connections and now_s - began_s < self.limits.drain_s:
            # After a busy while what has arrived meanwhile is not read yet: nobody is at rest before it is.
            late = not late and now_s - looked_s > 2 * _DRAIN_LOOK_S
            if not late:
                for connection in tuple(self._connections):
                    connection.on_drain(now_s, began_s)
            looked_s = now_s
            await asyncio.sleep(_DRAIN_LOOK_S)
            now_s = self.now_s()
        if self._connections:
            _log.warning("connections_cut_off", count=len(self._connections), after_s=self.limits.drain_s)

    def _hand_over(self) -> HandOver:
        """For connections nobody accepted before the listener closed."""
        table = self._table
        if table is None:
            return to_the_loop(self._connection, self._tls)

        async def take(connection: socket.socket) -> None:
            table.take(connection, self._connection)

        return take

    async def _tick(self) -> None:
        refused = requests = 0
        while True:
            await asyncio.sleep(self.limits.tick_s)
            self._tell_date()
            now_s = self.now_s()
            if self._table is not None:
                came, went = self._requests - requests, self._refused + self._turned_away - refused
                self._table.pace(_PACE_S if went > _SHEDS * came else 0.0)
            requests, refused = self._requests, self._refused + self._turned_away
            self._gate.tick(now_s, self._clock.now_ms())
            for waiting in self._intake.expired(now_s - self.limits.request_timeout_s):
                if waiting.item.wanted:
                    self._expired += 1
                    self._turn_away(waiting.item, Verdict(waiting.klass, False))
            if not self.draining:  # else on_drain
                for connection in tuple(self._connections):
                    connection.on_time(now_s)

    def _tell_date(self) -> None:
        self.date_line = f"date: {formatdate(self._clock.now_ms() / 1000, usegmt=True)}\r\n".encode()

    # What connections ask.

    def now_s(self) -> float:
        return self._clock.monotonic_s()

    def opened(self, connection: Connection) -> bool:
        self._accepted += 1
        self._connections[connection] = None
        if len(self._connections) <= self.limits.max_connections:
            return True
        self._no_room += 1
        return False

    def lost(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    def arrived(self, exchange: Exchange, now_s: float) -> None:
        self._requests += 1
        if exchange.ask.method == "OPTIONS" and (known := preflight(exchange.ask)) is not None:
            exchange(known)
            return
        if exchange.ask.path in self._always:
            self._serve(exchange)
            return
        traces = self._traces
        if traces is not None and (now_s >= traces.due_s or FIELD in exchange.ask.fields):
            exchange.trace = traces.begin(exchange.ask)
        try:
            seen = exchange.seen = self._look(exchange.ask)
            klass = exchange.klass = self._gate.classify(seen, self._clock.now_ms())
        except Exception:
            self._fail(exchange)
            return
        less_important = self._intake.put(exchange, klass, now_s)
        if less_important is not None:
            self._turned_away += 1
            self._turn_away(less_important, Verdict(less_important.klass, False))
        if not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def finished(self, exchange: Exchange) -> None:
        answer = exchange.answer
        if answer is None:
            self._abandoned += 1
        if exchange.trace is not None and self._traces is not None:
            answer = self._traces.end(exchange.trace, exchange.seen.operation, exchange.klass, answer)
            exchange.answer = answer
        admitted_s = exchange.admitted_s
        if admitted_s is None:
            return
        outcome: Outcome = "ok"
        if answer is None or answer.status >= 500 or answer.status == 408:
            outcome = "late" if answer is not None and answer.status in _TIMEOUTS else "failed"
        now_s = self._clock.monotonic_s()
        self._gate.finished(exchange.klass, took_s=now_s - admitted_s, outcome=outcome, now_s=now_s)
        if self._observe is not None and answer is not None:
            self._observe(exchange.seen.operation, exchange.klass, answer.status, now_s - admitted_s)

    def refused(self, malformed: Malformed) -> None:
        self._malformed += 1

    def let_go(self) -> None:
        self._let_go += 1

    def flush_soon(self, connection: Connection) -> None:
        self._to_flush.append(connection)
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    # A turn.

    def _turn(self) -> None:
        """Serve the most important of those that wait, until the turn is over."""
        self._turn_due = False
        take, limits = self._intake.take, self.limits
        now_ms = self._clock.now_ms()
        now_s = self.now_s()
        end_s = now_s + limits.turn_s
        for _ in range(limits.turn_requests):
            waiting = take(now_s)
            if waiting is None:
                break
            exchange, klass, since_s = waiting
            if exchange.wanted:
                self._admit(exchange, klass, since_s, now_s, now_ms)
                now_s = self.now_s()
                if now_s >= end_s:
                    break
        if self._to_flush:
            self._flush()
        if len(self._intake) and not self._turn_due:
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _admit(self, exchange: Exchange, klass: Class, since_s: float, now_s: float, now_ms: int) -> None:
        delay_s = now_s - since_s
        if delay_s * 1e6 > self._queue_delay_us_max:
            self._queue_delay_us_max = int(delay_s * 1e6)
        try:
            verdict = self._gate.admit(klass, exchange.seen, now_s=now_s, now_ms=now_ms, queue_delay_s=delay_s)
            if verdict.admit:
                self._served += 1
                exchange.admitted_s = now_s
                if exchange.trace is None:
                    self._endpoint.serve(exchange.ask, exchange)
                else:
                    with tracing((exchange.trace,)) as followed:
                        enter(followed, "reading")
                        self._endpoint.serve(exchange.ask, exchange)
                return
        except Exception:
            self._fail(exchange)
            return
        self._refused += 1
        self._turn_away(exchange, verdict)

    def _serve(self, exchange: Exchange) -> None:
        """Without the gate."""
        try:
            self._endpoint.serve(exchange.ask, exchange)
        except Exception:
            self._fail(exchange)

    def _turn_away(self, exchange: Exchange, verdict: Verdict) -> None:
        try:
            answer = self._refusal(exchange.ask, verdict)
        except Exception:
            self._fail(exchange)
            return
        exchange(answer)

    def _fail(self, exchange: Exchange) -> None:
        """Somebody raised who must not: one line, though it happen to every request."""
        self._failed += 1
        line = self._failure_lines.admit("request_failed", self.now_s())
        if line is not None:
            _log.exception("request_failed", path=exchange.ask.path, hidden=line.hidden)
        exchange(MASKED)

    def _flush(self) -> None:
        self._flush_due = False
        to_flush, self._to_flush = self._to_flush, []
        for connection in to_flush:
            connection.flush()
