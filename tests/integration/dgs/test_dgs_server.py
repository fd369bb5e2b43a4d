"""The server over real sockets: order, slow and greedy clients, refusals, shedding, and an end that loses nobody."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import ANY

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from contract.runtime.asgi import listen_on
from contract.runtime.runner import Readiness
from contract.runtime.system_clock import SystemClock
from dgs.http import server as server_module
from dgs.http.asgi_bridge import AsgiBridge
from dgs.http.limits import ServerLimits
from dgs.http.server import DgsServer
from dgs.serving import Answer, Ask, Class, Outcome, Reply, Seen, Verdict

TEXT = b"content-type: text/plain\r\n"
GET = b"GET %s HTTP/1.1\r\nHost: dgs\r\n\r\n"


class Scripted:
    """Answers with the path; paths under /later wait until they are let go, /raise raises, /big is 4 MB."""

    def __init__(self) -> None:
        self.held: dict[str, Reply] = {}
        self.served: list[str] = []
        self.came = asyncio.Event()

    def serve(self, ask: Ask, reply: Reply) -> None:
        self.served.append(ask.path)
        if ask.path.startswith("/later"):
            self.held[ask.path] = reply
            self.came.set()
        elif ask.path == "/raise":
            raise RuntimeError("secret")
        else:
            body = b"x" * 4_000_000 if ask.path == "/big" else ask.path.encode() + b"|" + ask.body
            reply(Answer(200, TEXT, body))

    async def holds(self, path: str) -> Reply:
        while path not in self.held:
            self.came.clear()
            await asyncio.wait_for(self.came.wait(), 5)
        return self.held[path]


class Client:
    """Raw bytes both ways."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)).decode("latin-1")
        line, *lines = head.split("\r\n")[:-2]
        fields = dict(each.split(": ", 1) for each in lines)
        length = 0 if head_only else int(fields.get("content-length", "0"))
        return int(line.split()[1]), fields, await asyncio.wait_for(self.reader.readexactly(length), 5)

    async def rest(self) -> bytes:
        """What comes till the server closes."""
        return await asyncio.wait_for(self.reader.read(), 5)


class Place:
    """A server under test, and how to reach it."""

    def __init__(self, server: DgsServer, endpoint: Scripted, port: int, stop: Callable[[], None]) -> None:
        self.server = server
        self.endpoint = endpoint
        self.port = port
        self.stop = stop
        self._writers: list[asyncio.StreamWriter] = []

    async def client(self, data: bytes = b"", **options: Any) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        self._writers.append(writer)
        writer.write(data)
        return Client(reader, writer)

    def leave(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def served(endpoint: Any = None, *, on_the_loop: bool = False, **options: Any) -> AsyncIterator[Place]:
    """A server over `endpoint`; `on_the_loop`: over the event loop's own transports, as with TLS."""
    endpoint = endpoint or Scripted()
    limits = {"tick_s": 0.02, "linger_s": 0.3, "drain_fresh_s": 0.2, "drain_quiet_s": 0.05}
    limits |= {name: options.pop(name) for name in tuple(options) if name in ServerLimits.__slots__}
    sock = listen_on("127.0.0.1", 0)
    server = DgsServer(
        sock,
        endpoint=endpoint,
        limits=ServerLimits(**limits),
        clock=SystemClock(),
        readiness=Readiness(),
        **options,
    )
    place_port = sock.getsockname()[1]
    ready, stop = asyncio.Event(), asyncio.Event()
    with pytest.MonkeyPatch.context() as patch:
        if on_the_loop:
            patch.setattr(server_module, "AVAILABLE", False)
        running = asyncio.create_task(server.run(ready, stop))
        await asyncio.wait_for(ready.wait(), 5)
    place = Place(server, endpoint, place_port, stop.set)
    try:
        yield place
    finally:
        place.leave()
        stop.set()
        await asyncio.wait_for(running, 10)
    await asyncio.sleep(0)
    assert place.server.stats()["connections"] == 0


both = pytest.mark.parametrize("on_the_loop", [False, True])


@both
async def test_answers_come_in_the_order_of_the_requests(on_the_loop: bool) -> None:
    """Pipelined: the first is answered last, and nothing overtakes it; then all go out together."""
    async with served(on_the_loop=on_the_loop) as place:
        client = await place.client(GET % b"/later/1" + GET % b"/2" + GET % b"/later/3" + GET % b"/4")
        (await place.endpoint.holds("/later/3"))(Answer(200, TEXT, b"three"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.05)
        (await place.endpoint.holds("/later/1"))(Answer(200, TEXT, b"one"))
        assert [(await client.answer())[2] for _ in range(4)] == [b"one", b"/2|", b"three", b"/4|"]


@both
async def test_more_pipelined_requests_than_may_be_under_way_wait_and_are_answered(on_the_loop: bool) -> None:
    async with served(pipelined_max=3, on_the_loop=on_the_loop) as place:
        client = await place.client(GET % b"/later" + b"".join(GET % b"/%d" % number for number in range(200)))
        reply = await place.endpoint.holds("/later")
        await asyncio.sleep(0.05)
        assert place.endpoint.served == ["/later", "/0", "/1"]
        reply(Answer(200, TEXT, b""))
        bodies = [(await client.answer())[2] for _ in range(201)]
        assert bodies[1:] == [b"/%d|" % number for number in range(200)]


@both
async def test_a_request_byte_by_byte_and_a_chunked_one(on_the_loop: bool) -> None:
    async with served(on_the_loop=on_the_loop) as place:
        client = await place.client()
        for octet in (
            GET % b"/slow" + b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
        ):
            client.send(bytes([octet]))
            await asyncio.sleep(0)
        assert (await client.answer())[2] == b"/slow|"
        assert (await client.answer())[2] == b"/c|ab"


@both
async def test_a_client_that_closes_its_half_gets_what_it_asked_for(on_the_loop: bool) -> None:
    async with served(on_the_loop=on_the_loop) as place:
        client = await place.client(GET % b"/later" + GET % b"/2")
        client.writer.write_eof()
        (await place.endpoint.holds("/later"))(Answer(200, TEXT, b"one"))
        first, second = await client.answer(), await client.answer()
        assert (first[2], second[2], second[1]["connection"]) == (b"one", b"/2|", "close")
        assert await client.rest() == b""


async def test_more_than_may_be_under_way_and_then_the_end_of_a_half() -> None:
    """What waits as bytes when the client closes its half is asked as much as the rest."""
    async with served(pipelined_max=2) as place:
        client = await place.client(GET % b"/later" + GET % b"/x" * 50 + b"GET /half")
        client.writer.write_eof()
        reply = await place.endpoint.holds("/later")
        await asyncio.sleep(0.05)
        reply(Answer(200, TEXT, b""))
        assert (await client.rest()).count(b"HTTP/1.1 200 OK") == 51


async def test_a_word_is_said_only_when_its_turn_has_come() -> None:
    """`100 Continue` for a request behind one that has no answer yet would be read as that one's."""
    async with served() as place:
        expecting = b"POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        client = await place.client(GET % b"/later" + expecting)
        (await place.endpoint.holds("/later"))(Answer(200, TEXT, b"one"))
        assert (await client.answer())[2] == b"one"
        assert (await client.answer())[0] == 100
        client.send(b"ok")
        assert (await client.answer())[2] == b"/p|ok"


async def test_head_tells_the_length_and_304_nothing() -> None:
    class Fixed:
        def serve(self, ask: Ask, reply: Reply) -> None:
            reply(Answer(304 if ask.path == "/same" else 200, TEXT, b"" if ask.path == "/same" else b"12345"))

    async with served(Fixed()) as place:
        client = await place.client(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + GET % b"/same" + GET % b"/")
        status, fields, _ = await client.answer(head_only=True)
        assert (status, fields["content-length"]) == (200, "5")
        status, fields, _ = await client.answer()
        assert (status, "content-length" in fields) == (304, False)
        assert (await client.answer())[2] == b"12345"
        assert fields["date"].endswith("GMT")


@both
async def test_a_client_may_wait_for_a_word_before_it_sends(on_the_loop: bool) -> None:
    async with served(on_the_loop=on_the_loop) as place:
        client = await place.client(b"POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await client.answer())[0] == 100
        client.send(b"ok")
        assert (await client.answer())[2] == b"/p|ok"


@both
async def test_ten_megabytes_are_refused_and_the_client_reads_why(on_the_loop: bool) -> None:
    """The answer arrives although the client is still sending: its connection is not reset under it."""
    async with served(on_the_loop=on_the_loop) as place:
        client = await place.client(GET % b"/1" + b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
        client.send(b"x" * 10_000_000)
        assert (await client.answer())[2] == b"/1|"
        status, fields, body = await client.answer()
        assert (status, fields["connection"]) == (413, "close")
        assert b'"field":"body"' in body
        assert place.server.stats()["malformed"] == 1


async def test_nonsense_is_refused_after_what_came_before_it() -> None:
    async with served() as place:
        client = await place.client(GET % b"/later" + b"\x16\x03\x01nonsense")
        (await place.endpoint.holds("/later"))(Answer(200, TEXT, b"one"))
        assert (await client.answer())[2] == b"one"
        assert (await client.answer())[0] == 400
        assert await client.rest() == b""


async def test_who_drips_a_request_or_rests_too_long_is_let_go() -> None:
    """A request begun has its time, however often a byte of it comes; so has a connection without one."""
    async with served(request_timeout_s=0.15, idle_timeout_s=0.3) as place:
        slow, idle = await place.client(b"GET / HT"), await place.client()

        async def drip() -> None:
            while True:
                slow.send(b"T")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        try:
            assert (await slow.answer())[0] == 408
        finally:
            dripping.cancel()
        assert await idle.rest() == b""


@both
async def test_a_client_that_does_not_read_is_bounded_and_let_go(on_the_loop: bool) -> None:
    """It asks for megabytes again and again and reads none: served no further than the kernel takes, then cut off."""
    async with served(request_timeout_s=0.3, on_the_loop=on_the_loop) as place:
        client = await place.client(GET % b"/big" * 50, limit=1)
        assert client.reader.exception() is None
        async with asyncio.timeout(5):
            while not place.server.stats()["let_go"]:  # noqa: ASYNC110 - the server counts, and tells nobody
                await asyncio.sleep(0.02)
        assert place.endpoint.served.count("/big") <= 2 * 16


async def test_a_client_that_sends_on_and_on_is_let_go() -> None:
    async with served(max_head_bytes=1024, max_body_bytes=1024) as place:
        client = await place.client(GET % b"/later")
        await place.endpoint.holds("/later")

        async def send_on() -> None:
            while True:
                client.send(GET % b"/more" * 100)
                await client.writer.drain()
                await asyncio.sleep(0.001)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_on(), 5)
        assert place.server.stats()["let_go"] == 1
        assert len(place.endpoint.served) <= 16


async def test_connections_above_the_cap_are_cut_off() -> None:
    async with served(max_connections=2) as place:
        kept = [await place.client(), await place.client()]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await (await place.client(GET % b"/x")).answer()
        for client in kept:
            client.send(GET % b"/y")
            assert (await client.answer())[2] == b"/y|"
        assert place.server.stats()["no_room"] == 1


async def test_a_bug_is_masked_and_harms_one_request() -> None:
    async with served() as place:
        client = await place.client(GET % b"/raise" + GET % b"/2")
        status, _, body = await client.answer()
        assert (status, b"secret" in body) == (500, False)
        assert (await client.answer())[2] == b"/2|"


class Classes:
    """A gate by path: `/critical...` and so on; admits whom `open_to` says, and remembers what it was told."""

    def __init__(self, open_to: Callable[[Class], bool] = lambda klass: True) -> None:
        self.open_to = open_to
        self.delays: list[float] = []
        self.outcomes: list[tuple[Class, Outcome]] = []

    def classify(self, seen: Seen, now_ms: int) -> Class:
        return seen.operation.split("/")[1]  # type: ignore[return-value]

    def admit(self, klass: Class, seen: Seen, *, now_s: float, now_ms: int, queue_delay_s: float) -> Verdict:
        self.delays.append(queue_delay_s)
        return Verdict(klass, self.open_to(klass), rule="test", retry_after_ms=1500)

    def finished(self, klass: Class, *, took_s: float, outcome: Outcome, now_s: float) -> None:
        assert took_s >= 0
        self.outcomes.append((klass, outcome))


def by_path(ask: Ask) -> Seen:
    return Seen(ask.path)


async def test_what_came_in_one_sweep_is_served_by_class() -> None:
    """Read first, then served: bulk that came before the critical is served after it, and answered in its order."""
    gate = Classes()
    async with served(gate=gate, look=by_path) as place:
        client = await place.client(
            GET % b"/bulk/1" + GET % b"/best_effort/2" + GET % b"/critical/3" + GET % b"/bulk/4"
        )
        assert [(await client.answer())[2] for _ in range(4)] == [
            b"/bulk/1|",
            b"/best_effort/2|",
            b"/critical/3|",
            b"/bulk/4|",
        ]
        assert place.endpoint.served == ["/critical/3", "/best_effort/2", "/bulk/1", "/bulk/4"]
        assert len(gate.delays) == 4
        assert all(0 <= delay < 5 for delay in gate.delays)
        assert [klass for klass, _ in gate.outcomes] == ["critical", "best_effort", "bulk", "bulk"]


async def test_a_refusal_says_when_to_return_and_costs_no_serving() -> None:
    gate = Classes(lambda klass: klass == "critical")
    async with served(gate=gate, look=by_path) as place:
        client = await place.client(GET % b"/bulk/1" + GET % b"/critical/2")
        status, fields, body = await client.answer()
        assert (status, fields["retry-after"]) == (503, "2")
        assert b'"code":"overloaded"' in body
        assert b'"retryAfterMs":1500' in body
        assert (await client.answer())[0] == 200
        assert place.endpoint.served == ["/critical/2"]
        assert gate.outcomes == [("critical", "ok")], "finished is told of what was admitted alone"


async def test_a_full_intake_turns_away_the_least_important() -> None:
    """All in one read, room for two: the bulk goes for the critical, the second bulk finds nobody less important."""
    async with served(gate=Classes(), look=by_path, queue_max=2) as place:
        client = await place.client(
            GET % b"/bulk/1" + GET % b"/degraded/2" + GET % b"/critical/3" + GET % b"/bulk/4" + GET % b"/critical/5"
        )
        assert [(await client.answer())[0] for _ in range(5)] == [503, 503, 200, 503, 200]
        assert place.server.stats()["turned_away"] == 3


async def test_a_client_that_leaves_takes_its_requests_with_it() -> None:
    """The gate hears of it, and the application's task is cancelled."""
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()

    gate = Classes()
    bridge = AsgiBridge(app, deadline_s=30, most_running=1)
    async with served(bridge, gate=gate, look=by_path) as place:
        client = await place.client(GET % b"/critical/1" + GET % b"/bulk/2")
        await asyncio.wait_for(started.wait(), 5)
        # Reset; the mere end of what a client sends is no leave-taking.
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        await asyncio.wait_for(cancelled.wait(), 5)
        await asyncio.sleep(0.02)
        assert sorted(gate.outcomes) == [("bulk", "failed"), ("critical", "failed")]
        assert (bridge.stats()["running"], bridge.stats()["waiting"], bridge.stats()["left"]) == (0, 0, 1)


async def test_the_bridge_is_bounded_in_time_and_number() -> None:
    release = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/nothing":
            return
        if scope["path"] == "/raise":
            raise RuntimeError("secret")
        if scope["path"] != "/quick":
            await (release.wait() if scope["path"] == "/held" else asyncio.sleep(30))
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"X", b"y"), (b"Connection", b"close")]})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": body})

    async with served(AsgiBridge(app, deadline_s=0.2, most_running=1, most_waiting=1)) as place:
        one, two, three = [await place.client(GET % b"/held") for _ in range(3)]
        statuses = asyncio.gather(*(each.answer() for each in (one, two, three)))
        await asyncio.sleep(0.05)
        release.set()
        assert sorted(answer[0] for answer in await statuses) == [200, 200, 503]
        for path, status in ((b"/endless", 504), (b"/raise", 500), (b"/nothing", 500), (b"/quick", 200)):
            one.send(GET % path)
            answer = await one.answer()
            assert answer[0] == status
            assert b"secret" not in answer[2]
        assert (answer[1]["x"], answer[2], "connection" in answer[1]) == ("y", b"a", False)


@both
async def test_a_stop_under_load_loses_nobody(on_the_loop: bool) -> None:
    """Clients that ask and ask: each request they sent is answered, until an answer says the connection ends."""
    asked = answered = 0

    class Slow:
        def serve(self, ask: Ask, reply: Reply) -> None:
            asyncio.get_running_loop().call_later(0.002, reply, Answer(200, TEXT, ask.path.encode()))

    async def ask_on(client: Client, depth: int) -> None:
        nonlocal asked, answered
        while True:
            client.send(GET % b"/x" * depth)
            asked += depth
            for number in range(depth):
                status, fields, body = await client.answer()
                assert (status, body) == (200, b"/x")
                answered += 1
                if fields.get("connection") == "close":
                    assert number == depth - 1, "what was asked together is answered together"
                    assert await client.rest() == b""
                    return

    # As in production: clients and server share one loop here, and a busy machine holds both up.
    async with served(Slow(), on_the_loop=on_the_loop, drain_fresh_s=ServerLimits().drain_fresh_s) as place:
        clients = [await place.client() for _ in range(20)]
        asking = [asyncio.create_task(ask_on(client, 1 + number % 3)) for number, client in enumerate(clients)]
        await asyncio.sleep(0.1)
        place.stop()
        await asyncio.wait_for(asyncio.gather(*asking), 10)
        assert asked == answered > 100


async def test_who_has_connected_but_was_not_accepted_is_served_too() -> None:
    """Connections made just before the stop, in the queue of the listener or without a request yet."""
    async with served() as place:
        raw = [socket.create_connection(("127.0.0.1", place.port)) for _ in range(20)]
        place.stop()
        try:
            for each in raw[:10]:
                each.sendall(GET % b"/x")
            await asyncio.sleep(0.05)
            for each in raw[10:]:
                each.sendall(GET % b"/x")
            for each in raw:
                each.settimeout(5)
                data = await asyncio.to_thread(each.recv, 4096)
                assert data.startswith(b"HTTP/1.1 200")
        finally:
            for each in raw:
                each.close()


async def test_what_is_under_way_at_the_stop_has_a_deadline() -> None:
    async with served(drain_s=0.2) as place:
        client = await place.client(GET % b"/later")
        await place.endpoint.holds("/later")
        place.stop()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.answer()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(server's, client's) contexts for a certificate made here."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=certificate.decode())


@pytest.mark.parametrize("how", ["table", "loop", "tls"])
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_every_way_of_serving_on_both_event_loops(
    run: Callable[[Any], Any], how: str, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    """Pipelined and late answers, a refusal, a big body both ways, a client that says it is done, and the end."""

    async def talk() -> None:
        options: dict[str, Any] = {"ssl": tls[1], "server_hostname": "localhost"} if how == "tls" else {}
        async with served(on_the_loop=how == "loop", tls=tls[0] if how == "tls" else None) as place:
            client = await place.client(GET % b"/later" + GET % b"/2" + GET % b"/big", **options)
            (await place.endpoint.holds("/later"))(Answer(200, TEXT, b"one"))
            assert [len((await client.answer())[2]) for _ in range(3)] == [3, 3, 4_000_000]
            client.send(b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n" + b"u" * 60_000)
            assert len((await client.answer())[2]) == 60_004
            client.send(GET % b"/3" + b"not http\r\n\r\n")
            assert (await client.answer())[2] == b"/3|"
            assert (await client.answer())[0] == 400
            assert await client.rest() == b""
            last = await place.client(b"GET /l HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", **options)
            assert (await last.answer())[1]["connection"] == "close"
            assert await last.rest() == b""
            waits = await place.client(GET % b"/later/2", **options)
            reply = await place.endpoint.holds("/later/2")
            place.stop()
            await asyncio.sleep(0.05)
            reply(Answer(200, TEXT, b"at the end"))
            assert (await waits.answer())[1:] == (ANY, b"at the end")

    run(talk())
