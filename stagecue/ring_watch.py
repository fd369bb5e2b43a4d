"""Key rings that follow their file: a rotation reaches a running service within about a second, without a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from contract.clock import Clock
from contract.token_rings import StoredRing
from contract.tokens import LiveKeyRing
from stagecue.keys import (
    ADDED_LATER,
    BrokenKeys,
    Keys,
    UnusableDataDir,
    key_file,
    operator_token,
    read_key_file,
    rings_of,
)

__all__ = ["RingWatch"]

LOOK_EVERY_S: Final = 1.0
_READ_WITHIN_S: Final = 10.0
"""Longer, on a mount that hangs, is said; the same attempt is awaited again, so that one thread at most is stuck."""
_log = structlog.get_logger(__name__)


def _read_file(path: Path) -> tuple[bytes, dict[str, StoredRing]]:
    return read_key_file(path, may_lack=ADDED_LATER)


class RingWatch:
    """Service: reads the key file about once a second and exchanges the rings when it, or its time, has changed.

    A file that is missing, half-written or without a signing key changes nothing: the rings in use stay, one warning
    says why, and the next look tries again. A ring that a file from before does not have stays as well. Keys begin and
    end by the clock also while the file is away.
    With `renews_operator_token`, `operator.token` is written anew when another key begins to sign.
    """

    name = "key-rings"

    def __init__(
        self,
        keys: Keys,
        data_dir: Path,
        clock: Clock,
        *,
        every_s: float = LOOK_EVERY_S,
        renews_operator_token: bool = False,
    ) -> None:
        assert every_s > 0
        self._keys = keys
        self._data_dir = data_dir
        self._path = key_file(data_dir)
        self._clock = clock
        self._every_s = every_s
        self._renews_operator_token = renews_operator_token
        self._reading: asyncio.Task[tuple[bytes, dict[str, StoredRing]]] | None = None
        self._content = b""
        self._stored: dict[str, StoredRing] = {}
        self._changes_s = 0.0
        self._said = ""

    async def run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        """Ready after the first look, whatever came of it."""
        while not stop.is_set():
            await self.look()
            ready.set()
            try:
                async with asyncio.timeout(self._every_s):
                    await stop.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """One look. Cancelling it leaves the rings as they are, or exchanged."""
        now_s = self._clock.now_ms() / 1000
        try:
            content, stored = await self._read()
        except (BrokenKeys, TimeoutError) as exc:
            self._say(str(exc) or "no answer in time")
            content, stored = self._content, self._stored
        else:
            if content == self._content:
                self._said = ""
            else:
                self._changes_s = 0.0
        if now_s < self._changes_s or not stored:
            return
        try:
            rings = rings_of(self._path, stored, now_s, instead=self._keys)
        except BrokenKeys as exc:
            self._say(str(exc))
            return
        self._content, self._stored, self._said = content, stored, ""
        self._changes_s = min(ring.next_change_s(now_s) for ring in stored.values())
        await self._adopt(rings)

    async def _read(self) -> tuple[bytes, dict[str, StoredRing]]:
        if self._reading is None:
            self._reading = asyncio.create_task(asyncio.to_thread(_read_file, self._path), name="key-rings.read")
        async with asyncio.timeout(_READ_WITHIN_S):
            await asyncio.wait({self._reading})
        reading, self._reading = self._reading, None
        return reading.result()

    async def _adopt(self, rings: Keys) -> None:
        another_signs = rings.operator.signing_kid != self._keys.operator.signing_kid
        self._exchange(self._keys.device, rings.device)
        self._exchange(self._keys.operator, rings.operator)
        self._exchange(self._keys.link, rings.link)
        self._exchange(self._keys.profile, rings.profile)
        if another_signs and self._renews_operator_token:
            try:
                # The ring just read: nobody exchanges its keys while a thread signs with it.
                await asyncio.to_thread(operator_token, self._data_dir, rings.operator, self._clock)
            except UnusableDataDir as exc:
                self._say(str(exc))

    def _exchange(self, ours: LiveKeyRing, read: LiveKeyRing) -> None:
        before = (ours.signing_kid, ours.kids)
        ours.adopt(read)
        if before != (ours.signing_kid, ours.kids):
            _log.info("keys_changed", ring=ours.audience, signs=ours.signing_kid, verify=list(ours.kids))

    def _say(self, why: str) -> None:
        """Once, until it is another reason or all is well again."""
        if why != self._said:
            self._said = why
            _log.warning("keys_not_exchanged", why=why)
