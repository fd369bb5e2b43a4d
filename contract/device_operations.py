"""The operations devices prefetch with: what a device sends the hash of, and the DGS knows from the start.

A hash is of the document's exact text, so a text never changes: another selection is another operation with another
name, and the old one stays for as long as devices in the field may send it.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

__all__ = ["CHANNEL", "DEVICE_OPERATIONS", "FIRST", "MAP", "document_hash"]

# One scalar carries all entries: a tenth of the document, and the keys a device looks up are there as they are.
_MAP_1: Final = (
    "prefetchEvent(eventId: $eventId, profileId: $profileId, device: $device) "
    "{ event { id topic } version revision ttlSeconds serverTime byKey }"
)
_MAP: Final = (
    "prefetchEvent(eventId: $eventId, profileId: $profileId, device: $device) "
    "{ event { id topic } version revision ttlSeconds serverTime refreshUrl byKey }"
)
_CHANNEL: Final = (
    "broadcastChannel(eventIds: $eventIds, profileId: $profileId, device: $device) "
    "{ url subprotocol token connectWindowMs topics { eventId topic stateKey lastBroadcastAt } }"
)
_FIRST_VARIABLES: Final = "($eventId: ID!, $eventIds: [ID!]!, $profileId: ID!, $device: DeviceContext!)"
_MAP_VARIABLES: Final = "($eventId: ID!, $profileId: ID!, $device: DeviceContext)"
FIRST: Final = f"query DevicePrefetch2{_FIRST_VARIABLES} {{ {_MAP} {_CHANNEL} }}"
"""A map and the channel: all a device needs before it connects, in one request."""
CHANNEL: Final = f"query DeviceChannel($eventIds: [ID!]!, $profileId: ID!, $device: DeviceContext!) {{ {_CHANNEL} }}"
"""The channel alone."""
MAP: Final = f"query DeviceMap2{_MAP_VARIABLES} {{ {_MAP} }}"
"""A map alone: of a further event, or a refetch. Without a token in it, so that a device may keep it and ask by GET."""
_BEFORE: Final = (
    f"query DevicePrefetch{_FIRST_VARIABLES} {{ {_MAP_1} {_CHANNEL} }}",
    f"query DeviceMap{_MAP_VARIABLES} {{ {_MAP_1} }}",
)
"""What devices asked before they were told where to refresh."""


def document_hash(document: str) -> str:
    """SHA-256 of the text, 64 hex digits: `extensions.persistedQuery.sha256Hash`; a `documentId` after `sha256:`."""
    return sha256(document.encode()).hexdigest()


DEVICE_OPERATIONS: Final[Mapping[str, str]] = {
    document_hash(document): document for document in (FIRST, CHANNEL, MAP, *_BEFORE)
}
"""Hash -> document."""
