"""What a database's error means for us, said once: whose fault it is, what to do, and whether waiting helps."""

from __future__ import annotations

from enum import Enum
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from contract.errors import BroadcastSystemError, InvalidRequest, StoreUnavailable

__all__ = ["DatabaseError", "Trouble", "store_error", "trouble_of"]

DatabaseError = (DBAPIError, PoolTimeout)
_RETRY_AFTER_S: Final = 1.0
_UNIQUE, _SERIALIZATION, _DEADLOCK = "23505", "40001", "40P01"
_LOCKED, _CANCELED, _READ_ONLY = "55P03", "57014", "25006"
_NO_TABLE, _NO_COLUMN, _NO_PRIVILEGE = "42P01", "42703", "42501"

# PostgreSQL says why it refuses a connection in words only: the client library hands no code on.
_REFUSALS: Final = (
    ("password authentication failed", "correct user and password in the URL", False),
    ("no password supplied", "put the password into the URL", False),
    ("no pg_hba.conf entry", "allow this host and user in pg_hba.conf on the PostgreSQL host", False),
    ("role ", "create the role on the PostgreSQL host: createuser", False),
    ("database ", "create the database on the PostgreSQL host: createdb", False),
    ("permission denied", "grant CONNECT on the database to this user", False),
    ("received invalid response", "what answers there is no PostgreSQL: correct host and port", False),
    ("expected authentication request", "what answers there is no PostgreSQL: correct host and port", False),
    ("failed to resolve host", "correct the host's name, or start the host that has it", True),
    ("Connection refused", "start PostgreSQL there, or correct host and port", True),
    ("server closed the connection", "is it a PostgreSQL? then it is being restarted", True),
    ("timeout expired", "is the host reachable, and is it a PostgreSQL?", True),
    ("starting up", "wait until PostgreSQL has started", True),
    ("shutting down", "wait until PostgreSQL is back", True),
    ("recovery mode", "wait until PostgreSQL has recovered", True),
    ("too many", "raise max_connections on the PostgreSQL host, or run fewer services", True),
    ("remaining connection slots", "raise max_connections on the PostgreSQL host, or run fewer services", True),
)


class Trouble(Enum):
    """What to do about a failed transaction."""

    AGAIN = "again"
    """It collided with another one, or with a constraint another one met first: repeat it at once."""
    BROKEN = "broken"
    """The connection is gone; on another one it may succeed."""
    LOCKED = "locked"
    """Somebody else holds a row for longer than we wait; the store itself is well."""
    DOWN = "down"
    """The store cannot serve us now."""
    MISFIT = "misfit"
    """It will not serve us as it is: a person must change something."""
    INPUT = "input"
    """A value that cannot be stored."""
    BUG = "bug"


def trouble_of(exc: BaseException) -> Trouble:
    """Classify a database error."""
    if isinstance(exc, PoolTimeout):
        return Trouble.DOWN
    if not isinstance(exc, DBAPIError):
        return Trouble.BUG
    code = getattr(exc.orig, "sqlstate", None)
    if exc.connection_invalidated:
        return Trouble.BROKEN
    if code in (_SERIALIZATION, _DEADLOCK, _UNIQUE):
        return Trouble.AGAIN
    if code in (_LOCKED, _CANCELED):
        return Trouble.LOCKED
    if code in (_NO_TABLE, _NO_COLUMN, _NO_PRIVILEGE):
        return Trouble.MISFIT
    if isinstance(exc, DataError):
        return Trouble.INPUT
    if isinstance(exc, (IntegrityError, sa.exc.ProgrammingError, sa.exc.NotSupportedError)):
        return Trouble.BUG
    if code is None and (refusal := _refusal(str(exc.orig))) is not None and not refusal[1]:
        return Trouble.MISFIT
    return Trouble.DOWN


def store_error(exc: BaseException, url: sa.URL) -> BroadcastSystemError | None:
    """Our error for a database's; None for what is a mistake of this code and must not be hidden."""
    trouble = trouble_of(exc)
    if trouble is Trouble.BUG:
        return None
    why = _words(exc)
    if trouble is Trouble.INPUT:
        return InvalidRequest(f"cannot be stored: {why}", rule="text without NUL characters, numbers within 64 bits")
    if trouble is Trouble.LOCKED:
        return StoreUnavailable(f"the schedule store is busy: {why}", retry_after_s=_RETRY_AFTER_S)
    rule, waiting_helps = None, trouble is not Trouble.MISFIT
    code = getattr(getattr(exc, "orig", None), "sqlstate", None)
    if code in (_NO_TABLE, _NO_COLUMN):
        rule = "the schema is not this version's: start a producer of this version, it migrates the database"
    elif code == _NO_PRIVILEGE:
        rule = "make this user the owner of the database, or grant it CREATE on schema public"
    elif code == _READ_ONLY:
        rule = "this PostgreSQL only reads, it is a standby: name the primary"
    elif (refusal := _refusal(why)) is not None:
        rule = refusal[0]
    where = f"the schedule store{_place(url)} failed"
    return StoreUnavailable(f"{where}: {why}", rule=rule, retry_after_s=_RETRY_AFTER_S if waiting_helps else None)


def _refusal(why: str) -> tuple[str, bool] | None:
    """What to do, and whether waiting helps, for the words of a refused connection."""
    fatal = why.partition("FATAL:")[2].strip()
    if fatal.startswith(("role ", "database ")) and "does not exist" not in fatal and "not permitted" not in fatal:
        fatal = ""
    said = fatal or why
    for words, rule, waiting_helps in _REFUSALS:
        if said.startswith(words) if words.endswith(" ") else words in said:
            return rule, waiting_helps
    return None


def _words(exc: BaseException) -> str:
    """The database's own words on one line, without what names nothing."""
    if not isinstance(exc, DBAPIError):
        return "no free connection"
    text = str(exc.orig)
    if "FATAL:" in text:
        text = text.partition("FATAL:")[2]
    return " ".join(text.splitlines()[0].split()) if text.strip() else type(exc.orig).__name__


def _place(url: sa.URL) -> str:
    if url.get_backend_name() != "postgresql":
        return ""
    return f" (PostgreSQL database {url.database!r} at {url.host or 'localhost'}:{url.port or 5432})"
