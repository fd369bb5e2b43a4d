"""Goal: the HTTP load client counts every answer once, times it from when it was due, and says what it did not do.

Method: servers that do exactly what a test says, on a real socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from loadtest.bench.peers.http_load import (
    MARKED,
    RECORD,
    WAITED,
    HttpLoad,
    read_samples,
    write_requests,
    write_schedule,
)
from loadtest.bench.push.cores import choose_cores

Answer = Callable[[int, bytes], Awaitable[bytes | None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
SHED = b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


def request(number: int, body: bytes = b"") -> bytes:
    return f"POST /{number} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[int]:
    """Answers request number n (from its path) with what `answer` says; None: cuts off."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                said = await answer(int(head.split()[1][1:]), body)
                if said is None:
                    break
                writer.write(said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def client(
    tmp_path: Path, port: int, count: int, *, tag: Callable[[int], int] = lambda _: 0
) -> AsyncIterator[HttpLoad]:
    requests = tmp_path / "requests"
    write_requests(requests, ((tag(number), request(number)) for number in range(count)))
    async with HttpLoad("load", tmp_path, core=choose_cores().load, port=port, spin=False) as load:
        assert await load.load(requests) == count
        yield load


async def test_each_request_is_answered_once_and_tallied_by_tag_and_status(tmp_path: Path) -> None:
    seen: list[int] = []

    async def answer(number: int, body: bytes) -> bytes | None:
        seen.append(number)
        return SHED if number % 5 == 0 else OK

    async with serving(answer) as port, client(tmp_path, port, 200, tag=lambda number: number % 2) as load:
        samples, records = tmp_path / "samples", tmp_path / "records"
        run = await load.closed(connections=7, within_s=10, samples=(10, samples), records=records)
        assert sorted(seen) == list(range(200))
        assert (run.sent, run.answered, run.failed, run.connects) == (200, 200, 0, 7)
        assert run.tags[0].statuses == {200: 80, 503: 20}
        assert run.tags[1].statuses == {200: 80, 503: 20}
        assert (run.tags[0].good_count, run.tags[0].other.count, run.good_count) == (80, 20, 160)
        assert run.body_bytes == 160 * 5
        assert run.bytes == 160 * len(OK) + 40 * len(SHED)
        assert "503" in run.error
        kept = dict(read_samples(samples))
        assert kept == {number: SHED if number % 5 == 0 else OK for number in range(10)}
        found = np.fromfile(records, dtype=RECORD)
        assert [int(each["status"]) for each in found] == [503 if number % 5 == 0 else 200 for number in range(200)]
        assert 0 < run.load_cores < 1
        again = await load.closed(connections=3, within_s=10)
        assert (again.answered, again.connects) == (200, 3)


async def test_a_closed_run_ends_with_its_time_but_not_before_enough_were_taken(tmp_path: Path) -> None:
    async def answer(number: int, body: bytes) -> bytes | None:
        await asyncio.sleep(0.01)
        return OK

    async with serving(answer) as port, client(tmp_path, port, 10_000) as load:
        run = await load.closed(connections=2, at_least=30, within_s=0.0)
        assert 30 <= run.answered <= 32
        assert run.answered == run.sent


async def test_open_arrivals_come_when_due_whatever_was_answered(tmp_path: Path) -> None:
    """Every answer takes 100 ms, one arrival comes each 10 ms: a closed loop on two connections would send a tenth."""

    async def answer(number: int, body: bytes) -> bytes | None:
        await asyncio.sleep(0.1)
        return OK

    async with serving(answer) as port, client(tmp_path, port, 10) as load:
        schedule, records = tmp_path / "schedule", tmp_path / "records"
        write_schedule(schedule, [number * 10_000 for number in range(50)], [number % 10 for number in range(50)])
        run = await load.open(schedule, pools=[20], lasts_s=1, records=records)
        assert (run.answered, run.waited) == (50, 0)
        assert run.wall_s >= 0.59
        found = np.fromfile(records, dtype=RECORD)
        assert list(found["due_us"]) == [number * 10_000 for number in range(50)]
        assert found["latency_us"].min() >= 99_000


async def test_a_stall_is_counted_for_all_who_would_have_come_meanwhile(tmp_path: Path) -> None:
    """Goal: no coordinated omission. One answer stalls the only connection for 0.3 s while others fall due behind."""

    async def answer(number: int, body: bytes) -> bytes | None:
        if number == 0:
            await asyncio.sleep(0.3)
        return OK

    async with serving(answer) as port, client(tmp_path, port, 20) as load:
        schedule, records = tmp_path / "schedule", tmp_path / "records"
        write_schedule(schedule, [number * 10_000 for number in range(20)], range(20))
        run = await load.open(schedule, pools=[1], lasts_s=1, records=records)
        assert (run.answered, run.waited, run.waiting_max) == (20, 19, 19)
        found = np.fromfile(records, dtype=RECORD)
        # The one due at 100 ms waited 200 ms for the connection, and says so.
        assert found["latency_us"][10] >= 190_000
        assert list(found["flags"]) == [0] + [WAITED] * 19
        open_ms = run.good().percentile_ms(50) or 0
        assert open_ms > 150
        closed = await load.closed(connections=1, at_least=20, within_s=0)
        assert (closed.good().percentile_ms(50) or 999) < open_ms, "what a closed loop would have said of the stall"


async def test_tags_have_connections_of_their_own(tmp_path: Path) -> None:
    """The crowd of one tag waits for its one connection; the other tag's request does not."""

    async def answer(number: int, body: bytes) -> bytes | None:
        await asyncio.sleep(0.05)
        return OK

    async with serving(answer) as port, client(tmp_path, port, 12, tag=lambda number: int(number == 11)) as load:
        schedule = tmp_path / "schedule"
        write_schedule(schedule, [0] * 11 + [1_000], range(12))
        run = await load.open(schedule, pools=[1, 1], lasts_s=1)
        crowd_ms = run.tags[0].good.percentile_ms(100) or 0
        assert (run.tags[1].good.percentile_ms(100) or 999) < crowd_ms
        assert crowd_ms > 500


async def test_what_is_cut_off_never_answered_or_unreadable_fails_once_each(tmp_path: Path) -> None:
    async def answer(number: int, body: bytes) -> bytes | None:
        if number == 3:
            return None
        if number == 5:
            await asyncio.sleep(5)
        if number == 7:
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        return OK if number != 9 else OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

    async with serving(answer) as port, client(tmp_path, port, 12) as load:
        run = await load.closed(connections=1, within_s=10, timeout_s=0.3)
        assert (run.sent, run.answered, run.failed) == (12, 9, 3)
        assert run.tags[0].statuses == {0: 3, 200: 9}
        assert run.connects == 5, "one anew after each of the three, and after the one that said close"


async def test_nobody_listening_ends_the_run(tmp_path: Path) -> None:
    async def answer(number: int, body: bytes) -> bytes | None:
        return OK

    async with serving(answer) as port:
        pass
    async with client(tmp_path, port, 1_000) as load:
        run = await load.closed(connections=4, at_least=1_000, within_s=5)
        assert run.answered == 0
        assert 100 <= run.failed < 1_000
        assert run.error


async def test_large_requests_and_answers_pass_whole(tmp_path: Path) -> None:
    async def answer(number: int, body: bytes) -> bytes | None:
        await asyncio.sleep(0)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    body = bytes(range(256)) * 3_000
    requests, samples = tmp_path / "big", tmp_path / "samples"
    write_requests(requests, [(0, request(0, body)), (0, request(1, b"x"))])
    async with (
        serving(answer) as port,
        HttpLoad("load", tmp_path, core=choose_cores().load, port=port, spin=False) as load,
    ):
        await load.load(requests)
        run = await load.closed(connections=1, at_least=2, within_s=5, samples=(2, samples))
        assert run.answered == 2
        assert dict(read_samples(samples))[0].endswith(b"\r\n\r\n" + body)


async def test_good_answers_with_the_marked_text_are_counted_apart(tmp_path: Path) -> None:
    async def answer(number: int, body: bytes) -> bytes | None:
        return SHED if number == 9 else OK.replace(b"hello", b"h+llo") if number % 3 == 0 else OK

    async with serving(answer) as port, client(tmp_path, port, 12) as load:
        records = tmp_path / "records"
        await load.mark("h+ll")
        run = await load.closed(connections=2, within_s=10, records=records)
        tally = run.tags[0]
        assert (tally.statuses, tally.marked, tally.good_count, tally.other.count) == ({200: 11, 503: 1}, 3, 8, 4)
        assert [int(each["flags"]) for each in np.fromfile(records, dtype=RECORD)] == [
            MARKED if number in (0, 3, 6) else 0 for number in range(12)
        ]
