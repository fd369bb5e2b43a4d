"""Root fields the use cases answer: asked without the schema's execution, written as the selection shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dgs.operations.joining import UseCasePart, Written
from dgs.operations.structs import object_json
from dgs.prefetch import Prefetch, Served
from dgs.schema import _DEFAULT_WITHIN_MS as DEFAULT_WITHIN_MS
from dgs.schema import parse_within_ms

__all__ = ["write_use_case"]

_NULL: Final = b"null"


async def write_use_case(prefetch: Prefetch, part: UseCasePart, fields: Mapping[bytes, bytes]) -> Written:
    """The root field's value. Raises what the use case does, and NotPlain for numbers GraphQL would refuse."""
    root, target, profile_id, device = part
    if root.name == "broadcastChannel":
        said = fields.get(b"x-device-id")
        device_id = said.decode("latin-1") if said is not None else None
        channel = await prefetch.broadcast_channel(target, profile_id, device, device_id)
        return Written(object_json(root.selection, channel), ())
    if root.name == "prefetchTitle":
        served = await prefetch.title_map(target, profile_id, device)
        return (
            Written(_NULL, ()) if served is None else Written(object_json(root.selection, served.stage_map), [served])
        )
    assert root.name == "prefetchHome"
    within_ms = DEFAULT_WITHIN_MS if target is None else parse_within_ms(target)
    return _list(part, await prefetch.home(profile_id, device, within_ms))


def _list(part: UseCasePart, served: Sequence[Served]) -> Written:
    texts = [object_json(part.root.selection, each.stage_map) for each in served]
    return Written(b"[%b]" % b",".join(texts), served)
