"""The device listener: accepts connections, admits them, turns one wheel of deadlines for all, ends them in order."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Final

import structlog

from contract.clock import Clock
from contract.close_codes import CloseCode
from contract.frames import GoawayFrame
from contract.runtime.listening import HandOver, close_listener, to_the_loop
from contract.runtime.log_limit import KindLimit
from contract.runtime.runner import Readiness
from contract.runtime.socket_table import AVAILABLE, ServedListener, SocketTable
from push_proxy.adapters.connection import Connection
from push_proxy.adapters.graphql_connection import stream_documents
from push_proxy.adapters.head_reader import HeadReader
from push_proxy.adapters.pulse import TICK_S
from push_proxy.admission import Admission, Room, Source
from push_proxy.drain import drain_begins_ms, plan_drain
from push_proxy.forms import PreparedFrame
from push_proxy.handshake import PageName
from push_proxy.judged_heads import JudgedHeads
from push_proxy.known_frames import KnownFrames
from push_proxy.metrics import HandshakeOutcome, NodeMetrics
from push_proxy.node import StreamNode
from push_proxy.origins import parse_origins
from push_proxy.ports import DevicePort
from push_proxy.session import Grant, Session, judge_cursor
from push_proxy.settings import PushSettings
from push_proxy.siblings import Siblings
from push_proxy.sse import EventsRequest
from push_proxy.terms import Terms
from push_proxy.timer_wheel import TimerWheel

__all__ = ["LINGER_S", "DeviceListener"]

"""How often deadlines are looked at; no bound of the protocol is finer than ten of these."""
LINGER_S: Final = 1.0
"""How long a client may take to read its answer and close."""
_BROKEN: Final = 1006
"""Close code of a connection that ended without one (RFC 6455, 7.4.1)."""
_LOOK_AGAIN_S: Final = 60.0
_TOPICS_PER_LOOK: Final = 1_000
"""Due times of this many topics are looked at in a second at most, some 5 ms of work."""
_log = structlog.get_logger(__name__)


class DeviceListener:
    """All device connections of a node, from accept to the last byte."""

    def __init__(
        self,
        settings: PushSettings,
        *,
        node: StreamNode,
        node_id: str,
        terms: Terms,
        clock: Clock,
        random: Random,
        readiness: Readiness,
        metrics: NodeMetrics,
        sock: socket.socket,
        tls: ssl.SSLContext | None,
        siblings: Siblings,
        hurry: Callable[[], None],
        status: Callable[[], Mapping[str, object]],
        isolated: Callable[[], bool],
    ) -> None:
        """`hurry` is called when a deadline was set before the moment `look_again_s` told."""
        self.settings = settings
        self.node = node
        self.node_id = node_id
        self.terms = terms
        self.clock = clock
        self.metrics = metrics
        self.judged_heads = JudgedHeads()
        self.known_frames = KnownFrames()
        self._random = random
        self._readiness = readiness
        self._sock = sock
        self._tls = tls
        self._siblings = siblings
        self._status = status
        self._isolated = isolated
        self.documents = stream_documents()
        self._origins = parse_origins(settings.allowed_origins)
        limits = settings.admission_limits(_file_limit())
        self._capacity = limits.capacity.sessions
        self._admission = Admission(limits)
        self._table: SocketTable | None = None
        self._server: asyncio.Server | ServedListener | None = None
        self._others: dict[HeadReader | Connection, None] = {}
        """Without a session: in their handshake, or closing."""
        self._sessions: dict[Connection, None] = {}
        self._wheel: TimerWheel[HeadReader | Connection] = TimerWheel(TICK_S, now_s=clock.monotonic_s(), sooner=hurry)
        self._due_mark = (0, 0)
        self._due_known_s = float("-inf")
        self._refusal_lines = KindLimit(burst=1, window_s=60.0)
        metrics.gauge("connections", lambda: len(self._sessions))

    @property
    def devices(self) -> tuple[DevicePort, ...]:
        """The streams of all sessions, oldest first."""
        return tuple(port for connection in self._sessions for port in connection.ports())

    @property
    def connections(self) -> int:
        """Connections with a session."""
        return len(self._sessions)

    async def start(self) -> None:
        """Accept from now on: plain bytes by a table of our own; TLS, and elsewhere than on Linux, by the loop."""
        loop = asyncio.get_running_loop()
        settings, secret = self.settings, self._tls is not None
        if AVAILABLE and not secret:
            self._table = SocketTable(loop)
            self._server = self._table.serve(self._sock, self._reader)
        else:
            self._server = await loop.create_server(
                self._reader,
                sock=self._sock,
                backlog=settings.backlog,
                ssl=self._tls,
                ssl_handshake_timeout=settings.handshake_timeout_s if secret else None,
                ssl_shutdown_timeout=settings.close_timeout_s if secret else None,
            )
        self._readiness.hold("push.listener")

    def _reader(self, host: str | None = None) -> HeadReader:
        return HeadReader(self, host)

    def _hand_over(self) -> HandOver:
        """For connections nobody accepted before the listener closed."""
        table = self._table
        if table is None:
            return to_the_loop(self._reader, self._tls)

        async def take(connection: socket.socket) -> None:
            table.take(connection, self._reader)

        return take

    # Time.

    def tick(self, late_s: float) -> None:
        """Called at `look_again_s`, and within TICK_S of a `hurry`; `late_s`: how late the loop was meanwhile."""
        now_s = self.clock.monotonic_s()
        self.metrics.stall(late_s)
        for connection in self._wheel.due(now_s):
            try:
                connection.on_time(now_s)
            except Exception:
                # Raised from here it would end the node, and with it everybody.
                _log.exception("connection_failed")
                connection.abort()

    def look_again_s(self, latest_s: float) -> float:
        """When the next deadline of a connection may have passed, monotonic, `latest_s` at most."""
        return self._wheel.look_again_s(latest_s)

    def every_second(self) -> None:
        """What changes slowly: due times, the reconnect window, what siblings know, addresses that are quiet again."""
        self._admission.forget_quiet(self.clock.monotonic_s())
        self._know_due()
        self._tell_refusals()
        self._siblings.publish(len(self._sessions), 0 if self._admission.draining else self._capacity)
        frame = self.terms.window_to_tell()
        if frame is not None:
            self.node.tell_all(self.devices, PreparedFrame(frame))

    def _know_due(self) -> None:
        """Due times of many topics take milliseconds: only after a change, less often the more there are."""
        now_s = self.clock.monotonic_s()
        mark = self.node.schedules_mark()
        quiet_s = max(1.0, mark[0] / _TOPICS_PER_LOOK)
        passed_s = now_s - self._due_known_s
        if (mark != self._due_mark and passed_s >= quiet_s) or passed_s >= max(_LOOK_AGAIN_S, quiet_s):
            self._due_mark, self._due_known_s = mark, now_s
            self.terms.know_due(self.node.due_times())

    def _tell_refusals(self) -> None:
        """What refusals nobody has read of, of kinds that stopped."""
        for outcome, count in self._refusal_lines.overdue(self.clock.monotonic_s()).items():
            _log.warning("handshakes_refused", outcome=outcome, count=count)

    # The end.

    async def drain(self) -> None:
        """Stop accepting, send everyone away over `drain_s`, then close what is left. Cancelling it cuts them off."""
        self._readiness.expect("push.listener", "draining")
        try:
            put_off_s = self._put_off_s()
            _log.info("drain_begins", in_s=round(put_off_s, 1), connections=len(self._sessions))
            await asyncio.sleep(put_off_s)
            self._admission.draining = True
            if self._server is not None:
                await close_listener(self._server, self._sock, self._hand_over())
            await self._send_all_away()
            loop = asyncio.get_running_loop()
            deadline_s = loop.time() + self.settings.close_timeout_s
            while (self._sessions or self._others) and loop.time() < deadline_s:
                for late in tuple(self._sessions):  # let in before, a session only after the plan was made
                    late.send_away(CloseCode.DRAIN, "drain")
                await asyncio.sleep(TICK_S)
        finally:
            if self._server is not None:
                self._server.close()
            _log.info("drain_ends", cut_off=len(self._sessions) + len(self._others))
            for connection in (*self._sessions, *self._others):
                connection.abort()
            if self._table is not None:
                self._table.close()

    def _put_off_s(self) -> float:
        """How long the drain waits for a due stage to have passed: devices must not be away just then."""
        settings, now_ms = self.settings, self.clock.now_ms()
        self.terms.know_due(self.node.due_times())
        begins_ms = drain_begins_ms(
            now_ms,
            self.terms.due,
            guard_ms=int(1000 * settings.drain_guard_s),
            away_ms=int(1000 * settings.drain_s) + self.terms.reconnect_window_ms,
            defer_max_ms=int(1000 * settings.drain_defer_max_s),
        )
        return (begins_ms - now_ms) / 1000 if self._sessions else 0.0

    async def _send_all_away(self) -> None:
        plan = plan_drain(tuple(self._sessions), drain_s=self.settings.drain_s)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for part in plan:
            await asyncio.sleep(max(0.0, began_s + part.at_s - loop.time()))
            for connection in part.leaving:
                connection.send_away(CloseCode.DRAIN, "drain")

    # What a request asks of its listener.

    def opened(self, reader: HeadReader, host: str) -> Source | None:
        """A socket was accepted; None: it is not to be answered at all."""
        source = self._admission.opened(host)
        if source is not None:
            self._others[reader] = None
            timeout_s = self._admission.head_timeout_s(self.settings.handshake_timeout_s, sessions=len(self._sessions))
            self._wheel.set(reader, self.clock.monotonic_s() + timeout_s)
        return source

    def room(self, source: Source) -> Room:
        """Whether one more stream may begin."""
        return self._admission.handshake(source, self.clock.monotonic_s(), sessions=len(self._sessions))

    def origin_allowed(self, origin: str) -> bool:
        return self._origins.allows(origin)

    def check_events(self, request: EventsRequest) -> None:
        """Raise MalformedCursor for a cursor already known to be wrong: EventSource would present it for ever."""
        judge_cursor(
            request.cursor,
            now_ms=self.clock.now_ms(),
            latest=self.node.latest_of(request.topic),
            field=request.cursor_field,
        )

    def refused(self, outcome: HandshakeOutcome) -> None:
        """A request got no stream. A million of them make a line a minute for each outcome, with their number."""
        self.metrics.handshake(outcome)
        line = self._refusal_lines.admit(outcome, self.clock.monotonic_s())
        if line is not None:
            _log.warning("handshakes_refused", outcome=outcome, count=line.hidden + 1)

    def page(self, name: PageName) -> tuple[int, str, bytes]:
        """Status, content type and body of a plain page."""
        if name == "metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", self.metrics.render()
        if name == "healthz":
            return 200, "application/json", b'{"status":"alive"}'
        if name == "status":
            return 200, "application/json", json.dumps(self._status()).encode()
        if name == "preflight":
            return 204, "text/plain", b""
        status, body = self._readiness.report()
        return status, "application/json", json.dumps(body).encode()

    # What a connection asks of its listener.

    def verify(self, token: str) -> Grant:
        """A token's grant; raises Unauthorized."""
        return self.terms.verify(token)

    def renew(self, grant: Grant) -> tuple[str, float]:
        self.metrics.count("tokens_renewed")
        return self.terms.renew(grant)

    def goaway(self, why: str) -> GoawayFrame:
        self.metrics.count("goaways")
        return self.terms.goaway(why)

    def answered(self, reader: HeadReader) -> None:
        """It has its answer; what is left is for the client to close."""
        self._wheel.set(reader, self.clock.monotonic_s() + min(LINGER_S, self.settings.close_timeout_s))

    def replaced(self, reader: HeadReader) -> None:
        """The request was answered: from now on a connection has the socket, and says itself what it waits for."""
        self._others.pop(reader, None)
        self._wheel.cancel(reader)

    def waits_for_token(self, connection: Connection) -> None:
        """The stream is open, but not yet anybody's."""
        self._others[connection] = None
        self._wheel.set(connection, self.clock.monotonic_s() + self.settings.authentication_deadline_s)

    def open_session(self, connection: Connection, grant: Grant, now_s: float) -> Session:
        """The handshake is over: from now on the connection counts."""
        self._others.pop(connection, None)
        self._sessions[connection] = None
        self.metrics.handshake("accepted")
        self.metrics.opened(connection.protocol)
        session = self.terms.open_session(grant, now_s)
        self._wheel.set(connection, session.next_deadline_s())
        return session

    def draw(self) -> float:
        """Uniform in [0, 1): a connection's own share of a window (R21)."""
        return self._random.random()

    def welcomed(self, ports: Iterable[DevicePort]) -> None:
        """Their welcome is written. A node without its sources says so to whoever comes, as to those who were here."""
        if self._isolated():
            self.node.say_stale(tuple(ports))

    def holds(self, connection: Connection) -> bool:
        """Whether its session is open: not yet closing."""
        return connection in self._sessions

    def schedule(self, connection: Connection) -> None:
        """Give an open connection its next deadline."""
        if connection in self._sessions:
            self._wheel.set(connection, connection.next_deadline_s())

    def closing(self, connection: Connection, code: int) -> None:
        """It sent or received its goodbye: no frames for it any more, and little time to be gone."""
        if connection in self._sessions:
            del self._sessions[connection]
            self.metrics.closed(code, connection.protocol)
            if code == CloseCode.PONG_TIMEOUT:
                self.metrics.count("closed_silent")
            for port in connection.ports():
                self.node.dropped(port)
        self.parting(connection)

    def parting(self, connection: Connection) -> None:
        """It has its goodbye: whether it answers or not, it is gone before long."""
        self._others[connection] = None
        self._wheel.set(connection, self.clock.monotonic_s() + self.settings.close_timeout_s)

    def lost(self, connection: Connection, source: Source) -> None:
        """Its socket is gone."""
        self.closing(connection, _BROKEN)
        self._gone(connection, source)

    def head_lost(self, reader: HeadReader, source: Source) -> None:
        self._gone(reader, source)

    def _gone(self, who: HeadReader | Connection, source: Source) -> None:
        self._others.pop(who, None)
        self._wheel.cancel(who)
        self._admission.closed(source)


def _file_limit() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
