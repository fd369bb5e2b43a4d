"""What a DGS answers to a prefetch, read: its data, the channel, what a refusal says. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from contract.errors import InvalidRequest, Unavailable

__all__ = ["Channel", "ChannelTopic", "Refused", "channel_of", "data_of", "is_unknown_hash", "max_age_s"]

_REFUSAL_MAX_BYTES: Final = 4_096
_NOT_PERSISTED: Final = ("PERSISTED_QUERY_NOT_FOUND", "PERSISTED_QUERY_NOT_SUPPORTED")
_MAX_AGE: Final = re.compile(r"max-age=(\d{1,9})")


class ChannelTopic(msgspec.Struct, frozen=True, rename="camel"):
    event_id: str
    topic: str
    state_key: str | None
    last_broadcast_at: int


class Channel(msgspec.Struct, frozen=True, rename="camel"):
    url: str
    subprotocol: str
    token: str
    connect_window_ms: int
    topics: tuple[ChannelTopic, ...]


class Refused(InvalidRequest):
    """The DGS said no, and would say so again; `messages` are its own words, if it has any."""

    def __init__(self, where: str, body: bytes) -> None:
        self.messages = _messages(body)
        super().__init__(f"{where}: {'; '.join(self.messages) or repr(body[:200])}", field="prefetch")


def data_of(body: bytes) -> dict[str, Any]:
    """The answer's `data`. Raises InvalidRequest for errors in it, Unavailable for what is no GraphQL."""
    try:
        answer = msgspec.json.decode(body)
        errors, found = answer.get("errors"), answer.get("data")
    except (msgspec.DecodeError, AttributeError) as exc:
        raise Unavailable(f"the DGS answered something else than GraphQL: {body[:80]!r}") from exc
    if errors or not isinstance(found, dict):
        raise Refused("the DGS refused", body)
    return found


def channel_of(data: Mapping[str, Any]) -> Channel:
    """Raises InvalidRequest for what is none."""
    try:
        return msgspec.convert(data.get("broadcastChannel"), Channel)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"not a channel: {exc}", field="broadcastChannel", rule="see the GraphQL schema") from exc


def _messages(body: bytes) -> tuple[str, ...]:
    """What the errors of a GraphQL answer say, the first few; or the detail of an RFC 9457 problem."""
    try:
        answer = msgspec.json.decode(body)
        if "detail" in answer:
            return (str(answer["detail"])[:400],)
        return tuple(str(each["message"])[:400] for each in answer["errors"][:5])
    except (msgspec.DecodeError, LookupError, TypeError):
        return ()


def is_unknown_hash(body: bytes) -> bool:
    """Whether it is Apollo's answer for a hash nobody told it, or for a server without hashes."""
    if len(body) > _REFUSAL_MAX_BYTES or b"PERSISTED_QUERY_NOT_" not in body:
        return False
    try:
        errors = msgspec.json.decode(body)["errors"]
        return any(each["extensions"]["code"] in _NOT_PERSISTED for each in errors)
    except (msgspec.DecodeError, LookupError, TypeError):
        return False


def max_age_s(headers: Mapping[str, str]) -> int | None:
    found = _MAX_AGE.search(headers.get("Cache-Control", ""))
    return int(found[1]) if found is not None else None
