"""A cursor that never leaves the server in the middle of a batch of statements.

psycopg sends the statements of one `executemany` as a pipeline. A process that is frozen inside one leaves its session
*active*, waiting for the rest: neither `idle_in_transaction_session_timeout` nor `statement_timeout` runs then, and its
locks, the lease's among them, are held for as long as it is frozen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

__all__ = ["StepwiseCursor"]


class StepwiseCursor(psycopg.Cursor[Any]):
    """`executemany` waits for each answer before it sends the next statement."""

    def executemany(self, query: Any, params_seq: Iterable[Any], *, returning: bool = False) -> None:
        """As psycopg's, without the pipeline: a round trip per row."""
        with self._conn.lock:
            self._conn.wait(self._executemany_gen_no_pipeline(query, params_seq, returning))
