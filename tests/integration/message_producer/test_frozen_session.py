"""Goal: a producer frozen anywhere in a transaction loses its locks after a second, also in the middle of many rows."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import psycopg
import pytest

pytestmark = pytest.mark.external_service

_CHILD = """
import sys
import sqlalchemy as sa
from message_producer.adapters.sql_engine import make_engine
engine = make_engine(sa.make_url(sys.argv[1]), writes=True, busy_timeout_s=1, pool_size=1)
update, rows = sa.text("UPDATE rows SET value = :value WHERE id = :id"), [{"value": n, "id": n} for n in range(1, 41)]
with engine.connect() as connection, connection.begin():
    connection.execute(sa.text("SELECT 1"))
print("ready", flush=True)
while True:
    with engine.connect() as connection, connection.begin():
        connection.execute(sa.text("SELECT id FROM rows WHERE id = 0 FOR SHARE"))
        connection.execute(update, rows)
"""


@pytest.mark.parametrize("seed", [0, 4, 5])
def test_the_locks_of_a_frozen_producer_end(postgres_url: str, seed: int) -> None:
    url = postgres_url.replace("+psycopg", "", 1)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("CREATE TABLE rows (id int PRIMARY KEY, value int)")
        other.execute("INSERT INTO rows SELECT id, 0 FROM generate_series(0, 40) AS id")
        writer = subprocess.Popen([sys.executable, "-c", _CHILD, postgres_url], stdout=subprocess.PIPE)
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(0.02 + 0.1 * random.Random(seed).random())
            os.kill(writer.pid, signal.SIGSTOP)
            began = time.monotonic()
            other.execute("SET lock_timeout = '4s'")
            other.execute("UPDATE rows SET value = -1")
            assert time.monotonic() - began < 2.5
        finally:
            writer.kill()
            writer.wait()
            if writer.stdout is not None:
                writer.stdout.close()
