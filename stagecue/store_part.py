"""Where the schedule store is, in every composition; the router reads it too, without the operator API's libraries."""

from __future__ import annotations

from message_producer.settings import ProducerSettings
from stagecue.settings import InstallationSettings

__all__ = ["producer_settings"]


def producer_settings(settings: InstallationSettings) -> ProducerSettings:
    """The producer's settings, its data in this installation's directory unless PRODUCER_DATA_DIR says otherwise."""
    given = ProducerSettings()
    if "data_dir" in given.model_fields_set or given.database_url:
        return given
    return given.model_copy(update={"data_dir": settings.data_dir})
