"""Fixtures of this folder: the schedule stores."""

from tests.support.producer_database import postgres_server, postgres_url, producer_settings, time_by_hand

__all__ = ["postgres_server", "postgres_url", "producer_settings", "time_by_hand"]
