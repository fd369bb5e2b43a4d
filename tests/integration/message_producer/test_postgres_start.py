"""What a producer says when its PostgreSQL is not what its settings claim, and two that start at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from contract.errors import InvalidRequest, StoreUnavailable
from contract.reach import ReachCount
from contract.runtime.runner import Readiness
from contract.runtime.system_clock import SystemClock
from message_producer.adapters.sql_engine import database_url, make_engine
from message_producer.adapters.sql_migrate import schema_revision
from message_producer.adapters.sql_schema import SCHEMA_HEAD, metadata
from message_producer.app import open_producer, open_reports
from message_producer.settings import ProducerSettings
from tests.support.postgres_server import OwnPostgres

CLOCK = SystemClock()
COUNT = ReachCount(node_id="n1", incarnation="i1", topic="event:night", timestamp=10, subscribers=5, written=4)


async def refusal(url: sa.URL) -> StoreUnavailable:
    """How a start on `url` ends."""
    settings = ProducerSettings(database_url=url.render_as_string(hide_password=False))
    async with asyncio.timeout(10):
        with pytest.raises(StoreUnavailable) as refused:
            async with open_producer(settings, clock=CLOCK, readiness=Readiness()):
                pass
    text = str(refused.value)
    assert "PRODUCER_DATABASE_URL" in text
    assert url.password is None or url.password not in text
    return refused.value


@contextlib.contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """The port of a server that says `reply` to whatever it is asked, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(100)
                        connection.sendall(reply)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.external_service
@pytest.mark.parametrize(
    ("changes", "words", "advice", "waiting_helps"),
    [
        ({"password": "wrong"}, "password authentication failed", "correct user and password", False),
        ({"username": "nobody"}, "password authentication failed", "correct user and password", False),
        ({"database": "nowhere"}, 'database "nowhere" does not exist', "createdb", False),
        ({"host": "no-such-host.invalid"}, "failed to resolve host", "correct the host's name", True),
        ({"port": 1}, "Connection refused", "start PostgreSQL there", True),
    ],
    ids=["password", "user", "database", "host", "port"],
)
async def test_a_wrong_address_is_named_with_what_to_do(
    postgres_url: str, changes: dict[str, object], words: str, advice: str, waiting_helps: bool
) -> None:
    """Goal: setting, place, PostgreSQL's own words, and the next step; waiting is offered only where it can help."""
    error = await refusal(sa.make_url(postgres_url).set(**changes))  # type: ignore[arg-type]
    assert words in str(error)
    assert advice in str(error)
    assert (error.retry_after_s is not None) == waiting_helps


@pytest.mark.parametrize(
    "reply", [b"-ERR unknown command\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["redis", "http"]
)
async def test_a_server_of_another_kind_is_recognised(reply: bytes) -> None:
    with answering(reply) as port:
        error = await refusal(sa.make_url(f"postgresql+psycopg://u:hidden@127.0.0.1:{port}/x"))
    assert "no PostgreSQL" in str(error)
    assert error.retry_after_s is None


async def test_one_that_hangs_up_may_be_one_that_restarts() -> None:
    with answering(b"") as port:
        error = await refusal(sa.make_url(f"postgresql+psycopg://u:hidden@127.0.0.1:{port}/x"))
    assert "is it a PostgreSQL?" in str(error)
    assert error.retry_after_s is not None


@pytest.mark.parametrize(
    "text", ["nonsense", "mysql://u:secret@h/d", "postgresql://u:secret@h", "postgresql://u:secret@h:port/d"]
)
async def test_what_is_no_url_of_ours_names_the_setting_and_no_secret(text: str) -> None:
    with pytest.raises(InvalidRequest, match="PRODUCER_DATABASE_URL") as refused:
        async with open_producer(ProducerSettings(database_url=text), clock=CLOCK, readiness=Readiness()):
            pass
    assert "secret" not in str(refused.value)


def test_a_plain_url_means_our_driver() -> None:
    assert database_url("postgres://u:p@h/d").drivername == "postgresql+psycopg"
    assert database_url("postgresql://u:p@h/d").password == "p"


@pytest.mark.external_service
async def test_a_user_who_may_not_create_tables_is_told_the_grant(postgres_url: str) -> None:
    url = sa.make_url(postgres_url)
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE ROLE reader_{url.database} LOGIN PASSWORD 'hidden'"))
    engine.dispose()
    error = await refusal(url.set(username=f"reader_{url.database}", password="hidden"))
    assert "CREATE on schema public" in str(error)
    assert error.retry_after_s is None


@pytest.mark.external_service
async def test_a_schema_newer_than_the_code_is_refused(postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('9999')"))
    engine.dispose()
    error = await refusal(sa.make_url(postgres_url))
    assert "schema 9999" in str(error)
    assert error.retry_after_s is None


@pytest.mark.external_service
async def test_producers_that_start_at_once_migrate_once(postgres_url: str) -> None:
    """Goal: the advisory lock lets one migrate; the others find nothing to do, and the schema is the declared one."""
    settings = ProducerSettings(database_url=postgres_url)

    async def start() -> None:
        async with open_producer(settings, clock=CLOCK, readiness=Readiness()) as producer:
            await producer.operations.page(limit=1)

    await asyncio.gather(*(start() for _ in range(4)))
    engine = make_engine(sa.make_url(postgres_url), writes=True, busy_timeout_s=1, pool_size=1)
    with engine.connect() as connection:
        assert schema_revision(connection) == SCHEMA_HEAD
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


@pytest.mark.external_service
async def test_reach_waits_for_a_database_that_is_down_and_does_not_mind_it_later(
    postgres_server: OwnPostgres, postgres_url: str
) -> None:
    """Goal: a router starts without the database, is ready once it was there, and stays so when it goes again."""
    readiness = Readiness()
    postgres_server.kill()
    async with open_reports(ProducerSettings(database_url=postgres_url), clock=CLOCK, readiness=readiness) as reach:
        assert "Connection refused" in readiness.failing()["report-store"]
        with pytest.raises(StoreUnavailable):
            await reach.record_reach([COUNT])
        await asyncio.to_thread(postgres_server.start)
        async with asyncio.timeout(5):
            while not readiness.ready:  # noqa: ASYNC110 - set by another task's retries
                await asyncio.sleep(0.02)
        await reach.record_reach([COUNT, COUNT])
        postgres_server.kill()
        with pytest.raises(StoreUnavailable):
            await reach.record_reach([COUNT])
        assert readiness.ready
        await asyncio.to_thread(postgres_server.start)
        await reach.record_reach([COUNT])
    engine = sa.create_engine(postgres_url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*), max(written) FROM reach")).one() == (1, 4)
    engine.dispose()


@pytest.mark.external_service
async def test_reach_with_a_wrong_password_does_not_start(postgres_url: str) -> None:
    url = sa.make_url(postgres_url).set(password="wrong").render_as_string(hide_password=False)
    with pytest.raises(StoreUnavailable, match="correct user and password"):
        async with open_reports(ProducerSettings(database_url=url), clock=CLOCK, readiness=Readiness()):
            pass


async def test_reach_on_a_sqlite_file_of_its_own(tmp_path: Path) -> None:
    settings, readiness = ProducerSettings(data_dir=tmp_path), Readiness()
    async with open_reports(settings, clock=CLOCK, readiness=readiness) as reach:
        await reach.record_reach([COUNT])
        assert readiness.ready
