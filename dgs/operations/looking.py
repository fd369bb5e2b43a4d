"""What is known of a request before anything is paid for it: for whoever decides what is served."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from dgs.operations.library import Library
from dgs.operations.plan import Operation, Plan
from dgs.operations.request import Body
from dgs.serving import CLASSES, Ask, Class, Seen

__all__ = ["PATH", "VERSION_FIELD", "look"]

PATH: Final = "/graphql"
VERSION_FIELD: Final = b"x-stagecue-version"
"""The content version a device was told of: it gets no older one."""
_CLASSES: Final[Mapping[bytes, Class]] = {name.encode(): name for name in CLASSES}


def look(ask: Ask, body: Body | None, library: Library) -> Seen:
    """Operation, device kind and event as the request names them; nothing is checked, compiled or looked up.

    `body`: what `read_request` made of it; None, too, for another path.
    """
    if ask.path != PATH:
        return Seen("page")
    fields = ask.fields
    asked = _CLASSES.get(fields.get(b"x-stagecue-class", b""))
    has_map = b"if-none-match" in fields or VERSION_FIELD in fields
    document = library.peek(body) if body is not None else None
    operation = document.operation(body.operationName) if document is not None and body is not None else None
    if operation is None or body is None:
        return Seen("", asked, None, None, has_map)
    event_id, kind = _named(operation, body.variables or {})
    return Seen(operation.label, asked, kind, event_id, has_map)


def _named(operation: Operation, variables: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(event id, device kind) where the first root field names them plainly."""
    plainly = _plainly(operation)
    if plainly is None:
        return None, None
    (target, target_name), (device, device_name) = plainly
    if target_name is not None:
        target = variables.get(target_name)
    if device_name is not None:
        device = variables.get(device_name)
    if isinstance(target, (list, tuple)) and target:
        target = target[0]
    kind = device.get("kind") if isinstance(device, dict) else None
    return target if isinstance(target, str) else None, kind if isinstance(kind, str) else None


@lru_cache(maxsize=1_024)
def _plainly(operation: Operation) -> tuple[tuple[Any, str | None], tuple[Any, str | None]] | None:
    """Where an operation says event and device: each a value or the name of a variable. None: not plainly."""
    plan = operation.plan(()) if not operation.conditions else None
    if not isinstance(plan, Plan) or not plan.roots or not plan.roots[0].plain:
        return None
    root = plan.roots[0]
    assert root.plain is not None
    target, _, device = root.plain
    return target if root.name in ("prefetchEvent", "broadcastChannel") else (None, None), device
