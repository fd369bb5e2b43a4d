"""What happens to one device, as lines for people and objects for scripts: told by comparing what it is now with what
it was, since the device itself has no reason to tell. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from contract.close_codes import CloseCode, may_reconnect, reason
from contract.frames import BroadcastFrame, ContinuityFrame, ErrorFrame
from contract.names import CANCELLED
from device_sim.device import Device
from device_sim.return_window import grown_window_ms
from device_sim.topic import Render, Told

__all__ = [
    "Change",
    "Seen",
    "What",
    "changes_between",
    "close_reason",
    "length",
    "of_broadcast",
    "of_continuity",
    "of_render",
    "see",
    "token_expiry_ms",
]

What = Literal[
    "map", "screen", "broadcast", "continuity", "schedule", "connection", "reconnect", "refetch", "token", "window",
    "gap", "hole", "error", "network", "end",
]  # fmt: skip
"""What a line is about; also in `docs/device.md`."""

_RFC_6455: Final[Mapping[int, str]] = {
    1000: "closed as agreed",
    1001: "gone away",
    1006: "broken, or not to be had",
    1011: "trouble at the node",
}


class Change(msgspec.Struct, frozen=True):
    """One thing that happened."""

    at_ms: int
    what: What
    text: str
    facts: Mapping[str, Any] = {}
    """The same for scripts; times in ms since the epoch, durations in the unit their names end in."""

    def as_json(self) -> bytes:
        return msgspec.json.encode({"at_ms": self.at_ms, "what": self.what, **self.facts})


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One device at one moment, as far as it changes without a render or a frame that tells so."""

    online: bool
    reconnect_at_ms: int | None
    failures: int
    window_ms: int
    grown_window_ms: int
    """The window as failures made it grow."""
    refetch_window_ms: int
    token: str
    ended_by: int | None
    revision: int
    version: int
    times: Mapping[str, int | None]
    map_version: int | None
    map_server_time: int | None
    refetch_at_ms: int | None
    fetching: bool
    map_failures: int
    told: tuple[Told, ...]
    errors: tuple[ErrorFrame, ...]


def see(device: Device, topic: str) -> Seen:
    """The device now; it must follow `topic`."""
    state = device.topics[topic]
    held = state.stage_map
    return Seen(
        online=device.online,
        reconnect_at_ms=device.reconnect_at_ms,
        failures=device.failures,
        window_ms=device.connection.window_ms,
        grown_window_ms=grown_window_ms(
            device.connection.window_ms, device.failures, cap_ms=device.options.window_cap_ms
        ),
        refetch_window_ms=device.refetch_window_ms,
        token=device.token,
        ended_by=device.ended_by,
        revision=state.revision,
        version=state.version,
        times=dict(state.times or {}),
        map_version=None if held is None else held.version,
        map_server_time=None if held is None else held.server_time,
        refetch_at_ms=state.refetch_at,
        fetching=state.fetching,
        map_failures=state.map_failures,
        told=tuple(device.told or ()),
        errors=tuple(device.errors or ()),
    )


def changes_between(before: Seen, after: Seen, now_ms: int) -> list[Change]:
    """What happened from one to the other, in the order in which a person would tell it."""
    told = [_of_told(now_ms, one) for one in _new(before.told, after.told)]
    told += [_of_error(now_ms, one) for one in _new(before.errors, after.errors)]
    if after.revision != before.revision:
        told.append(_of_schedule(now_ms, before, after))
    if after.token != before.token:
        told.append(_of_token(now_ms, after))
    if (after.window_ms, after.refetch_window_ms) != (before.window_ms, before.refetch_window_ms):
        text = f"come back within {length(after.window_ms)}, refetch within {length(after.refetch_window_ms)}"
        facts = {"reconnect_window_ms": after.window_ms, "refetch_window_ms": after.refetch_window_ms}
        told.append(Change(now_ms, "window", text, facts))
    told += _of_maps(now_ms, before, after)
    if after.reconnect_at_ms is not None and after.reconnect_at_ms != before.reconnect_at_ms:
        told.append(_of_reconnect(now_ms, after))
    if after.ended_by is not None and before.ended_by is None and not may_reconnect(after.ended_by):
        text = f"the node said not to come back: {close_reason(after.ended_by)}"
        told.append(Change(now_ms, "end", text, {"code": after.ended_by, "reason": close_reason(after.ended_by)}))
    return told


def of_broadcast(at_ms: int, frame: BroadcastFrame, *, cursor: int | None, due_at_ms: int | None) -> Change:
    """A broadcast as it came; `due_at_ms` by this device's clock, where its schedule has the stage."""
    known = cursor is not None and frame.timestamp <= cursor
    how = "known already, dropped" if known else "replayed" if frame.replayed else ""
    late_ms = None if due_at_ms is None or known or frame.replayed else at_ms - due_at_ms
    parts = [frame.state_key, how, "" if late_ms is None else f"{_signed(late_ms)} after it was due"]
    parts.append(f"passes over {len(frame.skipped)} older" if frame.skipped else "")
    facts = {
        "state_key": frame.state_key,
        "timestamp": frame.timestamp,
        "prev": frame.prev,
        "replayed": frame.replayed,
        "applied": not known,
        "after_due_ms": late_ms,
        "ack_asked": frame.ack is not None,
    }
    return Change(at_ms, "broadcast", ", ".join(part for part in parts if part), facts)


def of_continuity(at_ms: int, frame: ContinuityFrame, *, cursor: int | None) -> Change:
    """A verdict as it came, and what it means for a device at `cursor`."""
    state = frame.state_key or "nothing yet"
    newer = cursor is not None and frame.latest > cursor
    meaning = {
        "complete": "all that was missed follows" if newer else f"nothing was missed, the state is {state}",
        "gap": f"what was missed is gone, the state is {state}",
        "ahead": "this device knows more than the node's log",
        "pending": "the node is still reading; the answer follows",
    }[frame.verdict]
    if frame.verdict == "complete" and cursor is None:
        meaning = f"the state is {state}"
    facts = {"verdict": frame.verdict, "state_key": frame.state_key, "latest": frame.latest, "cursor": cursor}
    return Change(at_ms, "continuity", f"{frame.verdict}: {meaning}", facts)


def of_render(render: Render, *, headline: str, rows: Sequence[Mapping[str, Any]]) -> Change:
    """The screen changed; `rows` as the map has them."""
    why = {
        "live": "a broadcast",
        "replayed": "what was missed, at its end",
        "continuity": "what the node says is true",
        "provisional": "not connected, by the clock and the schedule held",
        "default": "no entry of the map, its default row",
        "refreshed": "a new map",
    }[render.cause]
    facts = {
        "state_key": render.state_key,
        "cause": render.cause,
        "timestamp": render.timestamp,
        "provisional": render.cause == "provisional",
        "headline": headline,
        "rows": [
            {"heading": row.get("heading"), "titles": [title.get("name") for title in row.get("titles") or ()]}
            for row in rows
        ],
        "fingerprint": render.fingerprint,
    }
    return Change(render.at_ms, "screen", f"{render.state_key}: {why}", facts)


def close_reason(code: int) -> str:
    """`4001, connection lifetime reached`: a close code and what it means."""
    try:
        said = reason(CloseCode(code))
    except ValueError:
        said = ""
    said = said or _RFC_6455.get(code, "")
    return f"{code}, {said}" if said else str(code)


def token_expiry_ms(token: str) -> int | None:
    """`exp` of a JWT, unverified: the device only plans by it. None where there is none to be read."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return int(claims["exp"] * 1000)
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, ValueError):
        return None


def length(ms: float) -> str:
    """A length of time as a person says it: `850 ms`, `4.2 s`, `12:05`, `3:00:57`, `2 days`."""
    if abs(ms) < 1000:
        return f"{ms:.0f} ms"
    if abs(ms) < 60_000:
        return f"{ms / 1000:.1f} s"
    seconds = round(abs(ms) / 1000)
    sign = "-" if ms < 0 else ""
    if seconds < 3600:
        return f"{sign}{seconds // 60}:{seconds % 60:02}"
    if seconds < 48 * 3600:
        return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{sign}{seconds / 86_400:.0f} days"


def _of_told(now_ms: int, told: Told) -> Change:
    text = f"between {told.above} and {told.upto}: " + (
        "older than the node's log, the newest state is shown all the same"
        if told.kind == "gap"
        else "a broadcast is missing; the newer one is applied, the node is told"
    )
    return Change(now_ms, told.kind, text, {"above": told.above, "upto": told.upto})


def _of_error(now_ms: int, error: ErrorFrame) -> Change:
    return Change(now_ms, "error", f"{error.code}: {error.message}", {"code": error.code, "message": error.message})


def _of_schedule(now_ms: int, before: Seen, after: Seen) -> Change:
    moved = {
        key: [before.times.get(key), at]
        for key, at in after.times.items()
        if key not in before.times or before.times[key] != at
    }
    # Maps have an entry for it, schedules do not: it is no stage.
    gone = [key for key in before.times if key not in after.times and key != CANCELLED]
    how = {key: _moved(*times) for key, times in moved.items()} if before.times else {}
    everything = len(how) > 1 and how.keys() == after.times.keys() and len(set(how.values())) == 1
    parts = [f"every stage {next(iter(how.values()))}"] if everything else [f"{key} {how[key]}" for key in how]
    parts += [f"{key} is gone" for key in gone]
    facts = {"revision": after.revision, "version": after.version, "times": after.times, "moved": moved, "gone": gone}
    return Change(now_ms, "schedule", f"revision {after.revision}: {'; '.join(parts) or 'no time changed'}", facts)


def _moved(was: int | None, at: int | None) -> str:
    if was is None:
        return "is new" if at is None else "has a time now"
    return "has no time any more" if at is None else f"moves by {'+' if at > was else ''}{length(at - was)}"


def _of_token(now_ms: int, after: Seen) -> Change:
    until = token_expiry_ms(after.token)
    good = "" if until is None else f", good for {length(until - now_ms)}"
    return Change(now_ms, "token", f"renewed by the node{good}", {"expires_at_ms": until})


def _of_maps(now_ms: int, before: Seen, after: Seen) -> list[Change]:
    told = []
    if after.map_server_time != before.map_server_time and after.map_version is not None:
        facts = {"version": after.map_version, "revision": after.revision, "keep_until_ms": after.refetch_at_ms}
        same = before.map_version == after.map_version
        kept = "" if after.refetch_at_ms is None else f", kept for {length(after.refetch_at_ms - now_ms)}"
        told.append(Change(now_ms, "map", f"version {after.map_version}{' again' if same else ''}{kept}", facts))
    elif after.map_failures > before.map_failures:
        at = after.refetch_at_ms
        again = "" if at is None else f"; once more in {length(at - now_ms)}"
        facts = {"failures": after.map_failures, "refetch_at_ms": at}
        told.append(Change(now_ms, "refetch", f"the map could not be had{again}; the one held stays", facts))
    elif _brought_forward(before, after):
        assert after.refetch_at_ms is not None
        wait_ms = after.refetch_at_ms - now_ms
        facts = {"refetch_at_ms": after.refetch_at_ms, "wait_ms": wait_ms, "version": after.version}
        window = length(after.refetch_window_ms)
        told.append(Change(now_ms, "refetch", f"the map is to be had anew: in {length(wait_ms)}, of {window}", facts))
    return told


def _brought_forward(before: Seen, after: Seen) -> bool:
    if after.refetch_at_ms is None or after.refetch_at_ms == before.refetch_at_ms:
        return False
    return before.refetch_at_ms is None or after.refetch_at_ms < before.refetch_at_ms


def _of_reconnect(now_ms: int, after: Seen) -> Change:
    assert after.reconnect_at_ms is not None
    wait_ms = max(0, after.reconnect_at_ms - now_ms)
    why = "beside the one in use" if after.online else f"failure {after.failures}" if after.failures else "first try"
    facts = {
        "at_ms_planned": after.reconnect_at_ms,
        "wait_ms": wait_ms,
        "failures": after.failures,
        "window_ms": after.grown_window_ms,
    }
    text = f"another connection in {length(wait_ms)} ({why}; window {length(after.grown_window_ms)})"
    return Change(now_ms, "reconnect", text, facts)


def _new(before: Sequence[Any], after: Sequence[Any]) -> Sequence[Any]:
    """What came at the end of a bounded list since: what it dropped at its beginning does not count."""
    for kept in range(min(len(before), len(after)), -1, -1):
        if kept == 0 or tuple(before[-kept:]) == tuple(after[:kept]):
            return after[kept:]
    return after


def _signed(ms: float) -> str:
    return length(ms) if abs(ms) >= 1000 else f"{ms:.0f} ms"
