"""A push node's settings in production, whatever the environment of a benchmark says."""

from __future__ import annotations

from contract.frames import AckRequest
from push_proxy.settings import PushSettings

__all__ = ["live_ack", "production"]


def production() -> PushSettings:
    """Every field as it is where nobody sets it."""
    return PushSettings.model_construct()


def live_ack() -> AckRequest | None:
    """What a live broadcast asks of its devices."""
    defaults = production()
    return AckRequest(defaults.ack_one_in, defaults.ack_within_ms) if defaults.ack_one_in else None
