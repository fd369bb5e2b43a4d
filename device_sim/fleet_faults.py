"""What befalls a share of a fleet: chosen by the fleet's seed, bounded in time, and undone by itself.

Devices under another fault, or not connected, are passed over: a share is of all devices, the answer says how many it
was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from device_sim.client import DeviceClient
from device_sim.fleet import Fleet

__all__ = ["FleetFaults"]

_SECONDS_MAX: Final = 3_600.0


class FleetFaults:
    """Befalls the devices of one fleet, on its loop. Every method returns the number of devices it befell."""

    def __init__(self, fleet: Fleet, *, replaced: Callable[[int], None] | None = None) -> None:
        """`replaced`: told the number of a device whose place a new one takes, before it connects."""
        self._fleet = fleet
        self._replaced = replaced

    def drop(self, share: float) -> int:
        """Their connections are reset; they come back within their windows (R21)."""
        return self._befall(share, _dropped)

    def offline(self, share: float, seconds: float) -> int:
        """They lose the network, and know."""
        _check(seconds)

        def lost(client: DeviceClient) -> bool:
            client.offline(seconds)
            return True

        return self._befall(share, lost)

    def freeze(self, share: float, seconds: float) -> int:
        """They neither read nor write nor keep time, then go on."""
        _check(seconds)
        return self._befall(share, lambda client: client.freeze(seconds))

    def half_open(self, share: float, seconds: float) -> int:
        """They vanish, and their nodes do not learn of it."""
        _check(seconds)
        return self._befall(share, lambda client: client.half_open(seconds))

    def slow_down(self, share: float, seconds: float, bytes_per_s: int) -> int:
        """They read `bytes_per_s` at most."""
        _check(seconds)
        return self._befall(share, lambda client: client.slow_down(seconds, bytes_per_s))

    def churn(self, share: float, *, over_s: float = 0.0, away_s: float | None = None) -> int:
        """They leave at random moments of `over_s`, and return `away_s` later with their cursors; None: for good, and
        new ones, which were never subscribed, come at once in their places."""
        _check(over_s, away_s or 0.0)
        loop = self._fleet.context.loop

        def planned(client: DeviceClient) -> bool:
            loop.call_later(self._fleet.draw() * over_s, self._leave, client, away_s)
            return True

        return self._befall(share, planned)

    def _befall(self, share: float, fault: Callable[[DeviceClient], bool]) -> int:
        chosen = self._fleet.sample(share)
        return sum(1 for client in chosen if client.device.online and not client.is_befallen and fault(client))

    def _leave(self, client: DeviceClient, away_s: float | None) -> None:
        number = client.number
        if self._fleet.closing or self._fleet.clients[number] is not client:
            return  # everybody leaves, or another one sits there by now
        client.stop()
        if away_s is not None:
            self._fleet.context.loop.call_later(away_s, self._return, client)
            return
        if self._replaced is not None:
            self._replaced(number)
        self._fleet.replace(number).start()

    def _return(self, client: DeviceClient) -> None:
        if self._fleet.clients[client.number] is client and not self._fleet.closing:
            client.start()


def _dropped(client: DeviceClient) -> bool:
    client.drop()
    return True


def _check(*durations_s: float) -> None:
    for each in durations_s:
        assert 0.0 <= each <= _SECONDS_MAX, "a fault ends within the hour"
