"""Whether servers answered alike: sampled answers as canonical JSON, with what may differ judged and masked. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Bounds", "NotAlike", "canonical", "compare", "first_difference"]


class NotAlike(Exception):
    """`str()` says who differs in what."""


class Bounds(NamedTuple):
    """What the answers' clock and lifetime must lie in."""

    server_time_ms: tuple[int, int]
    ttl_s: tuple[int, int]


def canonical(answer: bytes, bounds: Bounds) -> str:
    """The map in a whole HTTP answer, keys in order, `serverTime` and `ttlSeconds` taken out once they are credible.

    Raises NotAlike for an answer that is none.
    """
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        raise NotAlike(f"status {b' '.join(status).decode()}: {body[:200].decode(errors='replace')}")
    try:
        said = json.loads(body)
        found = said["data"]["prefetchEvent"]
        if not isinstance(found, dict) or said.get("errors"):
            raise NotAlike(f"no map, but {body[:200].decode(errors='replace')}")
        server_time, ttl_s = found["serverTime"], found["ttlSeconds"]
    except (ValueError, KeyError, TypeError) as exc:
        raise NotAlike(f"no map ({exc!r}), but {body[:200].decode(errors='replace')}") from exc
    for name, value, (low, high) in (
        ("serverTime", server_time, bounds.server_time_ms),
        ("ttlSeconds", ttl_s, bounds.ttl_s),
    ):
        if not isinstance(value, int) or not low <= value <= high:
            raise NotAlike(f"{name} is {value!r}, not from {low} to {high}")
    return json.dumps({**found, "serverTime": 0, "ttlSeconds": 0}, sort_keys=True, ensure_ascii=False)


def compare(answers: Mapping[str, Mapping[int, str]]) -> int:
    """How many requests every server answered, all alike; `answers`: server -> request -> canonical answer.

    Raises NotAlike naming the first difference.
    """
    (first, of_first), *others = answers.items()
    common = set(of_first).intersection(*(found.keys() for _, found in others))
    for name, found in others:
        for request in sorted(common):
            if found[request] != of_first[request]:
                where = first_difference(json.loads(of_first[request]), json.loads(found[request]))
                raise NotAlike(f"{first} and {name} differ in request {request} at {where}")
    return len(common)


def first_difference(one: Any, other: Any, path: str = "$") -> str:
    """Path and both values of the first place where two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            if one[key] != other[key]:
                return first_difference(one[key], other[key], f"{path}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            if left != right:
                return first_difference(left, right, f"{path}[{index}]")
    return f"{path}: {json.dumps(one, ensure_ascii=False)[:120]} and {json.dumps(other, ensure_ascii=False)[:120]}"
