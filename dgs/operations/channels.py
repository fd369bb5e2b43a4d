"""A broadcast channel as JSON: made by the use case, only written here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from dgs.model import DeviceContext
from dgs.operations.fragments import int32, json_object
from dgs.operations.selection import Field, Selection

__all__ = ["Channel", "ChannelSource", "ChannelTopic", "channel_json"]

_encode: Final = msgspec.json.encode


class ChannelTopic(Protocol):
    """A topic to follow; see `dgs.prefetch`."""

    @property
    def event_id(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def state_key(self) -> str | None: ...
    @property
    def last_broadcast_at(self) -> int: ...


class Channel(Protocol):
    """Where and with what a device connects; see `dgs.prefetch`."""

    @property
    def url(self) -> str: ...
    @property
    def subprotocol(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def topics(self) -> Sequence[ChannelTopic]: ...
    @property
    def connect_window_ms(self) -> int: ...


class ChannelSource(Protocol):
    """The use case behind `broadcastChannel`."""

    async def broadcast_channel(
        self, event_ids: Sequence[str], profile_id: str, device: DeviceContext, device_id: str | None
    ) -> Channel: ...


def channel_json(selection: Selection, channel: Channel) -> bytes:
    """The selected fields of a BroadcastChannel. Raises NotPlain for numbers GraphQL would refuse."""

    def value(field: Field) -> bytes:
        if field.inner is None:
            return _encode(
                {
                    "url": channel.url,
                    "subprotocol": channel.subprotocol,
                    "token": channel.token,
                    "connectWindowMs": int32(channel.connect_window_ms),
                }[field.name]
            )
        inner = field.inner
        return b"[%b]" % b",".join(_topic_json(inner, topic) for topic in channel.topics)

    return json_object(selection, value)


def _topic_json(selection: Selection, topic: ChannelTopic) -> bytes:
    facts = {
        "eventId": topic.event_id,
        "topic": topic.topic,
        "stateKey": topic.state_key,
        "lastBroadcastAt": topic.last_broadcast_at,
    }
    return json_object(selection, lambda field: _encode(facts[field.name]))
