"""Where the schedule store is, in every composition; the router reads it too, without the operator API's libraries."""

from __future__ import annotations

from urllib.parse import urlsplit

from message_producer.settings import ProducerSettings
from stagecue.settings import InstallationSettings

__all__ = ["producer_settings", "shown_database"]


def producer_settings(settings: InstallationSettings, database_url: str | None = None) -> ProducerSettings:
    """The producer's settings, its data in this installation's directory unless PRODUCER_DATA_DIR says otherwise.

    `database_url`, where given, is the schedule store's instead of PRODUCER_DATABASE_URL.
    """
    given = ProducerSettings()
    if database_url is not None:
        return given.model_copy(update={"database_url": database_url})
    if "data_dir" in given.model_fields_set or given.database_url:
        return given
    return given.model_copy(update={"data_dir": settings.data_dir})


def shown_database(settings: ProducerSettings) -> str:
    """Where the schedule store is, for a message: a host without credentials, or a file's path."""
    parts = urlsplit(settings.url())
    if parts.netloc:
        return f"PostgreSQL at {parts.netloc.rpartition('@')[2]}{parts.path}"
    return f"the SQLite file {parts.path.removeprefix('/')}"
